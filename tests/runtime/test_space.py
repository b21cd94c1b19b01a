"""A disk that is full: the run waits where it is told to, and goes on with the same bits."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.runtime.events import NoEvents
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.space import Patience
from kdplan.runtime.store import Store
from kdplan.runtime.store.errors import StoreUnwritable, writing
from tests.cli.conftest import PLAN
from tests.cli.test_run import environment
from tests.processes import PIPE, STDOUT, Command


class Notes(NoEvents):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def refused(times: int, number: int = errno.ENOSPC) -> Callable[[], str]:
    """What is refused so many times."""
    left = iter(range(times))

    def act() -> str:
        with writing(Path("x")):
            if next(left, None) is not None:
                raise OSError(number, os.strerror(number))
        return "written"

    return act


def test_waits_and_says_so_once() -> None:
    events = Notes()
    assert Patience(True, events, pause=0.01).write(refused(3)) == "written"
    (note,) = events.notes
    assert note.startswith("KD0905: ") and note.endswith("The run waits until there is space.")


@pytest.mark.parametrize(("wait", "number"), [(False, errno.ENOSPC), (True, errno.EACCES), (True, errno.EIO)])
def test_other_refusals_stand(wait: bool, number: int) -> None:
    with pytest.raises(StoreUnwritable):
        Patience(wait, pause=0.01).write(refused(1, number))


def test_a_run_that_waits_can_be_stopped() -> None:
    interrupt = Interrupt()
    threading.Timer(0.1, interrupt.request).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        Patience(True, interrupt=interrupt, pause=60).write(refused(100))
    assert time.monotonic() - began < 10


def test_a_line_of_metrics_that_was_cut_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.write, iter(range(9))

    def half(handle: int, content: bytes) -> int:
        number = next(calls)
        if number == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, bytes(content)[:5] if number == 0 else bytes(content))

    with Store(tmp_path).begin("k") as work:
        monkeypatch.setattr(os, "write", half)
        Patience(True, pause=0.01).write(lambda: work.log({"step": 1, "loss": 0.5}))
        monkeypatch.undo()
        assert work.metrics() == [{"step": 1, "loss": 0.5}]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_run_on_a_full_disk_waits_and_ends_as_it_would_have(small_disk: Path, tmp_path: Path) -> None:
    plan = tmp_path / "a.kd"
    plan.write_text(PLAN)
    arguments = ["run", str(plan), "--wait-for-space", "--store"]
    filler = small_disk / "filler"
    free = os.statvfs(small_disk)
    # Enough to begin, too little to end.
    filler.write_bytes(bytes(free.f_bavail * free.f_bsize - 40_000))
    process = Command([*arguments, str(small_disk / "store")], env=environment(), stdout=PIPE, stderr=STDOUT)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "waits until there is space" in line:
            filler.unlink()
    assert process.wait() == 0, said
    assert any("waits" in line for line in said)
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    one, other = (
        {p.parent.name: p.read_bytes() for p in root.glob("phases/*/weights-0-last.safetensors")}
        for root in (small_disk / "store", tmp_path / "whole")
    )
    assert one == other and len(one) == 2
