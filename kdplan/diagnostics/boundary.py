"""The boundary to code that is not kdplan's: an exception of user code, torch or a library becomes one diagnostic.

Every call into such code goes through `boundary`, or keeps the exception as the cause of a `ForeignError` until a
caller knows the plan's span. `cause_of` then says what went wrong, in one sentence, and where.
"""

from __future__ import annotations

import builtins
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from kdplan.diagnostics.report import Diagnostic, Note, PlanError, error, nearest
from kdplan.diagnostics.span import Source, Span
from kdplan.diagnostics.text import read_text

LONGEST = 300  # characters of a message that is quoted
_OWN = str(Path(__file__).parents[1])
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
_SENTENCE = re.compile(r"(?<=[^.][.!?])\s")
_SHAPES = re.compile(
    r"expected input|channels|mat1 and mat2|input size|output size|expected \d+D|normalized_shape", re.IGNORECASE
)
_TYPES = re.compile(r"\bd(ata)?types?\b|\b(scalar|weight|data) types?\b|not implemented for '\w+'")
PREFIX = "kdplan_user_"
"""Begins the names of the packages that hold a user's modules; a reader sees the modules' own names."""
_PACKAGES = {"PIL": "pillow", "cv2": "opencv-python", "sklearn": "scikit-learn", "yaml": "pyyaml"}
"""Modules whose package has another name."""

_TENSOR_VALUE = "the value of a tensor decides what is computed"
_TENSOR_SHAPE = "the values of a tensor decide a shape"
_WHERE = "Write `torch.where(condition, a, b)` instead of `if`, and leave numbers as tensors: no `.item()`, no `float`."
_MULTIPLY = "Multiply by a mask, `(x * mask).sum() / mask.sum()`, instead of `x[mask]` or `nonzero`."
_TORCH = "Use functions of torch instead of NumPy's, which only a function of frozen values may use."
_HOOK = "Change the gradient in a `torch.autograd.Function`, or the value before it is returned."
_CLONE = "Write `x.clone()`, or `x.detach().clone()` for a copy without gradients."
_CONVERT = "Convert one of the values: `x.float()`, `y.long()` or `x.to(other.dtype)`."
_KNOWN = (
    ("DataDependentOutputException", "", _TENSOR_VALUE, _WHERE),
    ("GuardOnDataDependentSymNode", "", _TENSOR_VALUE, _WHERE),
    ("DynamicOutputShapeException", "", _TENSOR_SHAPE, _MULTIPLY),
    ("ValueShapeError", "", _TENSOR_SHAPE, _MULTIPLY),
    ("", "not supported for tensor subclasses", "it leaves torch", _TORCH),
    ("", "FakeTensor.__format__", "it formats the value of a tensor", "Format shapes only, such as `{x.shape}`."),
    ("", "cannot be called on meta tensors", _TENSOR_VALUE, _WHERE),
    ("", "cannot register a hook on a tensor", "it registers a hook on a tensor, which no graph holds", _HOOK),
    ("", "support the deepcopy protocol", "it copies a value of the network with `copy.deepcopy`", _CLONE),
)
"""A type's name, a part of the message, what that means, and what to write instead."""


class ForeignError(Exception):
    """An exception of code that is not kdplan's, which is its `__cause__`; the message is the exception's own."""


@dataclass(frozen=True)
class Cause:
    """What an exception says, and where the user's code raised it.

    Attributes
    ----------
    kind
        The exception's type.
    reason
        One sentence without its period.
    file, line
        The innermost line that is the user's; "" and 0 where there is none.
    help
        What to write instead, where that is known.
    shapes
        Whether tensors of unfit shapes are the reason.
    what
        What the user's line is, for the note that shows it.
    """

    kind: str
    reason: str
    file: str = ""
    line: int = 0
    help: str | None = None
    shapes: bool = False
    what: str = "raised here"

    @property
    def location(self) -> str:
        """The file and line; "" where no line of the user's is involved."""
        return f"{self.file}:{self.line}" if self.file else ""

    def __str__(self) -> str:
        typed = f"{self.kind}: {self.reason}" if self.file and self.help is None else self.reason
        return f"{typed} ({self.location})" if self.file else typed

    @property
    def notes(self) -> list[Note]:
        """The user's line, to be shown."""
        try:
            source = Source(self.file, read_text(Path(self.file))) if self.file else None
        except (OSError, UnicodeDecodeError):
            source = None
        if source is None or not (text := source.line(self.line).rstrip()).strip():
            return []
        start = sum(len(part) for part in source.text.splitlines(keepends=True)[: self.line - 1])
        span = Span(source, start + len(text) - len(text.lstrip()), start + len(text))
        return [Note(self.what, span)]


@contextmanager
def boundary(code: str, span: Span | None, /, **values: object) -> Iterator[None]:
    """Inside, an exception becomes the error `code` at `span`; its reason is the row's `problem`.

    Examples
    --------
    >>> with boundary("KD0507", None, network="net"):
    ...     1 / 0
    Traceback (most recent call last):
    kdplan.diagnostics.report.PlanError: KD0507: `net` cannot be built: division by zero.
    """
    try:
        yield
    except BaseException as problem:
        if not is_foreign(problem):
            raise
        raise foreign(code, span, problem, **values) from problem


def with_uses(diagnostics: Iterable[Diagnostic], uses: Mapping[str, Span]) -> list[Diagnostic]:
    """Diagnostics in which each line of a user's file is followed by the `use` that reads the file.

    Parameters
    ----------
    diagnostics
    uses
        The absolute path of a Python file → its `use`.
    """
    shown = []
    for d in diagnostics:
        files = [str(Path(n.span.file).resolve()) for n in d.notes if n.span is not None]
        notes = [Note("used here", uses[file]) for file in dict.fromkeys(files) if file in uses]
        shown.append(replace(d, notes=(*d.notes, *notes)) if notes else d)
    return shown


def foreign(code: str, span: Span | None, problem: BaseException, /, **values: object) -> PlanError:
    """The error `code` about an exception; `problem` and `fits` (for advice about shapes) are added to `values`."""
    cause = cause_of(problem)
    values = {"problem": str(cause), "fits": "the data" if cause.shapes else "", **values}
    return error(code, span, notes=cause.notes, help=cause.help, **values)


def is_foreign(problem: BaseException) -> bool:
    """Whether an exception is to be reported: neither an error that has its diagnostic nor a wish to stop.

    >>> is_foreign(SystemExit(0)), is_foreign(KeyboardInterrupt())
    (True, False)
    """
    return not isinstance(problem, PlanError | KeyboardInterrupt | GeneratorExit)


def is_of_types(problem: BaseException) -> bool:
    """Whether data types are the reason, whatever the numbers.

    >>> is_of_types(RuntimeError("mat1 and mat2 must have the same dtype, but got Float and Double"))
    True
    """
    return isinstance(problem, RuntimeError | TypeError) and _TYPES.search(str(problem)) is not None


def is_of_kernels(problem: BaseException) -> bool:
    """Whether an operation has no kernel for a data type on this device; another may have one."""
    return isinstance(problem, RuntimeError) and "not implemented for '" in str(problem)


def cause_of(problem: BaseException) -> Cause:
    """What went wrong, of the exception that a `ForeignError` holds or of the exception itself.

    >>> cause_of(ValueError("Sizes differ. See the log.\\nThere.")).reason
    'Sizes differ'
    >>> cause_of(AttributeError("module 'kdplan_user_0f.nets' has no attribute 'Net'")).reason
    "module 'nets' has no attribute 'Net'"
    >>> cause_of(KeyError()).reason
    'KeyError without a message'
    """
    traced = None
    while isinstance(problem, ForeignError) and problem.__cause__ is not None:
        traced = getattr(problem, "line", None)
        problem = problem.__cause__
    kind = type(problem).__name__
    file, line = location_of(problem)
    if not file and traced is not None:
        file, line = _short(traced[0]), traced[1]
    reason, help = _reason(problem), None
    for name, part, meaning, advice in _KNOWN:
        if name in ("", kind) and part in str(problem):
            reason, help = meaning, advice
            break
    if isinstance(problem, ModuleNotFoundError) and problem.name:
        module = problem.name.partition(".")[0]
        help = f"Put `{module}.py` beside the file, or install it: `pip install {_PACKAGES.get(module, module)}`."
        if not file:
            help = f"Install it: `pip install {_PACKAGES.get(module, module)}`."
        elif near := nearest(module, [p.stem for p in Path(file).parent.glob("*.py")]):
            help = f"Did you mean `{near}`?"
    help = help or (_CONVERT if is_of_types(problem) else None)
    shapes = isinstance(problem, RuntimeError | ValueError) and _SHAPES.search(str(problem)) is not None
    return Cause(kind, reason, file, line, help, shapes and help is None)


def _reason(problem: BaseException) -> str:
    """The first sentence of an exception's message, on one line and without its period."""
    kind = type(problem).__name__
    if isinstance(problem, SystemExit):
        return "it ends the process with `sys.exit`"
    if isinstance(problem, SyntaxError):
        return problem.msg or kind
    if isinstance(problem, RecursionError):
        return "it calls itself without an end"
    text = re.sub(rf"\b{PREFIX}\w+\.", "", str(problem)).strip()
    if isinstance(problem, KeyError) and len(problem.args) == 1 and text:
        text = f"there is no key {text}"
    first = _SENTENCE.split(text.splitlines()[0].strip(), maxsplit=1)[0] if text else f"{kind} without a message"
    first = " ".join(first.split()).rstrip(".:?")
    return first if len(first) <= LONGEST else first[: LONGEST - 1] + "…"


def location_of(problem: BaseException) -> tuple[str, int]:
    """The file and line of the innermost frame that is the user's, or of a syntax error; ("", 0) for none."""
    if isinstance(problem, SyntaxError) and problem.filename and not isinstance(problem.filename, builtins.bytes):
        return (_short(problem.filename), problem.lineno or 1) if is_users(problem.filename) else ("", 0)
    for frame in reversed(traceback.extract_tb(problem.__traceback__)):
        if is_users(frame.filename):
            return _short(frame.filename), frame.lineno or 1
    return "", 0


@lru_cache(maxsize=4096)
def is_users(file: str) -> bool:
    """Whether code of this file is the user's: not kdplan's, a library's, or made while a program runs.

    >>> is_users("/home/me/net.py"), is_users("<string>"), is_users(__file__)
    (True, False, False)
    """
    path = Path(file).parts
    ours = file.startswith(("<", _OWN)) or "site-packages" in path or "dist-packages" in path
    return not ours and not file.startswith(_LIBRARIES)


def _short(file: str) -> str:
    """A path relative to the working folder where it is below that."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
