"""Slow: constructs and settings in shards give one hash on any number of processes, also stopped and killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scale.test_shards_ranks import CODE, HEAD
from tests.scale.together import ROOT, Session, hashes, run

pytestmark = pytest.mark.slow

MORE_CODE = """
def sometimes(step):
    return torch.where(step % 4 == 2, float("nan"), 1.0)
def seldom(x, step):
    return torch.where((step == 8) & (x.detach().sum() * 1e4 % 3 < 1.0), float("nan"), 1.0)
"""
QUICK = """data digits = digits { limit = 190 }
use "net.py" as my
recipe quick { optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = 2  batch = 40  shards = 4 EXTRA }
"""
TEACHER = """teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 3)
"""
HALVES = """verticals half of digits { low = 0..4  high = 5..9 }
teacher t[v in half] = digits_net(width = 4, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
student both = digits_net(width = 4, classes = digits.classes)
"""
PLAIN = "student net = my.Net()\nphase train of net on digits with quick { loss = cross_entropy(net.logits, labels) }\n"
WIDE = {
    "plain": ("", PLAIN),
    "six": (" batch = 45  shards = 6", PLAIN),
    "bf16": (
        " precision = bf16",
        TEACHER + "phase kd of small on digits with quick { loss = kd(small.logits, big.logits) }",
    ),
    "threads": (" threads = 2  channels_last = true", PLAIN),
    "skip": (" on_nan = skip", PLAIN.replace("loss = ", "loss = my.sometimes(step) * ")),
    "rollback": (
        " epochs = 3  on_nan = rollback(times = 2)",
        "param seed = 4\nstudent net = digits_net(width = 3)\nphase train of net on digits with quick {\n"
        "  loss = my.seldom(net.logits, step) * cross_entropy(net.logits, labels)\n}",
    ),
    "adapters": (
        "",
        TEACHER + "phase hint of small on digits with quick {\n"
        "  loss = cross_entropy(small.logits, labels) + mse(fit(small.layer2, like = big.layer2), big.layer2)\n}",
    ),
    "ema copy, two streams, plateau": (
        " batch = [40, 25]  epochs = 4  schedule = plateau(until = 0.0001, patience = 1)",
        """data more = digits { limit = 150  augment = [pad_crop(8, pad = 1)] }
student small = digits_net(width = 3)
teacher slow = ema(small, decay = 0.9) { mode = train }
phase kd of small on digits, more with quick {
  loss = cross_entropy(small(digits.inputs), digits.labels) + kl(small(more.inputs), slow(more.inputs))
}""",
    ),
    "stages": (
        "",
        TEACHER + "stages mimic of small from big on digits with quick {\n  stages = auto\n"
        "  head { loss = cross_entropy(small.logits, labels) }\n}",
    ),
    "branches": (
        "",
        """branches one of digits_net(width = 4) from layer2 on digits with quick {
  count = 3
  loss  = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
        + 9 * sum(kl(b.logits, gated.logits, temperature = 3) for b in branch)
}""",
    ),
    "generations": (
        "",
        """generations line of digits_net(width = 4) on digits with quick {
  count = 2
  patriarch  { loss = top_score_difference(self.logits, labels, u = 0.6) }
  generation { loss = mix(cross_entropy(self.logits, labels), kl(self.logits, previous.logits), weight = 0.6) }
}""",
    ),
    "concentration": (
        "",
        HALVES + "phase concentrated of both on digits with quick {\n"
        "  loss = sigmoid_cross_entropy(both.logits, top(sigmoid(t[half(labels)].logits), 3))\n}",
    ),
    "amalgamation": (
        " optimizer = sgd(lr = 0.0005)  epochs = 1",
        HALVES + "amalgamate ka of both from t[*] on digits.unlabelled with quick { features = direct }",
    ),
}  # fmt: skip


def plan(name: str) -> str:
    extra, text = WIDE[name]
    head = QUICK
    for setting in ("batch", "shards", "epochs", "optimizer"):  # a setting stands once
        if f" {setting} = " in extra:
            words = {"batch": "batch = 40  ", "shards": "shards = 4", "epochs": "epochs = 2  ",
                     "optimizer": "optimizer = sgd(lr = 0.05, momentum = 0.9)  "}  # fmt: skip
            head = head.replace(words[setting], "")
    return head.replace(" EXTRA", extra) + text


@pytest.mark.parametrize("name", WIDE)
def test_any_number_of_processes_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    numbers = (1, 2, 3, 6) if name == "six" else (1, 2, 4)
    files = {"net.py": CODE + MORE_CODE, "a.kd": plan(name)}
    session = Session(tmp_path, files, {str(n): run("a", n, f"s{n}") for n in numbers}, timeout=600)
    for n in numbers:
        assert session.codes[str(n)] == [0] * n, session.said(str(n))
    one, *others = (hashes(tmp_path / f"s{n}") for n in numbers)
    assert one and all(other == one for other in others)
    if name == "rollback":
        assert all("KD0828" in session.said(str(n)) for n in numbers)


LONG = """data digits = digits { limit = 300  augment = [pad_crop(8, pad = 1)] }
use "net.py" as my
recipe quick {
  optimizer = adam(lr = 0.003)  epochs = 60  batch = 62  shards = 4  ema = 0.9  clip = 1  keep_epochs = [3, 50]
}
student big = my.Net()
phase train of big on digits with quick { loss = cross_entropy(big.logits, labels)  measure on digits.test { top1 } }
"""


@pytest.mark.parametrize("seed", range(2))
def test_ten_stops_with_another_number_of_processes_each_time(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    often = ("--checkpoint-seconds", "0.05")
    runs = {"whole": run("a", 1, "whole")}
    for number in range(10):
        ranks = draw.choice([1, 2, 4])
        stop = {"signal": draw.choice([9, 9, 15]), "after": draw.random() * 0.2}
        stop |= {"rank": draw.randrange(ranks)} if draw.random() < 0.5 else {}
        runs[str(number)] = run("a", ranks, "s", *often, stop=stop)
    runs["end"] = run("a", 2, "s")
    session = Session(tmp_path, {"net.py": CODE, "a.kd": LONG}, runs, timeout=900)
    stopped = [session.codes[str(number)] for number in range(10)]
    assert sum(0 not in codes for codes in stopped) >= 8, stopped
    assert session.codes["end"] == [0, 0], session.said("end")
    assert hashes(tmp_path / "s") == hashes(tmp_path / "whole")


def test_a_killed_rank_ends_the_run_and_the_next_resumes(tmp_path: Path) -> None:
    runs = {
        "killed": run("a", 2, "s", "--checkpoint-seconds", "0.05", stop={"signal": 9, "rank": 1, "after": 0.0}),
        "end": run("a", 4, "s"),
        "whole": run("a", 1, "whole"),
    }
    session = Session(tmp_path, {"net.py": CODE, "a.kd": LONG}, runs, timeout=600)
    assert session.codes["killed"] == [1, -9] and "KD0952" in session.said("killed")
    assert session.codes["end"] == [0] * 4 and "resumes at step" in session.said("end")
    assert hashes(tmp_path / "s") == hashes(tmp_path / "whole")


def test_torchrun_starts_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "a.kd").write_text(plan("plain"))
    for name, starter in (("one", []), ("two", ["-m", "torch.distributed.run", "--nproc-per-node", "2"])):
        command = [sys.executable, *starter, "-m", "kdplan", "run", "a.kd", "--store", name]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


# ---- what is said where processes cannot work together

APART = {
    "none": """student big = my.Net()
phase train of big on digits with quick { shards = 1  loss = cross_entropy(big.logits, labels) }""",
    "stored": """data plain = digits { limit = 250 }
teacher big = my.Net() { phase train on plain with quick { loss = cross_entropy(self.logits, labels) } }
student small = digits_net(width = 3)
phase kd of small on plain with quick { frozen = stored  loss = kd(small.logits, big.logits) }""",
    "some": """student big = my.Net()
phase train of big on digits with quick { shards = 1  epochs = 1  loss = cross_entropy(big.logits, labels) }
phase again of big@train on digits with quick { epochs = 1  loss = cross_entropy(big.logits, labels) }""",
    "one": PLAIN,
    "other": PLAIN.replace("my.Net()", "digits_net(width = 2)"),
}
RUNS = {
    "other": run("one", 2, "other", of={"1": ["run", "other.kd", "--store", "other"]}),
    "alone": run("stored", 1, "alone"),
    "seen": run("stored", 2, "seen"),
    "unseen": run("stored", 2, "unseen", of={"1": ["run", "stored.kd", "--store", "elsewhere"]}),
    "some": run("some", 2, "some"),
    "none": run("none", 2, "none"),
    "drift": run("one", 2, "drift", drift=1),
}


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Session:
    files = {f"{name}.kd": HEAD + text for name, text in APART.items()}
    return Session(tmp_path_factory.mktemp("apart"), {"net.py": CODE, **files}, RUNS)


def test_a_rank_with_another_plan_is_named(apart: Session) -> None:
    assert "KD0955" in apart.said("other", 1) and apart.codes["other"] == [1, 2]
    assert "KD0952" in apart.said("other")


def test_stored_values_that_a_rank_cannot_see(apart: Session) -> None:
    assert apart.codes["seen"] == [0, 0], apart.said("seen")
    assert hashes(apart.folder / "seen") == hashes(apart.folder / "alone")
    assert "KD0956" in apart.said("unseen", 1) and apart.codes["unseen"] == [1, 2]


def test_phases_without_shards_beside_others(apart: Session) -> None:
    assert "KD0958" in apart.said("some") and apart.codes["some"] == [0, 0]
    assert len(hashes(apart.folder / "some")) == 2


def test_ranks_that_diverge_are_named(apart: Session) -> None:
    assert "KD0954" in apart.said("drift") and "rank 1" in apart.said("drift")
    assert apart.codes["drift"] == [1, 1] and not [*(apart.folder / "drift" / "phases").iterdir()]


def test_processes_without_shards(apart: Session) -> None:
    assert "KD0957" in apart.said("none") and apart.codes["none"] == [2, 2]
