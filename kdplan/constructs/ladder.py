"""Where the stages of two networks end: found from the sizes of their feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdplan.ir.cuts import Cut


@dataclass(frozen=True)
class Step:
    """One stage on both sides: the cuts at which it could be divided, the last of which end it."""

    student: tuple[Cut, ...]
    teacher: tuple[Cut, ...]

    def __add__(self, other: Step) -> Step:
        return Step(self.student + other.student, self.teacher + other.teacher)

    def divided(self, parts: int) -> list[tuple[str, str]]:
        """The taps that end each of `parts` parts, as equal as they can be, the first ones larger."""
        ends = []
        for j in range(1, parts + 1):
            s, t = (side[-(-j * len(side) // parts) - 1] for side in (self.student, self.teacher))
            ends.append((s.path, t.path))
        return ends

    @property
    def most(self) -> int:
        """How many parts it can have."""
        return min(len(self.student), len(self.teacher))


def natural(cuts: Sequence[Cut]) -> list[tuple[Cut, ...]]:
    """A network's stages: maximal runs of maps of one size, each as the ends of the layers or blocks in it.

    A first layer outside of all blocks is a stage of its own where the first blocks keep its size (networks for small
    images), and else belongs to the first blocks. What has no weights, such as global pooling, ends no stage.

    Examples
    --------
    >>> paths = [("stem", 32), ("layer1.0", 32), ("layer1", 32), ("layer2", 16)]
    >>> found = [Cut(p, 16, (s, s), 1) for p, s in paths] + [Cut("pool", 16, (1, 1), 0)]
    >>> [[cut.path for cut in stage] for stage in natural(found)]
    [['stem'], ['layer1.0', 'layer1'], ['layer2']]
    """
    runs: list[list[Cut]] = []
    unit: list[Cut] = []
    for i, cut in enumerate(cuts):
        unit.append(cut)
        same = i + 1 < len(cuts) and cuts[i + 1].size == cut.size
        if same and not cuts[i + 1].layers:
            continue
        if any(c.layers for c in unit):
            end = min(reversed(unit), key=lambda c: c.path.count("."))  # the whole group rather than its last ReLU
            if not runs or runs[-1][-1].size != end.size:
                runs.append([])
            runs[-1].append(end)
        unit = []
    for run in runs:  # a block that ends in another size begins in this one, and is no end of it
        while run[-1].path.count(".") > min(c.path.count(".") for c in run):
            run.pop()
    if runs and "." not in runs[0][0].path:
        if len(runs[0]) > 1:
            runs[:1] = [runs[0][:1], runs[0][1:]]
        elif len(runs) > 2:
            runs[:1] = []
    return [tuple(run) for run in runs]


def steps(student: Sequence[tuple[Cut, ...]], teacher: Sequence[tuple[Cut, ...]]) -> list[Step]:
    """Stages of two networks, paired: one by one where there are equally many, else those of equal size.

    The last ones are always a pair; what has no partner belongs to the stage behind it.

    Examples
    --------
    >>> def stage(path, size): return (Cut(path, 8, (size, size), 1),)
    >>> found = steps([stage("a", 32), stage("b", 16)], [stage("u", 32), stage("v", 16), stage("w", 8)])
    >>> [step.divided(1) for step in found]
    [[('a', 'u')], [('b', 'w')]]
    """
    if len(student) == len(teacher):
        return [Step(s, t) for s, t in zip(student, teacher, strict=True)]
    pairs: list[Step] = []
    waiting: tuple[Cut, ...] = ()
    next_teacher = 0
    for i, stage in enumerate(student):
        waiting += stage
        if i + 1 == len(student):
            at = len(teacher) - 1
        else:
            same = [j for j in range(next_teacher, len(teacher) - 1) if teacher[j][-1].size == stage[-1].size]
            again = student[i + 1][-1].size == stage[-1].size
            if not same or (again and len(same) < 2):
                continue
            at = same[0] if again else same[-1]
        pairs.append(Step(waiting, tuple(c for run in teacher[next_teacher : at + 1] for c in run)))
        waiting, next_teacher = (), at + 1
    return pairs


def ladder(pairs: list[Step], count: int | None) -> list[tuple[str, str]] | None:
    """The taps that end each of `count` stages; None where there cannot be so many.

    Too many stages are joined from the front, so that the last `count` ends remain; too few are divided from the front,
    each into two before any into three.

    Examples
    --------
    >>> def run(*paths): return tuple(Cut(p, 8, (8, 8), 1) for p in paths)
    >>> found = [Step(run("a"), run("a")), Step(run("b1", "b2"), run("b1", "b2"))]
    >>> [ladder(found, n) for n in (1, 2, 3, 4)]  # doctest: +NORMALIZE_WHITESPACE
    [[('b2', 'b2')], [('a', 'a'), ('b2', 'b2')], [('a', 'a'), ('b1', 'b1'), ('b2', 'b2')], None]
    """
    stages = list(pairs)
    count = len(stages) if count is None else count
    while len(stages) > count:
        stages[:2] = [stages[0] + stages[1]]
    parts = [1] * len(stages)
    while sum(parts) < count:
        room = [i for i, stage in enumerate(stages) if parts[i] < stage.most]
        if not room:
            return None
        parts[min(room, key=lambda i: parts[i])] += 1
    return [end for stage, n in zip(stages, parts, strict=True) for end in stage.divided(n)]
