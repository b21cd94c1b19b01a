"""Slow: constructs and settings with `norm = sync` give one hash on any number of processes, killed and resumed too."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.scale.test_shards_ranks import CODE
from tests.scale.test_shards_wide import LONG, MORE_CODE, WIDE, plan
from tests.scale.together import Session, hashes, run

pytestmark = pytest.mark.slow


def synced(text: str) -> str:
    return re.sub(r"shards = (\d)", r"shards = \1  norm = sync", text)


NAMES = [name for name in WIDE if name != "plain"]


@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_processes_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    numbers = (1, 2, 3, 6) if name == "six" else (1, 2, 4)
    files = {"net.py": CODE + MORE_CODE, "a.kd": synced(plan(name))}
    session = Session(tmp_path, files, {str(n): run("a", n, f"s{n}") for n in numbers}, timeout=600)
    for n in numbers:
        assert session.codes[str(n)] == [0] * n, session.said(str(n))
    one, *others = (hashes(tmp_path / f"s{n}") for n in numbers)
    assert one and all(other == one for other in others)
    if name == "rollback":
        assert all("KD0828" in session.said(str(n)) for n in numbers)


def test_a_killed_rank_ends_the_run_and_others_resume(tmp_path: Path) -> None:
    often = ("--checkpoint-seconds", "0.05")
    runs = {
        "killed": run("a", 2, "s", *often, stop={"signal": 9, "rank": 1, "after": 0.0}),
        "again": run("a", 4, "s", *often, stop={"signal": 9, "rank": 0, "after": 0.1}),
        "alone": run("a", 1, "s", *often, stop={"signal": 15, "after": 0.1}),
        "end": run("a", 4, "s"),
        "whole": run("a", 2, "whole"),
    }
    session = Session(tmp_path, {"net.py": CODE, "a.kd": synced(LONG)}, runs, timeout=900)
    assert session.codes["killed"] == [1, -9] and "KD0952" in session.said("killed")
    assert session.codes["again"][0] == -9 and session.codes["alone"] == [75]
    assert session.codes["end"] == [0] * 4 and "resumes at step" in session.said("end")
    assert hashes(tmp_path / "s") == hashes(tmp_path / "whole")


IMAGES = """data mine = image_folder("mine") { augment = [flip, pad_crop(9, pad = 2)] }
recipe quick { optimizer = sgd(lr = 0.05)  epochs = 3  batch = 8  accumulate = 2  shards = 4  EXTRA }
student small = digits_net(width = 2, channels = 3, classes = mine.classes)
phase train of small on mine with quick { loss = cross_entropy(small.logits, labels) }
"""


def test_ranks_that_read_their_own_images_give_the_same_bits(tmp_path: Path) -> None:
    """Also with workers; an image that cannot be read ends the phase on every rank."""
    draws = np.random.default_rng(0)
    for number in range(27):
        folder = tmp_path / "mine" / ("ant" if number % 3 else "bee")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / f"{number}.png")
    data = ("--data", str(tmp_path))
    files = {"shard.kd": IMAGES.replace("EXTRA", ""), "sync.kd": IMAGES.replace("EXTRA", "norm = sync  workers = 1")}
    numbers = (1, 2, 4)
    runs = {f"{norm} {n}": run(norm, n, f"{norm}{n}", *data) for norm in ("shard", "sync") for n in numbers}
    session = Session(tmp_path, files, runs, timeout=600)
    for norm in ("shard", "sync"):
        assert all(session.codes[f"{norm} {n}"] == [0] * n for n in numbers), session.said(f"{norm} 1")
        one, *others = (hashes(tmp_path / f"{norm}{n}") for n in numbers)
        assert one and others == [one, one]
    for number in range(12, 27):
        path = tmp_path / "mine" / ("ant" if number % 3 else "bee") / f"{number}.png"
        path.write_bytes(path.read_bytes()[:150])
    broken = Session(tmp_path, files, {norm: run(norm, 4, f"broken-{norm}", *data) for norm in ("shard", "sync")})
    for norm in ("shard", "sync"):
        said = [broken.said(norm, rank) for rank in range(4)]
        assert broken.codes[norm] == [1] * 4 and "KD0" in said[0], said
        assert any(".png" in text for text in said), said
