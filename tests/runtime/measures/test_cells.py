"""Keys of measured numbers: names are no part of them, whatever changes the number is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kdplan.ir.expr import Version
from kdplan.ir.origins import Averaged, Copied, Perturbed
from kdplan.ir.plan import ClassSet, Item, Network, Plan, Target, View
from kdplan.runtime.measures.cells import Cell, cell_key
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.runtime.small import digits_plan, keys

BIG = Version("big", "train")
CELL = Cell(Target([BIG]), View("d", "test"), Item("top1"))


def key(plan: Plan, cell: Cell = CELL) -> str:
    return cell_key(Sources(plan, Store(Path("unused")), keys(plan)), cell)


def with_network(network: Network) -> Plan:
    plan = digits_plan()
    plan.networks[network.name] = network
    return plan


def of(name: str) -> Cell:
    return replace(CELL, target=Target([Version(name)]))


def test_networks_are_what_they_are_made_of() -> None:
    item = digits_plan().networks["big"].architecture
    one, two = (with_network(Network(name, item, origin=Averaged([BIG, BIG]))) for name in ("one", "two"))
    assert key(one, of("one")) == key(two, of("two"))
    copied = with_network(Network("one", item, origin=Copied(BIG)))
    near, far = (with_network(Network("one", item, origin=Perturbed([BIG], d))) for d in (1.0, 2.0))
    assert len({key(one, of("one")), key(copied, of("one")), key(near, of("one")), key(far, of("one"))}) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: replace(CELL, target=Target([replace(BIG, snapshot="best")])),
        lambda plan: replace(CELL, view=View("d", "train")),
        lambda plan: replace(CELL, view=View("d", "test", unlabelled=True)),
        lambda plan: replace(CELL, view=View("d", "test", ClassSet("d", [0, 1]))),
        lambda plan: replace(CELL, metric=Item("topk", {"k": 2})),
    ],
)
def test_what_changes_a_number_is_in_its_key(change: Callable[[Plan], Cell]) -> None:
    plan = digits_plan()
    assert key(plan, change(plan)) != key(plan)


def test_fewer_training_images_are_the_same_test_images() -> None:
    plan, fewer = digits_plan(), digits_plan()
    fewer.data["d"].limit, fewer.data["d"].fraction = 5, 0.5
    assert key(plan) == key(fewer)
    train = replace(CELL, view=View("d", "train"))
    assert key(plan, train) != key(fewer, train)


def test_the_order_of_classes_and_the_protocol_are_in_the_key() -> None:
    plan, ordered, templates = digits_plan(), digits_plan(), digits_plan()
    ordered.networks["big"].classes = ClassSet("d", [1, 0])
    templates.data["d"].protocol = Item("templates", {"size": 2})
    assert len({key(plan), key(ordered), key(templates)}) == 3
