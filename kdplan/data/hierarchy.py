"""A tree (or a graph without cycles) over classes: who is whose parent, read from a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdplan.diagnostics.text import read_text


class HierarchyError(ValueError):
    """A file that is no hierarchy; `cycle` holds the names of a circle where there is one."""

    def __init__(self, cycle: Iterable[str] = ()) -> None:
        self.cycle = list(cycle)
        super().__init__(" → ".join(self.cycle) or "not of the form of a hierarchy")


@dataclass(frozen=True)
class Hierarchy:
    """Parents by name. A name without parents is a root, at level 0; below that, a name is one level under the nearest
    of its parents.

    Examples
    --------
    >>> h = Hierarchy({"dog": ["animal"], "poodle": ["dog"], "oak": ["plant"]})
    >>> h.ancestors("poodle"), h.level("poodle"), h.at("poodle", 0)
    (['dog', 'animal'], 2, ['animal'])
    """

    parents: Mapping[str, list[str]]
    _levels: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self._levels.update(_levels(self.parents))

    def __contains__(self, name: str) -> bool:
        return name in self._levels

    def ancestors(self, name: str) -> list[str]:
        """All names above one, the nearest first."""
        leaves: dict[str, None] = {}
        waiting = [*self.parents.get(name, [])]
        while waiting:
            above = waiting.pop(0)
            if above not in leaves:
                leaves[above] = None
                waiting += self.parents.get(above, [])
        return list(leaves)

    def level(self, name: str) -> int:
        """How far below the roots a name is."""
        return self._levels[name]

    def at(self, name: str, level: int) -> list[str]:
        """What a name belongs to at a level: itself or some of its ancestors; [] where it is above that level."""
        return [n for n in (name, *self.ancestors(name)) if self._levels.get(n) == level]


def _levels(parents: Mapping[str, list[str]]) -> dict[str, int]:
    """Levels from the roots down.

    Raises
    ------
    HierarchyError
        Where names are above one another in a circle.
    """
    children: dict[str, list[str]] = {}
    open_parents = {name: len(set(above)) for name, above in parents.items()}
    for name, above in parents.items():
        for one in set(above):
            children.setdefault(one, []).append(name)
            open_parents.setdefault(one, 0)
    waiting = [n for n, count in open_parents.items() if not count]
    levels = dict.fromkeys(waiting, 0)
    done = 0
    while waiting:
        name = waiting.pop()
        done += 1
        for child in children.get(name, []):
            levels[child] = min(levels.get(child, levels[name] + 1), levels[name] + 1)
            open_parents[child] -= 1
            if not open_parents[child]:
                waiting.append(child)
    if done == len(open_parents):
        return levels
    start = next(n for n, count in open_parents.items() if count)
    way = [start]
    while True:  # a name whose parents are never done has such a parent
        back = next(p for p in parents[way[-1]] if open_parents[p])
        if back in way:
            raise HierarchyError([*way[way.index(back) :], back])
        way.append(back)


def read_hierarchy(path: Path) -> Hierarchy:
    """A hierarchy from rows `name,parent` of a CSV file (a parent may be empty; several rows are several parents), or
    from a JSON object name -> parent or list of parents.

    Raises
    ------
    OSError
        If the file cannot be read.
    HierarchyError
        If it has another form, or a cycle.
    """
    text = read_text(path)
    parents: dict[str, list[str]] = {}
    if path.suffix == ".json":
        try:
            for name, above in json.loads(text).items():
                parents[str(name)] = [str(a) for a in (above if isinstance(above, list) else [above]) if a is not None]
        except (ValueError, AttributeError):
            raise HierarchyError from None
        return Hierarchy(parents)
    for row in csv.reader(text.splitlines()):
        if not row:
            continue
        if len(row) != 2 or not row[0].strip():
            raise HierarchyError
        own = parents.setdefault(row[0].strip(), [])
        if row[1].strip():
            own.append(row[1].strip())
    return Hierarchy(parents)
