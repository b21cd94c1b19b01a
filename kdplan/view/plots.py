"""Plots of measures: curves over an axis, scatter plots and matrices of metrics. Files only; no window is opened."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdplan.runtime.claims.paired import student
from kdplan.runtime.measures.results import Curves, MeasureResult, Number, Panel
from kdplan.runtime.store.atomic import make_folder, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

FORMATS = ("svg", "png")
_STYLE = 1
"""Raised when plots change their look, so that they are drawn again."""
_DECADE = 50
"""An axis is logarithmic if its largest value is at least so many times its smallest."""


def write_plots(result: MeasureResult, folder: Path, units: Callable[[str], str] = lambda metric: "") -> list[Path]:
    """Draw the plots of a measure and of its metrics as `<measure>.svg` and `.png`, `<measure>-2` and so on.

    Parameters
    ----------
    result
        A table with `plots` or `panels`; without any, nothing is written.
    folder
        The folder to write to; created where it is missing.
    units
        The unit of a metric, for its axis.

    Returns
    -------
    list of Path
        The SVG files; the PNG files are in the same folder.
    """
    wanted: list[tuple[object, Callable[[], Figure]]] = []
    for c in result.plots:
        wanted.append((asdict(c), partial(_curves, c, units(c.y))))
    for metric in dict.fromkeys(p.metric for p in result.panels):
        panels = [p for p in result.panels if p.metric == metric]
        wanted.append(([asdict(p) for p in panels], partial(_panels, panels)))
    files = []
    for i, (data, draw) in enumerate(wanted):
        stem = folder / (result.name + (f"-{i + 1}" if i else ""))
        _draw(stem, json.dumps([_STYLE, data], default=str), draw)
        files.append(stem.with_name(f"{stem.name}.svg"))
    return files


def _draw(stem: Path, data: str, draw: Callable[[], Figure]) -> None:
    """Draw, unless the same numbers were drawn there before."""
    note = stem.with_name(f"{stem.name}.json")
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in FORMATS]
    if all(f.is_file() for f in (note, *files)) and note.read_text(encoding="utf-8") == data:
        return
    make_folder(stem.parent)
    figure = draw()
    for file in files:
        out, kind = BytesIO(), file.suffix[1:]
        figure.savefig(out, format=kind, dpi=160, bbox_inches="tight", metadata=_UNDATED[kind])
        write(file, out.getvalue())
    write(note, data.encode())


_UNDATED: dict[str, dict[str, str | None]] = {"svg": {"Date": None}, "png": {"Software": None}}
"""Metadata without a date or version, so that the same numbers give the same bytes."""


def _figure(columns: int = 1, rows: int = 1, side: float = 4.8) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row after row, each `side` inches wide."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "kdplan"
    figure = Figure(figsize=(side * columns, side * 0.75 * rows))
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _curves(curves: Curves, unit: str) -> Figure:
    figure, (axes,) = _figure(side=6.0)
    values = list(dict.fromkeys(x for points in curves.lines.values() for x, _ in points))
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    position = {x: float(x) if numeric else float(i) for i, x in enumerate(values)}
    for i, (label, points) in enumerate(curves.lines.items()):
        ordered = sorted(points, key=lambda p: position[p[0]])
        x = [position[p[0]] for p in ordered]
        color = f"C{i}"
        axes.plot(x, [n.mean for _, n in ordered], marker="o", markersize=4, color=color, label=label)
        low, high = ([n.mean + sign * _half(n, curves.band) for _, n in ordered] for sign in (-1, 1))
        if any(a != b for a, b in zip(low, high, strict=True)):
            axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    for i, (label, number) in enumerate(curves.levels.items()):
        color = f"C{len(curves.lines) + i}"
        axes.axhline(number.mean, color=color, linestyle="--", label=label)
        if half := _half(number, curves.band):
            axes.axhspan(number.mean - half, number.mean + half, color=color, alpha=0.1)
    positive = numeric and position and min(position.values()) > 0
    if positive and max(position.values()) >= _DECADE * min(position.values()):
        axes.set_xscale("log")
    if not numeric or len(values) <= 12:
        axes.set_xticks(list(position.values()), [str(v) for v in values])
        axes.minorticks_off()
    axes.set_xlabel(curves.x)
    axes.set_ylabel(f"{curves.y}, {unit}" if unit else curves.y)
    axes.set_title(curves.view, fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    outside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    crowded = len(curves.lines) + len(curves.levels) > _FEW
    axes.legend(frameon=False, fontsize=8, **(outside if crowded else {}))
    return figure


_FEW = 5
"""With more curves, the legend is outside the axes, where it hides none."""


def _half(number: Number, band: str) -> float:
    """Half the width of a band: the deviation over runs, its standard error, or Student's 95 % interval of the mean.

    >>> [round(_half(Number.of([1.0, 2.0, 3.0]), band), 3) for band in ("std", "se", "ci")]
    [1.0, 0.577, 2.484]
    """
    if number.std is None or not math.isfinite(number.std):
        return 0.0
    if band == "ci":
        return student(number.n, number.std, 0.05)
    return number.std / math.sqrt(number.n) if band == "se" else number.std


def _panels(panels: list[Panel]) -> Figure:
    columns = min(3, len(panels))
    figure, grid = _figure(columns, -(-len(panels) // columns), max(map(_side, panels)))
    for axes, panel in zip(grid, panels, strict=False):
        _DRAW[panel.kind](axes, panel)
        axes.set_title(panel.title, fontsize=9)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.tight_layout()
    return figure


def _scatter(axes: Axes, panel: Panel) -> None:
    """Points in the plane, one colour for each class."""
    points, labels, names = panel.data["points"], panel.data["labels"], panel.data["classes"]
    for i, name in enumerate(names):
        mine = [p for p, label in zip(points, labels, strict=True) if label == name]
        axes.scatter([p[0] for p in mine], [p[1] for p in mine], s=8, color=f"C{i % 10}", label=str(name), linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=6, markerscale=1.5, loc="center left", bbox_to_anchor=(1.0, 0.5), title="class",
                title_fontsize=6)  # fmt: skip


def _matrix(axes: Axes, panel: Panel) -> None:
    """Each true class's shares as a row; classes of one superclass are adjacent."""
    counts, names, groups = panel.data["matrix"], panel.data["classes"], panel.data["groups"]
    order = list(dict.fromkeys(i for members in groups.values() for i in members))
    order += [i for i in range(len(names)) if i not in set(order)]
    wholes = [sum(row) or 1 for row in counts]
    shares = [[counts[i][j] / wholes[i] for j in order] for i in order]
    image = axes.imshow(shares, cmap="magma_r", vmin=0, interpolation="nearest")
    size = min(8.0, 520 / len(names))  # points: the rows of the largest plot share about 700
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), [names[i] for i in order], fontsize=size, rotation=90)
        axes.set_yticks(range(len(names)), [names[i] for i in order], fontsize=size)
        axes.tick_params(length=0, pad=2)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    if any(len(members) > 1 for members in groups.values()):
        edge = 0
        for members in groups.values():
            axes.add_patch(_square(edge - 0.5, len(members)))
            edge += len(members)
    k = panel.data["k"]
    axes.set_xlabel("class with the highest score" if k == 1 else f"class with the {_ordinal(k)} highest score")
    axes.set_ylabel("true class")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("share of the true class's samples", fontsize=7)


def _square(corner: float, side: int) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((corner, corner), side, side, fill=False, edgecolor="C0", linewidth=0.6)


def _ordinal(k: int) -> str:
    """A number as an ordinal.

    >>> [_ordinal(k) for k in (1, 2, 3, 11, 22)]
    ['1st', '2nd', '3rd', '11th', '22nd']
    """
    last = {1: "st", 2: "nd", 3: "rd"}.get(k % 10, "th")
    return f"{k}th" if 10 < k % 100 < 20 else f"{k}{last}"


_NAMED = 120
"""A matrix of at most so many classes has their names at its axes."""


def _side(panel: Panel) -> float:
    """The width of a panel in inches: a matrix of many classes needs more."""
    return min(max(6.0, 0.13 * len(panel.data["classes"])), 14.0) if panel.kind == "matrix" else 4.8


_DRAW: dict[str, Callable[[Axes, Panel], None]] = {"scatter": _scatter, "matrix": _matrix}
