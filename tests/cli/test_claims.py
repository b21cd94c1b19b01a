"""`kdplan claims` and `run --decide`: a claim that is true by construction, one that is false, one that is open."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from .conftest import Kdplan

PLAN = """\
param seed in 0..6
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 3 }
student small = digits_net(width = 3)
student twin = digits_net(width = 3) { seed = fold(seed, 1) }
phase train of small on digits with quick { loss = cross_entropy(small.logits, labels) }
phase other of twin on digits with quick { loss = cross_entropy(twin.logits, labels)  seed = fold(seed, 1) }
"""
TRUE = "claim learns of small@train > small@init on digits.test { top1, margin = 10 }\n"
FALSE = "claim harms of small@train < small@init on digits.test { top1 }\n"
OPEN = "claim luck of small@train > twin@other on digits.test { top1 }\n"
COUNTED = "claim equal of small@train < twin@other on digits.test { parameters }\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all runs of the plan."""
    from kdplan.cli import main

    folder = tmp_path_factory.mktemp("claims")
    (folder / "a.kd").write_text(PLAN + TRUE + FALSE + OPEN + COUNTED)
    assert main(["run", str(folder / "a.kd"), "--store", str(folder / "store")]) == 0
    return folder


def verdicts(text: str) -> dict[str, str]:
    return {line["claim"]: line["verdict"] for line in csv.DictReader(io.StringIO(text))}


def test_verdicts(trained: Path, kdplan: Kdplan) -> None:
    """True, false, open, and counted: nothing is declared that chance may have made."""
    ran = kdplan("claims", str(trained / "a.kd"), "--store", str(trained / "store"), "--csv")
    assert ran.code == 0
    assert verdicts(ran.out) == {"learns": "holds", "harms": "refuted", "luck": "undecided", "equal": "refuted"}
    as_json = kdplan("claims", str(trained / "a.kd"), "--store", str(trained / "store"), "--json").json
    (luck,) = as_json["claims"][2]["tests"]
    assert luck["shown"]["low"] < 0 < luck["shown"]["high"] and luck["shown"]["n"] == 7
    shown = kdplan("claims", str(trained / "a.kd"), "--store", str(trained / "store"))
    assert "4 claims: 1 holds, 2 refuted, 1 undecided" in shown.out and "Holm" in shown.out
    strict = kdplan("claims", str(trained / "a.kd"), "--store", str(trained / "store"), "--strict")
    assert strict.code == 1


def test_a_level_decides_how_sure_a_verdict_is(trained: Path, kdplan: Kdplan) -> None:
    """At a level that five runs cannot reach, all is open."""
    store = str(trained / "store")
    ran = kdplan("claims", str(trained / "a.kd"), "--store", store, "--csv", "--level", "0.99999999")
    assert verdicts(ran.out)["learns"] == "undecided"
    assert kdplan("claims", str(trained / "a.kd"), "--store", store, "--level", "1").code == 2


def test_runs_that_are_missing(trained: Path, kdplan: Kdplan) -> None:
    """With more seeds than were trained, the trained ones count, and the others are named."""
    ran = kdplan("claims", str(trained / "a.kd"), "--store", str(trained / "store"), "--set", "seed=0..8")
    assert "2 runs missing" in ran.out
    empty = kdplan("claims", str(trained / "a.kd"), "--store", str(trained / "new"), "--csv")
    assert set(verdicts(empty.out).values()) == {"not run"}


def test_seeds_are_added_until_all_is_decided(folder: Path, kdplan: Kdplan) -> None:
    """Each round trains what open claims read; what was decided is not trained again; the end says how to look."""
    text = PLAN.replace("0..6", "0..1")
    (folder / "b.kd").write_text(
        text + TRUE + "claim counted of small@train == twin@other on digits.test { parameters, margin = 1 }\n"
    )
    ran = kdplan("run", "b.kd", "--decide", "12")
    assert ran.code == 0, ran.err
    rounds = [line for line in ran.err.splitlines() if line.startswith("undecided:")]
    assert rounds and all("learns" in line and "counted" not in line for line in rounds)
    assert "with 3 seeds, 1 phase to train, about" in rounds[0]  # `other` is not read by what is open
    assert "holds" in ran.out and "undecided" not in ran.out.split("claims, at")[1]
    assert "kdplan claims b.kd --set" in ran.out
    again = kdplan("run", "b.kd", "--decide", "12")
    assert again.code == 0 and "to run" not in again.err + again.out


def test_no_more_seeds_than_asked_for(folder: Path, kdplan: Kdplan) -> None:
    """What stays open stays open."""
    (folder / "b.kd").write_text(PLAN.replace("0..6", "0..1").replace("epochs = 3", "epochs = 1") + OPEN)
    ran = kdplan("run", "b.kd", "--decide", "3")
    assert ran.code == 0 and "with 3 seeds, 2 phases" in ran.err and "with 4" not in ran.err
    assert "undecided" in ran.out


def test_a_plan_without_claims(folder: Path, kdplan: Kdplan) -> None:
    """It says so, before anything is trained."""
    for ran in (kdplan("claims", "a.kd"), kdplan("run", "a.kd", "--decide", "5")):
        assert ran.code == 2 and "KD0019" in ran.err
    assert not (folder / ".kdplan" / "phases").exists()


def test_claims_without_seeds(folder: Path, kdplan: Kdplan) -> None:
    """`--decide` has none to add."""
    text = (folder / "a.kd").read_text() + "claim c of big > small@kd on digits.test { parameters }\n"
    (folder / "b.kd").write_text(text)
    ran = kdplan("run", "b.kd", "--decide", "5")
    assert ran.code == 2 and "KD0020" in ran.err
