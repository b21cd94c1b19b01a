"""The commands that copy between a store in a folder and one in the cloud: `kdplan store push|pull`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import compile_path, named_store, show
from kdplan.cli.outputs import named_folder, writable_folder
from kdplan.diagnostics.report import counted, diagnostic, error, suggestion
from kdplan.passes.schedule import called
from kdplan.runtime.remote import artifacts
from kdplan.runtime.remote.address import Address, located
from kdplan.runtime.remote.artifacts import Entry
from kdplan.runtime.remote.numbers import pull_numbers, push_numbers
from kdplan.runtime.remote.objects import Objects
from kdplan.runtime.store import Store, StoreCorrupt
from kdplan.runtime.store.inventory import listed, name_of
from kdplan.runtime.store.selection import KEY, Words
from kdplan.runtime.store.store import NUMBERS
from kdplan.view import words


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of one artifact: pushed, pulled, there, other (there with other bytes), or damaged."""

    key: str
    name: str
    outcome: str
    bytes: int


def push(arguments: argparse.Namespace) -> int:
    """`kdplan store push ADDRESS [WHAT…]`: copy finished phases of a store to the cloud, with their numbers.

    Returns
    -------
    int
        4 if a phase of the store is damaged; the others are pushed.

    Raises
    ------
    PlanError
        KD0919 for a word that means nothing in the store.
    """
    store, objects = _both(arguments, write=False)
    chosen = _keys_of_plans(arguments)
    inner = [word for word in arguments.what if word not in chosen]
    selected = set(Words(store).select(inner).keys).union(*chosen.values()) if arguments.what else None
    index = artifacts.listed_index(objects)
    copied = []
    for key in listed(store, "phases"):
        if selected is None or key in selected:
            copied.append(_pushed(objects, store, key))
            _print(arguments, copied[-1])
    phases = {one.key for one in copied} if selected is not None else None
    numbers = push_numbers(objects, store, index, phases)
    _print_sum(arguments, objects, copied, numbers)
    return ExitCode.CORRUPT if any(one.outcome == "damaged" for one in copied) else ExitCode.DONE


def _pushed(objects: Objects, store: Store, key: str) -> Copied:
    name = name_of(store, "phases", key)
    try:
        artifact = store.artifact(key)
        outcome = artifacts.push(objects, artifact)
    except StoreCorrupt as problem:
        show(problem.diagnostics)
        return Copied(key, name, "damaged", 0)
    if outcome == "other":
        entry = artifacts.read_entry(objects, key, artifact.path)
        by = entry.by if entry is not None else "another machine"
        show([diagnostic("KD0949", None, what=f"Phase `{name or key[:12]}`", by=by)])
    return Copied(key, name, outcome, artifact.bytes)


def pull(arguments: argparse.Namespace) -> int:
    """`kdplan store pull ADDRESS [WHAT…]`: copy finished phases from the cloud to a store, with their numbers.

    Returns
    -------
    int
        4 if an artifact in the cloud is damaged; the others are pulled.

    Raises
    ------
    PlanError
        KD0919 for a word that means nothing at the address.
    """
    store, objects = _both(arguments, write=True)
    index = artifacts.listed_index(objects)
    entries, copied = _entries(objects, index["phases"]), []
    selected = _selected(arguments, objects, entries)
    for key in sorted(index["phases"]):
        if selected is None or key in selected:
            copied.append(_pulled(objects, store, key, entries.get(key)))
            _print(arguments, copied[-1])
    numbers = sum(pull_numbers(objects, store, kind, index[kind]) for kind in NUMBERS)
    _print_sum(arguments, objects, copied, numbers)
    return ExitCode.CORRUPT if any(one.outcome == "damaged" for one in copied) else ExitCode.DONE


def _pulled(objects: Objects, store: Store, key: str, entry: Entry | None) -> Copied:
    name, size = (_name(entry), entry.size) if entry is not None else ("", 0)
    folder = store.phase_folder(key)
    try:
        if entry is None:
            entry = artifacts.read_entry(objects, key, folder)
            assert entry is not None, "it was listed"
        damaged = store.has(key) and not _is_intact(store, key)
        if store.has(key) and not damaged:
            return Copied(key, name, "there" if store.artifact(key).files == entry.files else "other", size)
        artifacts.pull(objects, key, entry, folder, replace=damaged)
    except StoreCorrupt as problem:
        show(problem.diagnostics)
        return Copied(key, name, "damaged", size)
    return Copied(key, name, "pulled", size)


def _is_intact(store: Store, key: str) -> bool:
    try:
        store.verify(key)
    except StoreCorrupt:
        return False
    return True


def _both(arguments: argparse.Namespace, write: bool) -> tuple[Store, Objects]:
    """The store in a folder, and the one at the address.

    Raises
    ------
    PlanError
        KD0940 if one of them is not of its kind.
    """
    option, name = named_store(arguments)
    folder = located(option, name)
    if isinstance(folder, Address):
        problem = "here it is the folder to copy from or to"
        raise error("KD0940", None, option=option, name=name, problem=problem, help="Name a folder with `--store`.")
    address = located("ADDRESS", arguments.address)
    if not isinstance(address, Address):
        help = "Copy to or from `s3://bucket/folder` or `gs://bucket/folder`; use a folder itself with `--store`."
        raise error("KD0940", None, option="ADDRESS", name=arguments.address, problem="it is a folder", help=help)
    store = Store((writable_folder if write else named_folder)(option, folder))
    return store, Objects(address, lambda problem: show([problem]), address.cache / "service.json")


def _entries(objects: Objects, keys: Iterable[str]) -> dict[str, Entry]:
    """The entries that can be read."""
    contents = objects.read_many(artifacts.index_name(key) for key in sorted(keys))
    entries = {Path(name).stem: artifacts.parsed_entry(content) for name, content in contents.items()}
    return {key: entry for key, entry in entries.items() if entry is not None}


def _keys_of_plans(arguments: argparse.Namespace) -> dict[str, set[str]]:
    """Of the words that are plan files: the keys of their phases."""
    plans = [word for word in arguments.what if word.endswith(".kd") and Path(word).is_file()]
    return {word: {key.key for key in compile_path(Path(word), arguments).keys.values()} for word in plans}


def _selected(arguments: argparse.Namespace, objects: Objects, entries: dict[str, Entry]) -> set[str] | None:
    """The keys that the words mean at the address; None without words."""
    if not arguments.what:
        return None
    plans, names = _keys_of_plans(arguments), {key: _name(entry) for key, entry in entries.items()}
    forms: dict[str, set[str]] = {}
    for key, name in names.items():
        for form in called([name]) if name else ():
            forms.setdefault(form, set()).add(key)
    selected: set[str] = set()
    for word in arguments.what:
        keys = plans.get(word) or {key for key in entries if KEY.fullmatch(word) and key.startswith(word)}
        keys = keys or forms.get(word, set())
        if not keys:
            raise error("KD0919", None, word=word, root=objects.address, help=suggestion(word, forms))
        selected |= keys
    return selected


def _name(entry: Entry) -> str:
    """The name of the phase, as its plan called it."""
    content = artifacts.small_content(entry, "phase.json")
    return str(json.loads(content)["name"]) if content is not None else ""


def _print(arguments: argparse.Namespace, one: Copied) -> None:
    """Print a line for an artifact that was copied."""
    if not arguments.json and one.outcome in ("pushed", "pulled"):
        print(f"{one.outcome} {one.name or 'a phase'} ({one.key[:12]}), {words.size(one.bytes)}", flush=True)


def _print_sum(arguments: argparse.Namespace, objects: Objects, copied: list[Copied], numbers: int) -> None:
    """Print what was copied in all."""
    if arguments.json:
        data = {"address": str(objects.address), "numbers": numbers, "entries": [asdict(one) for one in copied]}
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return
    if not copied and not numbers:
        print(f"{objects.address}: nothing to copy was found")
        return
    new = [one for one in copied if one.outcome in ("pushed", "pulled")]
    there = sum(one.outcome in ("there", "other") for one in copied)
    size = words.size(sum(one.bytes for one in new))
    before = f"; {there} there before" if there else ""
    print(f"{objects.address}: copied {counted(len(new), 'result')}, {size}, and {counted(numbers, 'number')}{before}")
