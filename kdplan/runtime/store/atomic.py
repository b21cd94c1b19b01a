"""Files and folders that exist as a whole or not at all.

Every write goes to a temporary name in the same directory, is flushed to the disk, renamed, and the directory flushed.
A process killed at any moment leaves the old content or the new one, and perhaps a temporary name, which begins with a
dot and says whose it is; `kdplan.runtime.store.litter` removes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kdplan.ir.plan import Plain
from kdplan.runtime.store.errors import writing
from kdplan.runtime.store.processes import is_abandoned, is_temporary, temporary

MODE = 0o644


@dataclass(frozen=True, slots=True)
class Hashed:
    """What a function that writes a file may return: the SHA-256 of what it wrote, in hexadecimal.

    So the file is not read for its hash, and a faulty write is noticed when it is.
    """

    sha256: str


Content = bytes | Callable[[Path], object]
"""A file's content: bytes, or a function that writes it to a path."""


def names_in(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where it is not there, or another process has just removed it."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def sweep(folder: Path) -> list[str]:
    """Removes leftovers of killed writers in `folder`, and returns their names; only for the holder of its lock."""
    swept = []
    for name in names_in(folder):
        if is_temporary(name):
            remove(folder / name)
            swept.append(name)
    return swept


def sweep_abandoned(folder: Path) -> list[Path]:
    """Removes the temporary files and folders in `folder` whose writers have ended; what cannot be removed stays."""
    swept = []
    try:
        names = os.listdir(folder)
    except OSError:
        names = []
    for name in names:
        if is_temporary(name) and is_abandoned(folder / name):
            clear(folder / name)
            swept += [folder / name] if not os.path.lexists(folder / name) else []
    return swept


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, which goes at the end; with it go those that killed processes left there."""
    sweep_abandoned(folder)
    new = temporary(folder / "scratch")
    new.mkdir()
    try:
        yield new
    finally:
        clear(new)


def clear(path: Path) -> None:
    """`remove` at the end of a task, done or failed: what the system does not let go stays for `sweep_store`."""
    with suppress(OSError):
        remove(path)


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder; the target of a link stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Makes the names in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_file(path: Path) -> None:
    """Makes the content of a file survive a power cut, and seen by other machines."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes `folder` and its parents, each flushed into the folder that holds it."""
    if folder.is_dir():
        return
    with writing(folder):
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush_folder(folder.parent)


def put(path: Path, content: Content) -> Hashed | None:
    """Writes `content` at the new name `path` and flushes it: for files of a folder that is not yet finished.

    Returns what a function that wrote it says of its hash, or None.
    """
    with writing(path):
        if callable(content):
            known = content(path)
            # Writers of other libraries may choose their own mode, and mostly do not flush.
            os.chmod(path, MODE)
            flush_file(path)
            return known if isinstance(known, Hashed) else None
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return None


def write(path: Path, content: Content) -> Hashed | None:
    """Writes or replaces the file `path`: readers see the old content or the new one, never a part.

    Returns what `put` does.

    Raises
    ------
    StoreUnwritable
        If the system refuses; the old file is intact then.
    """
    new = temporary(path)
    try:
        known = put(new, content)
        with writing(path):
            os.replace(new, path)
            flush_folder(path.parent)
        return known
    finally:
        clear(new)


def write_new(path: Path, content: Content) -> bool:
    """`write`, unless there is a file `path`: then that stays, and False is the answer."""
    new = temporary(path)
    try:
        put(new, content)
        with writing(path):
            try:
                os.link(new, path)
            except FileExistsError:
                return False
            except OSError as problem:
                if problem.errno not in _NO_LINKS:
                    raise
                if path.exists():
                    return False
                os.rename(new, path)
            flush_folder(path.parent)
        return True
    finally:
        clear(new)


_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""How file systems without hard links answer."""

THREADS = 8
"""So many files are flushed at once: the disk takes them together, and one after another each waits for it."""


def write_files(folder: Path, files: Mapping[str, Content]) -> None:
    """`write` of several files in one folder, each whole or not at all; of a few thousand at once, in a second.

    Raises
    ------
    StoreUnwritable
        If the system refuses one of them; others may be written.
    """

    def put_one(name: str) -> None:
        new = temporary(folder / name)
        try:
            put(new, files[name])
            with writing(folder / name):
                os.replace(new, folder / name)
        finally:
            clear(new)

    if len(files) == 1:
        put_one(next(iter(files)))
    elif files:
        with ThreadPoolExecutor(THREADS, "write") as pool:
            list(pool.map(put_one, files))
    with writing(folder):
        flush_folder(folder)


def json_bytes(value: Plain) -> bytes:
    """The one JSON form that the store uses; NaN and infinity are written as the strings `NaN`, `Infinity`.

    >>> json_bytes({"loss": float("nan")})
    b'{\\n "loss": "NaN"\\n}\\n'
    """
    return (json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def plain(value: Plain) -> Plain:
    """`value` in JSON types: NaN, infinities and paths become strings, tuples become lists."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def put_folder(new: Path, target: Path) -> None:
    """Renames the finished folder `new` to `target`, and removes the former `target`.

    Both lie in one file system. Killed in between, `target` is absent, the old one, or the new one.
    """
    old = temporary(target, "old")
    with writing(target):
        flush_folder(new)
        if target.exists():
            os.rename(target, old)
        os.rename(new, target)
        flush_folder(target.parent)
        if new.parent != target.parent:
            flush_folder(new.parent)
        clear(old)


def put_new_folder(new: Path, target: Path) -> bool:
    """Renames the finished folder `new` to `target`, unless there is one: then both stay, and False is the answer."""
    with writing(target):
        flush_folder(new)
        try:
            os.rename(new, target)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        flush_folder(target.parent)
        flush_folder(new.parent)
    return True


def digest_bytes(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
