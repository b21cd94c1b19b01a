"""Weights of versions: drawn, loaded, copied, merged, averaged, trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from kdplan.diagnostics.report import PlanError
from kdplan.graph.inspect import fresh
from kdplan.ir.expr import Version
from kdplan.ir.origins import Averaged, Copied, EmaOf, Loaded, Merged
from kdplan.ir.plan import Item, Network, Phase, Plan, Trainee, View
from kdplan.runtime.networks import materialise, modules_of
from kdplan.runtime.store import Store
from kdplan.runtime.store.atomic import digest_file
from kdplan.runtime.versions import Sources
from tests.runtime.small import digits_plan, hard, keys, recipe, same

Change = Callable[[str, Tensor], Tensor]


def commit(store: Store, key: str, files: dict[str, nn.Module]) -> None:
    with store.begin(key) as work:
        work.commit({name: save(dict(net.state_dict())) for name, net in files.items()})


def trained(net: nn.Module, change: Change) -> nn.Module:
    state = {n: change(n, t) for n, t in net.state_dict().items()}
    net.load_state_dict(state)
    return net


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Phase `train` has added 1 to all of `big`, and 3 in snapshot `best`."""
    plan = digits_plan()
    store = Store(tmp_path / "store")
    big = plan.networks["big"]
    files = {
        "weights-0-last.safetensors": trained(fresh(big), lambda n, t: t + 1),
        "weights-0-best.safetensors": trained(fresh(big), lambda n, t: t + 3),
    }
    commit(store, "key-train", files)
    return Sources(plan, store, keys(plan))


def difference(a: nn.Module, b: nn.Module, name: str = "fc.weight") -> float:
    return float((a.state_dict()[name] - b.state_dict()[name]).mean())


def test_trained_and_initial(sources: Sources) -> None:
    start = materialise(sources, Version("big"))
    assert same(start, fresh(sources.plan.networks["big"])) and not start.training
    assert difference(materialise(sources, Version("big", "train")), start) == pytest.approx(1)
    assert difference(materialise(sources, Version("big", "train", "best")), start) == pytest.approx(3)


def test_snapshot_that_is_not_there(sources: Sources) -> None:
    with pytest.raises(PlanError) as problem:
        materialise(sources, Version("big", "train", "epoch=7"))
    assert problem.value.diagnostics[0].code == "KD0832"
    assert "`epoch=7`" in str(problem.value) and "`last` and `best`" in str(problem.value)


def test_loaded(sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    net = sources.plan.networks["big"]
    save_file(dict(trained(fresh(net), lambda n, t: t + 2).state_dict()), path)
    net.origin = Loaded(str(path), digest_file(path))
    assert difference(materialise(sources, Version("big")), fresh(net)) == pytest.approx(2)


@pytest.mark.parametrize("change", ["altered", "removed"])
def test_file_that_changed(sources: Sources, tmp_path: Path, change: str) -> None:
    path = tmp_path / "w.safetensors"
    net = sources.plan.networks["big"]
    save_file(dict(fresh(net).state_dict()), path)
    net.origin = Loaded(str(path), digest_file(path))
    path.write_bytes(path.read_bytes()[:-1] + b"x") if change == "altered" else path.unlink()
    with pytest.raises(PlanError) as problem:
        materialise(sources, Version("big"))
    assert problem.value.diagnostics[0].code == "KD0831"


@pytest.mark.parametrize(
    ("content", "code"), [(save({"fc.weight": torch.zeros(2, 2)}), "KD0830"), (b"no such format at all", "KD0835")]
)
def test_weights_that_do_not_fit(sources: Sources, tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    sources.plan.networks["big"].origin = Loaded(str(path), digest_file(path))
    with pytest.raises(PlanError) as problem:
        materialise(sources, Version("big"))
    assert problem.value.diagnostics[0].code == code and path.name in str(problem.value)


def test_copied_and_averaged(sources: Sources) -> None:
    big = Version("big", "train")
    plan = sources.plan
    plan.networks["copy"] = Network("copy", plan.networks["big"].architecture, origin=Copied(big))
    mean = Averaged([big, Version("big", "train", "best")])
    plan.networks["mean"] = Network("mean", plan.networks["big"].architecture, origin=mean)
    start = materialise(sources, Version("big"))
    assert difference(materialise(sources, Version("copy")), start) == pytest.approx(1)
    assert difference(materialise(sources, Version("mean")), start) == pytest.approx(2)


def add_part(sources: Sources, phase: str, prefix: str) -> None:
    """A phase that has trained one part of `big@train`."""
    plan = sources.plan
    base = Version("big", "train")
    plan.phases[phase] = Phase(phase, [Trainee(base, [prefix])], [View("d")], [recipe()], hard())
    net = trained(materialise(sources, base), lambda n, t: t + 10 if n.startswith(prefix) else t)
    commit(sources.store, f"key-{phase}", {"weights-0-last.safetensors": net})


def merge(sources: Sources, *phases: str) -> Sources:
    plan = sources.plan
    origin = Merged([Version("big", p) for p in phases])
    plan.networks["both"] = Network("both", plan.networks["big"].architecture, origin=origin)
    return Sources(plan, sources.store, keys(plan))


def test_merge_takes_each_part_from_where_it_was_trained(sources: Sources) -> None:
    add_part(sources, "a", "layer1")
    add_part(sources, "b", "fc")
    merged = materialise(merge(sources, "a", "b"), Version("both"))
    start = materialise(sources, Version("big", "train"))
    assert difference(merged, start, "fc.weight") == pytest.approx(10)
    assert difference(merged, start, "layer1.0.conv.weight") == pytest.approx(10)
    assert difference(merged, start, "stem.conv.weight") == 0


def test_merge_of_two_that_moved_the_same(sources: Sources) -> None:
    add_part(sources, "a", "fc")
    add_part(sources, "b", "f")
    net = trained(materialise(sources, Version("big", "train")), lambda n, t: t + 5)
    with sources.store.begin("key-b") as work:
        work.commit({"weights-0-last.safetensors": save(dict(net.state_dict()))})
    with pytest.raises(PlanError) as problem:
        materialise(merge(sources, "a", "b"), Version("both"))
    assert problem.value.diagnostics[0].code == "KD0833" and "`fc." in str(problem.value)


def test_one_version_is_one_module_in_a_phase(sources: Sources) -> None:
    plan = sources.plan
    phase = Phase(
        "p", [Trainee(Version("big"), ["fc"]), Trainee(Version("big"), ["stem"])], [View("d")], [recipe()], hard()
    )
    networks = modules_of(sources, phase)
    assert networks.trainable[0] is networks.trainable[1]
    kd = modules_of(sources, plan.phases["kd"])
    assert same(kd.of(Version("big", "train")), materialise(sources, Version("big", "train")))


def test_ema_copy_starts_with_its_source(sources: Sources) -> None:
    plan: Plan = sources.plan
    settings: dict[str, Any] = {"origin": EmaOf("big", 0.9)}
    plan.networks["slow"] = Network("slow", Item("digits_net", {"width": 8}), **settings)
    from tests.runtime.small import logits

    phase = Phase("p", [Trainee(Version("big", "train"))], [View("d")], [recipe()], logits(Version("slow")))
    networks = modules_of(sources, phase)
    slow = networks.of(Version("slow"))
    assert same(slow, networks.trainable[0]) and slow is not networks.trainable[0]
