"""`verticals`: where partitions of classes come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdplan.passes.expand import expand
from tests.passes.plans import codes, compiled

FAMILY = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64 }
teacher t[v in V] = digits_net(classes = v, width = 2) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
"""
KINDS = {"low": [0, 1, 2], "middle": [3, 4, 5, 6], "high": [7, 8, 9]}


def parts(verticals: str, folder: Path) -> dict[str | None, list[int]]:
    """Label -> class numbers, as the networks of a family over these verticals have them."""
    plan = compiled(FAMILY + verticals + "\nmeasure m of t[*] on digits.test { parameters }", folder).plan
    sets = [n.classes for n in plan.networks.values()]
    return {s.label: s.ids for s in sets if s is not None}


def tree(folder: Path) -> None:
    rows = [f"{c},{kind}" for kind, ids in KINDS.items() for c in ids]
    (folder / "tree.csv").write_text("\n".join([*rows, "low,small", "middle,small", "high,", "small,"]))


def test_files_may_stand_in_the_data_folder(tmp_path: Path) -> None:
    data, beside = tmp_path / "data", tmp_path / "plans"
    (data / "lists").mkdir(parents=True)
    beside.mkdir()
    (data / "lists" / "v.csv").write_text("\n".join(f"{c},{kind}" for kind, ids in KINDS.items() for c in ids))
    tree(data)
    kinds = list(KINDS.values())
    for source, wanted in (('from "lists/v.csv"', kinds), ('= hierarchy("tree.csv")', [*kinds[:2], [7], [8], [9]])):
        text = f"{FAMILY}verticals V of digits {source}\nmeasure m of t[*] on digits.test {{ parameters }}"
        sets = [n.classes for n in compiled(text, beside, root=data).plan.networks.values()]
        assert sorted(s.ids for s in sets if s is not None) == wanted
        assert codes(text, beside) == ["KD0211"]


def test_files_and_sets_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("\n".join(f"{c},{kind}" for kind, ids in KINDS.items() for c in ids) + "\n\n")
    (tmp_path / "v.json").write_text(json.dumps({k: [str(c) for c in ids] for k, ids in KINDS.items()}))
    assert parts('verticals V of digits from "v.csv"', tmp_path) == KINDS
    assert parts('verticals V of digits from "v.json"', tmp_path) == KINDS
    assert parts("verticals V of digits { low = 0..2  middle = 3..6  high = 7..9 }", tmp_path) == KINDS


def test_a_hierarchy_is_cut_at_a_level(tmp_path: Path) -> None:
    tree(tmp_path)
    roots = parts('verticals V of digits = hierarchy("tree.csv", level = 0)', tmp_path)
    assert roots == {"small": [0, 1, 2, 3, 4, 5, 6], "high": [7, 8, 9]}
    parents = json.dumps({str(c): kind for kind, ids in KINDS.items() for c in ids})
    (tmp_path / "tree.json").write_text(parents)
    assert parts('verticals V of digits = hierarchy("tree.json", level = 0)', tmp_path) == KINDS


def test_a_hierarchy_cut_through_branches_of_several_lengths(tmp_path: Path) -> None:
    """`high` is a root, so at level 1 its classes stand for themselves, beside `low` and `middle`."""
    tree(tmp_path)
    verticals = parts('verticals V of digits = hierarchy("tree.csv")', tmp_path)
    assert verticals == {"low": [0, 1, 2], "middle": [3, 4, 5, 6], "7": [7], "8": [8], "9": [9]}


def test_two_parents_are_an_overlap(tmp_path: Path) -> None:
    tree(tmp_path)
    with (tmp_path / "tree.csv").open("a") as file:
        file.write("\n3,high\n")
    assert codes(FAMILY + 'verticals V of digits = hierarchy("tree.csv", level = 0)\n', tmp_path) == ["KD0262"]
    verticals = parts('verticals V of digits = hierarchy("tree.csv", level = 0) { disjoint = false }', tmp_path)
    assert verticals == {"small": [0, 1, 2, 3, 4, 5, 6], "high": [3, 7, 8, 9]}


@pytest.mark.parametrize("level", [2, 7])
def test_classes_above_the_cut_are_told(tmp_path: Path, level: int) -> None:
    tree(tmp_path)
    assert codes(f'{FAMILY}verticals V of digits = hierarchy("tree.csv", level = {level})\n', tmp_path) == ["KD0263"]


def test_expanded_plans_have_the_same_parts(tmp_path: Path) -> None:
    tree(tmp_path)
    text = (
        FAMILY
        + 'verticals V of digits = hierarchy("tree.csv", level = 0)\n'
        + "measure m of t[*] on digits.test { parameters }"
    )
    once = compiled(text, tmp_path)
    again = compiled(expand(once.plan))
    assert sorted(k.key for k in once.keys.values()) == sorted(k.key for k in again.keys.values())
