"""Lists as arguments of the user's functions: one argument each, of numbers, strings or signals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdplan.cli import main
from kdplan.compile import Compiled, check_text, compile_source, inspect
from kdplan.diagnostics.span import Source
from kdplan.ir.expr import Call, Tap
from kdplan.passes.expand import expand
from kdplan.runtime.store import Store

FILE = """
import torch
from torch.nn import functional as F

def pairs(student, teacher, weights=(1.0, 1.0)):
    assert type(student) is list and len(student) == len(teacher) == len(weights)
    return sum(w * F.mse_loss(s.mean((2, 3)), t.mean((2, 3))) for w, s, t in zip(weights, student, teacher))

def single(student, teacher):
    return F.mse_loss(student.mean((2, 3)), teacher.mean((2, 3)))

def nested(logits, table, names):
    assert table == [[1, 2], [3]] and names == ["a", "b"]
    names.append("c")
    return logits.mean() * table[1][0]

def many(*values):
    assert all(isinstance(v, torch.Tensor) for v in values) and len(values) == 3
    return sum(v.mean() for v in values)
"""
START = """
use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  steps = 4  batch = 32 }
teacher t = digits_net(width = 2)
student s = digits_net(width = 2)
"""
HARD = "cross_entropy(s.logits, labels)"
LISTS = f"{HARD} + my.pairs([s.layer1, s.layer2], [t@init.layer1, t@init.layer2], weights = [0.5, 2])"
TERMS = f"{HARD} + 0.5 * my.single(s.layer1, t@init.layer1) + 2 * my.single(s.layer2, t@init.layer2)"


def compiled(folder: Path, loss: str, more: str = "") -> Compiled:
    (folder / "mine.py").write_text(FILE)
    text = f"{START}phase p of s on digits with quick {{ {more} loss = {loss} }}"
    plan = compile_source(Source("plan.kd", text), folder)
    inspect(plan)
    return plan


def weights(folder: Path, loss: str, more: str = "") -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    (folder / "mine.py").write_text(FILE)
    (folder / "plan.kd").write_text(f"{START}phase p of s on digits with quick {{ {more} loss = {loss} }}")
    assert main(["run", str(folder / "plan.kd"), "--store", str(folder / "store")]) == 0
    (file,) = (folder / "store").glob("phases/*/weights-0-last.safetensors")
    assert Store(folder / "store")
    return load_file(file)


@pytest.mark.parametrize("more", ["", "frozen = stored "])
def test_a_list_of_signals(more: str, tmp_path: Path) -> None:
    """Training by a list of layers is training by the sum of their terms."""
    ends = []
    for name, loss in (("lists", LISTS), ("terms", TERMS)):
        (tmp_path / name).mkdir()
        ends.append(weights(tmp_path / name, loss, more))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.allclose(a, ends[1][n], atol=1e-6) for n, a in ends[0].items())


def test_lists_of_numbers_and_words(tmp_path: Path) -> None:
    plan = compiled(tmp_path, 'my.nested(s.logits, [[1, 2], [3]], names = ["a", "b"])')
    other = compiled(tmp_path, 'my.nested(s.logits, table = [[1, 2], [3]], names = ["a", "b"])')
    assert plan.plan.phases["p"].loss != other.plan.phases["p"].loss


def test_several_are_arguments_of_their_own(tmp_path: Path) -> None:
    """`[*]` and a comprehension give one argument each, as for functions of kdplan."""
    loss = compiled(tmp_path, "my.many(x for x in [s.layer1, s.layer2, s.logits])").plan.phases["p"].loss
    assert isinstance(loss, Call) and [type(a) for a in loss.args] == [Tap] * 3


def test_as_a_core_plan(tmp_path: Path) -> None:
    """What `expand` writes means the same, with the same keys."""
    plan = compiled(tmp_path, LISTS)
    text = expand(plan.plan)
    assert "[s.layer1, s.layer2]" in text and "[0.5, 2]" in text
    again = compile_source(Source("plan.kd", text), tmp_path)
    assert again.keys == plan.keys


def test_the_key_has_what_is_in_the_list(tmp_path: Path) -> None:
    losses = (LISTS, LISTS.replace("0.5", "0.25"), LISTS.replace("[s.layer1", "[2 * s.layer1"))
    keys = {str(compiled(tmp_path, loss).keys["p"]) for loss in losses}
    assert len(keys) == 3


def test_a_swapped_call_is_seen(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    swapped = "cross_entropy(s.logits, labels) + my.pairs([t@init.layer1, t@init.layer2], [s.layer1, s.layer2])"
    found = check_text(f"{START}phase p of s on digits with quick {{ loss = {swapped} }}", folder=tmp_path)
    assert [d.code for d in found] == ["KD0363"]
    assert (
        found[0].help is not None and "my.pairs([s.layer1, s.layer2], [t@init.layer1, t@init.layer2])" in found[0].help
    )


def test_a_function_that_wants_no_list(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    loss = "cross_entropy(s.logits, labels) + my.single([s.layer1, s.layer2], t@init.layer1)"
    (found,) = check_text(f"{START}phase p of s on digits with quick {{ loss = {loss} }}", folder=tmp_path)
    assert found.code == "KD0506" and "'list' object has no attribute 'mean'" in found.message
