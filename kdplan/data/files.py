"""Finding data files, checking their sizes, and hashing their contents once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kdplan.diagnostics.missing import near_file
from kdplan.diagnostics.report import PlanError, error
from kdplan.diagnostics.span import Span

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
_FRESH_SECONDS = 2.0
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Where:
    """Where to look, where to remember hashes, and what to blame.

    Parameters
    ----------
    root : Path or None
        The data folder (`KDPLAN_DATA`).
    cache : Path or None
        The folder of `hashes.json`; None means `~/.cache/kdplan`.
    span : Span or None
        What errors underline in the plan.
    label : str
        Name and version of the reader, which are part of a fingerprint.
    """

    root: Path | None
    cache: Path | None = None
    span: Span | None = None
    label: str = ""

    def folder(self, name: str, wanted: str) -> Path:
        """`wanted`, under the root unless it is absolute; it must be a folder that holds something."""
        path = Path(wanted).expanduser()
        if not path.is_absolute():
            path = self.base(name) / path
        if not path.is_dir():
            raise self._missing(name, [path])
        if not any(path.iterdir()):
            raise error("KD0714", self.span, path=str(path), what="files")
        return path

    def _missing(self, name: str, paths: Sequence[Path]) -> PlanError:
        near = next((n for path in paths if (n := near_file(path))), None)
        return error("KD0713", self.span, name=name, looked=" or ".join(map(str, paths)), nearest=near)

    def base(self, name: str) -> Path:
        """The root, which must exist."""
        if self.root is None:
            raise error("KD0711", self.span, name=name)
        if not self.root.is_dir():
            raise error("KD0712", self.span, path=str(self.root))
        return self.root

    def first(self, name: str, candidates: Sequence[str]) -> Path:
        """The first of the paths under the root that exists."""
        base = self.base(name)
        for candidate in candidates:
            if (base / candidate).exists():
                return base / candidate
        raise self._missing(name, [base / c for c in candidates])

    def file(self, name: str, path: Path, size: int | None = None, at_least: int | None = None) -> Path:
        """`path`, which must be a file of the right size."""
        if not path.is_file():
            raise self._missing(name, [path])
        actual = path.stat().st_size
        if size is not None and actual != size:
            raise error("KD0715", self.span, path=str(path), found=f"{actual:,}", expected=f"{size:,}")
        if at_least is not None and actual < at_least:
            raise error("KD0715", self.span, path=str(path), found=f"{actual:,}", expected=f"at least {at_least:,}")
        return path


def fingerprint(where: Where, paths: Iterable[Path], layout: str = "") -> str:
    """The hash of the reader's label, the layout of the files (where it has several), and the contents of `paths`."""
    whole = hashlib.sha256((where.label + layout).encode())
    cache = HashCache(where.cache)
    for path in paths:
        whole.update(cache.of_file(path).encode())
    cache.save()
    return whole.hexdigest()


class HashCache:
    """Hashes of file contents, remembered by path, size, modification time and inode.

    A file that was changed within the last two seconds is hashed, but not remembered: a second change within the
    resolution of time stamps would go unseen.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = (folder or Path("~/.cache/kdplan").expanduser()) / "hashes.json"
        self.known = self._read()
        self.new: dict[str, list[object]] = {}

    def _read(self) -> dict[str, list[object]]:
        try:
            hashes = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # nothing remembered, or unreadable: contents are hashed again
        return hashes if isinstance(hashes, dict) else {}

    def of_file(self, path: Path) -> str:
        """The sha256 of a file's content."""
        stat = path.stat()
        tag: list[object] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        return self._remembered(str(path.resolve()), tag, stat.st_mtime_ns, lambda: hash_file(path))

    def of_tree(self, folder: Path, names: Sequence[str], label: str, span: Span | None = None) -> str:
        """The sha256 of `label` and many files' names and contents; one entry stands for all of them."""
        states = [self._state(folder / name, span) for name in names]
        for name, s in zip(names, states, strict=True):
            if s.st_size == 0:
                raise error("KD0715", span, path=str(folder / name), found="0", expected="more")
        seen = hashlib.sha256(label.encode())
        for name, s in zip(names, states, strict=True):
            seen.update(f"{name}\0{s.st_size}\0{s.st_mtime_ns}\0{s.st_ino}\n".encode())
        newest = max((s.st_mtime_ns for s in states), default=0)

        def contents() -> str:
            whole = hashlib.sha256(label.encode())
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                try:
                    for name, digest in zip(names, pool.map(lambda n: hash_file(folder / n), names), strict=True):
                        whole.update(f"{name}\0{digest}\n".encode())
                except OSError as e:
                    raise error("KD0731", span, path=e.filename, why=e.strerror) from e
            return whole.hexdigest()

        return self._remembered(f"{folder.resolve()}/ {label}", [seen.hexdigest()], newest, contents)

    @staticmethod
    def _state(path: Path, span: Span | None) -> os.stat_result:
        """KD0731 for a link to nothing."""
        try:
            return path.stat()
        except OSError as e:
            raise error("KD0731", span, path=str(path), why=e.strerror) from e

    def _remembered(self, key: str, tag: list[object], mtime_ns: int, compute: Callable[[], str]) -> str:
        entry = self.known.get(key)
        if isinstance(entry, list) and entry[:-1] == tag and isinstance(entry[-1], str):
            return entry[-1]
        digest = compute()
        if time.time() - mtime_ns / 1e9 > _FRESH_SECONDS:
            self.new[key] = [*tag, digest]
        return digest

    def of_content(self, name: str, fingerprint: str, compute: Callable[[], str]) -> str:
        """What follows from a data set's content, of which `fingerprint` is the hash."""
        return self._remembered(f"{name} {fingerprint}", [], 0, compute)

    def save(self) -> None:
        """Write what is new; another process's entries are kept."""
        if not self.new:
            return
        merged = {**self._read(), **self.new}
        # A hash that cannot be remembered (a read-only home, a full disk) is only computed again next time.
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _forget_leftovers(self.path.parent)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix="hashes-", suffix=".tmp")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as out:
                    json.dump(merged, out)
                os.replace(temporary, self.path)
            except OSError:
                os.unlink(temporary)
                raise
        self.known.update(self.new)
        self.new = {}


def _forget_leftovers(folder: Path) -> None:
    """Removes what killed writers left a day ago or earlier."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _STALE_SECONDS:
                path.unlink()


def hash_file(path: Path) -> str:
    """The sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
