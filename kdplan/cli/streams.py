"""Standard output and standard error that outlive their reader: a broken pipe ends no training."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_GONE = {errno.EPIPE, errno.ECONNRESET}


class Output:
    """An output stream that drops what is written after its first failure.

    Parameters
    ----------
    stream
        What is written to.
    lost
        Called once, with the failure; may print to another stream.

    Examples
    --------
    >>> class Closed:
    ...     def write(self, text):
    ...         raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    >>> output = Output(Closed(), lambda problem: print("lost:", problem.strerror))
    >>> output.write("one"), output.write("two")
    lost: Broken pipe
    (3, 3)
    """

    def __init__(self, stream: TextIO, lost: Callable[[OSError], None] = lambda problem: None) -> None:
        self._stream, self._lost = stream, lost
        self.problem: OSError | None = None
        """The first failure."""

    @property
    def failed(self) -> bool:
        """Whether text was lost that someone may still want: not where the reader itself has gone."""
        return self.problem is not None and self.problem.errno not in _GONE

    def write(self, text: str) -> int:
        """Write, unless an earlier write failed."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several pieces of text."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, unless an earlier write failed."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, act: Callable[[], object]) -> None:
        if self.problem is not None:
            return
        try:
            act()
        except OSError as problem:
            self.problem = problem
            _discard(self._stream)
            self._lost(problem)


def _discard(stream: TextIO) -> None:
    """Let what the stream still holds go nowhere, so that the end of the process does not fail on it."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return  # it has no file


@contextmanager
def outliving(note: str = "") -> Iterator[Callable[[], bool]]:
    """Inside, standard output and standard error may lose their readers.

    Parameters
    ----------
    note
        Printed on standard error when standard output loses its reader.

    Yields
    ------
    callable
        Whether output was lost for another reason than that its reader has gone, such as a full disk; this is said on
        standard error.
    """

    def lost(problem: OSError) -> None:
        text = note if problem.errno in _GONE else f"standard output is lost: {problem.strerror}"
        if text:
            err.write(f"{text}\n")
            err.flush()

    before = sys.stdout, sys.stderr
    err = Output(sys.stderr)
    out = Output(sys.stdout, lost)

    def failed() -> bool:
        out.flush()
        return out.failed

    sys.stdout, sys.stderr = out, err
    try:
        yield failed
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
