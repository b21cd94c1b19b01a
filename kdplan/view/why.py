"""`kdplan why`: the action of one phase, and its root causes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from kdplan.diagnostics.report import error, suggestion
from kdplan.diagnostics.span import Source, Span
from kdplan.diagnostics.text import read_text
from kdplan.ir.dag import SYMBOLS, Planned, Reason
from kdplan.view import words


def why(planned: Mapping[str, Planned], name: str, how: str = "") -> RenderableType:
    """Return the explanation: the action, root causes with their location in the plan file, and consequences of others.

    `how` says how a finished phase was trained.

    Raises
    ------
    PlanError
        KD0310 if there is no such phase.
    """
    if name not in planned:
        raise error("KD0310", None, name=name, help=suggestion(name, planned))
    phase = planned[name]
    style = words.ACTION_STYLES[phase.action]
    head = Text.assemble(
        (f"{SYMBOLS[phase.action]} {phase.name}", f"bold {style}"),
        f"  {_action(phase)}" + (f", {how}" if how and phase.action == "cached" else ""),
    )
    parts: list[RenderableType] = [head]
    for reason in sorted(phase.reasons, key=lambda r: not r.root):
        parts += [Text(), *_reason(reason)]
    parts += [Text(), *_roots_upstream(planned, phase), Text(f"key {phase.key}", style="bright_black")]
    return Group(*parts)


def print_why(planned: Mapping[str, Planned], name: str, console: Console | None = None, how: str = "") -> None:
    """Print `why`."""
    (console or words.console()).print(why(planned, name, how), soft_wrap=True, highlight=False)


def _action(phase: Planned) -> str:
    texts = {
        "run": "will be trained",
        "cached": "is in the store",
        "extend": "will be trained further",
        "resume": f"will resume at step {phase.resume_step}",
        "rerun": "will be trained again",
        "blocked": "cannot be trained",
    }
    if phase.same_as is not None:
        return f"is equal to {phase.same_as}, which is trained once for both"
    return texts[phase.action]


def _reason(reason: Reason) -> list[Text]:
    lines = [Text(("because " if reason.root else "upstream: ") + reason.text)]
    span = changed_span(reason)
    if span is not None:
        lines += excerpt(span)
    elif reason.at:
        lines.append(Text(f"  at {reason.at}", style="bright_black"))
    if reason.before is not None or reason.after is not None:
        before = reason.before if reason.before is not None else "nothing"
        after = reason.after if reason.after is not None else "nothing"
        if len(before) + len(after) < 80:
            lines.append(Text.assemble("  ", (before, "red"), " → ", (after, "green")))
        else:
            lines += [Text(f"  - {before}", style="red"), Text(f"  + {after}", style="green")]
    return lines


def changed_span(reason: Reason) -> Span | None:
    """Return the location of a cause: its span, or the rest of the line at `file:line:column` if that file exists."""
    if isinstance(reason.span, Span):
        return reason.span
    file, _, rest = reason.at.rpartition(":")
    file, _, line = file.rpartition(":")
    if not (file and line.isdigit() and rest.isdigit()):
        return None
    try:
        source = Source(file, read_text(Path(file)))
    except (OSError, UnicodeDecodeError):
        return None
    text = source.line(int(line))
    column = int(rest) - 1
    if not 0 <= column < len(text):
        return None
    start = sum(len(part) + 1 for part in source.text.split("\n")[: int(line) - 1]) + column
    return Span(source, start, start + len(text) - column)


def excerpt(span: Span) -> list[Text]:
    """Return the location of a span and its first line, underlined.

    >>> for line in excerpt(Span(Source("a.kd", "x\\n  weight = 9\\n"), 4, 14)): print(line.plain)
      --> a.kd:2:3
    2 |   weight = 9
      |   ^^^^^^^^^^
    """
    line = span.source.line(span.line)
    end_line, end_column = span.end_position
    until = end_column - 1 if end_line == span.line else len(line)
    pad = " " * len(str(span.line))
    # Tabs stay tabs, so that the marks stand below what they mark.
    before = "".join(c if c == "\t" else " " for c in line[: span.column - 1])
    marks = "^" * max(1, until - span.column + 1)
    return [
        Text(f"{pad} --> {span}", style="bright_black"),
        Text.assemble((f"{span.line} | ", "bright_black"), line),
        Text.assemble((f"{pad} | ", "bright_black"), before, (marks, "bold yellow")),
    ]


def _roots_upstream(planned: Mapping[str, Planned], phase: Planned) -> list[Text]:
    """The root causes of a phase that is trained only because others are."""
    if any(r.root for r in phase.reasons) or phase.action in ("cached", "blocked"):
        return []
    pending, seen, lines = list(phase.needs), set(), []
    while pending:
        name = pending.pop(0)
        if name in seen or name not in planned:
            continue
        seen.add(name)
        above = planned[name]
        for reason in above.reasons:
            if reason.root and above.action not in ("cached", "blocked"):
                lines += [Text(f"{name}:", style="bold"), *_reason(reason), Text()]
        pending += above.needs
    return [Text("root causes:"), *lines] if lines else []
