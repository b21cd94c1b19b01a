"""Exports: plain files, loaded again, equal to what was trained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from kdplan.diagnostics.report import PlanError
from kdplan.graph.inspect import fresh
from kdplan.ir.expr import Version
from kdplan.ir.plan import Export, Item, Network, Target
from kdplan.nn.models import create
from kdplan.runtime import export as exporting
from kdplan.runtime.export import export_network, load
from kdplan.runtime.networks import materialise
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.runtime.small import digits_plan, keys

SMALL = Version("small", "kd")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    plan = digits_plan()
    store = Store(tmp_path / "store")
    net = fresh(Network("small", plan.networks["small"].architecture, seed=9))
    with store.begin("key-kd") as work:
        work.commit({"weights-0-last.safetensors": save(dict(net.state_dict()))})
    return Sources(plan, store, keys(plan))


def test_files_say_all_that_is_needed(sources: Sources, tmp_path: Path) -> None:
    about = export_network(sources, Export("tiny", Target([SMALL])), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["model.json", "model.safetensors"]
    assert about == json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["architecture"] == {"factory": "digits_net", "arguments": {"width": 4}}
    assert about["classes"] == [str(i) for i in range(10)] and about["input_shape"] == [1, 8, 8]
    assert about["source"] == {"version": "small@kd", "key": "key-kd", "snapshot": "last"}
    assert len(about["normalize"]["mean"]) == 1
    net = materialise(sources, SMALL)
    assert about["parameters"] == sum(p.numel() for p in net.parameters())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(load(tmp_path / "out")(x), net(x))
    # and without kdplan's reader
    plain = create("digits_net", width=4)
    plain.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    assert torch.equal(plain.eval()(x), net(x))


def test_program_takes_any_batch(sources: Sources, tmp_path: Path) -> None:
    export_network(sources, Export("tiny", Target([SMALL])), tmp_path / "out", program=True)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    net = materialise(sources, SMALL)
    for size in (1, 7):
        x = torch.randn(size, 1, 8, 8)
        torch.testing.assert_close(program(x), net(x))


def test_other_files_stay(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for _ in range(2):
        export_network(sources, Export("tiny", Target([SMALL])), tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_a_part_of_a_network(sources: Sources, tmp_path: Path) -> None:
    about = export_network(sources, Export("tiny", Target([SMALL], "layer1")), tmp_path / "out")
    net = materialise(sources, SMALL)
    x = torch.randn(3, 1, 8, 8)
    part = load(tmp_path / "out")
    torch.testing.assert_close(part(x), net.layer1(net.stem(x)))  # type: ignore[operator]
    assert about["parameters"] == sum(p.numel() for p in part.parameters()) < sum(p.numel() for p in net.parameters())
    assert not [n for n in load_file(tmp_path / "out" / "model.safetensors") if n.startswith(("layer2", "fc"))]


def test_ones_own_network_takes_its_code_along(sources: Sources, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("from torch import nn\n\ndef net(n):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, n))\n")
    sources.plan.networks["own"] = Network("own", Item(f"{code}:net", {"n": 3}), input_shape=[1, 8, 8])
    export_network(sources, Export("o", Target([Version("own")])), tmp_path / "out")
    code.unlink()
    assert load(tmp_path / "out")(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_export_of_several(sources: Sources, tmp_path: Path) -> None:
    problems = [
        (Target([SMALL, Version("small")], "", "logits"), "it means 2 networks"),
        (Target([SMALL], "layer9"), "layer9"),
    ]
    for target, text in problems:
        with pytest.raises(PlanError) as problem:
            export_network(sources, Export("x", target), tmp_path / "out")
        assert problem.value.diagnostics[0].code == "KD0841" and text in str(problem.value)


def test_export_that_differs(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path) -> nn.Module:
        net = load(folder)
        nn.init.zeros_(net.fc.weight)  # type: ignore[arg-type, union-attr]
        return net

    monkeypatch.setattr(exporting, "load", other)
    with pytest.raises(PlanError) as problem:
        export_network(sources, Export("x", Target([SMALL])), tmp_path / "out")
    (found,) = problem.value.diagnostics
    assert found.code == "KD0842"
    start = "Export `x` does not compute what the trained network does: its outputs differ by up to "
    assert re.fullmatch(re.escape(start) + r"[\d.e-]+\.", found.message)
    assert not list((tmp_path / "out").iterdir())
