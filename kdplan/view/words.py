"""Numbers and names as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rich.console import Console

from kdplan.ir.dag import SYMBOLS, Action, Cost
from kdplan.ir.expr import Version
from kdplan.ir.plan import Item, Recipe, View

ACTION_WORDS: dict[Action, str] = {
    "run": "run",
    "cached": "cached",
    "extend": "extend",
    "resume": "resume",
    "rerun": "rerun",
    "blocked": "blocked",
}
ACTION_STYLES: dict[Action, str] = {
    "run": "green",
    "cached": "bright_black",
    "extend": "blue",
    "resume": "cyan",
    "rerun": "yellow",
    "blocked": "red",
}
FOLD = 12
"""Families with more members than this are shown as one line, or one box, unless everything is asked for."""


def console() -> Console:
    """The terminal; where there is none, such as in a pipe, lines are wide enough not to be broken."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


def count(number: float) -> str:
    """A count with three digits and a unit.

    >>> count(855770), count(3), count(69_760_000_000)
    ('856 k', '3', '69.8 G')
    """
    for limit, unit in ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= 0.9995 * limit:
            return _three(number / limit) + unit
    return _three(number)


def _three(number: float) -> str:
    digits = 0 if abs(number) >= 99.95 or number == int(number) else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f}"


def size(number: float) -> str:
    """Bytes.

    >>> size(3_460_000), size(12)
    ('3.46 MB', '12 B')
    """
    return f"{count(number)}B" if number >= 999.5 else f"{number:.0f} B"


def seconds(number: float | None) -> str:
    """A length of time; "?" where it is not known.

    >>> seconds(0.4), seconds(75), seconds(4000), seconds(100_000), seconds(None)
    ('0.4 s', '1:15', '1:06:40', '1 d 3 h', '?')
    """
    if number is None:
        return "?"
    if number < 59.5:
        return f"{number:.1f} s" if number < 10 else f"{number:.0f} s"
    whole = round(number)
    if whole >= 86_400:
        return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plain_number(value: float) -> str:
    """A number of a metric or setting, without needless digits.

    >>> plain_number(0.1), plain_number(0.123456), plain_number(1e-5), plain_number(240.0)
    ('0.1', '0.1235', '1e-05', '240')
    """
    return f"{value:.4g}"


def family(name: str) -> str:
    """A name without its indices: what members of one family have in common.

    >>> family("specialist[3].train"), family("kd[weight=5,seed=0]"), family("kd")
    ('specialist.train', 'kd', 'kd')
    """
    return re.sub(r"\[[^\]]*\]", "", name)


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by family, both in the order of first sight.

    >>> families(["a[0]", "b", "a[1]"])
    {'a': ['a[0]', 'a[1]'], 'b': ['b']}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(family(name), []).append(name)
    return found


def item(value: Item) -> str:
    """An item as the plan writes it.

    >>> item(Item("sgd", {"lr": 0.1, "momentum": 0.9})), item(Item("top1"))
    ('sgd(lr = 0.1, momentum = 0.9)', 'top1')
    """
    inner = ", ".join(f"{k} = {v}" if not k.isdigit() else str(v) for k, v in value.arguments.items())
    return f"{value.name}({inner})" if inner else value.name


def recipe(value: Recipe) -> str:
    """A recipe in a few words.

    >>> recipe(Recipe(Item("sgd", {"lr": 0.05}), epochs=240, batch=64))
    '240 epochs, sgd lr 0.05, batch 64'
    """
    unit = value.epochs if value.epochs is not None else value.steps
    word = "epoch" if value.epochs is not None else "step"
    length = f"{unit} {word}{'' if unit == 1 else 's'}" if unit is not None else value.schedule.name
    rate = value.optimizer.arguments.get("lr")
    how = value.optimizer.name + (f" lr {rate}" if rate is not None else "")
    batch = " and ".join(map(str, value.batch)) if isinstance(value.batch, list) else value.batch
    return f"{length}, {how}, batch {batch}"


def view(value: View, data: bool = True) -> str:
    """A view of data as the plan writes it.

    >>> view(View("cifar", "test")), view(View("cifar", unlabelled=True), data=False)
    ('cifar.test', 'train, unlabelled')
    """
    text = f"{value.data}.{value.split}" if data else value.split
    if value.classes is not None:
        text += f"[{value.classes.label or f'{len(value.classes.ids)} classes'}]"
    return text + (", unlabelled" if value.unlabelled else "")


def version(value: Version) -> str:
    """Weights as the plan writes them: a phase inside a network's declaration goes by its short name.

    >>> version(Version("big", "big@train")), version(Version("small", "kd", "best"))
    ('big@train', 'small@kd[best]')
    """
    phase = value.phase.removeprefix(f"{value.network}@") if value.phase is not None else None
    return str(Version(value.network, phase, value.snapshot))


def cost(value: Cost | None) -> str:
    """A phase's cost in one line; "" where it is not known.

    >>> cost(Cost(278_324, 278_324, 10_500_000_000, 93_840, 0, 1_113_296, 2_300_000, 360.0))
    '278 k parameters, 10.5 GFLOP a step, 93.8 k steps, 6:00'
    """
    if value is None:
        return ""
    time = [seconds(value.seconds)] if value.seconds is not None else []
    flops = f"{count(value.flops_step)}FLOP a step" if value.flops_step >= 999.5 else f"{value.flops_step} FLOP a step"
    return ", ".join([f"{count(value.parameters)} parameters", flops, f"{count(value.steps)} steps", *time])


def tally(actions: Iterable[Action]) -> str:
    """How many phases have which action.

    >>> tally(["run", "cached", "run"])
    '2 to run, 1 cached'
    """
    had = list(actions)
    words = {"run": "to run", "extend": "to extend", "resume": "to resume", "rerun": "to rerun"}
    return ", ".join(f"{had.count(a)} {words.get(a, ACTION_WORDS[a])}" for a in SYMBOLS if a in had) or "no phases"


def total(costs: Iterable[Cost | None]) -> Mapping[str, float | None]:
    """Sums of what phases cost; seconds are None where any phase's are unknown."""
    known = [c for c in costs if c is not None]
    times = [c.seconds for c in known]
    return {
        "steps": sum(c.steps for c in known),
        "flops": sum(c.flops_step * c.steps for c in known),
        "disk_bytes": sum(c.disk_bytes for c in known),
        "seconds": None if None in times else sum(t for t in times if t is not None),
    }
