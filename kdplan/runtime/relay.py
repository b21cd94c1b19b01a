"""The moments of a run as lines of a file in the store: one process writes them, any other shows them.

runs/<run>/<key>.jsonl, one file a phase; a line is `{"moment": name, "arguments": […]}`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from kdplan.diagnostics.report import Diagnostic, Note, PlanError
from kdplan.diagnostics.span import Source, Span
from kdplan.ir.dag import Planned
from kdplan.ir.plan import Plain
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.store.atomic import MODE, plain
from kdplan.runtime.store.sealed import parsed

EVERY = 1.0
"""Seconds between two lines about progress."""
ENDED = "ended"
"""The last line of an attempt: how it ended."""


def _written(moment: str) -> Callable[..., None]:
    def write(self: Relay, *arguments: Plain) -> None:
        self.write(moment, *arguments)

    return write


class Relay(NoEvents):
    """Writes the moments of one phase to `path`. A disk that takes no more costs lines, and never the training.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "k1.jsonl"
    >>> Relay(path).phase_started("kd", "k1", 100, 0)
    >>> Reader(path).read()
    [('phase_started', ['kd', 'k1', 100, 0])]
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self.path, self.now = path, now
        self._last = -EVERY

    def write(self, moment: str, *arguments: Plain) -> bool:
        """Append one line; whether all of it was written."""
        line = json.dumps({"moment": moment, "arguments": plain(list(arguments))}, ensure_ascii=False) + "\n"
        with suppress(OSError):
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
            try:
                return os.write(handle, line.encode()) == len(line.encode())
            finally:
                os.close(handle)
        return False

    def progress(
        self, name: str, step: int, epoch: int, loss: float, images_per_second: float, metrics: Mapping[str, float]
    ) -> None:
        """Append the step and the loss, once a second."""
        if self.now() - self._last >= EVERY:
            self._last = self.now()
            self.write("progress", name, step, epoch, loss, images_per_second, dict(metrics))

    phase_started = _written("phase_started")
    epoch_done = _written("epoch_done")
    checkpointed = _written("checkpointed")
    stopped = _written("stopped")
    phase_done = _written("phase_done")
    note = _written("note")


def _of_phase(moment: str) -> Callable[..., None]:
    def forward(self: Relays, name: str, *arguments: Plain) -> None:
        getattr(self._relays[name], moment)(name, *arguments)

    return forward


class Relays(NoEvents):
    """Writes the moments of each of several phases to a file of its own in `folder`."""

    def __init__(self, folder: Path, planned: Mapping[str, Planned]) -> None:
        self._relays = {name: Relay(folder / f"{step.key}.jsonl") for name, step in planned.items()}

    phase_started = _of_phase("phase_started")
    progress = _of_phase("progress")
    epoch_done = _of_phase("epoch_done")
    checkpointed = _of_phase("checkpointed")
    stopped = _of_phase("stopped")
    phase_done = _of_phase("phase_done")

    def phase_failed(self, name: str, error: BaseException) -> None:
        """Append why a phase failed."""
        problems = problem_to_json(error) if isinstance(error, PlanError) else []
        self._relays[name].write(ENDED, 1, problems, None)


class Reader:
    """Reads what was appended to a relay's file since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0

    def read(self) -> list[tuple[str, list[Plain]]]:
        """The moments that are new, each with its arguments. Lines that are cut or damaged are left out."""
        try:
            # On a shared file system only opening a file asks what other machines have appended.
            with self.path.open("rb") as file:
                file.seek(self._at)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        moments = []
        for line in whole.splitlines():
            record = parsed(line)
            if isinstance(record, dict) and isinstance(record.get("arguments"), list):
                moments.append((str(record.get("moment")), record["arguments"]))
        return moments


def show(observer: Events, moment: str, arguments: list[Plain]) -> None:
    """Gives an observer a moment that was read; numbers that JSON does not have are numbers again.

    The first argument of a moment is a name or a sentence.
    """
    getattr(observer, moment)(*arguments[:1], *map(_numbers, arguments[1:]))


_NO_JSON = {"NaN", "Infinity", "-Infinity"}


def _numbers(value: Plain) -> Plain:
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    return float(value) if isinstance(value, str) and value in _NO_JSON else value


def problem_to_json(problem: PlanError) -> list[Plain]:
    """The diagnostics of an error as plain values; spans come with their sources.

    Examples
    --------
    >>> from kdplan.diagnostics.report import error
    >>> problem = error("KD0910", Span(Source("a.kd", "x = 1"), 0, 1), what="phase k", root=".kdplan")
    >>> str(problem_from_json(problem_to_json(problem))) == str(problem)
    True
    """

    def span(there: Span | None) -> Plain:
        return [there.source.path, there.source.text, there.start, there.end] if there is not None else None

    return [
        {
            "code": d.code,
            "message": d.message,
            "span": span(d.span),
            "help": d.help,
            "notes": [[note.text, span(note.span)] for note in d.notes],
            "severity": d.severity,
        }
        for d in problem.diagnostics
    ]


def problem_from_json(data: list[Plain]) -> PlanError:
    """The inverse of `problem_to_json`; the error's kind is not kept."""
    sources: dict[tuple[str, str], Source] = {}

    def span(there: Plain) -> Span | None:
        if there is None:
            return None
        path, text, start, end = there
        return Span(sources.setdefault((path, text), Source(path, text)), start, end)

    return PlanError(
        [
            Diagnostic(d["code"], d["message"], span(d["span"]), d["help"],
                       tuple(Note(text, span(there)) for text, there in d["notes"]), d["severity"])
            for d in data
        ]
    )  # fmt: skip
