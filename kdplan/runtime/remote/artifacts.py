"""Artifacts in the cloud: files under their hashes first, and last the entry that names them.

index/phases/<key>.json     an entry: the manifest, and the content of two small files; created last, and once
files/<key>/<sha256>        the files that entries name, each under its own hash
index/<kind>/<key>.json     numbers, as the local store has them

An artifact without an entry is not there. Two attempts at one phase may differ in bytes, and so in names: their files
are never mixed. The first entry stays, and all machines read that one.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from kdplan.ir.plan import Plain
from kdplan.runtime.remote.objects import AlteredOnTheWay, Objects
from kdplan.runtime.store import manifest
from kdplan.runtime.store.artifact import Artifact
from kdplan.runtime.store.atomic import clear, digest_bytes, digest_file, flush_folder, make_folder, put_folder
from kdplan.runtime.store.errors import StoreCorrupt, writing
from kdplan.runtime.store.processes import temporary
from kdplan.runtime.store.sealed import opened, seal
from kdplan.runtime.store.store import NUMBERS

INDEX = "index/phases"
_FORMAT = 1
_SMALL = ("phase.json", "summary.json")
"""Files that an entry holds: what planning asks for, without a request for each."""
Outcome = Literal["pushed", "there", "other"]
"""Of a push: now there, there before with the same bytes, there before with other bytes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What names an artifact in the cloud."""

    files: manifest.Manifest
    small: Mapping[str, str]
    """File name -> content, of the files in `_SMALL`."""
    by: str = ""
    """The host that pushed it."""

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(size for size, _ in self.files.values())

    def content(self) -> bytes:
        """What is stored; it differs from attempt to attempt."""
        files: dict[str, Plain] = {name: [size, digest] for name, (size, digest) in self.files.items()}
        return seal(
            {
                "format": _FORMAT,
                "files": files,
                "small": dict(self.small),
                "by": self.by,
                "attempt": uuid.uuid4().hex,
            }
        )


def entry_of(artifact: Artifact) -> Entry:
    """The entry of a local artifact, whose small files are compared with their hashes."""
    small = {name: artifact.read(name).decode() for name in _SMALL if name in artifact.files}
    return Entry(artifact.files, small, socket.gethostname())


def parsed_entry(content: bytes) -> Entry | None:
    """The entry in an object; None where it was altered, or is of another version."""
    value = opened(content)
    try:
        if value["format"] != _FORMAT:
            return None
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in value["files"].items()}
        if any(name != Path(name).name or name.startswith(".") or name == manifest.NAME for name in files):
            return None  # it would be written outside of the artifact's folder
        return Entry(files, {str(n): str(c) for n, c in value["small"].items()}, str(value["by"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def index_name(key: str) -> str:
    """The name of a phase's entry."""
    return f"{INDEX}/{key}.json"


def listed_index(objects: Objects) -> dict[str, set[str]]:
    """Kind (phases, measures, costs, verdicts) -> the keys that the cloud has, by one listing."""
    index: dict[str, set[str]] = {kind: set() for kind in ("phases", *NUMBERS)}
    for name in objects.listed("index"):
        _, kind, file = name.split("/", 2)
        index.setdefault(kind, set()).add(file.removesuffix(".json"))
    return index


def read_entry(objects: Objects, key: str, folder: Path) -> Entry | None:
    """The entry of phase `key`, or None where there is none.

    Raises
    ------
    StoreCorrupt
        KD0946 if it was altered; `folder` is the artifact's local one.
    """
    content = objects.read(index_name(key))
    if content is None:
        return None
    entry = parsed_entry(content)
    if entry is None:
        raise _damaged(objects, key, folder, index_name(key), "not what was pushed")
    return entry


def push(objects: Objects, artifact: Artifact, repair: bool = False) -> Outcome:
    """Copies a local artifact, each file compared with its hash, and makes it visible at the end.

    Parameters
    ----------
    repair
        Whether what is there is damaged, and to be replaced.

    Raises
    ------
    StoreCorrupt
        If a local file is damaged; nothing becomes visible then.
    """
    key, entry = artifact.key, entry_of(artifact)
    try:
        before = None if repair else _outcome(objects, artifact, entry)
    except StoreCorrupt:
        before, repair = None, True
    if before == "other":
        return before
    there = {} if repair else objects.listed(f"files/{key}")
    for digest, (name, size) in {d: (n, s) for n, (s, d) in entry.files.items()}.items():
        target = f"files/{key}/{digest}"
        if there.get(target) != size:
            objects.upload(artifact.file(name), target)
    if before is not None:
        return before
    if repair:
        objects.replace({index_name(key): entry.content()})
        return "pushed"
    try:
        objects.create(index_name(key), entry.content())
    except FileExistsError:
        return _outcome(objects, artifact, entry) or "other"
    return "pushed"


def _outcome(objects: Objects, artifact: Artifact, own: Entry) -> Outcome | None:
    """What is there before a push; None where there is nothing."""
    there = read_entry(objects, artifact.key, artifact.path)
    return None if there is None else "there" if there.files == own.files else "other"


def pull(objects: Objects, key: str, entry: Entry, target: Path, replace: bool = False) -> None:
    """Copies an artifact into the new folder `target`, every file compared with its hash; whole or not at all.

    Parameters
    ----------
    replace
        Whether a folder of that name is replaced; else it stays, since another process may just have pulled it.

    Raises
    ------
    StoreCorrupt
        KD0946 if an object is missing, or is not what was pushed.
    StoreUnwritable
        If the disk takes no more.
    """
    make_folder(target.parent)
    new = temporary(target)
    try:
        contents = {n: partial(_fetch, objects, key, target, size, d) for n, (size, d) in entry.files.items()}
        manifest.build(new, contents)
        if replace:
            put_folder(new, target)
            return
        with writing(target):
            flush_folder(new)
            try:
                os.rename(new, target)
            except OSError:
                if not target.is_dir():
                    raise
            flush_folder(target.parent)
    finally:
        clear(new)


def _fetch(objects: Objects, key: str, target: Path, size: int, digest: str, path: Path) -> None:
    """Writes a file to `path`; one that differs is fetched once more, since it may have been altered on its way."""
    name, state = f"files/{key}/{digest}", "not what was pushed"
    for _ in range(2):
        try:
            objects.download(name, path)
        except FileNotFoundError:
            state = "missing"
            break
        except AlteredOnTheWay:
            continue
        if path.stat().st_size == size and digest_file(path) == digest:
            return
    raise _damaged(objects, key, target, name, state)


def _damaged(objects: Objects, key: str, folder: Path, name: str, state: str) -> StoreCorrupt:
    return StoreCorrupt.of(
        "KD0946", address=objects.address, name=name, state=state, what=f"phase {key[:12]}", folder=folder
    )


def small_content(entry: Entry, name: str) -> bytes | None:
    """The content of a file that the entry holds, if it fits the file's hash."""
    content = entry.small[name].encode() if name in entry.small and name in entry.files else None
    return content if content is not None and digest_bytes(content) == entry.files[name][1] else None
