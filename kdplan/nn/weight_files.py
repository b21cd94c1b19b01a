"""Weights files as people have them, read without running code."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from kdplan.diagnostics.report import listing, nearest
from kdplan.nn.extra_state import encoded, is_extra

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Entries of a training script's checkpoint that hold the network's tensors; the first that is there counts."""
_LIGHTNING = "pytorch-lightning_version"
_DEEP = 20
"""Entries within entries that are opened: a checkpoint may hold itself."""
UNLISTED = 4
"""Names that a sentence lists; more are counted."""

State = dict[str, Tensor]


class UnreadableError(ValueError):
    """A file holds no tensors that can be read without running code.

    `reason` is a clause without a full stop; `help` says what to do, where there is something.
    """

    def __init__(self, reason: str, help: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.help = reason, help


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file by the names that it gives them, and what was recognised on the way."""

    tensors: State
    notes: tuple[str, ...] = ()
    lightning: bool = False

    def without_memory(self) -> WeightsFile:
        """The same with shapes and types only."""
        return replace(self, tensors={n: t.to("meta") for n, t in self.tensors.items()})


def read_weights(source: Path | bytes, entry: str = "") -> WeightsFile:
    """The tensors in a file of PyTorch or safetensors, or in its bytes; no code of the file is run.

    The content says which format it is, so that the file's name does not matter. `entry` names the table of tensors
    where a file holds several: a key, or keys with dots between them.

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
    if (content[:2] == b"PK" or content[:1] == b"\x80") and content[8:9] != b"{":  # the length of a header may be so
        return _checked(_unwrapped(_from_torch(content), entry))
    from safetensors import SafetensorError
    from safetensors.torch import load

    if entry:
        raise UnreadableError(f"a safetensors file has no entries such as `{entry}`", "Delete `entry`.")
    try:
        return _checked(WeightsFile(load(content)))
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


def _unwrapped(value: object, entry: str) -> WeightsFile:
    """The table of tensors in a checkpoint: the one that `entry` names, or else the first of `WRAPPERS`."""
    notes = []
    lightning = isinstance(value, Mapping) and _LIGHTNING in value
    if lightning:
        notes.append("it is a checkpoint of Lightning")
    chosen, at = (_entry(value, entry), entry) if entry else (value, "")
    if entry:
        notes.append(f"the tensors are in its entry `{entry}`")
    while isinstance(chosen, Mapping):
        wrapper = next((w for w in WRAPPERS if isinstance(chosen.get(w), Mapping)), None)
        if wrapper is None or at.count(".") > _DEEP:
            break
        notes.append(f"the tensors are in its entry `{wrapper}`")
        others = [f"{at}.{t}".lstrip(".") for t in _tables(chosen) if t.partition(".")[0] != wrapper]
        if others:
            notes.append(f"`entry` chooses another of its tables: {listing(others, UNLISTED)}")
        chosen, at = chosen[wrapper], f"{at}.{wrapper}".lstrip(".")
    if isinstance(chosen, Mapping):
        chosen = {n: encoded(v) if is_extra(str(n)) else v for n, v in chosen.items()}
    if not isinstance(chosen, Mapping):
        raise UnreadableError(f"it holds {_a(type(chosen).__name__)} and no table of tensors")
    other = [str(name) for name, tensor in chosen.items() if not isinstance(tensor, Tensor)]
    if other or not chosen:
        what = f"entries that are no tensors: {listing(other, UNLISTED)}" if other else "no tensors"
        tables = _tables(value)
        help = f"Choose its table of tensors: {_either(tables)}." if tables else None
        raise UnreadableError(f"it holds {what}", help)
    return WeightsFile({str(n): t for n, t in chosen.items()}, tuple(notes), lightning)


def _entry(value: object, entry: str) -> object:
    """What lies under a key, or under keys with dots between them; keys may have dots themselves."""
    for reached in _under(value, entry):
        return reached
    tables = _tables(value)
    near = nearest(entry, tables)
    help = f'Did you mean `entry = "{near}"`?' if near else None
    if help is None and tables:
        help = f"Choose one of its tables: {_either(tables)}."
    raise UnreadableError(f"it has no entry `{entry}`", help or "Delete `entry`.")


def _under(value: object, entry: str) -> Iterator[object]:
    """All that an entry may mean."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if str(key) == entry:
            yield inner
        elif entry.startswith(f"{key}."):
            yield from _under(inner, entry[len(str(key)) + 1 :])


def _tables(value: object, depth: int = 3) -> list[str]:
    """The entries of a checkpoint that hold tensors and nothing else, such as `ema` or `models.student`."""
    tables = []
    for name, inner in value.items() if isinstance(value, Mapping) and depth else ():
        if isinstance(name, str) and isinstance(inner, Mapping) and inner:  # optimizers number their tables
            whole = all(isinstance(v, Tensor) for v in inner.values())
            tables += [name] if whole else [f"{name}.{n}" for n in _tables(inner, depth - 1)]
    return tables


def _either(tables: list[str]) -> str:
    return " or ".join(f'`entry = "{t}"`' for t in tables[:UNLISTED])


def _a(noun: str) -> str:
    return f"an {noun}" if noun[:1].lower() in "aeiou" else f"a {noun}"


def _checked(file: WeightsFile) -> WeightsFile:
    """The file, whose tensors are numbers in memory; says which are not finite.

    Raises
    ------
    UnreadableError
        For tensors without numbers, or in a form that only inference has.
    """
    for kind, what, help in _FORMS:
        if names := [n for n, t in file.tensors.items() if kind(t)]:
            raise UnreadableError(f"{listing(names, UNLISTED)} {'is' if len(names) == 1 else 'are'} {what}", help)
    broken = [n for n, t in file.tensors.items() if t.is_floating_point() and not _finite(t)]
    note = f"not all numbers in {listing(broken, UNLISTED)} are finite"
    return replace(file, notes=(*file.notes, note)) if broken else file


def _finite(tensor: Tensor) -> bool:
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())


_FORMS: list[tuple[Callable[[Tensor], bool], str, str]] = [
    (
        lambda t: t.is_quantized,
        "quantized, and cannot be trained",
        "Save the weights from before they were quantized, or `tensor.dequantize()`.",
    ),
    (lambda t: t.is_meta, "on the meta device, without numbers", "Save the network after its weights were loaded."),
    (lambda t: t.layout is not torch.strided, "sparse", "Save `tensor.to_dense()`."),
]
"""Tensors that are no weights to begin from: which, what they are, and what to do."""
