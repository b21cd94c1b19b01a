"""The list of a folder's files with sizes and hashes. It is written last: a folder without it was never finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kdplan.runtime.store.atomic import Content, digest_bytes, digest_file, json_bytes, make_folder, put
from kdplan.runtime.store.errors import StoreCorrupt

NAME = "manifest.json"
FORMAT = 1
Manifest = dict[str, tuple[int, str]]
"""File name -> its size in bytes, its SHA-256."""


def build(folder: Path, files: Mapping[str, Content]) -> None:
    """Writes `files` and then their manifest into the new folder `folder`."""
    make_folder(folder)
    entries = {}
    for name, content in files.items():
        assert name == Path(name).name and not name.startswith(".") and name != NAME, f"file name {name!r}"
        path = folder / name
        known = put(path, content)
        # Where it can be, content is hashed from memory: so a faulty write is noticed when the file is read.
        if known is not None:
            digest = known.sha256
        else:
            digest = digest_file(path) if callable(content) else digest_bytes(content)
        entries[name] = {"size": path.stat().st_size, "sha256": digest}
    put(folder / NAME, json_bytes({"format": FORMAT, "files": entries}))


def read(folder: Path, what: str) -> Manifest:
    """The manifest of `folder`, with every file's presence and size checked.

    Parameters
    ----------
    folder
        A finished folder.
    what
        Its name in messages: "phase 1a2b…", "checkpoint step-10 of …".

    Raises
    ------
    StoreCorrupt
        KD0904 if the manifest cannot be read, KD0903 if a file is missing or has another size.
    """
    path = folder / NAME
    try:
        data = json.loads(path.read_bytes())
        if data["format"] != FORMAT:
            raise ValueError(f"it has format {data['format']}, this kdplan knows format {FORMAT}")
        manifest: Manifest = {str(n): (int(e["size"]), str(e["sha256"])) for n, e in data["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        reason = "it is missing" if isinstance(problem, FileNotFoundError) else str(problem) or type(problem).__name__
        raise StoreCorrupt.of("KD0904", path=path, folder=folder, what=what, reason=reason) from problem
    for name, (size, _) in manifest.items():
        file = folder / name
        have = file.stat().st_size if file.is_file() else None
        if have != size:
            state = "missing" if have is None else f"{have} bytes long instead of {size}"
            raise StoreCorrupt.of("KD0903", path=file, folder=folder, what=what, state=state)
    return manifest


def check(folder: Path, name: str, manifest: Manifest, what: str, content: bytes | None = None) -> None:
    """Compares a file's hash, or that of the `content` that was read from it, with the manifest's.

    Raises
    ------
    StoreCorrupt
        KD0902 if they differ.
    """
    path = folder / name
    try:
        have = digest_file(path) if content is None else digest_bytes(content)
    except OSError as problem:
        state = f"unreadable ({problem.strerror})"
        raise StoreCorrupt.of("KD0903", path=path, folder=folder, what=what, state=state) from problem
    if have != manifest[name][1]:
        raise StoreCorrupt.of("KD0902", path=path, folder=folder, what=what)
