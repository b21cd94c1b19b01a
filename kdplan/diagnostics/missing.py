"""Files that a plan names and that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdplan.diagnostics.report import PlanError, error, nearest
from kdplan.diagnostics.span import Span


def no_such_file(name: str, folders: Sequence[Path | str], span: Span | None) -> PlanError:
    """KD0211 for a path as a plan writes it, which was looked for in these folders.

    >>> print(no_such_file("/nowhere/a.kd", ["/tmp"], None))
    KD0211: There is no file `/nowhere/a.kd`.
    """
    path = Path(name).expanduser()
    absolute = path.is_absolute()
    where = "" if absolute else f" in {' or in '.join(map(str, folders))}"
    near = next((n for folder in folders if (n := near_file(Path(folder) / path))), None)
    help = f'Did you mean "{path.parent / near}"?' if near else None
    if near == path.name:
        help = "It is a folder; name a file."
    if not near and not absolute:
        help = "Write the path relative to the file that names it."
    return error("KD0211", span, file=name, where=where, help=help)


def near_file(path: Path) -> str | None:
    """The name in the folder of a missing file that was most likely meant: with another ending, or spelt alike."""
    try:
        names = sorted(p.name for p in path.parent.iterdir())
    except (OSError, ValueError):
        return None
    same = [n for n in names if Path(n).stem == path.name or Path(n).stem == path.stem]
    return same[0] if same else nearest(path.name, names)
