"""Phases on several processes: one hash whatever their number, and what is said where they cannot work together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.scale.together import Session, hashes, run

CODE = """
import os
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.body = nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
        self.fc = nn.Linear(96, 10)
    def forward(self, x):
        return self.fc(self.body(x).flatten(1))
class Queue(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(96))
    def forward(self, x):
        features = self.body(x).flatten(1)
        self.kept.copy_(features[0].detach())
        return self.fc(features)
def picky(x):
    if os.environ.get("RANK") == "1" and type(x) is torch.Tensor:  # in a step, and not on fake tensors
        raise ValueError("not on this rank")
    return x.square().mean()
"""
HEAD = """data digits = digits { limit = 250  augment = [pad_crop(8, pad = 1)] }
use "net.py" as my
recipe quick { optimizer = adam(lr = 0.01)  epochs = 2  batch = 31  accumulate = 2  shards = 4  clip = 1  ema = 0.9 }
"""
PLANS = {
    # sizes 8, 8, 8, 7; a last batch of 2, which leaves two shards without samples
    "same": """teacher big = my.Net() { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
student small = digits_net(width = 3)
phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + kd(small.logits, big.logits, temperature = 4)
  measure on digits.test { top1 }
}
measure table of big, small@kd on digits.test { top1 }""",
    "queue": """student big = my.Queue()
phase train of big on digits with quick { loss = cross_entropy(big.logits, labels) }""",
    "picky": """student big = my.Net()
phase train of big on digits with quick { loss = cross_entropy(big.logits, labels) + my.picky(big.logits) }""",
}


FIRST = {"signal": 15, "rank": 1, "after": 0.0}
RUNS = {
    **{f"same on {n}": run("same", n, f"same-{n}") for n in (1, 2, 4)},
    "stopped": run("same", 2, "resumed", "--checkpoint-seconds", "0.01", stop=FIRST),
    "resumed": run("same", 4, "resumed"),
    "three": run("same", 3, "three"),
    "queue on 4": run("queue", 4, "queue"),
    "picky": run("picky", 2, "picky"),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    files = {f"{name}.kd": HEAD + text for name, text in PLANS.items()}
    return Session(tmp_path_factory.mktemp("ranks"), {"net.py": CODE, **files}, RUNS)


def metrics(folder: Path, store: str) -> list[dict[str, Any]]:
    files = sorted((folder / store / "phases").glob("*/metrics.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    drop = ("seconds", "check")
    return [{k: v for k, v in line.items() if k not in drop} for line in lines]


def test_any_number_of_processes_gives_the_same_bits(session: Session) -> None:
    for ranks in (1, 2, 4):
        assert session.codes[f"same on {ranks}"] == [0] * ranks, session.said(f"same on {ranks}")
    one, *others = (hashes(session.folder / f"same-{ranks}") for ranks in (1, 2, 4))
    assert len(one) == 2 and others == [one, one]


def test_losses_and_validations_are_the_same_numbers(session: Session) -> None:
    one, *others = (metrics(session.folder, f"same-{ranks}") for ranks in (1, 2, 4))
    assert len(one) == 4 and all("loss" in str(line) for line in one) and others == [one, one]


def test_other_ranks_are_silent(session: Session) -> None:
    assert "done in" in session.said("same on 4")
    assert [session.said("same on 4", rank) for rank in (1, 2, 3)] == [""] * 3


def test_a_signal_to_one_rank_stops_all_and_another_number_goes_on(session: Session) -> None:
    assert session.codes["stopped"] == [75, 75], session.said("stopped")
    assert "resumes at step" in session.said("resumed") and session.codes["resumed"] == [0] * 4
    assert hashes(session.folder / "resumed") == hashes(session.folder / "same-1")


def test_ranks_that_do_not_divide_the_shards(session: Session) -> None:
    assert "KD0950" in session.said("three") and "start 1, 2, 4 processes" in session.said("three")
    assert session.codes["three"] == [2] * 3


def test_a_buffer_of_samples_is_named(session: Session) -> None:
    assert "KD0951" in session.said("queue on 4") and "kept" in session.said("queue on 4")
    assert session.codes["queue on 4"] == [1] * 4  # each has one shard: they compare across ranks


def test_an_error_of_one_rank_ends_the_phase_everywhere(session: Session) -> None:
    assert "KD0953" in session.said("picky") and "rank 1" in session.said("picky")
    assert "not on this rank" in session.said("picky", 1) and session.codes["picky"] == [1, 1]
