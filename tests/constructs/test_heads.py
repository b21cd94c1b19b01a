"""`head` and `logit_scale`: from the text to a network that learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.compile import inspect
from kdplan.passes.expand import expand
from tests.passes.plans import codes, compiled, keys

HEAD = """
data digits = digits
recipe quick { optimizer = adagrad(lr = 0.01)  epochs = 1  batch = 64 }
verticals V of digits { low = [2, 0, 1]  middle = [3]  high = 4..9 }
"""
LEARN = "phase alone of s on digits with quick { loss = sigmoid_cross_entropy(s.logits, labels) }\n"
BASE = 8 * 4 + 1 * 9 * 2 + 2 * 9 * 4 + 4 * 9 * 8


def student(settings: str, classes: str = "digits.classes") -> str:
    return f"{HEAD}student s = digits_net(width = 2, classes = {classes}) {{ {settings} }}\n{LEARN}"


def parameters(text: str) -> int:
    inspected = inspect(compiled(text), ["alone"])
    return inspected["alone"].cost.parameters


def test_predicted_parameters_are_the_formulas() -> None:
    """Features of digits_net(width = 2) are 8 numbers; biases on top."""
    n, m, s1, s2, g = 10, 3, 6, 4, 1
    plain = parameters(student("")) - (8 * n + n)
    wanted = {
        "fc(6) -> fc(4)": s2 * n + s2 * s1 + s1 * 8 + n + s2 + s1,
        "fc(6) -> sc(4, by = V)": s2 * n + m * s2 * s1 + s1 * 8 + n + m * s2 + s1,
        "sc(6, by = V) -> sc(4, by = V)": s2 * n + m * s2 * s1 + m * s1 * 8 + n + m * s2 + m * s1,
        "fc(6) -> sc(4, by = V, shared = 1)": s2 * n + m * (s2 - g) * s1 + g * s1 + s1 * 8 + n + m * (s2 - g) + g + s1,
        "fc(6) -> sc(4, by = V, shared = 4)": s2 * n + s2 * s1 + s1 * 8 + n + s2 + s1,
    }
    assert {h: parameters(student(f"head = {h}")) - plain for h in wanted} == wanted


def test_heads_can_be_swept_and_expanded() -> None:
    text = f"""{HEAD}
param layers in [fc(6) -> fc(4), sc(6, by = V) -> sc(4, by = V), fc(6) -> sc(4, by = V, shared = 2), fc(5)]
param pacing in [self_paced(by = V), self_paced(by = V, each = class, start = 10), self_paced(V, train = false)]
student s = digits_net(width = 2, classes = digits.classes) {{ head = layers  logit_scale = pacing }}
{LEARN}measure m of s@alone on digits.test {{ top1 }}
"""
    once = compiled(text)
    assert len(once.plan.phases) == 12 and len({k.key for k in once.keys.values()}) == 12
    again = compiled(expand(once.plan))
    assert sorted(k.key for k in once.keys.values()) == sorted(k.key for k in again.keys.values())


def test_what_it_says_by_default_changes_no_key() -> None:
    short = student("head = fc(6) -> sc(4, by = V)  logit_scale = self_paced(by = V)")
    long = student(
        "head = fc(6) -> sc(4, by = V, shared = 0)  logit_scale = self_paced(by = V, each = part, noise = 1e-3)"
    )
    assert keys(short) == keys(long)
    assert keys(short) != keys(student("head = fc(6) -> sc(4, by = V)"))


def test_places_follow_the_networks_classes() -> None:
    text = HEAD + "verticals all of digits { back = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0] }\n"
    text += f"student s = digits_net(width = 2, classes = all[0]) {{ head = fc(6) -> sc(4, by = V) }}\n{LEARN}"
    compiled_plan = compiled(text)
    assert compiled_plan.plan.networks["s"].architecture.arguments["parts"] == [[7, 9, 8], [6], [5, 4, 3, 2, 1, 0]]
    assert compiled_plan.keys["alone"].key == compiled(expand(compiled_plan.plan)).keys["alone"].key


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ("head = fc(0)", "KD0243"),
        ("head = sc(4, by = V, shared = 5)", "KD0243"),
        ("head = sc(4)", "KD0237"),
        ("head = dense(4)", "KD0205"),
        ("head = 4", "KD0244"),
        ("head = sc(4, by = 3)", "KD0244"),
        ("logit_scale = self_paced(by = V, each = vertical)", "KD0245"),
        ("logit_scale = self_paced(by = V, start = 0)", "KD0243"),
    ],
)
def test_mistakes(settings: str, code: str) -> None:
    assert codes(student(settings)) == [code]


def test_a_network_without_a_last_linear_layer(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\n\n\ndef net(classes):\n    return torch.nn.Conv2d(1, classes, 8)\n")
    text = f'{HEAD}use "net.py" as my\nstudent s = my.net(classes = digits.classes) {{ head = fc(4) }}\n{LEARN}'
    from kdplan.diagnostics.report import PlanError

    with pytest.raises(PlanError, match="does not end in a linear layer") as problem:
        inspect(compiled(text, tmp_path))
    assert [d.code for d in problem.value.diagnostics] == ["KD0507"]


def test_a_users_network_gets_a_head(tmp_path: Path) -> None:
    code = (
        "from torch import nn\n\n\ndef net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(code)
    text = f'{HEAD}use "net.py" as my\nstudent s = my.net(classes = digits.classes) {{ head = fc(4) }}\n{LEARN}'
    compiled_plan = compiled(text, tmp_path / "a")
    assert inspect(compiled_plan)["alone"].cost.parameters == 64 * 4 + 4 + 4 * 10 + 10
    assert keys(text, tmp_path / "b") == {n: k.key for n, k in compiled_plan.keys.items()}
    assert keys(expand(compiled_plan.plan), tmp_path) == {n: k.key for n, k in compiled_plan.keys.items()}
