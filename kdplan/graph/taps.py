"""Names for inner values of a traced module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from kdplan.graph.structure import mapped, opened
from kdplan.ir.outputs import OUTPUT
from kdplan.nn.outputs import NAMES, children, scores_index


@dataclass(frozen=True)
class Tap:
    """Where a named value is: a node, the way into its structure, and the sub-module of a leaf that gives it."""

    node: fx.Node
    index: tuple[int | str, ...] = ()
    inner: str | None = None


@dataclass(frozen=True)
class Call:
    """One call of a sub-module while tracing; `inputs` and `output` hold nodes in Python containers.

    `inputs` are the positional ones, then those by name.
    """

    path: str
    module: nn.Module
    inputs: tuple[Any, ...]
    output: Any
    leaf: bool


class TapError(LookupError):
    """A network has no value of that name.

    Attributes
    ----------
    path
        The name that was asked for.
    available
        The names that exist, outer modules first.
    """

    def __init__(self, path: str, available: Iterable[str]) -> None:
        self.path = path
        self.available = sorted(available, key=lambda t: (t.count("."), t))
        super().__init__(f"no tap {path!r}; there are {', '.join(self.available[:12])}")


def both(value: Any) -> tuple[Any, Any]:
    """What a module returned, for others to read, and for the network to go on with: one of each tensor is a copy.

    So what the network writes into its own does not change what others read, and what it computes further depends on
    what others read: a loss may ask for gradients between the two.

    >>> import torch
    >>> w = torch.ones(1, requires_grad=True)
    >>> read, own = both(w * 2)
    >>> torch.autograd.grad(own.add_(1) ** 2, read), read.item()
    ((tensor([6.]),), 2.0)
    """

    def copied(graded: bool) -> Any:
        return mapped(lambda v: v.clone() if isinstance(v, Tensor) and v.requires_grad is graded else v, value)

    return copied(False), copied(True)


class LeafTaps(nn.Module):
    """Runs a leaf module and returns its output with the outputs of some of its sub-modules.

    The leaf stays where it is registered, so that parameter names do not change.

    Examples
    --------
    >>> import torch
    >>> leaf = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> out, inner = LeafTaps(leaf, ["0"])(torch.ones(2, 3))
    >>> tuple(out.shape), tuple(inner.shape)
    ((2, 4), (2, 4))
    """

    def __init__(self, leaf: nn.Module, paths: Iterable[str]) -> None:
        super().__init__()
        self.__dict__["leaf"] = leaf
        self.paths = list(paths)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The leaf's output, then one value for each of `paths`."""
        caught: dict[str, Any] = {}

        def keep(path: str) -> Callable[[nn.Module, object, object], object]:
            def hook(_module: nn.Module, _inputs: object, output: object) -> object:
                caught[path], own = both(output)
                return own

            return hook

        leaf: nn.Module = self.__dict__["leaf"]
        handles = [leaf.get_submodule(p).register_forward_hook(keep(p)) for p in self.paths]
        try:
            out = leaf(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        missing = [p for p in self.paths if p not in caught]
        if missing:
            raise TapError(missing[0], caught)
        return (out, *(caught[p] for p in self.paths))


def parts_of(value: object, index: tuple[int | str, ...] = ()) -> list[tuple[tuple[int | str, ...], object]]:
    """The tensors in a structure of nodes or values, each with the way to it."""
    if isinstance(value, fx.Node):
        inner = opened(value.meta["val"])
        if isinstance(inner, Tensor):
            return [(index, value)]
        return [(index + i, value) for i, v in parts_of(inner) if i]
    if isinstance(value, Tensor):
        return [(index, value)]
    return [p for k, v in children(value) or [] for p in parts_of(v, (*index, k))]


def tap_at(value: Any, index: tuple[int | str, ...]) -> Tap:
    """The tap for the path `index` in a structure of nodes."""
    for depth, key in enumerate(index):
        if isinstance(value, fx.Node):
            return Tap(value, index[depth:])
        value = value[key] if not isinstance(key, str) or isinstance(value, Mapping) else getattr(value, key)
    assert isinstance(value, fx.Node)
    return Tap(value)


def collect(calls: Iterable[Call], aliases: Mapping[str, list[str]], output: object) -> dict[str, Tap]:
    """All taps of a traced module: module paths, calls `path#k`, parts `path.0`, insides of leaves, special names."""
    calls = list(calls)
    taps: dict[str, Tap] = {}
    count: dict[str, int] = {}
    for call in calls:
        count[call.path] = count.get(call.path, 0) + 1
    seen: dict[str, int] = {}
    for call in calls:
        k = seen[call.path] = seen.get(call.path, -1) + 1
        for path in [call.path, *aliases.get(call.path, [])]:
            names = [path, f"{path}#{k}"] if count[call.path] > 1 else [path]
            for name in names if path else ():  # the network's own output is below
                _add_parts(taps, name, call.output)
            if call.leaf and isinstance(call.output, fx.Node):
                for inner, _ in call.module.named_modules():
                    if inner:
                        taps[f"{path}.{inner}".lstrip(".")] = Tap(call.output, inner=inner)
    _add_parts(taps, "output", output)
    for index, _ in parts_of(output):
        if index and isinstance(index[0], str):  # a part of the output by its name alone
            taps.setdefault(".".join(map(str, index)), tap_at(output, index))
    special = _special(calls, output, taps)
    taps.update({k: v for k, v in special.items() if k not in taps})
    if "logits" in special:  # also where a module or a part of the output has such a name: they are one value
        taps.update(dict.fromkeys(OUTPUT, special["logits"]))
    taps.pop("", None)
    return taps


def _add_parts(taps: dict[str, Tap], name: str, output: object) -> None:
    for index, _ in parts_of(output):
        taps[".".join([name, *map(str, index)])] = tap_at(output, index)
        if index and all(i == 0 or i in NAMES for i in index):
            # A name alone means the first tensor of a structure, which is what a plain network would return.
            taps.setdefault(name, tap_at(output, index))


def _special(calls: list[Call], output: object, taps: Mapping[str, Tap]) -> dict[str, Tap]:
    special: dict[str, Tap] = {}
    parts = dict(parts_of(output))
    if not parts:
        return special
    special["logits"] = tap_at(output, scores_index(parts))
    before = _behind(special["logits"].node)
    linear = [c for c in calls if isinstance(c.module, nn.Linear) and c.output in before]
    if linear and linear[-1].inputs and isinstance(linear[-1].inputs[0], fx.Node):
        around = _behind(special["logits"].node, without=linear[-1].output)
        if not any(c.output in around for c in linear[:-1]):  # else it is one of several that are the last
            special["features"] = Tap(linear[-1].inputs[0])
    for name in ("layer1", "stages", "blocks"):
        first = next((c for c in calls if c.path == name or c.path == f"{name}.0"), None)
        if first is not None and first.inputs and isinstance(first.inputs[0], fx.Node):
            special["stem"] = Tap(first.inputs[0])
            break
    return special


def _behind(node: fx.Node, without: object = None) -> set[fx.Node]:
    """A node and all that it depends on; `without` and what only that depends on are left out."""
    behind = {node} - {without}
    todo = [*behind]
    while todo:
        for n in todo.pop().all_input_nodes:
            if n not in behind and n is not without:
                behind.add(n)
                todo.append(n)
    return behind
