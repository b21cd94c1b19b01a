"""`norm = sync` on several processes: one hash whatever their number, and what is said where ranks part."""

from __future__ import annotations

import pytest

from tests.scale.test_shards_ranks import CODE, HEAD, PLANS
from tests.scale.together import Session, hashes, run

MORE = """
import os
from torch.nn import functional as F
class Hidden(Net):
    def forward(self, x):  # which only runs as it is, so its norm is no node of a graph
        x = self.body(x).flatten(1)
        if float(x.detach().abs().sum()) < 0:
            raise ValueError
        return self.fc(F.batch_norm(x, None, None, training=True))
class Parting(Hidden):
    def forward(self, x):
        if os.environ.get("RANK") == "1" and self.training and float(x.abs().sum()) >= 0:
            return self.fc(self.body[0](x).flatten(1))
        return super().forward(x)
"""
NAMED = {
    # a network that is called whole, another as a graph, a teacher that trains along; the last batch has 2 samples
    "same": """teacher big = my.Hidden() {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
teacher moving = digits_net(width = 2) { mode = train }
student small = my.Net()
phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + kd(small.logits, big.logits, temperature = 4)
       + kd(small.logits, moving@init.logits)
  measure on digits.test { top1 }
}""",
    "parting": """student net = my.Parting()
phase train of net on digits with quick { loss = cross_entropy(net.logits, labels) }""",
    "picky": PLANS["picky"],
}
FIRST = {"signal": 15, "rank": 1, "after": 0.0}
RUNS = {
    **{f"same on {n}": run("same", n, f"same-{n}") for n in (1, 2)},
    "stopped": run("same", 2, "resumed", "--checkpoint-seconds", "0.01", stop=FIRST),
    "resumed": run("same", 4, "resumed"),
    "parting": run("parting", 2, "parting"),
    "picky": run("picky", 2, "picky"),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    head = HEAD.replace("shards = 4", "shards = 4  norm = sync").replace("limit = 250", "limit = 126")
    files = {f"{name}.kd": head + text for name, text in NAMED.items()}
    return Session(tmp_path_factory.mktemp("ranks"), {"net.py": CODE + MORE, **files}, RUNS)


def test_any_number_of_processes_gives_the_same_bits(session: Session) -> None:
    for ranks in (1, 2):
        assert session.codes[f"same on {ranks}"] == [0] * ranks, session.said(f"same on {ranks}")
    one, other = (hashes(session.folder / f"same-{ranks}") for ranks in (1, 2))
    assert len(one) == 2 and one == other


def test_a_run_that_was_stopped_goes_on_with_another_number(session: Session) -> None:
    assert session.codes["stopped"] == [75, 75], session.said("stopped")
    assert "resumes at step" in session.said("resumed") and session.codes["resumed"] == [0] * 4
    assert hashes(session.folder / "resumed") == hashes(session.folder / "same-1")


def test_ranks_that_part_are_an_error_on_all(session: Session) -> None:
    assert session.codes["parting"] == [1, 1], session.said("parting")
    assert "KD0963" in session.said("parting") and "net" in session.said("parting")


def test_an_error_of_one_rank_ends_the_phase_everywhere(session: Session) -> None:
    assert "KD0953" in session.said("picky") and "rank 1" in session.said("picky")
    assert "not on this rank" in session.said("picky", 1) and session.codes["picky"] == [1, 1]
