"""The progress of a run: a live table in a terminal, plain lines elsewhere, and TensorBoard files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kdplan.diagnostics.report import PlanError, error
from kdplan.ir.dag import SYMBOLS, Action, Planned
from kdplan.runtime.events import Events, NoEvents, Summary
from kdplan.runtime.measures.results import MeasureResult
from kdplan.view import words
from kdplan.view.tables import printed

SHOWN = 8
"""How many finished and how many waiting phases the live table shows with the running ones."""

COUNTED = {
    "cached": "cached",
    "done": "done",
    "runs": "running",
    "elsewhere": "run elsewhere",
    "failed": "failed",
    "waits": "waiting",
}
"""State of a phase -> the word for the number of such."""


@dataclass(slots=True)
class Track:
    """The progress of one phase."""

    name: str
    action: Action
    state: str = "waits"
    total: int | None = None
    first: int = 0
    step: int = 0
    epoch: int = 0
    loss: float | None = None
    images: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    began: float = 0.0
    mark: tuple[int, float] | None = None
    """The step that was reported first, and when: the first one of a run may compile for minutes."""
    seconds: float | None = None
    text: str = ""

    def rate(self, now: float) -> float:
        """Return the steps a second since the first report of this run, or since its start until there is another."""
        step, since = self.first, self.began
        if self.mark is not None and self.step > self.mark[0]:
            step, since = self.mark
        return (self.step - step) / (now - since) if now > since else 0.0

    def left(self, now: float) -> float | None:
        """Return the seconds until the last step, or None while that is unknown: one step alone says nothing."""
        rate = self.rate(now) if self.step > self.first + 1 else 0.0
        return (self.total - self.step) / rate if self.total is not None and rate > 0 else None

    @property
    def share(self) -> float | None:
        """The share of the steps that are done, 0 to 1; None where their number is unknown."""
        return min(1.0, self.step / self.total) if self.total else None


class Tracker(NoEvents):
    """Keeps a `Track` for each phase: the base of the observers that show progress."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.tracks: dict[str, Track] = {}
        self.now = now

    def plan_started(self, planned: Mapping[str, Planned]) -> None:
        """Make a track for each phase."""
        for name, p in planned.items():
            done = p.action == "cached" or p.same_as is not None
            self.tracks[name] = Track(name, p.action, "cached" if done else "waits")

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
        """Set the phase's track to running, from `start_step` on."""
        track = self.tracks.setdefault(name, Track(name, "run"))
        track.state, track.total, track.first, track.step = "runs", total_steps, start_step, start_step
        track.began, track.mark = self.now(), None

    def progress(
        self, name: str, step: int, epoch: int, loss: float, images_per_second: float, metrics: Mapping[str, float]
    ) -> None:
        """Set the phase's step, epoch, loss and speed."""
        track = self.tracks[name]
        track.step, track.epoch, track.loss, track.images = step, epoch, loss, images_per_second
        track.mark = track.mark or (step, self.now())

    def epoch_done(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Set the phase's newest metrics."""
        self.tracks[name].metrics.update(metrics)

    def stopped(self, name: str, step: int) -> None:
        """Set the phase's step to that at which it stopped."""
        self.tracks.setdefault(name, Track(name, "run")).step = step

    def elsewhere(self, name: str, who: str, step: int | None) -> None:
        """Set the phase's track to what another process does."""
        track = self.tracks.setdefault(name, Track(name, "run"))
        track.state, track.text, track.step = "elsewhere", who, step or 0

    def phase_done(self, name: str, seconds: float, summary: Summary) -> None:
        """Set the phase's track to done, with its results."""
        track = self.tracks.setdefault(name, Track(name, "run"))
        track.state, track.seconds, track.text = "done", seconds, results(summary)

    def phase_failed(self, name: str, error: BaseException) -> None:
        """Set the phase's track to failed, with the error's message."""
        track = self.tracks.setdefault(name, Track(name, "run"))
        track.state, track.text = "failed", message(error)


def results(summary: Summary) -> str:
    """Return a phase's results in one line: its last validation, else its loss, and the best of the first metric.

    >>> results({"last": {"loss": 0.2, "val": {"top1": 0.93}}, "best": {"epoch": 3, "score": 0.95}})
    'top1 0.93, best 0.95 (epoch 3)'
    >>> results({"last": {"loss": 0.2}, "best": None})
    'loss 0.2'
    """
    last, best = summary.get("last"), summary.get("best")
    parts = []
    if isinstance(last, Mapping):
        values = last.get("val") or {"loss": last.get("loss")}
        parts += [f"{n} {words.plain_number(v)}" for n, v in values.items() if isinstance(v, int | float)]
    if isinstance(best, Mapping) and isinstance(best.get("score"), int | float):
        parts.append(f"best {words.plain_number(best['score'])} (epoch {best.get('epoch')})")
    return ", ".join(parts)


def message(error: BaseException) -> str:
    """Return an error in one line."""
    if isinstance(error, PlanError) and error.diagnostics:
        return f"{error.diagnostics[0].code}: {error.diagnostics[0].message}"
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


class LiveTable(Tracker):
    """A table of phases that is redrawn in place, for a terminal."""

    def __init__(self, console: Console | None = None, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(now)
        self.console = console or Console()
        # Drawn by a thread of its own a few times a second: the training loop only writes numbers.
        self._live = Live(console=self.console, get_renderable=self.render, refresh_per_second=4, transient=False)

    def plan_started(self, planned: Mapping[str, Planned]) -> None:
        """Start to draw."""
        super().plan_started(planned)
        self._live.start()

    def measured(self, name: str, table: MeasureResult) -> None:
        """Print the table of a measure."""
        self.console.print(printed(table, self.console.width))

    def note(self, text: str) -> None:
        """Print a note above the table."""
        self.console.print(Text(text, style="yellow"))

    def finished(self) -> None:
        """Stop drawing; the last table stays."""
        if self._live.is_started:
            self._live.stop()

    def render(self) -> RenderableType:
        """Return the table at this moment."""
        now = self.now()
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("", "phase", "", "step", "speed", "loss", "measured", "left"):
            right = name in ("step", "speed", "loss", "left")
            table.add_column(name, justify="right" if right else "left", no_wrap=True)
        tracks = list(self.tracks.values())
        shown = [t for t in tracks if t.state in ("runs", "failed", "elsewhere")]
        shown = [*[t for t in tracks if t.state == "done"][-SHOWN:], *shown]
        shown += [t for t in tracks if t.state == "waits"][:SHOWN]
        for track in sorted(shown, key=tracks.index):
            table.add_row(*_live_row(track, now))
        states = [t.state for t in tracks]
        counts = ", ".join(f"{states.count(s)} {word}" for s, word in COUNTED.items() if s in states)
        return Group(table, Text(counts, style="bright_black"))


def _live_row(track: Track, now: float) -> list[RenderableType]:
    marks = {"done": ("✓", "green"), "failed": ("!", "red"), "runs": (SYMBOLS[track.action], "cyan")}
    mark, style = marks.get(track.state, (SYMBOLS[track.action], "bright_black"))
    name = Text(track.name, style="" if track.state == "runs" else style)
    head: list[RenderableType] = [Text(mark, style=style), name]
    if track.state == "done":
        return [*head, "", f"{track.step}", "", "", track.text, f"in {words.seconds(track.seconds)}"]
    if track.state == "failed":
        return [*head, "", f"{track.step}", "", "", Text(track.text, style="red"), ""]
    if track.state == "elsewhere":
        return [*head, "", f"{track.step or ''}", "", "", track.text, ""]
    if track.state != "runs":
        return [*head, *[""] * 6]
    bar = ProgressBar(total=track.total or 1, completed=track.step, width=20, pulse=track.total is None)
    of = f" / {track.total}" if track.total is not None else ""
    speed = f"{words.plain_number(track.rate(now))} steps/s, {words.count(track.images)} images/s"
    loss = words.plain_number(track.loss) if track.loss is not None else ""
    metrics = ", ".join(f"{n} {words.plain_number(v)}" for n, v in list(track.metrics.items())[:2])
    return [*head, bar, f"{track.step}{of}", speed, loss, metrics, words.seconds(track.left(now))]


class Lines(Tracker):
    """A line when a phase begins and ends, and one at every tenth of its steps or every 30 seconds: for logs."""

    EVERY = 30.0

    def __init__(self, console: Console | None = None, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(now)
        self.console = console or words.console()
        self._last_lines: dict[str, tuple[float, int]] = {}
        """Phase → time and tenth of its last line."""

    def _print(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def plan_started(self, planned: Mapping[str, Planned]) -> None:
        """Print how many phases have which action."""
        super().plan_started(planned)
        self._print(words.tally(p.action for p in planned.values()))

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
        """Print that the phase starts or resumes."""
        super().phase_started(name, key, total_steps, start_step)
        of = f" of {total_steps}" if total_steps is not None else ""
        start = f"resumes at step {start_step}{of}" if start_step else f"starts, {_steps(total_steps)}"
        self._print(f"{name}: {start}")
        self._last_lines[name] = (self.now(), self._tenth(self.tracks[name]))

    def progress(
        self, name: str, step: int, epoch: int, loss: float, images_per_second: float, metrics: Mapping[str, float]
    ) -> None:
        """Print step, loss, metrics and speed where a line is due."""
        super().progress(name, step, epoch, loss, images_per_second, metrics)
        track, now = self.tracks[name], self.now()
        since, tenth = self._last_lines[name]
        # A phase of seconds needs no line at each tenth.
        if now - since < self.EVERY and (self._tenth(track) == tenth or now - since < 1.0):
            return
        self._last_lines[name] = (now, self._tenth(track))
        share = f"{track.share:.0%} " if track.share is not None else ""
        measured = "".join(f", {n} {words.plain_number(v)}" for n, v in track.metrics.items())
        left = track.left(now)
        self._print(
            f"{name}: {share}step {step}, epoch {epoch}, loss {words.plain_number(loss)}{measured}, "
            f"{words.count(images_per_second)} images/s" + (f", {words.seconds(left)} left" if left is not None else "")
        )

    @staticmethod
    def _tenth(track: Track) -> int:
        return int((track.share or 0.0) * 10)

    def elsewhere(self, name: str, who: str, step: int | None) -> None:
        """Print who trains the phase, once, and then its step every 30 seconds."""
        super().elsewhere(name, who, step)
        now = self.now()
        if name not in self._last_lines:
            self._last_lines[name] = (now, 0)
            self._print(f"{name}: {who} This run does what else is ready, and waits for it.")
        elif now - self._last_lines[name][0] >= self.EVERY:
            self._last_lines[name] = (now, 0)
            self._print(f"{name}: at step {step} there" if step else f"{name}: has logged no epoch there")

    def phase_done(self, name: str, seconds: float, summary: Summary) -> None:
        """Print the phase's time and results."""
        super().phase_done(name, seconds, summary)
        text = results(summary)
        self._print(f"{name}: done in {words.seconds(seconds)}" + (f", {text}" if text else ""))

    def phase_failed(self, name: str, error: BaseException) -> None:
        """Print the step at which the phase failed, and the error."""
        super().phase_failed(name, error)
        self._print(f"{name}: failed at step {self.tracks[name].step}: {message(error)}")

    def measured(self, name: str, table: MeasureResult) -> None:
        """Print the table of a measure."""
        self.console.print(printed(table, self.console.width))

    def note(self, text: str) -> None:
        """Print a note."""
        self._print(text)


def _steps(total: int | None) -> str:
    return f"{total} steps" if total is not None else "until its schedule ends"


class _Writer(Protocol):
    """What is used of TensorBoard's `SummaryWriter`, whose methods have no types."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write one value."""

    def close(self) -> None:
        """Close the file."""


class TensorBoard(NoEvents):
    """Writes losses and metrics for TensorBoard, one folder a phase; its package is imported only here.

    An observer must never end the training: if the files cannot be written, it notes so once and then does nothing.

    Raises
    ------
    PlanError
        KD0914 if the package is not installed.
    """

    def __init__(self, folder: Path | str, note: Callable[[str], None] = print) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as problem:
            raise error("KD0914", None) from problem

        self._make_writer: Callable[[str], _Writer] = lambda name: SummaryWriter(str(Path(folder) / name))
        self._writers: dict[str, _Writer] = {}
        self._note, self._broken = note, False
        self._steps: dict[str, int] = {}

    def _add(self, name: str, values: Mapping[str, float], step: int) -> None:
        if self._broken:
            return
        try:
            if name not in self._writers:
                self._writers[name] = self._make_writer(name)
            for tag, value in values.items():
                self._writers[name].add_scalar(tag, value, step)
        except OSError as problem:
            self._broken = True
            self._note(f"TensorBoard's files cannot be written ({problem}); training continues without them")

    def progress(
        self, name: str, step: int, epoch: int, loss: float, images_per_second: float, metrics: Mapping[str, float]
    ) -> None:
        """Write loss, speed and metrics of a step."""
        self._steps[name] = step
        self._add(name, {"loss": loss, "images_per_second": images_per_second, **metrics}, step)

    def epoch_done(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a validation."""
        self._add(name, {f"validation/{n}": v for n, v in metrics.items()}, self._steps.get(name, 0))

    def finished(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()


def observer(console: Console | None = None) -> Events:
    """Return the observer that suits the output: the live table in a terminal, plain lines elsewhere."""
    out = console or words.console()
    return LiveTable(out) if out.is_terminal else Lines(out)
