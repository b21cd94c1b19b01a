"""Whole plans with mistakes: many at once, ones that draw no others, and those that only Python or files can make."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kdplan.compile import check_text, compile_plan, compile_source
from kdplan.diagnostics.report import Diagnostic, PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir import expr as ir
from kdplan.ir.plan import Data, Item, Network, Phase, Plan, Recipe, Trainee, View

START = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
student small = digits_net(width = 2)
"""
ALONE = "phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }\n"
EVERYTHING = """param seed in [0, 1]
param weight in [0.5, 2]
param both in [case(a = 1, b = 2), case(a = 3, b = 4)]
data digits = digits { augment = [pad_crop(8, pad = 1)]  normalize = [[0.5], [0.25]] }
data more = digits { fraction = 0.5  seed = 3 }
verticals half of digits = random(parts = 2, seed = 0)
verticals own of digits { low = 0..4  high = [5, 6, 7, 8, 9] }
recipe quick { optimizer = sgd(lr = 0.1)  schedule = steps(at = [1])  epochs = 2  batch = 64  keep_epochs = [1] }
recipe slow = quick { epochs = 4  ema = 0.9 }
model net = digits_net(width = 2)
teacher big = net(width = 4) {
  seed = 3
  phase train on digits with quick { loss = cross_entropy(self.logits, labels)  measure on digits.test { top1 } }
}
teacher spec[v in half] = digits_net(width = 2, classes = v) {
  phase train on digits[v] with slow { loss = cross_entropy(self.logits, labels) }
}
student small = net
student peer = net { seed = fold(seed, 1) }
def hard(x, s = 0.1) = cross_entropy(x, labels, smoothing = s)
phase kd of small, peer on digits with quick, slow {
  def t = 4
  loss = weight * kd(small.logits, big.logits, temperature = t) + hard(peer.logits) - both.a * mean(peer.logits)
  epochs = 3
}
phase hint of upto(small.layer2) on digits, more with quick {
  loss = mse(fit(small(digits.inputs).layer2, like = big(more.inputs).layer2), big(more.inputs).layer2)
}
phase after of small@kd.fc on digits.train with quick { loss = sum(hard(small.logits) * i for i in 1..2) }
phase am[v in half] of small on digits[v] with quick { loss = mse(small.layer1, spec[v].layer1) }
student joined = merge(small@kd, small@after)
measure table of big, small@kd, spec[*], small@am[*] by weight on digits.test over seed { top1, topk(k = 3) }
export tiny = small@kd[weight = 2, seed = 0, both = 1]
"""


def reported(text: str, folder: Path | None = None, root: Path | None = None) -> list[tuple[str, str]]:
    return [(d.code, d.span.text if d.span else "") for d in check_text(text, root, folder)]


# ---- several mistakes


def test_five_mistakes_in_one_run() -> None:
    text = """
data digits = digits
recipe quick { optimizer = sgdd(lr = 0.1)  epochs = 1 }
student small = digits_net(widht = 2)
student other = digits_net(width = 4)
phase alone of other on digits with quick { loss = cross_entropy(othr.logits, labels) }
phase again of other on digits.tset with quick { loss = cross_entropy(other.logits, labels) }
export tiny = small
"""
    assert reported(text) == [
        ("KD0205", "sgdd"),
        ("KD0230", "widht"),
        ("KD0205", "othr"),
        ("KD0705", "tset"),
    ]
    assert ("KD0206", "mean") in reported(text + "param mean = 3")


def test_every_part_of_a_declaration_is_looked_at() -> None:
    text = (
        START
        + """
phase alone of smal on digit with quik {
  loss  = cross_entropy(small.logits, labels)
  batch = 0
}
"""
    )
    assert sorted(t for _, t in reported(text)) == ["0", "digit", "quik", "smal"]


def test_every_term_of_a_sum_is_looked_at() -> None:
    text = START + "phase p of small on digits with quick { loss = mean(a.logits) + 2 * b - c }"
    assert [t for _, t in reported(text)] == ["a", "b", "c"]


def test_every_setting_is_looked_at() -> None:
    text = "recipe quick { optimizer = sdg(lr = 0.1)  epochs = 0  batch = 2.5  schedule = cosin }"
    assert [t for _, t in reported(text)] == ["sdg", "0", "2.5", "cosin"]


def test_phases_with_wrong_graphs_are_all_reported() -> None:
    text = (
        START
        + """
phase a of small on digits with quick { loss = small.logits * 2 }
phase b of small on digits with quick { loss = mean(small.layer9) }
"""
    )
    assert reported(text) == [("KD0504", "small.logits * 2"), ("KD0501", "small.layer9")]


# ---- one mistake, one message


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("student late: digits_net()", "KD0101"),
        ("student late", "KD0221"),
        ("studnet late = digits_net()", "KD0201"),
        ("student late = digitsnet()", "KD0205"),
        ('student late = digits_net() { weights = "nothing.safetensors" }', "KD0211"),
    ],
)
def test_what_needs_a_wrong_declaration_is_silent(wrong: str, code: str) -> None:
    rest = """
phase p of late on digits with quick { loss = cross_entropy(late.logits, labels) }
measure m of late@p, late on digits.test { top1 }
export e = late@p
"""
    assert [c for c, _ in reported(f"{START}\n{wrong}\n{rest}")] == [code]


def test_names_of_a_missing_file_are_not_missed(tmp_path: Path) -> None:
    text = 'use "comon.kd"\nuse "other.kd" as o\nphase p of s, o.t on d with r { loss = mean(s.logits) }'
    assert [c for c, _ in reported(text, tmp_path)] == ["KD0211", "KD0211"]


def test_mistakes_in_a_used_file_have_their_span_there(tmp_path: Path) -> None:
    (tmp_path / "r.kd").write_text("recipe quick { optimizer = sgdd(lr = 0.1)\n epochs = 1 }\nstudent x { seed = 1 }")
    text = 'use "r.kd" { }\ndata digits = digits\n'
    text += "phase p of x on digits with quick { loss = mean(x.logits) }"
    messages = check_text(text, folder=tmp_path, path=str(tmp_path / "plan.kd"))
    assert [(d.code, Path(d.span.file).name, d.span.line) for d in messages if d.span] == [
        ("KD0205", "r.kd", 1),
        ("KD0221", "r.kd", 3),
    ]


def test_a_file_that_is_used_twice_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "r.kd").write_text("param w = 1\nstudent x { seed = w }\nphase q ~")
    messages = check_text('use "r.kd" as a { w = 2 }\nuse "r.kd" as b { w = 3 }', folder=tmp_path)
    assert len({(d.code, str(d.span)) for d in messages}) == len(messages) == 2


def test_a_file_that_uses_itself(tmp_path: Path) -> None:
    (tmp_path / "plan.kd").write_text('use "plan.kd"\nparam w = 1')
    assert reported('use "plan.kd"\nparam w = 1', tmp_path) == [("KD0213", 'use "plan.kd"')]


@pytest.mark.parametrize(
    ("right", "wrong", "code"),
    [
        (" with quick", " wth quick", "KD0229"),
        (" on digits", " digits", "KD0204"),
        ("recipe quick {", "recipe {", "KD0216"),
        ("recipe quick {", "quick {", "KD0204"),
        ("optimizer =", "optimiser =", "KD0202"),
        ("epochs =", "epoch =", "KD0202"),
        ("{ loss =", "{ los =", "KD0202"),
        ("{ loss =", "{ loss", "KD0102"),
        ("data digits =", "data =", "KD0216"),
        ("student small =", "student small", "KD0105"),
    ],
)
def test_one_slip_is_one_message(right: str, wrong: str, code: str) -> None:
    text = START + ALONE + "phase more of small@alone on digits with quick { loss = mean(small.logits) }\n"
    text += "measure table of small@alone, small@more on digits.test { top1 }\nexport tiny = small@more\n"
    assert right in text
    messages = check_text(text.replace(right, wrong, 1))
    assert len(messages) == 1, [(d.code, d.message) for d in messages]
    assert messages[0].code == code


def test_a_mistake_at_every_point_of_a_sweep_is_reported_once() -> None:
    text = "param w in [1, 2]\nparam seed in [0, 1]\n" + START + ALONE.replace("loss =", "loss = w *")
    assert reported(text + "measure m of small@alone[best] on digits.test { top1 }") == [
        ("KD0309", "small@alone[best]")
    ]


@pytest.mark.parametrize("seed", range(150))
def test_any_slip_is_answered_with_a_message(seed: int) -> None:
    """A plan with a few tokens deleted, doubled, exchanged: it gives a plan, or messages with a span."""
    draw = random.Random(seed)
    words = re.findall(r"\w+|\s+|[^\w\s]", EVERYTHING)
    for _ in range(draw.choice([1, 1, 2, 3])):
        i = draw.choice([i for i, w in enumerate(words) if w.strip()])
        other = draw.choice([w for w in words if w.strip()])
        words[i] = draw.choice(["", other, f"{words[i]} {other}", f"{words[i]}x"])
    try:
        compile_source(Source("plan.kd", "".join(words)), Path("."))
    except PlanError as problem:
        assert problem.diagnostics
        assert all(d.span is not None for d in problem.diagnostics)


def test_a_misspelt_setting_does_not_hide_a_misspelt_name() -> None:
    text = START + "phase p of small on digits with quick { w = 3  loss = w * cross_entropy(smal.logits, labels) }"
    assert reported(text) == [("KD0203", "w"), ("KD0205", "smal")]


# ---- what nothing reads


def test_names_in_unread_definitions() -> None:
    assert reported("def a = nothing + 1") == [("KD0205", "nothing")]
    assert reported("param a in [nothing, 2]") == [("KD0205", "nothing")]
    text = START + ALONE.replace("{ loss", "{ def f(x) = mean(y) + x  loss")
    assert reported(text) == [("KD0205", "y")]
    fine = (
        "def a(x, k = 2) = sum(i * x for i in 0..k) + kl(self.logits, previous.logits) * epoch\nparam o in [adam, sgd]"
    )
    assert reported(fine) == []


# ---- files


def test_empty_plans_are_warned_of() -> None:
    for text in ("", "\n", "# nothing yet\n"):
        [message] = check_text(text)
        assert (message.code, message.severity, message.span) == ("KD0228", "warning", None)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.kd").write_bytes("# gr\xfcn\n".encode("latin-1"))
    (tmp_path / "folder.kd").mkdir()
    messages = check_text('use "latin.kd"\nuse "folder.kd"', folder=tmp_path)
    assert [d.code for d in messages] == ["KD0225", "KD0225"]
    assert "byte 4 is not UTF-8" in messages[0].message and "directory" in messages[1].message


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "the file lacks `fc.bias`"),
        ({"fc.weight": torch.zeros(3, 3)}, "`fc.weight` is [3, 3], where [10, 8] is expected"),
        ({"head": torch.zeros(2)}, "the network has no `head`"),
    ],
)
def test_weights_that_do_not_fit_are_reported_before_anything_trains(
    tmp_path: Path, tensors: dict[str, torch.Tensor], says: str
) -> None:
    from kdplan.nn.models import create

    state = create("digits_net", width=2).state_dict() if tensors else {"x": torch.zeros(1)}
    save_file({**state, **tensors}, tmp_path / "w.safetensors")
    text = START.replace("width = 2)", 'width = 2) { weights = "w.safetensors" }') + ALONE
    [message] = check_text(text, folder=tmp_path)
    assert message.code == "KD0830" and says in message.message
    assert message.span is not None and message.span.text == '"w.safetensors"'


def test_weights_that_fit(tmp_path: Path) -> None:
    from kdplan.nn.models import create

    save_file(create("digits_net", width=2).state_dict(), tmp_path / "w.safetensors")
    assert reported(START.replace("width = 2)", 'width = 2) { weights = "w.safetensors" }') + ALONE, tmp_path) == []


def test_images_of_many_sizes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for i, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((8 + i, 9, 3), np.uint8)).save(folder / "0.png")
    text = START.replace("data digits = digits", 'data digits = image_folder("pets")') + ALONE
    assert reported(text.replace("width = 2", "width = 2, channels = 3, classes = 2"), root=tmp_path) == [
        ("KD0514", "small.logits")
    ]


def test_data_without_classes(tmp_path: Path) -> None:
    code = "import numpy as np\ndef data():\n    return {'train': (np.zeros((4, 1, 8, 8), np.uint8), None)}\n"
    (tmp_path / "own.py").write_text(code)
    text = 'use "own.py" as my\ndata own = source("own.py:data")\nstudent small = digits_net(classes = own.classes)'
    assert reported(text, tmp_path, tmp_path) == [("KD0707", "own.classes")]


# ---- plans from Python


def _plan(**changes: object) -> Plan:
    phase = Phase(
        "p",
        [Trainee(ir.Version("small"))],
        [View("digits")],
        [Recipe(Item("sgd"), epochs=1)],
        ir.Tap(ir.InTraining(0), [], "logits"),
    )
    for name, value in changes.items():
        setattr(phase, name, value)
    return Plan(
        data={"digits": Data("digits", Item("digits"))},
        networks={"small": Network("small", Item("digits_net"))},
        phases={"p": phase},
    )


def _codes(plan: Plan) -> list[Diagnostic]:
    with pytest.raises(PlanError) as caught:
        compile_plan(plan)
    return caught.value.diagnostics


def test_plan_from_python_with_unknown_names() -> None:
    messages = _codes(_plan(streams=[View("digit")], trainees=[Trainee(ir.Version("smal"))]))
    assert {d.code for d in messages} == {"KD0320"}
    assert {d.help for d in messages} == {"Did you mean `digits`?", "Did you mean `small`?"}


def test_plan_from_python_with_an_impossible_phase() -> None:
    assert [d.code for d in _codes(_plan(recipes=[]))] == ["KD0321"]
    messages = _codes(_plan(loss=ir.Tap(ir.InTraining(3), [], "logits")))
    assert [d.message for d in messages] == ["Phase `p` trains no network 3."]
    messages = _codes(_plan(loss=ir.StreamField(2, "labels")))
    assert [d.message for d in messages] == ["Phase `p` has no stream 2."]


def test_selection_of_an_unknown_phase() -> None:
    with pytest.raises(PlanError) as caught:
        compile_source(Source("plan.kd", START + ALONE), Path("."), only=("alnoe",))
    [message] = caught.value.diagnostics
    assert message.code == "KD0310" and message.help == "Did you mean `alone`?"


def test_an_adapter_is_advised_for_what_is_trained() -> None:
    text = START + "teacher big = digits_net(width = 8) { phase t on digits with quick { loss = mean(big.logits) } }\n"
    text = text.replace("mean(big.logits)", "cross_entropy(self.logits, labels)")
    for order in ("small.layer2, big.layer2", "big.layer2, small.layer2"):
        problem = check_text(text + f"phase p of small on digits with quick {{ loss = mse({order}) }}")[0]
        assert problem.code == "KD0502" and problem.help == "Write `fit(small.layer2, like = big.layer2)`."
