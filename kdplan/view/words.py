"""Numbers, names and declarations as views print them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rich.console import Console

from kdplan.ir.dag import SYMBOLS, Action, Cost
from kdplan.ir.expr import Version
from kdplan.ir.plan import Item, Recipe, View

ACTION_STYLES: dict[Action, str] = {
    "run": "green",
    "cached": "bright_black",
    "extend": "blue",
    "resume": "cyan",
    "rerun": "yellow",
    "blocked": "red",
}
FOLD = 12
"""A family with more members than this is one line or one box, unless all members are wanted."""


def console() -> Console:
    """Return a console for standard output; if that is no terminal, it has 200 columns, so that lines stay whole."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=200)


def count(number: float) -> str:
    """Return a count with three digits and a unit prefix.

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
    """Return a number of bytes with its unit.

    >>> size(3_460_000), size(12)
    ('3.46 MB', '12 B')
    """
    return f"{count(number)}B" if number >= 999.5 else f"{number:.0f} B"


def seconds(number: float | None) -> str:
    """Return a length of time; "?" where it is unknown.

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
    """Return a number of a metric or setting with at most four digits.

    >>> plain_number(0.1), plain_number(0.123456), plain_number(1e-5), plain_number(240.0)
    ('0.1', '0.1235', '1e-05', '240')
    """
    return f"{value:.4g}"


def family(name: str) -> str:
    """Return a name without its indices, which is the same for all members of a family.

    >>> family("specialist[3].train"), family("kd[weight=5,seed=0]"), family("kd")
    ('specialist.train', 'kd', 'kd')
    """
    return re.sub(r"\[[^\]]*\]", "", name)


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names by family, in the order in which they first occur.

    >>> families(["a[0]", "b", "a[1]"])
    {'a': ['a[0]', 'a[1]'], 'b': ['b']}
    """
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(family(name), []).append(name)
    return members


def item(value: Item) -> str:
    """Return a choice from a table with its arguments, as a plan writes it.

    >>> item(Item("sgd", {"lr": 0.1, "momentum": 0.9})), item(Item("top1"))
    ('sgd(lr = 0.1, momentum = 0.9)', 'top1')
    """
    inner = ", ".join(f"{k} = {v}" if not k.isdigit() else str(v) for k, v in value.arguments.items())
    return f"{value.name}({inner})" if inner else value.name


def recipe(value: Recipe) -> str:
    """Return a recipe in one line: length, optimizer, batch size.

    >>> recipe(Recipe(Item("sgd", {"lr": 0.05}), epochs=240, batch=64))
    '240 epochs, sgd lr 0.05, batch 64'
    """
    number = value.epochs if value.epochs is not None else value.steps
    unit = "epoch" if value.epochs is not None else "step"
    length = f"{number} {unit}{'' if number == 1 else 's'}" if number is not None else value.schedule.name
    rate = value.optimizer.arguments.get("lr")
    optimizer = value.optimizer.name + (f" lr {rate}" if rate is not None else "")
    batch = " and ".join(map(str, value.batch)) if isinstance(value.batch, list) else value.batch
    return f"{length}, {optimizer}, batch {batch}"


def view(value: View, data: bool = True) -> str:
    """Return a view of data as a plan writes it; without `data` only the split and classes.

    >>> view(View("cifar", "test")), view(View("cifar", unlabelled=True), data=False)
    ('cifar.test', 'train, unlabelled')
    """
    text = f"{value.data}.{value.split}" if data else value.split
    if value.classes is not None:
        text += f"[{value.classes.label or f'{len(value.classes.ids)} classes'}]"
    return text + (", unlabelled" if value.unlabelled else "")


def version(value: Version) -> str:
    """Return a version as a plan writes it: a phase inside a network's declaration has its short name.

    >>> version(Version("big", "big@train")), version(Version("small", "kd", "best"))
    ('big@train', 'small@kd[best]')
    """
    phase = value.phase.removeprefix(f"{value.network}@") if value.phase is not None else None
    return str(Version(value.network, phase, value.snapshot))


def cost(value: Cost | None) -> str:
    """Return a phase's cost in one line; "" where it is unknown.

    >>> cost(Cost(278_324, 278_324, 10_500_000_000, 93_840, 0, 1_113_296, 2_300_000, 360.0))
    '278 k parameters, 10.5 GFLOP a step, 93.8 k steps, 6:00'
    """
    if value is None:
        return ""
    time = [seconds(value.seconds)] if value.seconds is not None else []
    flops = f"{count(value.flops_step)}FLOP a step" if value.flops_step >= 999.5 else f"{value.flops_step} FLOP a step"
    return ", ".join([f"{count(value.parameters)} parameters", flops, f"{count(value.steps)} steps", *time])


def tally(actions: Iterable[Action]) -> str:
    """Return how many phases have which action.

    >>> tally(["run", "cached", "run"])
    '2 to run, 1 cached'
    """
    counted = list(actions)
    words = {a: a if a in ("cached", "blocked") else f"to {a}" for a in SYMBOLS}
    return ", ".join(f"{counted.count(a)} {words[a]}" for a in SYMBOLS if a in counted) or "no phases"


def total(costs: Iterable[Cost | None]) -> Mapping[str, float | None]:
    """Return sums of costs: steps, FLOPs, bytes on disk, and seconds, which are None if one phase's are unknown."""
    known = [c for c in costs if c is not None]
    times = [c.seconds for c in known]
    return {
        "steps": sum(c.steps for c in known),
        "flops": sum(c.flops_step * c.steps for c in known),
        "disk_bytes": sum(c.disk_bytes for c in known),
        "seconds": None if None in times else sum(t for t in times if t is not None),
    }
