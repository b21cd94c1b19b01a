"""A plan's phases as rules of another workflow tool, for clusters that kdplan has no engine for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdplan import __version__
from kdplan.ir.dag import Cost, Planned

HEAD = """\
# Written by kdplan {version} from {plan}: one rule a phase. Write it again after an edit of the plan.
# A phase that was stopped or killed goes on from its newest checkpoint when its rule runs again.
# snakemake --snakefile {file} --cores 4
WORK = {work}

rule measures:
    input: {all}
    output: {tables}
    shell: {run}
"""
RULE = """
# {name}
rule phase_{short}:
    input: {needs}
    output: touch("done/{key}")
    params: key = "{key}"
    threads: {threads}
    resources: {resources}
    retries: 3
    shell: WORK
"""
SHORT = 12
"""Digits of a key in the name of a rule."""


def to_snakemake(
    planned: Mapping[str, Planned],
    file: Path,
    plan: Path,
    run: Sequence[str],
    work: Sequence[str],
    threads: Mapping[str, int],
) -> str:
    """Return a Snakefile with a rule for each phase to train; phases in the store need none.

    Parameters
    ----------
    run, work
        The commands that measure, and that train the phase whose key comes behind.
    threads
        Phase name -> the threads that its steps are worth.
    """
    rules = {n: s for n, s in planned.items() if s.action not in ("cached", "blocked") and s.same_as is None}
    first = {step.key: name for name, step in rules.items()}

    def targets(names: list[str]) -> str:
        keys = sorted({planned[name].key for name in names if planned[name].key in first})
        return ", ".join(f'"done/{key}"' for key in keys) or "[]"

    text = HEAD.format(
        version=__version__,
        plan=plan,
        file=file,
        work=json.dumps(_shell(work) + " {params.key}"),
        all=targets(list(rules)),
        tables=json.dumps(_escaped(f"{plan.stem}.txt")),
        run=json.dumps(_shell(run) + " > {output:q}"),
    )
    for name, step in rules.items():
        text += RULE.format(
            name=name,
            short=step.key[:SHORT],
            key=step.key,
            needs=targets(step.needs),
            threads=threads.get(name, 1),
            resources=_resources(step.cost),
        )
    return text


def _shell(words: Sequence[str]) -> str:
    return _escaped(shlex.join(words))


def _escaped(text: str) -> str:
    """Text in which Snakemake finds no names in braces."""
    return text.replace("{", "{{").replace("}", "}}")


def _resources(cost: Cost | None) -> str:
    """What a rule asks for, from what is predicted: megabytes, and minutes."""
    memory = 4000 + (round(2 * cost.process_bytes / 1e6) if cost is not None else 0)
    asked = f"mem_mb = {memory}"
    if cost is not None and cost.seconds is not None:
        asked += f", runtime = {15 + round(2 * cost.seconds / 60)}"
    return asked
