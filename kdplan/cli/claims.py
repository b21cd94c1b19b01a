"""`kdplan claims`, and `kdplan run --decide`: whether a plan's claims hold, and more seeds where that is open."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import networkx as nx

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import compile_file, data_root, existing_store, open_store
from kdplan.diagnostics.report import counted, error
from kdplan.ir.versions import makers

if TYPE_CHECKING:
    from pathlib import Path

    from kdplan.compile import Compiled
    from kdplan.runtime.claims.verdicts import ClaimResult
    from kdplan.runtime.options import RunOptions
    from kdplan.runtime.store import Store

SEED = "seed"


def claims(arguments: argparse.Namespace) -> int:
    """`kdplan claims FILE`: print the verdict of each claim, from the runs that the store holds.

    Returns
    -------
    int
        0; with `--strict` 1 where a claim does not hold.

    Raises
    ------
    PlanError
        KD0019 for a plan without claims.
    """
    from kdplan.runtime.options import RunOptions
    from kdplan.view import claims as view

    store = existing_store(arguments) or open_store(arguments)
    compiled = compile_file(arguments, store)
    if not compiled.plan.claims:
        raise error("KD0019", None, file=arguments.file)
    options = RunOptions(device=arguments.device, data_root=data_root(arguments))
    results = verdicts(compiled, store, options, arguments.level)
    if arguments.json:
        print(view.to_json(results, arguments.level), end="")
    elif arguments.csv:
        print(view.to_csv(results), end="")
    else:
        show(results, arguments.level)
    open_ = any(result.verdict != "holds" for result in results)
    return ExitCode.FAILED if arguments.strict and open_ else ExitCode.DONE


def verdicts(
    compiled: Compiled,
    store: Store,
    options: RunOptions,
    level: float,
    repair: Callable[[Path], bool] | None = None,
) -> list[ClaimResult]:
    """Return the verdicts of a plan's claims."""
    from kdplan.runtime.claims.verdicts import run_claims

    return run_claims(compiled.plan, compiled.keys, store, options, repair, level)


def show(results: Sequence[ClaimResult], level: float) -> None:
    """Print the scoreboard."""
    from kdplan.view.claims import scoreboard
    from kdplan.view.words import console

    out = console()
    out.print()
    out.print(scoreboard(results, level))


# ---- seeds until all is decided


def decide(arguments: argparse.Namespace, run: Callable[[argparse.Namespace], int]) -> int:
    """`kdplan run FILE --decide N`: run the plan, then add seeds until its claims are decided or have N of them.

    Each round trains only what undecided claims read, and says what that is. What is cached stays.

    Raises
    ------
    PlanError
        KD0019 for a plan without claims, KD0020 where its claims are not over seeds.
    """
    from kdplan.runtime.options import RunOptions

    store = open_store(arguments)
    compiled = compile_file(arguments, store)
    if not compiled.plan.claims:
        raise error("KD0019", None, file=arguments.file)
    seeds = seeds_of(compiled)
    given = [text for text in arguments.set if text.partition("=")[0].strip() != SEED]
    code = run(arguments)
    if code or arguments.detach:
        return code
    options = RunOptions(device=arguments.device, data_root=data_root(arguments))
    arguments.tables = False
    chosen = (arguments.only, arguments.until)
    while True:
        results = verdicts(compiled, store, options, arguments.level)
        open_ = [result.name for result in results if result.verdict in ("undecided", "not run")]
        if not open_ or len(seeds) >= arguments.decide:
            break
        seeds = more_seeds(seeds, arguments.decide)
        arguments.set = [*given, f"{SEED}=[{', '.join(map(str, seeds))}]"]
        arguments.only, arguments.until = chosen
        compiled = compile_file(arguments, store)
        names = read_by(compiled, open_)
        todo = [n for n in names if compiled.planned[n].action != "cached" and compiled.planned[n].same_as is None]
        print(
            f"\nundecided: {', '.join(open_)}; with {len(seeds)} seeds, {round_cost(compiled, todo, store)}",
            file=sys.stderr,
        )
        arguments.only, arguments.until = [], names
        code = run(arguments)
        if code:
            return code
    show(results, arguments.level)
    if len(seeds) > 1:
        print(f"\nkdplan claims {arguments.file} {' '.join(f'--set {text!r}' for text in arguments.set)}".rstrip())
    return ExitCode.DONE


def seeds_of(compiled: Compiled) -> list[int]:
    """Return the seeds that a plan's claims rest on, in their order.

    Raises
    ------
    PlanError
        KD0020 where there are none, or other values than whole numbers.
    """
    rows = (row for claim in compiled.plan.claims.values() for row in claim.measure().rows)
    values = dict.fromkeys(row.coordinates[SEED] for row in rows if SEED in row.coordinates)
    if not values or not all(isinstance(value, int) for value in values):
        raise error("KD0020", None)
    return list(values)


def more_seeds(seeds: list[int], most: int) -> list[int]:
    """Return half as many seeds more, at least one: small rounds where each may decide, larger ones later.

    >>> more_seeds([0, 1, 2], 30), more_seeds([7], 30), more_seeds([0, 1, 2, 3], 5)
    ([0, 1, 2, 3], [7, 8], [0, 1, 2, 3, 4])
    """
    wanted = min(most, len(seeds) + max(1, len(seeds) // 2))
    return [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + wanted - len(seeds))]


def read_by(compiled: Compiled, claims: Iterable[str]) -> list[str]:
    """Return the phases that some claims read, with those that these need, in the order of the plan."""
    plan = compiled.plan
    rows = [row for name in claims for row in plan.claims[name].measure().rows]
    read = {phase for row in rows for version in row.target.versions for phase in makers(plan, version)}
    needed = read | {other for name in read for other in nx.ancestors(compiled.dag, name)}
    return [name for name in plan.phases if name in needed]


def round_cost(compiled: Compiled, todo: Sequence[str], store: Store) -> str:
    """Return what a round will cost: its phases, and the time that their siblings of other seeds took.

    A sibling is a finished phase of the same declaration.
    """
    taken: dict[str, list[float]] = {}
    for name, key in compiled.keys.items():
        if compiled.planned[name].action == "cached" and store.has(key.key):
            taken.setdefault(name.partition("[")[0], []).append(float(store.artifact(key.key).summary["seconds"]))
    siblings = [taken.get(name.partition("[")[0]) for name in todo]
    known = [statistics.fmean(seconds) for seconds in siblings if seconds]
    text = f"{counted(len(todo), 'phase')} to train"
    if known:
        text += f", about {sum(known) / len(known) * len(todo):.0f} s of training"
    return text
