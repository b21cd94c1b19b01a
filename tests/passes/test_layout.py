"""What `layout` is where a recipe leaves it open, in keys and in training."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdplan.cli import main
from kdplan.compile import Compiled, compile_plan, compile_source
from kdplan.diagnostics.span import Source
from kdplan.ir.schema import dump_plan, load_plan
from kdplan.nn.catalog import MODELS
from kdplan.passes.layout import FASTER, LINEAR, layout, with_layouts

HEAD = """
data digits = digits {{ limit = 60 }}
recipe quick {{ optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = 1  batch = 20  {setting} }}
"""
NETWORKS = {
    "faster": "cifar_resnet(depth = 8, channels = 1, width = 0.25)",
    "other": "digits_net(width = 2)",
    "linear": "mlp(inputs = 64, hidden = [8])",
    "user": "my.make()",
}


def compiled(text: str, folder: Path = Path(".")) -> Compiled:
    return compile_source(Source("a.kd", text), folder)


def plan(student: str, teacher: str, setting: str = "", own: str = "") -> str:
    loss = "kd(s.logits, t@init.logits, temperature = 4)" + own
    use = 'use "my.py" as my\n' if "my." in NETWORKS[student] + NETWORKS[teacher] + own else ""
    head = HEAD.format(setting=setting)
    networks = f"network s = {NETWORKS[student]}\nnetwork t = {NETWORKS[teacher]} {{ seed = 1 }}\n"
    return f"{use}{head}{networks}phase p of s on digits with quick {{ loss = {loss} }}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def make(): return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))\n"
        "def own(x): return (x ** 2).mean()\n"
    )
    return tmp_path


def test_the_sets_are_of_the_catalogue() -> None:
    assert MODELS.keys() >= FASTER | LINEAR and not FASTER & LINEAR


@pytest.mark.parametrize(
    ("student", "teacher", "own", "last"),
    [
        ("faster", "faster", "", True),
        ("faster", "linear", "", True),
        ("linear", "faster", "", True),
        ("linear", "linear", "", False),
        ("faster", "other", "", False),
        ("other", "faster", "", False),
        ("faster", "user", "", False),
        ("faster", "faster", " + 0.1 * my.own(s.logits)", False),
    ],
)
def test_rule(student: str, teacher: str, own: str, last: bool, folder: Path) -> None:
    made = compiled(plan(student, teacher, own=own), folder)
    phase = made.plan.phases["p"]
    assert layout(made.plan, phase, phase.recipes[0]) == ("channels_last" if last else "contiguous")
    assert [r.channels_last for r in with_layouts(made.plan, phase)] == [last]
    other = "contiguous" if last else "channels_last"
    keys = {s: compiled(plan(student, teacher, s, own), folder).keys["p"].key
            for s in ("", "layout = auto", f"layout = {other}", "layout = channels_last",
                      "layout = contiguous", "channels_last = true", "channels_last = false")}  # fmt: skip
    assert len(set(keys.values())) == 2, "a key says the layout, not which word chose it"
    assert keys[""] == keys["layout = auto"] != keys[f"layout = {other}"]
    assert keys["layout = channels_last"] == keys["channels_last = true"]
    assert keys["layout = contiguous"] == keys["channels_last = false"]


def test_heads_and_maps_count_as_what_is_below() -> None:
    text = HEAD.format(setting="") + (
        "network s = adapted(cifar_resnet(depth = 8, channels = 1), behind = [conv1], shape = [1, 8, 8])\n"
        "phase p of s on digits with quick { loss = cross_entropy(s.logits, labels) }\n"
    )
    made = compiled(text)
    assert layout(made.plan, made.plan.phases["p"], made.plan.phases["p"].recipes[0]) == "channels_last"


def test_the_older_word_is_inherited_and_overridden() -> None:
    text = HEAD.format(setting="channels_last = true") + (
        "recipe one = quick { layout = contiguous }\nrecipe two = one { channels_last = true }\n"
        "network s = digits_net(width = 2)\n"
        + "".join(
            f"phase p_{r} of s on digits with {r} {{ loss = cross_entropy(s.logits, labels) }}\n"
            for r in ("quick", "one", "two")
        )
    )
    phases = compiled(text).plan.phases
    assert [phases[f"p_{r}"].recipes[0].layout for r in ("quick", "one", "two")] == [
        "channels_last", "contiguous", "channels_last"]  # fmt: skip


@pytest.mark.parametrize(("older", "word"), [("true", "channels_last"), ("false", "contiguous")])
def test_json_in_the_older_word(older: str, word: str) -> None:
    made = compiled(plan("faster", "faster", f"layout = {word}"))
    text = dump_plan(made.plan)
    old = text.replace(f'"layout":"{word}"', f'"channels_last":{older}')
    assert old != text and load_plan(old) == load_plan(text)
    assert compile_plan(load_plan(old)).keys["p"].key == made.keys["p"].key


FEATURES = [
    "attention(s.layer2, t@init.layer2)", "nst(s.layer2, t@init.layer2)", "mse(s.layer3, t@init.layer3)",
    "mse(fit(s.layer1, like = t@init.layer2), t@init.layer2)", "squared_l2(s.layer3, t@init.layer3)",
]  # fmt: skip


@pytest.mark.parametrize("more", ["", "precision = bf16", "shards = 2", "fold = true", "ema = 0.9"])
def test_features_train_alike_in_both_layouts(more: str, tmp_path: Path) -> None:
    """Losses on maps, whose strides differ, give the same training to rounding."""
    ends = []
    for setting in ("layout = auto", "layout = contiguous"):
        text = plan("faster", "faster", f"{setting}  {more}").replace(
            "loss = ", "loss = " + " + ".join(f"0.01 * {f}" for f in FEATURES) + " + "
        )
        file = tmp_path / "a.kd"
        file.write_text(text)
        assert main(["run", str(file), "--store", str(tmp_path / "s"), "--device", "cpu"]) == 0
        ends.append(load_file(tmp_path / "s" / "phases" / compiled(text).keys["p"].key / "weights-0-last.safetensors"))
    one, other = ends
    bound, least = (0.1, 0.02) if "bf16" in more else (1e-3, 1e-3)
    for name, tensor in one.items():
        distance = (tensor.double() - other[name].double()).norm()
        assert distance <= bound * other[name].double().norm() + least, name
