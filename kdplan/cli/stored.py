"""The commands about a store as a whole: `kdplan store verify|ls|du|gc|rm`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import compile_path, open_store
from kdplan.diagnostics.report import PlanError, counted, error
from kdplan.runtime.store import Store, StoreCorrupt, StoreLocked
from kdplan.runtime.store.atomic import remove
from kdplan.runtime.store.garbage import Roots, garbage, in_use, roots, take_names
from kdplan.runtime.store.inventory import Entry, entries
from kdplan.runtime.store.selection import Words
from kdplan.runtime.store.verify import verify as verify_store
from kdplan.view import stored as view
from kdplan.view import words


def verify(arguments: argparse.Namespace) -> int:
    """`kdplan store verify`: compare every byte with its hash.

    Returns
    -------
    int
        4 if something is damaged.
    """
    store = open_store(arguments)
    verified = verify_store(store)
    if arguments.json:
        print(json.dumps(view.damage_to_json(store, verified), indent=2, ensure_ascii=False))
    else:
        view.print_damage(store, verified, _roots_where_known(store))
    return ExitCode.CORRUPT if verified.damaged else ExitCode.DONE


def ls(arguments: argparse.Namespace) -> int:
    """`kdplan store ls [WHAT…]`: print phases, attempts and values with the plans that read them.

    Raises
    ------
    PlanError
        KD0919 for a word that means nothing in this store.
    """
    store = open_store(arguments)
    stays = _roots_where_known(store) or Roots()
    some = Words(store).select(arguments.what).entries(store) if arguments.what else entries(store)
    lines = _lines(arguments, store, some, stays)
    if arguments.json:
        print(json.dumps({"store": str(store.root), "entries": [asdict(one) for one in lines]}, indent=2))
    else:
        view.print_lines(lines, f"{store.root}: {counted(len(some), 'result')}, {words.size(_size(some))}", len(some))
    return ExitCode.DONE


def du(arguments: argparse.Namespace) -> int:
    """`kdplan store du`: print sizes by kind of content and by plan."""
    store = open_store(arguments)
    known = view.sizes(store, entries(store), _roots_where_known(store) or Roots())
    if arguments.json:
        print(json.dumps(known, indent=2, ensure_ascii=False))
    else:
        view.print_sizes(known)
    return ExitCode.DONE


def gc(arguments: argparse.Namespace) -> int:
    """`kdplan store gc`: list what no remembered plan and no process reads; with `--yes` remove it.

    Raises
    ------
    PlanError
        KD0918 if a plan's record is damaged, KD0919 if a word after `--keep` means nothing.
    """
    store = open_store(arguments, sweep=True)
    kept = _kept(store, arguments)
    if not arguments.yes or not store.root.is_dir():
        stays = roots(store, kept)
        doomed = garbage(store, stays)
        _report(arguments, store, doomed, _lines(arguments, store, doomed, stays), removed=False)
        return ExitCode.DONE
    with store.leases.exclusive():
        stays = roots(store, kept)
        doomed = garbage(store, stays)
        lines = _lines(arguments, store, doomed, stays)
        named = take_names(store, doomed)
    _report(arguments, store, _removed(named), lines, removed=True)
    return ExitCode.DONE


def rm(arguments: argparse.Namespace) -> int:
    """`kdplan store rm WHAT…`: remove what a plan or a phase left.

    Raises
    ------
    PlanError
        KD0919 for a word that means nothing, KD0920 and KD0921 for what others read, KD0922 without a yes.
    """
    store = open_store(arguments, sweep=True)
    chosen = Words(store).select(arguments.what)
    stays = roots(store) if not arguments.force else _roots_where_known(store) or Roots()
    shared = {k for k in chosen.keys if chosen.plans and set(stays.plans.get(k, ())) - set(chosen.plans)}
    doomed = [e for e in chosen.entries(store) if arguments.force or e.key not in shared]
    lines = _lines(arguments, store, doomed, stays)
    _refuse(doomed, stays, chosen.plans, arguments.force)
    if not arguments.yes and not _asked(lines, doomed):
        raise error("KD0922", None, count=counted(len(doomed), "result"), size=words.size(_size(doomed)))
    with store.leases.exclusive():
        _refuse(doomed, roots(store) if not arguments.force else stays, chosen.plans, arguments.force)
        named = take_names(store, doomed)
        for plan in chosen.plans:
            store.plans.forget(plan)
    gone = _removed(named)
    _report(arguments, store, gone, lines, removed=True)
    for one in shared if not arguments.force and not arguments.json else ():
        readers = ", ".join(map(view.short, (p for p in stays.plans[one] if p not in chosen.plans)))
        print(f"kept {stays.names.get(one, one[:12])}: read by {readers}")
    if len(gone) < len(doomed):
        raise StoreLocked.of("KD0923", count=counted(len(doomed) - len(gone), "result"))
    return ExitCode.DONE


def _refuse(doomed: list[Entry], stays: Roots, plans: list[str], force: bool) -> None:
    """KD0920 and KD0921 for entries that others read."""
    against = [] if force else list(in_use(doomed, stays, plans))
    if against:
        problem = PlanError(against)
        if any(d.code == "KD0920" for d in against):
            problem.exit_code = ExitCode.LOCKED  # type: ignore[attr-defined]
        raise problem


def _asked(lines: list[view.Line], doomed: list[Entry]) -> bool:
    """Whether the user says yes; without a terminal nobody does."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    size = words.size(_size(doomed))
    view.print_lines(lines, f"to be removed: {counted(len(doomed), 'result')}, {size}", len(doomed))
    return input("Remove them? [y/N] ").strip().lower() in ("y", "yes")


def _lines(arguments: argparse.Namespace, store: Store, some: list[Entry], stays: Roots) -> list[view.Line]:
    """What is shown of entries: of many only the largest, unless all are wanted."""
    every = arguments.json or getattr(arguments, "all", False)
    return view.lines(store, some if every else some[: view.SHOWN], stays)


def _report(
    arguments: argparse.Namespace, store: Store, some: list[Entry], lines: list[view.Line], removed: bool
) -> None:
    """Print what is, or would be, removed."""
    size, keys = _size(some), {(view.KINDS_OF_ENTRIES[one.kind], one.key) for one in some}
    lines = [one for one in lines if (one.kind, one.key) in keys]
    if arguments.json:
        entries = [asdict(one) for one in lines]
        print(json.dumps({"store": str(store.root), "removed": removed, "bytes": size, "entries": entries}, indent=2))
        return
    what = f"{counted(len(some), 'result')}, {words.size(size)}"
    view.print_lines(lines, f"{'removed' if removed else 'read by nobody'}: {what}", len(some))
    if some and not removed:
        print("Nothing was removed; `kdplan store gc --yes` removes them.")


def _removed(named: list[tuple[Entry, Path]]) -> list[Entry]:
    """Remove what has lost its name; outside of the lock, since it can take long."""
    for _, path in named:
        remove(path)
    return [one for one, _ in named]


def _size(some: list[Entry]) -> int:
    return sum(one.bytes for one in some)


def _kept(store: Store, arguments: argparse.Namespace) -> set[str]:
    """The keys that `--keep` means: of plan files by compiling them, of other words by looking them up."""
    keys: set[str] = set()
    known = Words(store)
    for word in arguments.keep:
        if word.endswith(".kd") and Path(word).is_file():
            keys |= {key.key for key in compile_path(Path(word), arguments).keys.values()}
        else:
            keys |= known.select([word]).keys
    return keys


def _roots_where_known(store: Store) -> Roots | None:
    """Who reads what; None where a plan's record is damaged."""
    try:
        return roots(store)
    except StoreCorrupt:
        return None
