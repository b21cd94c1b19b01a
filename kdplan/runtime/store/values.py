"""Values of frozen networks, computed once a sample and read by every phase that needs them.

values/<key>/   about.json (written last)  shard-<n>/: manifest.json, values.safetensors   readers/   lock (at work)

A shard holds so many samples' values, in the order of the view. Shards are finished one after another, so a stopped run
resumes after the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdplan.ir.plan import Plain
from kdplan.runtime.store import manifest
from kdplan.runtime.store.artifact import Folder
from kdplan.runtime.store.atomic import Content, clear, make_folder, put_folder, sweep
from kdplan.runtime.store.errors import StoreCorrupt, writing
from kdplan.runtime.store.lock import Lock
from kdplan.runtime.store.locks import Locks
from kdplan.runtime.store.processes import temporary
from kdplan.runtime.store.sealed import read_sealed, write_sealed

FILE = "values.safetensors"
READERS = "readers"
"""The folder of empty files, each named by the key of a phase that read the values."""


class Values:
    """The folder of one frozen value.

    Examples
    --------
    >>> import tempfile
    >>> values = Values(Path(tempfile.mkdtemp()) / "v1", "big.layer2")
    >>> with values.locked():
    ...     values.put(0, b"...")
    ...     values.finish({"rows": 10, "shards": 1})
    >>> [shard.name for shard in values.whole() or []]
    ['values.safetensors']
    """

    def __init__(self, folder: Path, of: str, locks: Locks | None = None) -> None:
        self.folder = folder
        self._lock = Lock(folder, f"values of {of}", locks or Locks(folder.parent.parent))
        self.what = f"values of {of}"

    def whole(self) -> list[Path] | None:
        """The shards' files, or None unless all are there and sound."""
        about = read_sealed(self.folder / "about.json")
        if "shards" not in about:
            return None
        shards = self.sound()
        return shards if len(shards) == about["shards"] else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The right to add shards.

        Raises
        ------
        StoreLocked
            KD0901 if another process computes them.
        """
        make_folder(self.folder)
        self._lock.acquire()
        try:
            sweep(self.folder)
            yield
        finally:
            self._lock.remove()

    def note_reader(self, phase: str) -> None:
        """Notes that the phase with a key reads the values: they are nobody's once nothing reads that phase."""
        make_folder(self.folder / READERS)
        with writing(self.folder / READERS / phase):
            (self.folder / READERS / phase).touch()

    def put(self, number: int, content: Content) -> None:
        """Adds shard `number`.

        Raises
        ------
        StoreLost
            KD0931 if this process was stopped for so long that another may compute them by now.
        """
        self._lock.confirm()
        target = self.folder / f"shard-{number}"
        new = temporary(target)
        try:
            manifest.build(new, {FILE: content})
            put_folder(new, target)
        finally:
            clear(new)

    def sound(self) -> list[Path]:
        """The files of the intact shards before the first damaged or missing one; later ones are computed anew."""
        shards: list[Path] = []
        while (folder := self.folder / f"shard-{len(shards)}").is_dir():
            what = f"shard {len(shards)} of {self.what}"
            try:
                shards.append(Folder(folder, what, manifest.read(folder, what)).file(FILE))
            except StoreCorrupt:
                break
        return shards

    def finish(self, about: dict[str, Plain]) -> None:
        """Marks the values as complete."""
        write_sealed(self.folder / "about.json", {**about, "of": self.what})
