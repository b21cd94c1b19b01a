"""Boxes and arrows of a plan: kinds, actions, labels, folded families."""

from __future__ import annotations

from kdplan.view.dag import to_dot, to_mermaid
from kdplan.view.drawing import plan_drawing
from tests.passes.plans import BIG, HEAD, compiled
from tests.view.samples import sample


def test_kinds_states_and_flows() -> None:
    drawn = plan_drawing(*sample())
    kinds = {name: box.kind for name, box in drawn.boxes.items()}
    assert kinds == {
        "big@train": "teacher",
        "kd": "student",
        "alone": "student",
        "data digits": "data",
        "file given.safetensors": "file",
        "measure table": "measure",
        "export tiny": "export",
    }
    assert drawn.boxes["kd"].actions == ["rerun"]
    assert "30 epochs, sgd lr 0.1, batch 64" in drawn.boxes["kd"].lines
    assert "from step 300" in drawn.boxes["alone"].lines
    assert drawn.arrows["big@train", "kd"] == ["big@train"]
    assert drawn.arrows["kd", "export tiny"] == ["small@kd[best]"]
    assert drawn.arrows["data digits", "kd"] == ["train", "test"]
    assert drawn.arrows["file given.safetensors", "alone"] == ["given"]
    assert ("big@train", "alone") not in drawn.arrows


def test_large_families_are_folded_and_can_be_unfolded() -> None:
    plan, planned = sample(13)
    folded = plan_drawing(plan, planned)
    assert folded.boxes["sweep"].members == 13 and folded.boxes["sweep"].actions == ["run"] * 13
    assert folded.arrows["big@train", "sweep"] == ["big@train"]
    assert "small@sweep[*] (13)" in to_mermaid(folded)
    assert "sweep[weight=12]" in plan_drawing(plan, planned, every=True).boxes
    assert "sweep[weight=11]" in plan_drawing(*sample(12)).boxes


def test_equal_phases_are_one_box_and_a_ladder_is_one_frame() -> None:
    plan = compiled(
        HEAD + BIG + "stages mimic[k in 1..2] of small from big on digits with quick { count = k }\n"
        "stages again of small from big on digits with quick { stages = auto }"
    )
    drawn = plan_drawing(plan.plan, plan.planned)
    assert "again@s1" not in drawn.boxes and "also again@s1" in drawn.boxes["mimic[k=2]@s1"].lines
    assert {b.frame for b in drawn.boxes.values()} == {"", "mimic[k=1]", "mimic[k=2]"}
    assert to_dot(drawn).source.count("subgraph cluster_") == 1  # a frame of one box is none


def test_parts_of_data_have_a_line() -> None:
    plan, planned = sample()
    plan.data["digits"].fraction, plan.data["digits"].limit = 0.1, 1200
    lines = plan_drawing(plan, planned).boxes["data digits"].lines
    assert "0.1 of train" in lines and "at most 1,200 of train" in lines


def test_data_that_many_phases_read_have_a_line_in_their_boxes() -> None:
    many = "".join(
        f"phase p{i} of small on digits with quick {{ loss = kd(small.logits, big.logits)  seed = {i} }}\n"
        for i in range(9)
    )
    plan = compiled(HEAD + BIG + many)
    drawn = plan_drawing(plan.plan, plan.planned)
    assert [t for s, t in drawn.arrows if s == "data digits"] == ["big@train"]
    assert "on digits.train" in drawn.boxes["p3"].lines
