"""What every bench shares: ratios of two pieces of work that run by turns, and the command line.

A bench is a file `bench_NAME.py` with a function `brief` that returns `{name: ratio}` within seconds; smaller is
better. A ratio compares two pieces of work that run at one time, so it says little of the machine: kdplan over a loop
by hand, over what arithmetic and traffic take, over a piece of plain Python. `bench_all` runs them all.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

Ratios = dict[str, float]
"""Name -> how much more than its yardstick something takes."""
Work = Callable[[], object]
Timer = Callable[[], float]


def by_turns(first: Work, second: Work, turns: int, timer: Timer = time.process_time, warm: int = 2) -> Times:
    """Seconds of two pieces of work, each of which is first in every other turn.

    Parameters
    ----------
    first, second
        What is compared: the first over the second.
    turns
        Turns that count.
    timer
        CPU seconds of all threads, unless another is given: other processes disturb them less than the wall's.
    warm
        Turns before them that do not count.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + warm):
        for which in (0, 1) if turn % 2 else (1, 0):
            began = timer()
            (first, second)[which]()
            if turn >= warm:
                seconds[which].append(timer() - began)
    return Times(*seconds)


class Times:
    """Seconds of two pieces of work, turn by turn."""

    def __init__(self, first: list[float], second: list[float]) -> None:
        self.first, self.second = statistics.median(first), statistics.median(second)
        self.ratio = statistics.median(a / b for a, b in zip(first, second, strict=True))


def plain_python() -> int:
    """A fixed piece of work for the interpreter alone: the yardstick of what is mostly Python."""
    table: dict[str, list[int]] = {}
    for number in range(60_000):
        table.setdefault(f"name{number % 997}", []).append(number)
    return sum(len(json.dumps(sorted(values, reverse=True))) for values in table.values())


def entry(main: Work, brief: Callable[[], Ratios]) -> None:
    """What a bench does as a program: `brief` as JSON where `--brief` is given, else `main`."""
    if "--brief" in sys.argv[1:]:
        print(json.dumps(brief()))
    else:
        main()
