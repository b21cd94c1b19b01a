"""Weights files as people have them: read without running code, and fitted to a network by name and shape."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kdplan.diagnostics.report import listing
from kdplan.ir.origins import Part

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Entries of a training script's checkpoint that hold the network's tensors; the first that is there counts."""
PREFIXES = ("module.", "model.", "_orig_mod.")
"""What `DataParallel`, a wrapper's attribute and `torch.compile` put before a network's names."""
_LIGHTNING = "pytorch-lightning_version"
_LIGHTNING_PREFIXES = (*PREFIXES, "net.", "network.")
_UNLISTED = 4
"""Names that a sentence lists; more are counted."""

_COUNTER = "num_batches_tracked"
"""Of batch norm: files from before 2018, and frozen statistics, do not have it, and nothing reads it."""

State = dict[str, Tensor]


class UnreadableError(ValueError):
    """A file holds no tensors that can be read without running code.

    `reason` is a clause without a full stop; `help` says what to do, where there is something.
    """

    def __init__(self, reason: str, help: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.help = reason, help


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
        reasons = [f"the file lacks {listing(self.missing, _UNLISTED)}"] if self.missing else []
        reasons += [f"the network has no {listing(self.left_over, _UNLISTED)}"] if self.left_over else []
        reasons += self.details[:_UNLISTED]
        if len(self.details) > _UNLISTED:
            reasons.append(f"{len(self.details) - _UNLISTED} more differ")
        return "; ".join(reasons)

    @property
    def full(self) -> list[str]:
        """Every tensor that does not fit, one line a kind, for the lists that `reason` shortens."""
        lines = []
        if len(self.missing) > _UNLISTED:
            lines.append(f"Missing in the file: {', '.join(self.missing)}.")
        if len(self.left_over) > _UNLISTED:
            lines.append(f"Left over in the file: {', '.join(self.left_over)}.")
        if len(self.details) > _UNLISTED:
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
class WeightsFile:
    """The tensors of a file by the names that it gives them, and what was recognised on the way."""

    tensors: State
    notes: tuple[str, ...] = ()
    lightning: bool = False

    def without_memory(self) -> WeightsFile:
        """The same with shapes and types only."""
        return WeightsFile({n: t.to("meta") for n, t in self.tensors.items()}, self.notes, self.lightning)


@dataclass(frozen=True)
class Fitted:
    """Tensors by a network's own names, and what was done to get them."""

    tensors: State
    notes: tuple[str, ...]


# ---- reading


def read_weights(source: Path | bytes) -> WeightsFile:
    """The tensors in a file of PyTorch or safetensors, or in its bytes; no code of the file is run.

    The content says which format it is, so that the file's name does not matter.

    Raises
    ------
    UnreadableError
        If it cannot be read, needs unpickling, or holds something else than tensors.

    Examples
    --------
    >>> buffer = io.BytesIO()
    >>> torch.save({"epoch": 3, "state_dict": {"fc.weight": torch.zeros(2, 3)}}, buffer)
    >>> read_weights(buffer.getvalue())
    WeightsFile(tensors={'fc.weight': tensor([[0., 0., 0.],
            [0., 0., 0.]])}, notes=('the tensors are in its entry `state_dict`',), lightning=False)
    """
    content = source if isinstance(source, bytes) else _bytes(source)
    if not content:
        raise UnreadableError("the file is empty")
    if content[:2] == b"PK" or content[:1] == b"\x80":
        return _unwrapped(_from_torch(content))
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return WeightsFile(load(content))
    except SafetensorError as problem:
        short = str(problem).rstrip(".")
        raise UnreadableError(f"it is neither a safetensors file nor one of torch.save ({short})") from problem


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise UnreadableError(f"it cannot be opened ({problem.strerror})") from problem


def _from_torch(content: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of formats that fail below
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        named = re.search(r"GLOBAL (\S+) was not", str(problem))
        what = f"`{named[1]}`" if named else "an object"
        raise UnreadableError(
            f"it holds {what} besides tensors, which only unpickling can read, and that may run any code",
            'If you trust the file, save its tensors alone: `torch.save(network.state_dict(), "weights.pth")`.',
        ) from problem
    except Exception as problem:  # RuntimeError, EOFError, and whatever a damaged file leads to
        if "TorchScript" in str(problem):
            help = 'Save its tensors alone: `torch.save(torch.jit.load(file).state_dict(), "weights.pth")`.'
            raise UnreadableError("it is a TorchScript program", help) from problem
        first = str(problem).partition(". ")[0].rstrip(".") or type(problem).__name__
        raise UnreadableError(f"it is damaged or incomplete ({first})") from problem


def _unwrapped(value: object) -> WeightsFile:
    notes = []
    lightning = isinstance(value, Mapping) and _LIGHTNING in value
    if lightning:
        notes.append("it is a checkpoint of Lightning")
    while isinstance(value, Mapping):
        wrapper = next((w for w in WRAPPERS if isinstance(value.get(w), Mapping)), None)
        if wrapper is None:
            break
        notes.append(f"the tensors are in its entry `{wrapper}`")
        value = value[wrapper]
    if not isinstance(value, Mapping):
        raise UnreadableError(f"it holds a {type(value).__name__} and no table of tensors")
    other = [str(name) for name, tensor in value.items() if not isinstance(tensor, Tensor)]
    if other or not value:
        what = f"entries that are no tensors: {listing(other, _UNLISTED)}" if other else "no tensors"
        raise UnreadableError(f"it holds {what}")
    return WeightsFile({str(n): t for n, t in value.items()}, tuple(notes), lightning)


# ---- fitting


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
    >>> file = WeightsFile({"module.a.w": torch.ones(2), "module.fc.w": torch.ones(5)})
    >>> own = {"a.w": torch.zeros(2), "fc.w": torch.zeros(3)}
    >>> fitted(file, own, Part(excluded=["fc"])).notes
    ('prefix `module.` removed', '1 of 2 tensors loaded')
    >>> fitted(file, own, Part())
    Traceback (most recent call last):
    ...
    kdplan.nn.weight_files.MisfitError: `fc.w` is [5], where [3] is expected
    """
    state, notes = _own_names(file, own, part)
    misfit = MisfitError(details=_unused(part, file, state, own))
    wanted = {n: t for n, t in own.items() if _loads(n, part, drawn)}
    given = {n: t for n, t in state.items() if _loads(n, part, drawn)}
    misfit.missing = sorted(n for n in wanted.keys() - given.keys() if not n.endswith(_COUNTER))
    misfit.left_over = sorted(n for n in given.keys() - wanted.keys() if not n.endswith(_COUNTER))
    tensors: State = {}
    for name, tensor in given.items():
        if name not in wanted:
            continue
        expected = wanted[name]
        if channels and _is_first_filter(tensor, expected):
            notes.append(f"`{name}` summed over its three channels, for {expected.shape[1]}")
            tensor = fit_channels(tensor, expected.shape[1])
        if tensor.shape != expected.shape:
            misfit.different.append(name)
            misfit.details.append(f"`{name}` is {list(tensor.shape)}, where {list(expected.shape)} is expected")
        elif expected.is_floating_point() and not tensor.is_floating_point():
            misfit.different.append(name)
            kind = str(tensor.dtype).removeprefix("torch.")
            misfit.details.append(f"`{name}` is {kind}, where a floating-point tensor is expected")
        tensors[name] = tensor
    if misfit.missing or misfit.left_over or misfit.details:
        raise misfit
    kinds = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()} - {"float32"}
    if kinds:
        notes.append(f"{' and '.join(sorted(kinds))} converted to float32")
    loaded, there = ([n for n in names if not n.endswith(_COUNTER)] for names in (tensors, own))
    if len(loaded) < len(there):
        notes.append(f"{len(loaded)} of {len(there)} tensors loaded")
    return Fitted(tensors, (*file.notes, *notes))


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
