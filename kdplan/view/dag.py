"""The DAG of phases drawn with Graphviz (dot, svg, png) or as Mermaid text."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import graphviz

from kdplan.diagnostics.report import error
from kdplan.ir.dag import SYMBOLS, Action, Planned
from kdplan.ir.plan import Plan
from kdplan.runtime.store.atomic import write
from kdplan.view import words
from kdplan.view.drawing import Box, Drawing, Kind, arrow_lines, plan_drawing

FORMATS = ("svg", "png", "dot", "mmd")
FILL: dict[Kind, str] = {
    "data": "#eef2f7",
    "file": "#eef2f7",
    "teacher": "#fff1d6",
    "student": "#dff1fb",
    "network": "#ece9f7",
    "measure": "#f6e6f0",
    "export": "#e3f3e3",
}
EDGE: dict[Kind, str] = {
    "data": "#8796ab",
    "file": "#8796ab",
    "teacher": "#c98a1b",
    "student": "#2b86b8",
    "network": "#7565b3",
    "measure": "#a8487f",
    "export": "#4a914a",
}
STATE: dict[Action, str] = {
    "run": "#2e8b57",
    "cached": "#8a929c",
    "extend": "#2f6fd0",
    "resume": "#0f93a8",
    "rerun": "#d9822b",
    "blocked": "#c8372d",
}
FONT = "Helvetica"
INK = "#48515d"


def write_dag(
    plan: Plan, planned: Mapping[str, Planned], path: Path | str, *, title: str = "", every: bool = False
) -> None:
    """Draw the plan's DAG into `path`, in the format that its ending names.

    Raises
    ------
    PlanError
        KD0911 without the `dot` program for svg and png, KD0912 for another ending.
    """
    drawn = plan_drawing(plan, planned, every)
    write_drawing(Path(path), lambda: to_dot(drawn, title).source, lambda: to_mermaid(drawn))


def write_drawing(target: Path, dot: Callable[[], str], mmd: Callable[[], str]) -> None:
    """Write a drawing in the format that the ending of `target` names, from its DOT or its Mermaid text.

    Raises
    ------
    PlanError
        KD0911 without the `dot` program for svg and png, KD0912 for another ending.
    """
    kind = target.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise error("KD0912", None, path=target, kind=kind or "no ending")
    if kind == "mmd":
        write(target, mmd().encode())
        return
    source = dot()
    write(target, source.encode() if kind == "dot" else render(source, kind, target))


def render(source: str, kind: str, target: Path) -> bytes:
    """Return the bytes of a drawing in format `kind`, laid out by the `dot` program.

    Raises
    ------
    PlanError
        KD0911 if the `dot` program is not installed.
    """
    try:
        drawn: bytes = graphviz.Source(source).pipe(format=kind)
        return drawn
    except graphviz.ExecutableNotFound as problem:
        dot, mmd = target.with_suffix(".dot"), target.with_suffix(".mmd")
        raise error("KD0911", None, path=target, dot=dot, mmd=mmd) from problem


def to_dot(drawn: Drawing, title: str = "") -> graphviz.Digraph:
    """Return the drawing as a Graphviz graph, with a title, frames around families and constructs, and a legend."""
    graph = graphviz.Digraph("plan")
    graph.attr("graph", rankdir="LR", fontname=FONT, nodesep="0.3", ranksep="0.9", pad="0.3", bgcolor="white")
    graph.attr("graph", label=_legend(drawn, title), labelloc="b", labeljust="c", splines="spline", dpi="110")
    graph.attr("node", fontname=FONT, shape="plain")
    graph.attr("edge", fontname=FONT, fontsize="10", arrowsize="0.7", penwidth="1.3")
    ids = {name: f"n{i}" for i, name in enumerate(drawn.boxes)}
    groups: dict[str, list[str]] = {}
    for name, box in drawn.boxes.items():
        groups.setdefault(box.frame or f"{box.family}[…]", []).append(name)
    for number, (title_of, names) in enumerate(groups.items()):
        if len(names) == 1:
            graph.node(ids[names[0]], _label(drawn.boxes[names[0]]))
            continue
        with graph.subgraph(name=f"cluster_{number}") as frame:
            frame.attr(label=graphviz.escape(title_of), style="rounded,dashed", color="#b3bac4", margin="12")
            frame.attr(fontsize="11", fontcolor="#5d6673", labelloc="t", labeljust="l")
            for name in names:
                frame.node(ids[name], _label(drawn.boxes[name]))
    labelled: set[tuple[str, str, str]] = set()
    for (source, target), texts in drawn.arrows.items():
        kind = drawn.boxes[source].kind
        text = "\n".join(graphviz.escape(line) for line in arrow_lines(texts))
        style = "dashed" if kind == "data" else "solid"
        # Arrows to the members of a family that say the same have one label.
        if (source, drawn.boxes[target].family, text) in labelled:
            text = ""
        labelled.add((source, drawn.boxes[target].family, text))
        graph.edge(ids[source], ids[target], f" {text} ", color=EDGE[kind], fontcolor=EDGE[kind], style=style)
    return graph


def _label(box: Box) -> str:
    """A box as an HTML label: the name with its actions, and its lines in smaller letters below."""
    color, fill = EDGE[box.kind], FILL[box.kind]
    title = f"<b>{html.escape(box.name)}</b>" + (f" ({box.members})" if box.members > 1 else "")
    badges = "".join(
        f'<td bgcolor="{STATE[a]}">{_font("white", 11, f"<b>  {html.escape(_badge(box, a))}  </b>")}</td>'
        for a in SYMBOLS
        if a in box.actions
    )
    head = (
        f'<tr><td align="left"><table border="0" cellborder="0" cellspacing="4" cellpadding="1"><tr>{badges}'
        f'<td align="left"><font point-size="14">{title}   </font></td></tr></table></td>'
        f'<td align="right"><font point-size="9" color="{color}">{_kind_word(box)}  </font></td></tr>'
    )
    rows = "".join(
        f'<tr><td colspan="2" align="left">{_font(INK, 10, f"   {html.escape(_short(line))}  ")}</td></tr>'
        for line in box.lines
    )
    border = 2 if set(box.actions) - {"cached"} else 1
    return (
        f'<<table border="{border}" cellborder="0" cellspacing="0" cellpadding="2" style="rounded" '
        f'color="{color}" bgcolor="{fill}">{head}{rows}<tr><td colspan="2" height="4"></td></tr></table>>'
    )


def _font(color: str, points: int, text: str) -> str:
    return f'<font color="{color}" point-size="{points}">{text}</font>'


def _badge(box: Box, action: Action) -> str:
    return SYMBOLS[action] + (f" {box.actions.count(action)}" if box.members > 1 else "")


def _kind_word(box: Box) -> str:
    return {"network": "phase", "teacher": "teacher phase", "student": "student phase"}.get(box.kind, box.kind)


def _short(line: str, limit: int = 60) -> str:
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _legend(drawn: Drawing, title: str) -> str:
    """The title with the numbers of actions, and the meaning of the colours and symbols that occur."""
    actions = [a for box in drawn.boxes.values() for a in box.actions]
    kind_words = {box.kind: _kind_word(box) for box in drawn.boxes.values()}
    kinds = {kind: kind_words[kind] for kind in FILL if kind in kind_words}
    cells = [
        f'<td bgcolor="{FILL[kind]}" border="1" color="{EDGE[kind]}"> {_font(EDGE[kind], 10, word)} </td>'
        for kind, word in kinds.items()
    ]
    cells += [
        f'<td bgcolor="{STATE[a]}">{_font("white", 10, f"<b> {html.escape(SYMBOLS[a])} </b>")}</td>'
        f"<td>{_font(STATE[a], 10, a)}</td>"
        for a in SYMBOLS
        if a in actions
    ]
    head = html.escape(title) + (" · " if title and actions else "") + (words.tally(actions) if actions else "")
    first = f'<tr><td colspan="{len(cells)}">{_font(INK, 12, head)}</td></tr>' if head else ""
    return (
        f'<<table border="0" cellborder="0" cellspacing="6" cellpadding="3">{first}<tr>{"".join(cells)}</tr></table>>'
        if cells
        else ""
    )


def to_mermaid(drawn: Drawing) -> str:
    """Return the drawing as a Mermaid flowchart, which many Markdown viewers draw.

    >>> print(to_mermaid(Drawing({"kd": Box("kd", "student", ["30 epochs"], ["run"])})))
    flowchart LR
        classDef student fill:#dff1fb,stroke:#2b86b8,color:#1d2430
        n0["<b>kd</b> (+ run)<br/>30 epochs"]:::student
    <BLANKLINE>
    """
    lines = ["flowchart LR"]
    for kind in {box.kind: None for box in drawn.boxes.values()}:
        lines.append(f"    classDef {kind} fill:{FILL[kind]},stroke:{EDGE[kind]},color:#1d2430")
    ids = {name: f"n{i}" for i, name in enumerate(drawn.boxes)}
    for name, box in drawn.boxes.items():
        state = ", ".join(_state(box, a) for a in SYMBOLS if a in box.actions)
        times = f" ({box.members})" if box.members > 1 else ""
        head = f"<b>{_safe(box.name)}</b>{times}" + (f" ({_safe(state)})" if state else "")
        text = "<br/>".join([head, *(_safe(line) for line in box.lines)])
        left, right = {"data": ("[(", ")]"), "measure": ("[/", "/]"), "export": ("([", "])")}.get(box.kind, ("[", "]"))
        lines.append(f'    {ids[name]}{left}"{text}"{right}:::{box.kind}')
    for (source, target), texts in drawn.arrows.items():
        text = "<br/>".join(_safe(line) for line in arrow_lines(texts))
        stroke = "-.->" if drawn.boxes[source].kind == "data" else "-->"
        lines.append(f'    {ids[source]} {stroke}|"{text}"| {ids[target]}')
    return "\n".join(lines) + "\n"


def _state(box: Box, action: Action) -> str:
    times = f" {box.actions.count(action)}" if box.members > 1 else ""
    return f"{SYMBOLS[action]} {action}{times}"


def _safe(text: str) -> str:
    """Text for inside Mermaid's double quotes: characters of its syntax become entities."""
    return re.sub(r'["<>&#;`]', lambda m: f"#{ord(m[0])};", text)
