"""A store that takes no more shows what it holds; only what needs writing fails, with one message."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from kdplan.cli import main

ROOT = Path(__file__).parents[2]
PLAN = """\
param epochs = 1
data digits = digits { limit = 100 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = epochs  batch = 50 }
teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2)
phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + kd(teacher = big.logits, student = small.logits)
}
measure table of big, small@kd on digits.test { top1 }
export tiny = small@kd
"""
SWEEP = """\
param weight in [0.5, 0.9]
data digits = digits { limit = 100 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 50 }
student small = digits_net(width = 2)
phase alone of small on digits with quick { loss = weight * cross_entropy(small.logits, labels) }
measure table of small@alone on digits.test { top1, plot(x = weight, y = top1) }
"""


COMMANDS = """
import json, sys
from tests.runtime.test_store_read_only import results
print(json.dumps(results(json.loads(sys.argv[1]))))
"""


def results(commands: Sequence[str]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command, run in this process."""
    ran = []
    for command in commands:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = main(shlex.split(command))
        ran.append((int(code), out.getvalue(), err.getvalue()))
    return ran


class Place:
    """A folder with a plan and its store, and commands that are run there; those of another user in one process."""

    def __init__(self, folder: Path, user: tuple[str, ...] = ()) -> None:
        self.folder, self.user = folder, user

    def __call__(self, *commands: str) -> list[tuple[int, str, list[str]]]:
        """Exit code, output, and codes of the messages of each command."""
        if self.user:
            done = self._python(COMMANDS, json.dumps(commands))
            assert done.returncode == 0, done.stderr
            ran = json.loads(done.stdout)
        else:
            with chdir(self.folder), pytest.MonkeyPatch.context() as patch:
                patch.setenv("COLUMNS", "200")
                patch.delenv("KDPLAN_STORE", raising=False)
                ran = results(commands)
        assert not any("Traceback" in out + err for _, out, err in ran), ran
        return [(code, out, re.findall(r"\[?(KD\d+)\]?:", out + err)) for code, out, err in ran]

    def _python(self, *program: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HOME": str(self.folder), "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
        line = [*self.user, sys.executable, "-c", *program]
        return subprocess.run(line, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def can_import(self) -> bool:
        """Whether its user may read the project and the packages it needs."""
        done = self._python("import sys, torch, kdplan.cli.parser; print(sys.prefix)")
        return done.returncode == 0 and done.stdout.strip() == sys.prefix

    def change(self, text: str) -> None:
        (self.folder / "plan.kd").write_text(text)


@contextmanager
def mounted(store: Path) -> Iterator[None]:
    """The store, mounted read-only over itself."""
    bind = ["mount", "--bind", str(store), str(store)]
    if os.geteuid() != 0 or subprocess.run(bind, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(store)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)


@contextmanager
def filled(store: Path) -> Iterator[None]:
    """The store on a disk of its own, which is full."""
    aside = store.with_name("aside")
    shutil.copytree(store, aside)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(store)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        shutil.copytree(aside, store, dirs_exist_ok=True)
        with pytest.raises(OSError) as full, (store / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1000))
        assert full.value.errno == errno.ENOSPC
        yield
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)


@pytest.fixture(scope="module", params=["mount", pytest.param("user", marks=pytest.mark.slow), "full"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A finished plan in a store that is mounted read-only, belongs to another user, or is on a full disk."""
    folder = Path(tempfile.mkdtemp())  # of pytest's folders no other user may read one
    folder.chmod(0o777)
    try:
        usual = Place(folder)
        usual.change(PLAN)
        assert usual("run plan.kd")[0][0] == 0
        if request.param == "user":
            if os.geteuid() != 0 or shutil.which("setpriv") is None:
                pytest.skip("running as another user needs root and setpriv")
            other = Place(folder, ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
            if not other.can_import():
                pytest.skip(f"another user cannot read {sys.prefix} or {ROOT}")
            yield other
        else:
            with (mounted if request.param == "mount" else filled)(folder / ".kdplan"):
                yield usual
    finally:
        shutil.rmtree(folder)


def written(store: Path) -> dict[Path, int]:
    """The files of a store, and when they were written."""
    return {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()}


def test_a_finished_plan_is_shown(place: Place) -> None:
    """All that commands show of results is there, without a message; nothing is written."""
    before = written(place.folder / ".kdplan")
    ran, status, planned, *others = place(
        "run plan.kd --csv tables", "status plan.kd", "plan plan.kd", "why plan.kd kd", "check plan.kd",
        "export plan.kd tiny -o tiny", "store ls", "store du", "store verify", "store gc",
    )  # fmt: skip
    assert all((code, codes) == (0, []) for code, _, codes in (ran, status, planned, *others)), others
    assert "top1" in ran[1] and (place.folder / "tables" / "table.csv").is_file()
    assert status[1].count("done") == 2 and "2 cached" in planned[1]
    assert written(place.folder / ".kdplan") == before


def test_numbers_that_are_missing_are_computed_and_shown(place: Place) -> None:
    place.change(PLAN.replace("{ top1 }", "{ top1, cross_entropy }"))
    ((code, out, codes),) = place("run plan.kd")
    assert (code, codes) == (0, ["KD0916"]) and "cross_entropy" in out


def test_what_needs_writing_fails_once(place: Place) -> None:
    """More epochs are to be trained: one message. What is there is shown with --keep-going."""
    place.change(PLAN.replace("+ kd(", "+ 2 * kd("))
    full = (place.folder / ".kdplan" / "filler").exists()
    code, removed = (1, "KD0905") if full else (2, "KD0906")
    run, going, rm = place("run plan.kd", "run plan.kd --keep-going", "store rm kd --yes --force")
    assert (run[0], run[2]) == (code, ["KD0905" if full else "KD0017"]) and "top1" not in run[1]
    assert (going[0], going[2]) == (code, ["KD0905" if full else "KD0017"]) and "top1" in going[1]
    assert (rm[0], rm[2]) == ((0, []) if full else (1, [removed])), "removing needs no space"


def test_plots_need_a_folder() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        place = Place(folder)
        place.change(SWEEP)
        assert place("run plan.kd --plots first")[0][0] == 0
        with mounted(folder / ".kdplan"):
            without, elsewhere = place("run plan.kd", "run plan.kd --plots second")
        assert (without[0], without[2]) == (0, ["KD0924"]) and "top1" in without[1]
        assert elsewhere[::2] == (0, [])
        assert sorted(p.name for p in (folder / "second").iterdir()) == ["table.json", "table.png", "table.svg"]
    finally:
        shutil.rmtree(folder)
