"""What happens when the system takes no more: a clear error, and everything that was stored is intact."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save_file

from kdplan.runtime.store import Store, StoreUnwritable, atomic

MEGABYTE = bytes(1 << 20)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fsync(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("kdplan.runtime.store.atomic.os.fsync", fsync)


def with_something_stored(root: Path) -> Store:
    store = Store(root)
    with store.begin("done") as work:
        work.commit({"weights-0-last.safetensors": MEGABYTE[:1000]})
    with store.begin("half") as work:
        work.save_checkpoint(1, {"model.safetensors": MEGABYTE[:1000]}, {})
        work.save_checkpoint(2, {"model.safetensors": MEGABYTE[:1000]}, {})
    store.remember("a.kd", {"a": "1"})
    return store


def still_there(store: Store) -> None:
    store.verify("done")
    assert store.last_keys("a.kd") == {"a": "1"}
    assert store.resume_step("half") == 2
    left = [p for p in store.root.rglob("*") if p.name.startswith((".new-", ".old-"))]
    assert left == [], "a refused write leaves nothing behind"


def refused_writes(store: Store, code: str, content: atomic.Content) -> None:
    with store.begin("half") as work:
        with pytest.raises(StoreUnwritable) as error:
            work.save_checkpoint(3, {"model.safetensors": content}, {})
        assert error.value.diagnostics[0].code == code and error.value.exit_code == 1
        with pytest.raises(StoreUnwritable):
            work.commit({"weights-0-last.safetensors": content})
        newest = work.latest_checkpoint()
        assert newest is not None and newest.step == 2 and work.notices == []


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = with_something_stored(tmp_path)
    with store.begin("half") as work:
        refuse(monkeypatch, errno.ENOSPC)
        with pytest.raises(StoreUnwritable) as error:
            work.save_checkpoint(3, {"model.safetensors": MEGABYTE}, {})
        with pytest.raises(StoreUnwritable):
            work.commit({"weights-0-last.safetensors": MEGABYTE})
        monkeypatch.undo()
    assert error.value.diagnostics[0].code == "KD0905"
    still_there(store)


def test_full_small_disk(small_disk: Path) -> None:
    store = with_something_stored(small_disk / "store")

    def other_library(path: Path) -> None:
        save_file({"w": numpy.zeros(2_000_000, numpy.float32)}, path)

    refused_writes(store, "KD0905", MEGABYTE * 8)
    refused_writes(store, "KD0905", other_library)
    still_there(store)
    filler = small_disk / "filler"
    with pytest.raises(OSError), filler.open("wb") as file:
        file.write(MEGABYTE * 8)
    with pytest.raises(StoreUnwritable), store.begin("half") as work:
        for _ in range(10_000):
            work.log({"step": 3, "text": "x" * 1000})
    with pytest.raises(StoreUnwritable):
        store.plans.finish("a.kd", {str(i): "x" * 64 for i in range(1000)})
    filler.unlink()
    still_there(store)
    with store.begin("half") as work:
        work.rewind(work.latest_checkpoint())
        work.save_checkpoint(3, {"model.safetensors": MEGABYTE}, {})
        work.commit({"weights-0-last.safetensors": MEGABYTE})
    store.verify("half")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = with_something_stored(tmp_path)
    refuse(monkeypatch, errno.EROFS)
    with pytest.raises(StoreUnwritable) as error:
        store.plans.finish("a.kd", {"a": "2"})
    assert error.value.diagnostics[0].code == "KD0906"
    assert store.refused is None
    store.remember("a.kd", {"a": "2"})
    store.keep_number("costs", "a", {"flops": 1})
    assert store.refused is not None and store.refused.diagnostics[0].code == "KD0906"
    monkeypatch.undo()
    still_there(store)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnwritable):
        Store(tmp_path / "file").begin("k")


def test_file_size_limit(tmp_path: Path) -> None:
    store = with_something_stored(tmp_path)
    code = """
import resource, sys
from pathlib import Path
from kdplan.runtime.store import Store, StoreUnwritable
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with Store(sys.argv[1]).begin("half") as work:
    for content in (bytes(1 << 20), lambda path: path.write_bytes(bytes(1 << 20))):
        try:
            work.save_checkpoint(3, {"model.safetensors": content}, {})
        except StoreUnwritable as error:
            print(error.diagnostics[0].code)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == ["KD0907", "KD0907"], done.stderr
    still_there(store)
