"""Slow: constructs and settings under `--fast` and `--fully-shard`, and runs that are stopped and go on another way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.scale.test_fast_ranks import CLOSE, MORE
from tests.scale.test_shards_ranks import CODE
from tests.scale.test_shards_wide import LONG, MORE_CODE, WIDE, plan
from tests.scale.together import Session, farthest, hashes, run

pytestmark = pytest.mark.slow

APART = {"bf16": 0.15, "adapters": 1e-4, "amalgamation": 1e-3, "generations": 1e-4, "stages": 2e-3, "branches": 1e-4}
"""Where rounding grows: phases one after another (on one process, 1 and 3 threads are 2e-4 apart in stages), and half
precision, as three processes scale the loss by 3/4 before gradients are rounded to 8 bits."""
WHOLE_ONLY = {
    "threads": "channels_last",
    "ema copy, two streams, plateau": "moving average",
}
"""What parameters in pieces do not go with."""
PLAIN = """data plain = digits { limit = 250 }
teacher big = my.Net() { phase train on plain with quick { loss = cross_entropy(self.logits, labels) } }
student small = digits_net(width = 3)
phase kd of small on plain with quick { frozen = stored  loss = kd(small.logits, big.logits) }"""


@pytest.mark.parametrize("name", [*(n for n in WIDE if n != "rollback"), "stored"])  # which rounding decides
def test_any_way_agrees_with_one_process(name: str, tmp_path: Path) -> None:
    text = plan("plain").partition("student")[0] + PLAIN if name == "stored" else plan(name)
    files = {"net.py": CODE + MORE_CODE, "a.kd": text}
    ways = {"fast": ("--fast",), "pieces": ("--fully-shard",)}
    runs = {"one": run("a", 1, "one"), **{way: run("a", 3 - (way == "pieces"), way, *o) for way, o in ways.items()}}
    session = Session(tmp_path, files, runs, timeout=600)
    for way in ways:
        if way == "pieces" and name in WHOLE_ONLY:
            assert "KD0986" in session.said(way) and WHOLE_ONLY[name] in session.said(way)
            continue
        assert set(session.codes[way]) == {0}, session.said(way)
        assert farthest(tmp_path / "one", tmp_path / way) < APART.get(name, CLOSE)


@pytest.mark.parametrize("way", ["--fast", "--fully-shard"])
def test_all_processes_go_back(way: str, tmp_path: Path) -> None:
    code = CODE + "def at_eight(step):\n    return torch.where(step == 8, float('nan'), 1.0)\n"
    text = plan("plain").replace("epochs = 2", "epochs = 3  on_nan = rollback(times = 2)")
    files = {"net.py": code, "a.kd": text.replace("loss = ", "loss = my.at_eight(step) * ")}
    session = Session(tmp_path, files, {"two": run("a", 2, "two", way)}, timeout=600)
    assert session.said("two").count("KD0828") == 2 and "KD0820" in session.said("two")
    assert session.codes["two"] == [1, 1]


@pytest.mark.parametrize("seed", range(2))
def test_ten_stops_with_another_way_each_time(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    runs = {"whole": run("a", 1, "whole")}
    for number in range(10):
        way = draw.choice(["--fast", "--fully-shard", ""])
        ranks = draw.choice([1, 2, 4] if not way else [2, 3])
        stop = {"signal": draw.choice([9, 9, 15]), "after": draw.random() * 0.2}
        stop |= {"rank": draw.randrange(ranks)} if draw.random() < 0.5 else {}
        small = {"KDPLAN_PARTS_ABOVE": draw.choice(["0", "1000000"])}
        options = ("--checkpoint-seconds", "0.05", *([way] if way else []))
        runs[str(number)] = run("a", ranks, "s", *options, stop=stop, environment=small)
    runs["end"] = run("a", 2, "s", "--fully-shard")
    text = LONG.replace("adam(lr = 0.003)", "sgd(lr = 0.03)").replace("my.Net()", "my.Plain()")
    session = Session(tmp_path, {"net.py": CODE + MORE, "a.kd": text}, runs, timeout=900)
    stopped = [session.codes[str(number)] for number in range(10)]
    assert sum(0 not in codes for codes in stopped) >= 8, stopped
    assert session.codes["end"] == [0, 0], session.said("end")
    assert farthest(tmp_path / "s", tmp_path / "whole") < 1e-3
    assert hashes(tmp_path / "s") != hashes(tmp_path / "whole")
