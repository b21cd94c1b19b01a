"""Random changes of every kind of file in a store: repaired or harmless, never shown, never fatal."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from kdplan.cli import main
from tests.processes import DEVNULL, Command

FLIPS = int(os.environ.get("KDPLAN_FLIPS", "30"))
PLAN = """\
data digits = digits { limit = 100 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 50 }
recipe long {
  optimizer = sgd(lr = 0.01, momentum = 0.9)  epochs = 60  batch = 50  frozen = stored  keep_epochs = [2]
}
teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2)
phase kd of small on digits with long {
  loss = cross_entropy(small.logits, labels) + kd(teacher = big.logits, student = small.logits)
  measure on digits.test { top1 }
}
measure table of big, small@init on digits.test { top1, cross_entropy }
"""


class Stores:
    """A store in which one phase is finished and measured and one was stopped, and what a whole run leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plan.kd").write_text(PLAN)
        self.stopped = folder / "stopped"
        self._run_until_stopped()
        assert main(["run", str(folder / "plan.kd"), "--store", str(folder / "half"), "--only", "big@train"]) == 0
        assert main(["plan", str(folder / "plan.kd"), "--store", str(folder / "half")]) == 0
        for name in ("measures", "speeds", "costs", "plans"):
            if not (self.stopped / name).exists():
                source = folder / "half" / name
                (shutil.copytree if source.is_dir() else shutil.copy)(source, self.stopped / name)
        shutil.copytree(self.stopped, folder / "whole")
        self.tables, self.weights = self.finish(folder / "whole")

    def _run_until_stopped(self) -> None:
        arguments = ["run", str(self.folder / "plan.kd"), "--store", str(self.stopped), "--checkpoint-seconds", "0"]
        process = Command(arguments, stdout=DEVNULL)
        while process.poll() is None and not list(self.stopped.glob("work/*/snapshots/*")):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 75

    def finish(self, store: Path) -> tuple[str, dict[str, bytes]]:
        """The tables that a run prints, and the weights that it leaves."""
        assert main(["run", str(self.folder / "plan.kd"), "--store", str(store), "--csv", str(store / "csv")]) == 0
        files = [p for p in store.glob("phases/*/weights-*") if "-last" in p.name or "epoch" in p.name]
        return (store / "csv" / "table.csv").read_text(), {f"{p.parent.name}/{p.name}": p.read_bytes() for p in files}

    def kinds(self) -> list[list[Path]]:
        """The files of the stopped store by kind: names without numbers and keys."""
        kinds: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(p for p in self.stopped.rglob("*") if p.is_file()):
            relative = path.relative_to(self.stopped)
            kinds[re.sub(r"[0-9a-f]{16,}|\d+", "#", str(relative))].append(relative)
        return list(kinds.values())


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return Stores(tmp_path_factory.mktemp("flips"))


def numbers(value: Any) -> list[float]:
    """All numbers that `status` shows of what was measured or logged."""
    return [v for p in value["phases"] for v in (p["metrics"] or {}).values()]


def check(stores: Stores, draw: random.Random, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The store with one change: `status` and `plan` work, a run ends as that of the unchanged one."""
    store = stores.folder / "changed"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(stores.stopped, store)
    content = bytearray((store / path).read_bytes())
    if content and draw.random() < 0.7:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif draw.random() < 0.5:
        content = content[: draw.choice([0, len(content) // 2, max(0, len(content) - 1)])]
    else:
        content = bytearray(draw.choice([b"{}", b"[]", b"3", b"[" * 100_000, b'{"a": 1}', b"\x00" * 50, b"\xff\xfe"]))
    (store / path).write_bytes(content)
    plan = str(stores.folder / "plan.kd")
    capsys.readouterr()
    assert main(["status", plan, "--store", str(store), "--json"]) == 0
    assert set(numbers(json.loads(capsys.readouterr().out))) <= set(stores.logged)  # type: ignore[attr-defined]
    assert main(["plan", plan, "--store", str(store)]) == 0
    assert stores.finish(store) == (stores.tables, stores.weights), path


def logged(stores: Stores, capsys: pytest.CaptureFixture[str]) -> list[float]:
    capsys.readouterr()
    lines = [json.loads(line) for p in stores.folder.glob("*/*/*/metrics.jsonl") for line in p.read_text().splitlines()]
    return [v for line in lines for v in [*line.values(), *line.get("val", {}).values()] if isinstance(v, float)]


@pytest.mark.slow
def test_every_kind_of_file(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    stores.logged = logged(stores, capsys)  # type: ignore[attr-defined]
    kinds = stores.kinds()
    assert len(kinds) > 15
    for number, paths in enumerate(kinds):
        draw = random.Random(number)
        check(stores, draw, draw.choice(paths), capsys)


def test_a_few_kinds_of_file(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    stores.logged = logged(stores, capsys)  # type: ignore[attr-defined]
    draw = random.Random(5)
    for paths in draw.sample(stores.kinds(), 4):
        check(stores, draw, draw.choice(paths), capsys)


def test_verify_sees_every_change(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit, a cut, and a missing file, in one file of each kind."""
    store = stores.folder / "verified"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(stores.stopped, store)
    assert main(["store", "verify", "--store", str(store)]) == 0
    draw, seen = random.Random(3), 0
    for paths in stores.kinds():
        path = store / draw.choice(paths)
        content = path.read_bytes()
        if not content:
            continue  # locks, and names of readers
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        for changed in (bytes(flipped), content[:-1], content[: len(content) // 2], b""):
            path.write_bytes(changed)
            code = main(["store", "verify", "--store", str(store)])
            running = path.name == "metrics.jsonl" and path.parent.parent.name == "work"
            same = (
                running and not changed.endswith(b"\n")
            ) or changed + b"\n" == content  # a kill may cut the last line
            assert code == 4 or same, (path, changed)
        path.write_bytes(content)
        seen += 1
    assert seen > 15 and main(["store", "verify", "--store", str(store)]) == 0
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.slow
def test_many_changes(stores: Stores, capsys: pytest.CaptureFixture[str]) -> None:
    stores.logged = logged(stores, capsys)  # type: ignore[attr-defined]
    kinds = stores.kinds()
    for number in range(FLIPS):
        draw = random.Random(1000 + number)
        check(stores, draw, draw.choice(draw.choice(kinds)), capsys)
