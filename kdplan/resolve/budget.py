"""What is left of the limits on evaluation (`kdplan.ir.limits`), and the errors where nothing is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from kdplan.diagnostics.report import Diagnostic, PlanError, diagnostic
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.limits import DEFAULT, Limits

E = TypeVar("E", ir.Op, ir.Call, ir.Tap)
MAX_DEPTH = 120  # nodes of an expression, one in another: walks over it may recurse
_LOOK = 1000  # values between two looks at time and memory
_BITS_A_DIGIT = math.log2(10)


class Budget:
    """Counts what one evaluation makes.

    Attributes
    ----------
    ticks
        Values until the next look at all limits; `Context.eval` counts it down.
    failed
        The first error; whoever ends an evaluation reports it, since what met it may have tried something else.

    Examples
    --------
    >>> budget = Budget(Limits(elements=10))
    >>> budget.elements(11, None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    kdplan.diagnostics.report.PlanError: KD1102: Evaluation makes more than 10 values here. ...
    """

    def __init__(self, limits: Limits = DEFAULT, characters: int = 0, declarations: int = 0) -> None:
        self.limits = limits
        self.failed: Diagnostic | None = None
        self.ticks = min(_LOOK, limits.elements)
        self._characters = characters
        self._granted = self.ticks
        self._spent = -characters  # each character is at most one value that is written
        self._declarations = declarations
        self._made = 0
        self._trees: dict[int, tuple[int, int, ir.Expr]] = {}
        self._since = time.process_time()
        self._base = _resident()
        self._paused = False

    def exceed(self, code: str, span: Span | None, **values: Any) -> PlanError:
        """The error of a limit. After the first one evaluation ends, and no other one is shown."""
        again = self.failed is not None
        if not again:
            self.failed = diagnostic(code, span, **values)
        self.ticks = self._granted = 0
        return PlanError([] if again or self.failed is None else [self.failed])

    # ---- counting

    def elements(self, count: int, span: Span | None) -> None:
        """Count values that are about to be made, all at once.

        Raises
        ------
        PlanError
            KD1102.
        """
        self.ticks -= count
        if self.ticks < 0:
            self.look(span)

    def instance(self, before: int, span: Span | None) -> None:
        """Look whether there may be one more network or phase, after as many as there are in the plan.

        Raises
        ------
        PlanError
            KD1101.
        """
        self._made = before - self._declarations
        self.points(self._made + 1, span)

    def points(self, count: int, span: Span | None) -> None:
        """Look whether something may exist `count` times, before it is made for the first time.

        Raises
        ------
        PlanError
            KD1101.
        """
        if self.failed is not None or count > self.limits.instances:
            raise self.exceed("KD1101", span, limit=f"{self.limits.instances:,}", more=_rounded(2 * count))

    def look(self, span: Span | None) -> None:
        """Compare what was counted, time and memory with the limits; called where `ticks` is used up.

        Raises
        ------
        PlanError
            KD1102, KD1104, KD1105.
        """
        if self.failed is not None:
            raise self.exceed("KD1102", span)
        limits = self.limits
        self._spent += self._granted - self.ticks
        left = limits.elements + 20 * max(self._made, 0) - self._spent
        if left < 0:
            raise self.exceed("KD1102", span, limit=f"{limits.elements:,}", more=_rounded(2 * self._spent))
        self.ticks = self._granted = min(_LOOK, left)
        taken = time.process_time() - self._since
        if taken > limits.seconds + 1e-3 * max(self._made, 0) + 1e-5 * self._characters:
            raise self.exceed("KD1105", span, limit=f"{limits.seconds:g}", more=f"{20 * limits.seconds:g}")
        needed = (_resident() - self._base) / 1e6
        if needed > limits.memory + 250e-6 * self._characters:
            raise self.exceed("KD1104", span, limit=f"{limits.memory:,}", more=f"{4 * limits.memory}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time and memory are not counted: data are read there, or networks are built."""
        if self._paused:
            yield
            return
        self._paused = True
        time_before, memory_before = time.process_time(), _resident()
        try:
            yield
        finally:
            self._paused = False
            self._since += time.process_time() - time_before
            self._base += _resident() - memory_before

    # ---- expressions

    def tree(self, e: E, span: Span | None, longer: ir.Expr | None = None) -> E:
        """Measure an expression whose parts are measured: a part that is read twice counts twice, as in a graph.

        Parameters
        ----------
        e
            The expression.
        span
            Where it stands.
        longer
            The sum or product of which it is a copy with one part more.

        Raises
        ------
        PlanError
            KD1106 where it is nested too deeply, KD1108 where it has too many nodes.
        """
        nodes, depth = (1, 0) if longer is None else self._trees[id(longer)][:2]
        for child in ir.children(e) if longer is None else ir.children(e)[-1:]:
            size, below, _ = self._trees.get(id(child), (1, 0, child))
            nodes, depth = nodes + size, max(depth, below + 1)
        if self.failed is not None or nodes > self.limits.nodes + self._characters:
            raise self.exceed("KD1108", span, limit=f"{self.limits.nodes:,}", more=_rounded(2 * nodes))
        if depth > MAX_DEPTH:
            raise PlanError([diagnostic("KD1106", span)])
        self._trees[id(e)] = nodes, depth, e  # holds it, so that no other one has its id
        return e

    def nodes(self, e: ir.Expr) -> int:
        """How many nodes an expression has, which was measured."""
        return self._trees.get(id(e), (1, 0, e))[0]

    # ---- numbers

    def number(self, value: object, span: Span | None) -> None:
        """Look at a number that was computed.

        Raises
        ------
        PlanError
            KD1103 where it has too many digits.
        """
        if isinstance(value, int) and value.bit_length() > self.limits.digits * _BITS_A_DIGIT:
            raise self._digits(span)

    def power(self, base: Any, exponent: Any, span: Span | None) -> None:
        """Look at `base ** exponent` before it is computed (KD1103)."""
        whole = isinstance(base, int) and isinstance(exponent, int) and exponent > 0
        if whole and (base.bit_length() - 1) * exponent > self.limits.digits * _BITS_A_DIGIT:
            raise self._digits(span)

    def _digits(self, span: Span | None) -> PlanError:
        return PlanError([diagnostic("KD1103", span, limit=f"{self.limits.digits:,}")])


def _rounded(count: int) -> str:
    """A number with one digit that counts, for advice: at least 10,000."""
    size = 10 ** max(4, len(str(count)) - 1)
    return str(-(-count // size) * size) if count < 10**9 else ""


def _resident() -> int:
    """Bytes of memory that this process has now; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes there, and the most so far
    return 0
