"""The law of graphs: every rule is red on a graph that breaks it, and the passes are checked while tests run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from kdplan.graph import law
from kdplan.graph.build import Builder
from kdplan.graph.freeze import split
from kdplan.graph.law import RULES, LawError, State, broken, check_graph
from kdplan.graph.module import copy_of, subset
from kdplan.graph.prune import prune


def joined() -> fx.GraphModule:
    """A student with dropout and a write into its first value, a teacher, and a loss of both."""
    b = Builder()
    x = b.input("inputs_0", torch.zeros(4, 3))
    b.network("small", nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Dropout(0.5)).train())
    b.network("big", nn.Sequential(nn.Linear(3, 3)).eval())
    loss = b.call(F.mse_loss, b.apply("small", (x,)), b.apply("big", (x,)))
    return b.finish({"loss": loss}).graph_module


def node(gm: fx.GraphModule, name: str) -> fx.Node:
    return next(n for n in gm.graph.nodes if n.name == name)


def late(gm: fx.GraphModule) -> None:
    node(gm, "small_0").append(node(gm, "inputs_0"))


def no_output(gm: fx.GraphModule) -> None:
    gm.graph.erase_node(node(gm, "output"))


def renamed(gm: fx.GraphModule) -> None:
    node(gm, "inputs_0").target = "images"


def no_module(gm: fx.GraphModule) -> None:
    node(gm, "small_0").target = "nets.small.9"


def no_shape(gm: fx.GraphModule) -> None:
    del node(gm, "small_0").meta["val"]


def real_numbers(gm: fx.GraphModule) -> None:
    node(gm, "small_0").meta["val"] = torch.zeros(4, 3)


def lost_write(gm: fx.GraphModule) -> None:
    write = node(gm, "small_1")
    write.replace_all_uses_with(node(gm, "small_0"))
    gm.graph.erase_node(write)


def foreign_write(gm: fx.GraphModule) -> None:
    node(gm, "small_1").meta["mutates"] = (node(joined(), "small_0"),)


def merged_draws(gm: fx.GraphModule) -> None:
    second = node(gm, "small_3")
    second.replace_all_uses_with(node(gm, "small_2"))
    gm.graph.erase_node(second)


def dead_call(gm: fx.GraphModule) -> None:
    with gm.graph.inserting_before(node(gm, "output")):
        dead = gm.graph.call_function(torch.neg, (node(gm, "small_0"),))
    dead.meta = node(gm, "small_0").meta | {"mutates": ()}


@pytest.mark.parametrize(
    ("rule", "breaks"),
    [
        ("order", late),
        ("end", no_output),
        ("inputs", renamed),
        ("targets", no_module),
        ("values", no_shape),
        ("values", real_numbers),
        ("writes", lost_write),
        ("writes", foreign_write),
        ("draws", merged_draws),
        ("needed", dead_call),
    ],
)
def test_each_rule_is_red_on_a_graph_that_breaks_it(rule: str, breaks: Callable[[fx.GraphModule], None]) -> None:
    before = joined()
    gm = copy_of(before)
    gm.graph.owning_module = None  # so that `targets` speaks where torch's `lint` would too
    state = {"before": before.graph, "inputs": {"inputs_0"}, "pruned": True}
    assert broken(State(gm.graph, gm, **state)) == {}
    breaks(gm)
    assert rule in broken(State(gm.graph, gm, **state))
    with pytest.raises(LawError, match=f"{rule}: "):
        check_graph(gm.graph, gm, **state)


def test_every_rule_is_one_sentence() -> None:
    for name, rule in RULES.items():
        assert rule.__doc__ and "\n" not in rule.__doc__ and rule.__doc__.endswith("."), name


@pytest.mark.parametrize("pass_", [prune, lambda gm: split(gm, {"nets.small.0.weight"})], ids=["prune", "split"])
def test_passes_check_what_they_are_given(pass_: Callable[[fx.GraphModule], object]) -> None:
    gm = joined()
    pass_(gm)
    no_shape(gm)
    with pytest.raises(LawError, match="values"):
        pass_(gm)


def test_a_subset_without_its_write_is_refused() -> None:
    gm = joined()
    for n in list(node(gm, "small_1").users):
        n.args = (node(gm, "small_0"),)
    with pytest.raises(LawError, match="small_2 reads small_0 without the write small_1"):
        subset(gm, [n for n in gm.graph.nodes if n.name != "small_1"])


def test_nothing_is_checked_outside_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "CHECKED", False)
    gm = joined()
    no_output(gm)
    check_graph(gm.graph, gm)
