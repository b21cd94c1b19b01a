"""`run --fast`: any number of processes gives the weights of one up to rounding, and says where it cannot."""

from __future__ import annotations

import json

import pytest

from tests.scale.test_shards_ranks import CODE
from tests.scale.together import Session, farthest, hashes, run

CLOSE = 2e-5
"""Relative to the largest number of a tensor, after ten steps in float32."""

MORE = """
class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.GroupNorm(2, 6), nn.ReLU())
        self.fc = nn.Linear(96, 10)
    def forward(self, x):
        return self.fc(self.body(x).flatten(1))
def overlap(x):
    return (x @ x.T).square().mean()
def of_large(x, labels):
    torch._assert_async((x.detach() > 2).all())
    return nn.functional.cross_entropy(x, labels)
class Large(Plain):
    def forward(self, x):
        return 3 + nn.functional.softplus(super().forward(x))
"""
HEAD = """data digits = digits { limit = 249  augment = [pad_crop(8, pad = 1)] }
use "net.py" as my
recipe quick {
  optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = 2  batch = 31  accumulate = 2  clip = 1  ema = 0.9  EXTRA
}
"""
KD = """teacher big = my.Net() { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
student small = digits_net(width = 3)
phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + kd(small.logits, big.logits, temperature = 4)
  measure on digits.test { top1 }
}
"""


def one(net: str, loss: str = "cross_entropy(big.logits, labels)") -> str:
    return HEAD + f"student big = my.{net}()\nphase train of big on digits with quick {{ loss = {loss} }}\n"


PLANS = {
    # parts of 31 and 31 samples, the last step has one alone: no sample for the second process
    "plain": one("Plain").replace("EXTRA", ""),
    # four shards on three processes: two, one, one
    "shards": (HEAD + KD).replace("EXTRA", "shards = 4"),
    "norm": one("Net").replace("limit = 249", "limit = 250").replace("EXTRA", ""),
    "picky": one("Plain", "cross_entropy(big.logits, labels) + my.picky(big.logits)").replace("EXTRA", "shards = 2"),
    "queue": one("Queue").replace("limit = 249", "limit = 250").replace("EXTRA", ""),
    "couples": one("Plain", "cross_entropy(big.logits, labels) + 0.1 * my.overlap(big.logits)").replace("EXTRA", ""),
    "unsure": one("Large", "my.of_large(big.logits, labels)").replace("EXTRA", ""),
}
FIRST = {"signal": 15, "rank": 1, "after": 0.0}
RUNS = {
    "plain on 1": run("plain", 1, "plain-1"),
    "plain on 2": run("plain", 2, "plain-2", "--fast"),
    "shards on 1": run("shards", 1, "shards-1"),
    "shards on 3": run("shards", 3, "shards-3", "--fast"),
    "stopped": run("plain", 2, "resumed", "--fast", "--checkpoint-seconds", "0.01", stop=FIRST),
    "resumed": run("plain", 3, "resumed", "--fast"),
    **{name: run(name, 2, name, "--fast") for name in ("norm", "picky", "queue", "couples", "unsure")},
    "status": {"ranks": 1, "arguments": ["status", "plain.kd", "--store", "plain-2"]},
    "why": {"ranks": 1, "arguments": ["why", "plain.kd", "train", "--store", "plain-2"]},
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    files = {f"{name}.kd": text for name, text in PLANS.items()}
    return Session(tmp_path_factory.mktemp("fast"), {"net.py": CODE + MORE, **files}, RUNS, timeout=600)


@pytest.mark.parametrize(("name", "ranks"), [("plain", 2), ("shards", 3)])
def test_processes_agree_with_one(session: Session, name: str, ranks: int) -> None:
    assert session.codes[f"{name} on {ranks}"] == [0] * ranks, session.said(f"{name} on {ranks}")
    alone, several = session.folder / f"{name}-1", session.folder / f"{name}-{ranks}"
    assert farthest(alone, several) < CLOSE
    assert hashes(alone) != hashes(several)  # they did compute it another way
    losses = [
        [
            json.loads(line)["loss"]
            for f in sorted(s.glob("phases/*/metrics.jsonl"))
            for line in f.read_text().splitlines()
        ]
        for s in (alone, several)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=CLOSE) and len(losses[0]) >= 2


def test_a_signal_to_one_stops_all_and_another_number_goes_on(session: Session) -> None:
    assert session.codes["stopped"] == [75, 75], session.said("stopped")
    assert session.codes["resumed"] == [0] * 3 and "resumes at step" in session.said("resumed")
    assert "KD0838" in session.said("resumed")
    assert "sums over 2 processes (--fast) then and over 3 processes (--fast) now" in session.said("resumed")
    assert farthest(session.folder / "plain-1", session.folder / "resumed") < CLOSE


def test_how_it_was_trained_is_shown(session: Session) -> None:
    (file,) = (session.folder / "plain-2").glob("phases/*/environment.json")
    assert json.loads(file.read_text())["sums"] == "over 2 processes (--fast)"
    for view in ("status", "why"):
        assert "over 2 processes" in " ".join(session.said(view).split()), session.said(view)


def test_batch_norm_is_said(session: Session) -> None:
    assert session.codes["norm"] == [0, 0] and "KD0983" in session.said("norm")
    assert "16 samples on each process" in session.said("norm")
    assert "KD0983" not in session.said("shards on 3") + session.said("plain on 2")


def test_an_error_of_one_rank_ends_the_phase_everywhere(session: Session) -> None:
    assert "KD0953" in session.said("picky") and "rank 1" in session.said("picky")
    assert "not on this rank" in session.said("picky", 1) and session.codes["picky"] == [1, 1]


def test_a_buffer_of_samples_is_named(session: Session) -> None:
    assert "KD0984" in session.said("queue") and "kept" in session.said("queue")
    assert session.codes["queue"] == [1, 1]


def test_a_loss_that_couples_samples_is_named(session: Session) -> None:
    assert "KD0980" in session.said("couples") and "my.overlap" in session.said("couples")
    assert session.codes["couples"] == [2, 2]


def test_a_loss_that_cannot_be_tried_is_a_warning(session: Session) -> None:
    assert "KD0981" in session.said("unsure") and session.codes["unsure"] == [0, 0]
