"""Numbers in the cloud: measures, costs, verdicts. They are small, carry their hash, and are copied many at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from kdplan.runtime.remote.objects import Objects
from kdplan.runtime.store.atomic import make_folder, names_in, write
from kdplan.runtime.store.errors import StoreUnwritable
from kdplan.runtime.store.processes import is_temporary
from kdplan.runtime.store.sealed import opened
from kdplan.runtime.store.store import NUMBERS, Numbers, Store


def pull_numbers(objects: Objects, store: Store, kind: Numbers, keys: Iterable[str]) -> int:
    """Copies the numbers of a kind that the store lacks, and returns how many; altered ones are left out.

    A store that takes no more keeps what it has.
    """
    have = set(local_numbers(store, kind))
    contents = objects.read_many(_name(kind, key) for key in sorted(set(keys) - have))
    sound = {name: content for name, content in contents.items() if opened(content)}
    try:
        make_folder(store.root / kind)
        for name, content in sound.items():
            write(store.root / kind / Path(name).name, content)
    except StoreUnwritable as problem:
        store.refused = store.refused or problem
    return len(sound)


def push_numbers(
    objects: Objects, store: Store, known: Mapping[str, Collection[str]], of: Collection[str] | None = None
) -> int:
    """Copies the numbers that the cloud lacks, and returns how many.

    Parameters
    ----------
    known
        Kind -> keys that the cloud has.
    of
        Keys of phases: only numbers of these alone.
    """
    contents = {}
    for kind in NUMBERS:
        for key in local_numbers(store, kind):
            if key in known.get(kind, ()):
                continue
            content = (store.root / kind / f"{key}.json").read_bytes()
            value = opened(content)
            if value and (of is None or _phases(kind, key, value.get("phases", [])) <= set(of)):
                contents[_name(kind, key)] = content
    if contents:
        objects.replace(contents)
    return len(contents)


def _phases(kind: Numbers, key: str, phases: Iterable[str]) -> set[str]:
    """The phases that a number is of; those of verdicts are not known, and they are small."""
    return {key} if kind == "costs" else set(phases)


def local_numbers(store: Store, kind: Numbers) -> list[str]:
    """The keys of the numbers of a kind that the store has."""
    names = names_in(store.root / kind)
    return [name.removesuffix(".json") for name in names if name.endswith(".json") and not is_temporary(name)]


def _name(kind: Numbers, key: str) -> str:
    return f"index/{kind}/{key}.json"
