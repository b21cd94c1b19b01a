"""Calls of networks in a phase's graph, and where each network's own `forward` gives the values that others read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, fx, nn

from kdplan.graph.structure import mapped
from kdplan.graph.taps import Tap, both, parts_of, tap_at
from kdplan.graph.trace import Traced, value_at
from kdplan.graph.uncompiled import uncompiled


@dataclass(frozen=True)
class Given:
    """Where a module's own `forward` gives a value: in the call `number` of its sub-module at `path`.

    Attributes
    ----------
    side
        Whether the sub-module takes the value or returns it.
    index
        The way into what it takes or returns.
    inner
        The sub-module of that sub-module that returns the value in that call; in its last one where it is called twice.
    """

    path: str
    number: int
    side: Literal["inputs", "output"]
    index: tuple[int | str, ...] = ()
    inner: str | None = None


@dataclass(frozen=True)
class Application:
    """A call of a network, or of a part of it, whose nodes stand in a phase's graph.

    Attributes
    ----------
    module
        What is called.
    network, owner
        The network that it is of: its name in the builder, and the network itself.
    call
        The number in the metadata of the call's nodes.
    arguments
        Positional and keyword arguments, which hold nodes.
    taps
        The name of a node -> which value of the traced module it is.
    random
        Names of the nodes that draw random numbers.
    """

    module: nn.Module
    network: str
    owner: nn.Module
    call: int
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    taps: Mapping[str, Tap]
    random: frozenset[str]
    traced: Traced

    @property
    def is_whole(self) -> bool:
        """Whether the graph calls the module as it is."""
        return "" in self.traced.leaves

    @cached_property
    def given(self) -> dict[str, Given]:
        """The name of a node -> where the module's own `forward` gives its value; those that only the graph has lack.

        >>> import torch
        >>> from kdplan.graph.trace import trace
        >>> traced = trace(nn.Sequential(nn.ReLU(), nn.Linear(3, 4)), torch.zeros(2, 3))
        >>> taps = {name: traced.taps[name] for name in ("0", "features", "logits")}
        >>> called = Application(traced.module, "small", traced.module, 1, ((), {}), taps, frozenset(), traced)
        >>> [(n, g.path, g.side) for n, g in called.given.items()]
        [('0', '0', 'output'), ('features', '0', 'output'), ('logits', '1', 'output')]
        """
        known: dict[Tap, Given] = {}
        leaves: dict[fx.Node, Given] = {}
        seen: dict[str, int] = {}
        sides: tuple[Literal["output", "inputs"], ...] = ("output", "inputs")
        for call in self.traced.calls:
            number = seen[call.path] = seen.get(call.path, -1) + 1
            if call.leaf and isinstance(call.output, fx.Node):
                leaves.setdefault(call.output, Given(call.path, number, "output"))
            for side in sides:
                held = getattr(call, side)
                for index, _ in parts_of(held):
                    known.setdefault(tap_at(held, index), Given(call.path, number, side, index))
        spots: dict[str, Given] = {}
        for name, tap in self.taps.items():
            if tap.inner is None and tap in known:
                spots[name] = known[tap]
            elif tap.inner is not None and tap.node in leaves:
                leaf = leaves[tap.node]
                spots[name] = Given(leaf.path, leaf.number, "output", tap.index, tap.inner)
        return spots


class NotCalled(LookupError):
    """A module's own `forward` does not call a part that gives a value."""


class Caller:
    """Calls a module as it is, and returns the values that it gives at some spots.

    Examples
    --------
    >>> import torch
    >>> call = Caller(nn.Sequential(nn.ReLU(), nn.Linear(3, 4)), [Given("0", 0, "output"), Given("", 0, "output")])
    >>> [tuple(v.shape) for v in call(torch.ones(2, 3))]
    [(2, 3), (2, 4)]
    """

    __name__ = "plain"

    def __init__(self, module: nn.Module, spots: Sequence[Given]) -> None:
        self.module, self.spots = module, spots

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The values, in the order of the spots.

        Raises
        ------
        NotCalled
            If `forward` does not call a sub-module that gives one of them.
        """
        caught: dict[Given, Any] = {}
        counts: dict[str, int] = {}
        last: dict[str, Any] = {}
        hooks = ExitStack()

        def before(path: str) -> Callable[..., object]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
                if not any((s.path, s.number, s.side) == (path, counts.get(path, 0), "inputs") for s in self.spots):
                    return None
                args, kwargs = mapped(_copied, (args, kwargs))  # later writes into the inputs are none into these
                keep(path, "inputs", (*args, *kwargs.values()))
                return args, kwargs

            return hook

        def after(path: str) -> Callable[..., object]:
            def hook(_: nn.Module, __: object, output: Any) -> object:
                read, own = both(output)
                keep(path, "output", read)
                counts[path] = counts.get(path, 0) + 1
                return own

            return hook

        def inner(path: str) -> Callable[..., object]:
            def hook(_: nn.Module, __: object, output: Any) -> object:
                last[path], own = both(output)
                return own

            return hook

        def keep(path: str, side: str, value: Any) -> None:
            for spot in self.spots:
                if (spot.path, spot.number, spot.side) == (path, counts.get(path, 0), side):
                    held = last[f"{path}.{spot.inner}".lstrip(".")] if spot.inner is not None else value
                    caught[spot] = value_at(held, spot.index)

        with hooks, uncompiled():
            for path in dict.fromkeys(spot.path for spot in self.spots):
                part = self.module.get_submodule(path)
                hooks.callback(part.register_forward_pre_hook(before(path), with_kwargs=True).remove)
                hooks.callback(part.register_forward_hook(after(path)).remove)
            for path in dict.fromkeys(f"{s.path}.{s.inner}".lstrip(".") for s in self.spots if s.inner is not None):
                hooks.callback(self.module.get_submodule(path).register_forward_hook(inner(path)).remove)
            args, kwargs = mapped(_copied, (args, kwargs))  # others read the same inputs
            self.module(*args, **kwargs)
        if missing := [spot for spot in self.spots if spot not in caught]:
            raise NotCalled(missing[0].path)
        return tuple(caught[spot] for spot in self.spots)


def _copied(value: Any) -> Any:
    """A tensor as it is now: later operations may write into it."""
    return value.clone() if isinstance(value, Tensor) else value
