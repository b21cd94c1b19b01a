"""Small phases on digits, assembled by hand, for the tests of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.view import ViewSpec
from kdplan.graph.assembled import Assembled
from kdplan.ir.plan import Item, Recipe
from kdplan.runtime.loop import Job, Training
from kdplan.runtime.store import Store
from kdplan.runtime.store.work import Work
from kdplan.runtime.streams import Streams


class Live(nn.Module):
    """Cross-entropy of a network that moves, and a term that is logged."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs_0: Tensor, labels_0: Tensor) -> dict[str, Tensor]:
        hard = F.cross_entropy(self.net(inputs_0), labels_0)
        return {"loss": hard, "hard": hard}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10)
    )


def assembled(net: nn.Module) -> Assembled:
    live = Live(net)
    return Assembled(
        live=live,
        root=live,
        networks=[net],
        moving=[dict(net.named_parameters())],
        live_inputs=["inputs_0", "labels_0"],
    )


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {"optimizer": Item("sgd", {"lr": 0.05, "momentum": 0.9}), "epochs": 2, "batch": 64}
    return Recipe(**(settings | changes))


def streams(recipe: Recipe, limit: int | None = 300, seed: int = 3) -> Streams:
    data = open_view(ViewSpec("digits", limit=limit), None)
    return Streams([Loader(data, recipe.batch * recipe.accumulate, seed, train=True)])


def job(work: Work, recipe: Recipe, net: nn.Module, **changes: Any) -> Job:
    settings: dict[str, Any] = {"streams": streams(recipe), "assembled": assembled(net)}
    settings |= {"name": "p", "recipes": [recipe], "work": work, "device": torch.device("cpu"), "seed": 3}
    return Job(**(settings | changes))


def train(root: Path, recipe: Recipe, net: nn.Module, key: str = "k", **changes: Any) -> Training:
    """Trains to the end and leaves the phase's work uncommitted."""
    with Store(root).begin(key) as work:
        training = Training(job(work, recipe, net, **changes))
        training.run()
    return training


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have equal bits."""
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
