"""Tensors of a weights file, fitted to a network by name and shape."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from kdplan.diagnostics.boundary import is_foreign
from kdplan.diagnostics.report import listing
from kdplan.ir.origins import Part
from kdplan.nn.extra_state import is_extra
from kdplan.nn.weight_files import UNLISTED, State, WeightsFile

PREFIXES = ("module.", "model.", "_orig_mod.")
"""What `DataParallel`, a wrapper's attribute and `torch.compile` put before a network's names."""
_LIGHTNING_PREFIXES = (*PREFIXES, "net.", "network.")

_COUNTER = "num_batches_tracked"
"""Of batch norm: files from before 2018, and frozen statistics, do not have it, and nothing reads it."""
_AVERAGED = "n_averaged"
"""Of `torch.optim.swa_utils.AveragedModel`: how many weights it is the mean of."""


@dataclass
class MisfitError(ValueError):
    """Tensors of a file are not those of a network."""

    missing: list[str] = field(default_factory=list)
    """Names that the network has and the file lacks."""
    left_over: list[str] = field(default_factory=list)
    """Names that the file has and the network lacks."""
    different: list[str] = field(default_factory=list)
    """Names of both, whose shape or type is not the network's."""
    details: list[str] = field(default_factory=list)
    """One clause for each of `different`, and for settings that name nothing."""

    @property
    def reason(self) -> str:
        """The misfit in one sentence without a full stop; long lists are shortened."""
        reasons = [f"the file lacks {listing(self.missing, UNLISTED)}"] if self.missing else []
        reasons += [f"the network has no {listing(self.left_over, UNLISTED)}"] if self.left_over else []
        reasons += self.details[:UNLISTED]
        if len(self.details) > UNLISTED:
            reasons.append(f"{len(self.details) - UNLISTED} more differ")
        return "; ".join(reasons)

    @property
    def full(self) -> list[str]:
        """Every tensor that does not fit, one line a kind, for the lists that `reason` shortens."""
        lines = []
        if len(self.missing) > UNLISTED:
            lines.append(f"Missing in the file: {', '.join(self.missing)}.")
        if len(self.left_over) > UNLISTED:
            lines.append(f"Left over in the file: {', '.join(self.left_over)}.")
        if len(self.details) > UNLISTED:
            lines.append(f"Different: {'; '.join(self.details)}.")
        return lines

    @property
    def help(self) -> str | None:
        """A setting that would make the file fit, where one is likely."""
        for name in self.left_over:
            for position in (m.end() for m in re.finditer(r"\.", name)):
                head = name[:position]
                stripped = {n.removeprefix(head) for n in self.left_over if n.startswith(head)}
                if self.missing and {*self.missing} <= stripped:
                    return f'Write `rename = [["{head}", ""]]`.'
        for position in (m.end() for m in re.finditer(r"\.", self.missing[0] if self.missing else "")):
            head = self.missing[0][:position]
            if {*self.missing} <= {head + n for n in self.left_over}:
                return f'Write `rename = [["", "{head}"]]`.'
        parts = {name.rpartition(".")[0] for name in (*self.different, *self.missing, *self.left_over)}
        outermost = sorted(p for p in parts if not any(_within(p, other) for other in parts - {p}))
        replaced = self.different or (self.missing and self.left_over)
        if replaced and 0 < len(outermost) <= 2 and all(outermost):
            paths = ", ".join(re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", part) for part in outermost)
            return f"Write `except = [{paths}]` to draw it anew, or build the network with the file's sizes."
        return None

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Fitted:
    """Tensors by a network's own names, and what was done to get them."""

    tensors: State
    notes: tuple[str, ...]


def fitted(
    file: WeightsFile, own: Mapping[str, Tensor], part: Part, drawn: Collection[str] = (), channels: bool = False
) -> Fitted:
    """A file's tensors by a network's names, which fit it; what `part` leaves out is in neither.

    Parameters
    ----------
    file : WeightsFile
    own : mapping of str to Tensor
        The network's `state_dict`; shapes are enough.
    part : Part
        What the plan says about names and parts.
    drawn : collection of str
        Further paths that the network does not load.
    channels : bool
        Filters on three channels are fitted to the network's number of channels.

    Raises
    ------
    MisfitError
        With every tensor that is missing, left over, or of another shape.

    Examples
    --------
    >>> import torch
    >>> file = WeightsFile({"module.a.w": torch.ones(2), "module.fc.w": torch.ones(5)})
    >>> own = {"a.w": torch.zeros(2), "fc.w": torch.zeros(3)}
    >>> fitted(file, own, Part(excluded=["fc"])).notes
    ('prefix `module.` removed', '1 of 2 tensors loaded')
    >>> fitted(file, own, Part())
    Traceback (most recent call last):
    ...
    kdplan.nn.weight_fit.MisfitError: `fc.w` is [5], where [3] is expected
    """
    state, notes = _own_names(file, own, part)
    misfit = MisfitError(details=_unused(part, file, state, own))
    wanted = {n: t for n, t in own.items() if _loads(n, part, drawn)}
    given = {n: t for n, t in state.items() if _loads(n, part, drawn)}
    given |= _shared(wanted, given)
    misfit.missing = sorted(n for n in wanted.keys() - given.keys() if not n.endswith(_COUNTER))
    spare = (n for n in given.keys() - wanted.keys() if n != _AVERAGED)
    misfit.left_over = sorted(n for n in spare if not n.endswith(_COUNTER))
    tensors: State = {}
    for name, tensor in given.items():
        if name not in wanted:
            continue
        expected = wanted[name]
        if channels and _is_first_filter(tensor, expected):
            notes.append(f"`{name}` summed over its three channels, for {expected.shape[1]}")
            tensor = fit_channels(tensor, expected.shape[1])
        if is_extra(name):
            tensors[name] = tensor
            continue
        if tensor.shape != expected.shape:
            misfit.different.append(name)
            misfit.details.append(f"`{name}` is {list(tensor.shape)}, where {list(expected.shape)} is expected")
        elif _kind(tensor) != _kind(expected) and not name.endswith(_COUNTER):
            misfit.different.append(name)
            kind = str(tensor.dtype).removeprefix("torch.")
            misfit.details.append(f"`{name}` is {kind}, where {_kind(expected)} are expected")
        tensors[name] = tensor
    if not tensors and own and not misfit.details:
        misfit.details.append("no tensor of the file is loaded")
    if misfit.missing or misfit.left_over or misfit.details:
        raise misfit
    kinds = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()} - {"float32"}
    if kinds:
        notes.append(f"{' and '.join(sorted(kinds))} converted to float32")
    loaded, there = ([n for n in names if not n.endswith(_COUNTER)] for names in (tensors, own))
    if len(loaded) < len(there):
        notes.append(f"{len(loaded)} of {len(there)} tensors loaded")
    return Fitted(tensors, (*file.notes, *notes))


def fitted_to(module: nn.Module, file: WeightsFile, part: Part, **more: Any) -> Fitted:
    """`fitted` for a module: where names do not fit and the module has hooks for old ones, these translate first.

    Raises
    ------
    MisfitError
        As of `fitted`, about the file's own names.

    Examples
    --------
    >>> import torch
    >>> net = nn.utils.parametrizations.weight_norm(nn.Linear(2, 1, bias=False))
    >>> old = WeightsFile({"weight_g": torch.ones(1, 1), "weight_v": torch.ones(1, 2)})
    >>> list(fitted_to(net, old, Part()).tensors)
    ['parametrizations.weight.original0', 'parametrizations.weight.original1']
    """
    try:
        return fitted(file, module.state_dict(), part, **more)
    except MisfitError:
        own = _by_its_hooks(module, file, part)
        if own is None:
            raise
        try:
            return fitted(own, module.state_dict(), replace(part, rename=[]), **more)
        except MisfitError:
            pass
        raise


def _by_its_hooks(module: nn.Module, file: WeightsFile, part: Part) -> WeightsFile | None:
    """The file as a copy of the module loads it by itself; None where it has no hooks, or refuses."""
    if not any(map(_has_hooks, module.modules())):
        return None
    state, notes = _own_names(file, module.state_dict(), part)
    try:
        copied = copy.deepcopy(module)
        result = copied.load_state_dict(dict(state), strict=False)
    except BaseException as problem:
        if not is_foreign(problem):
            raise
        return None
    tensors = {n: t for n, t in copied.state_dict().items() if n not in result.missing_keys}
    left = {n: state[n] for n in result.unexpected_keys if n in state}
    return WeightsFile({**tensors, **left}, (*file.notes, *notes, "names translated by the network's own hooks"))


def _has_hooks(module: nn.Module) -> bool:
    """Whether a module changes what is loaded into it."""
    own = (getattr(type(module), name) for name in ("_load_from_state_dict", "load_state_dict"))
    return bool(module._load_state_dict_pre_hooks) or any(not f.__module__.startswith("torch.") for f in own)


def _shared(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> State:
    """Tensors that the network has under several names, of which the file has one."""
    names: dict[object, str] = {}
    for name in wanted.keys() & given.keys():
        names[_memory_of(wanted[name])] = name
    lacking = {n: names.get(_memory_of(wanted[n])) for n in wanted.keys() - given.keys()}
    return {n: given[other] for n, other in lacking.items() if other is not None}


def _memory_of(tensor: Tensor) -> object:
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape, tensor.stride()


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex numbers"
    return "floating-point numbers" if tensor.is_floating_point() else "whole numbers"


def _loads(name: str, part: Part, drawn: Collection[str]) -> bool:
    """Whether the network takes this tensor from the file."""
    if part.only and not any(_within(name, path) for path in part.only):
        return False
    return not any(_within(name, path) for path in (*part.excluded, *drawn))


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _own_names(file: WeightsFile, own: Collection[str], part: Part) -> tuple[State, list[str]]:
    """The file's tensors without prefixes that the network does not have, and renamed."""
    state, notes = file.tensors, []
    known = _LIGHTNING_PREFIXES if file.lightning else PREFIXES
    used = [*own, *(old for old, _ in part.rename)]  # names that begin with a prefix on purpose
    candidates = [p for p in known if not any(n.startswith(p) for n in used)]
    while True:
        prefix = next((p for p in candidates if _is_prefix(p, state, own, part)), None)
        if prefix is None:
            break
        state = {n.removeprefix(prefix): t for n, t in state.items()}
        notes.append(f"prefix `{prefix}` removed")
    renamed: State = {}
    clashes = []
    for name, tensor in state.items():
        new = _renamed(name, part)
        clashes += [new] if new in renamed else []
        renamed[new] = tensor
    if clashes:
        details = [f"`rename` gives several tensors the name `{name}`" for name in clashes]
        raise MisfitError(details=details)
    return renamed, notes


def _is_prefix(prefix: str, state: State, own: Collection[str], part: Part) -> bool:
    """Whether all names begin with it, or those that do are the network's without it."""
    marked = [n for n in state if n.startswith(prefix)]
    bare = [n.removeprefix(prefix) for n in marked]
    if not marked or any(n in state for n in bare):
        return False
    return len(marked) == len(state) or any(_renamed(n, part) in own for n in bare)


def _renamed(name: str, part: Part) -> str:
    for old, new in part.rename:
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def _unused(part: Part, file: WeightsFile, state: State, own: Collection[str]) -> list[str]:
    """Clauses about settings that name nothing: most likely misspelt."""
    names = {*own, *state}
    clauses = [
        f"`{setting}` names `{path}`, which neither the network nor the file has"
        for setting, paths in (("only", part.only), ("except", part.excluded))
        for path in paths
        if not any(_within(n, path) for n in names)
    ]
    stripped = [n[i:] for n in file.tensors for i in (0, *(m.end() for m in re.finditer(r"\.", n)))]
    clauses += [f"no tensor's name begins with `{old}`" for old, _ in part.rename
                if old and not any(n.startswith(old) for n in stripped)]  # fmt: skip
    return clauses


def _is_first_filter(value: Tensor, own: Tensor) -> bool:
    """Whether these are filters on three channels ``[out, 3, h, w]``, and the network's differ in that only."""
    if value.shape == own.shape or value.dim() != 4 or own.dim() != 4 or value.shape[1] != 3:
        return False
    return value[:, 0].shape == own[:, 0].shape


def fit_channels(filters: Tensor, channels: int) -> Tensor:
    """First-layer filters for another number of channels, of the same total response.

    ``[out, c, h, w] -> [out, channels, h, w]``: a grey image then gives what it gave as three equal channels.
    """
    return filters.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
