"""Templates: read from lists, made from labels, and every mistake in them told."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdplan.compile import check_text
from kdplan.data.catalog import describe, open_source
from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.protocol import ProtocolRule, protocol_of
from kdplan.data.select import view_protocol
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import Diagnostic, PlanError
from tests.data.faces import write_faces, write_list

ARGS = {"path": "faces", "splits": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_faces(tmp_path / "faces")
    return tmp_path


def mistake(root: Path, **args: Any) -> Diagnostic:
    with pytest.raises(PlanError) as problem:
        describe("templates", ARGS | args, root)
    (found,) = problem.value.diagnostics
    return found


def edit(path: Path, change: Callable[[list[list[str]]], Any]) -> None:
    """Changes the rows of a list in place."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    write_list(path, rows, None)  # type: ignore[arg-type]


def faces(size: int, **args: Any) -> ViewSpec:
    crop = transform("center_crop", [size], {})
    return ViewSpec("templates", tuple((ARGS | args).items()), "test", augment=(crop,), normalize="none")


# ---- lists


def test_lists_are_read(root: Path) -> None:
    info = describe("templates", ARGS, root)
    assert (info.task, info.classes, info.splits) == ("templates", ("100", "101", "102"), {"test": 12})
    first, second = view_protocol(ViewSpec("templates", tuple(ARGS.items()), "test"), root) or ()
    assert (len(first.pairs), first.impostors, first.enrolled, len(first.probes)) == (66, 48, 3, 9)
    names = [f"{s}_{p}" for s in range(3) for p in range(4)]

    def enrolled(fold: Any) -> list[str]:
        return [names[r] for r in fold.rows[np.isin(fold.owners, fold.gallery)]]

    assert (enrolled(first), enrolled(second)) == (["0_0", "1_0", "2_0"], ["0_1", "1_1", "2_1"])


@pytest.mark.parametrize("workers", [0, 1])
def test_images_are_cut_to_their_boxes(root: Path, workers: int) -> None:
    data = open_view(faces(8), root)
    batch = next(Loader(data, 12, seed=0, train=False, workers=workers).epoch(0))
    assert batch["inputs"].shape == (12, 3, 8, 8)
    means = (batch["inputs"] * 255).mean(dim=(1, 2, 3)).reshape(3, 4)
    assert torch.all((means - torch.tensor([[15.0], [75.0], [135.0]])).abs() < 5)


def test_a_margin_widens_the_box_up_to_the_image(root: Path) -> None:
    data = open_view(faces(10, margin=0.25), root)
    image = data.batch(torch.tensor([11]))["inputs"][0]
    assert image.shape == (3, 10, 10)
    assert image[:, :2].max() == 0 and image[:, 2:, 2:].min() > 0.4


def test_images_of_a_medium_share_its_weight(tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "faces", splits=1)

    def join(rows: list[list[str]]) -> None:
        for row, (template, medium) in zip(rows[1:5], [("0", "7"), ("0", "7"), ("0", "8"), ("3", "9")], strict=True):
            row[0], row[3] = template, medium

    edit(folder / "split1" / "verify_metadata_1.csv", join)
    pairs = [[0, 3], [0, 10], [3, 11]]
    write_list(folder / "split1" / "verify_comparisons_1.csv", pairs, None)  # type: ignore[arg-type]
    (fold,) = open_source("templates", {"path": "faces", "splits": 1}, tmp_path).protocol()  # type: ignore[misc]
    assert fold.weights[fold.owners == 0].tolist() == [0.25, 0.25, 0.5]


def test_published_folders_of_both_protocols(root: Path) -> None:
    before = describe("templates", ARGS, root)
    for k in (1, 2):
        for place, kind in (("IJB-A_11_sets", "verify"), ("IJB-A_1N_sets", "search")):
            for path in (root / "faces" / f"split{k}").glob(f"{kind}_*"):
                target = root / "faces" / place / f"split{k}" / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
    assert describe("templates", ARGS, root).splits == before.splits


def test_fingerprint_follows_lists_images_and_settings(root: Path) -> None:
    found = [describe("templates", ARGS, root).fingerprint, describe("templates", ARGS, root).fingerprint]
    found.append(describe("templates", ARGS | {"margin": 0.1}, root).fingerprint)
    edit(root / "faces" / "split2" / "verify_comparisons_2.csv", lambda rows: rows.pop())
    found.append(describe("templates", ARGS, root).fingerprint)
    (root / "faces" / "images" / "img" / "0_0.png").write_bytes(
        (root / "faces" / "images" / "img" / "0_1.png").read_bytes()
    )
    found.append(describe("templates", ARGS, root).fingerprint)
    assert found[0] == found[1] and len(set(found)) == 4


def test_image_that_is_not_there(root: Path) -> None:
    (root / "faces" / "images" / "img" / "1_2.png").unlink()
    found = mistake(root)
    assert found.code == "KD0750" and "img/1_2.png" in found.message


def test_split_that_lacks_a_list(root: Path) -> None:
    (root / "faces" / "split2" / "search_probe_2.csv").unlink()
    found = mistake(root)
    assert found.code == "KD0751" and "search_probe_2.csv" in found.message and "Split 2" in found.message
    assert mistake(root, splits=3).code == "KD0751"


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("verify_metadata_1", lambda rows: rows[0].__setitem__(1, "WHO"), "line 1: it has no column `SUBJECT_ID`"),
        ("verify_metadata_1", lambda rows: rows[2].__setitem__(2, ""), "line 3: a value is missing"),
        ("verify_metadata_1", lambda rows: rows[2].__setitem__(0, "0") or rows[2].__setitem__(1, "9"), "subject 100"),
        ("verify_metadata_1", lambda rows: rows[3].__setitem__(4, "left"), "line 4: FACE_X"),
        ("verify_metadata_1", lambda rows: rows[3].__setitem__(6, "0"), "the face box is empty"),
        ("verify_metadata_1", lambda rows: rows[5].__setitem__(2, "img/0_0.png"), "belongs to two subjects"),
        ("verify_comparisons_1", lambda rows: rows[4].__setitem__(1, "77"), "line 5: `verify_metadata_1.csv` has no"),
        ("verify_comparisons_1", lambda rows: rows[4].pop(), "line 5: a pair"),
        ("verify_comparisons_1", lambda rows: rows.clear(), "it lists no pair"),
    ],
)
def test_broken_lists(root: Path, name: str, change: Callable[[list[list[str]]], Any], says: str) -> None:
    edit(root / "faces" / "split1" / f"{name}.csv", change)
    found = mistake(root)
    assert found.code == "KD0752" and says in found.message, found.message


def test_probes_without_their_subject(root: Path) -> None:
    edit(root / "faces" / "split1" / "search_gallery_1.csv", lambda rows: rows.pop())
    found = mistake(root)
    assert found.code == "KD0753" and "3 of 9" in found.message and "subject 102" in found.message
    left = open_source("templates", ARGS | {"unmated": "leave_out"}, root).protocol
    assert left is not None and [len(fold.probes) for fold in left()] == [6, 9]
    edit(root / "faces" / "split1" / "search_gallery_1.csv", lambda rows: rows.__delitem__(slice(1, None)))
    assert mistake(root, unmated="leave_out").code == "KD0753", "with no gallery at all nothing is left"
    assert mistake(root, unmated="yes").code == "KD0721"


def test_box_outside_of_its_image(root: Path) -> None:
    for k in (1, 2):
        for path in (root / "faces" / f"split{k}").glob("*_*.csv"):
            if "comparisons" not in path.name:
                edit(path, lambda rows: [r.__setitem__(4, "99") for r in rows[1:] if r[2] == "img/0_0.png"])
    data = open_view(faces(8), root)
    with pytest.raises(PlanError) as problem:
        data.batch(torch.tensor([0]))
    assert problem.value.diagnostics[0].code == "KD0731" and "outside" in str(problem.value)


PLAN = """
data faces = templates("faces", splits = 2) {{ augment = [resize(8), center_crop(8), grayscale()] }}
data people = digits
recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1 }}
student small = digits_net()
phase alone of small on people with quick {{ loss = cross_entropy(small.logits, labels) }}
measure open of {of} on {on} {{ {metrics} }}
"""


def test_classes_of_templates(root: Path) -> None:
    def codes(metrics: str, of: str = "small@alone.features", on: str = "faces.test") -> list[str]:
        return [d.code for d in check_text(PLAN.format(metrics=metrics, of=of, on=on), root)]

    assert codes("rank(1), tar(far = 0.1)") == []
    assert codes("top1") == ["KD0758"]
    assert codes("rank(3)") == ["KD0759"], "three people are enrolled"
    assert codes("tar(far = 0.01)") == ["KD0755"]
    assert codes("tar(far = 1.5)") == ["KD0243"] and codes("rank(0)") == ["KD0243"] and codes("tar()") == ["KD0237"]


# ---- made from labels


def test_templates_made_from_labels() -> None:
    labels = np.repeat([3, 5, 9], [10, 11, 9])
    rule = ProtocolRule(size=3, splits=4, seed=2)
    protocol = protocol_of(rule, labels, [str(i) for i in range(10)])
    again = protocol_of(rule, labels, [str(i) for i in range(10)])
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(protocol, again, strict=True))
    assert len({tuple(fold.rows) for fold in protocol}) == 4, "every split is drawn anew"
    for fold in protocol:
        assert len(set(fold.rows.tolist())) == len(fold.rows) == 27, "no sample is in two templates"
        assert (labels[fold.rows] == fold.subjects[fold.owners]).all()
        assert fold.enrolled == 3 and len(fold.gallery) == 3 and len(fold.probes) == 6
        assert len(fold.pairs) == 36 and fold.impostors == 27
        assert set(fold.gallery.tolist()).isdisjoint(fold.probes.tolist())
    other = protocol_of(ProtocolRule(size=3, splits=4, seed=3), labels, [str(i) for i in range(10)])
    assert not np.array_equal(other[0].rows, protocol[0].rows)


def test_pairs_and_subjects_can_be_fewer() -> None:
    labels = np.repeat(np.arange(8), 12)
    protocol = protocol_of(ProtocolRule(size=2, splits=5, subjects=4, pairs=20), labels, [str(i) for i in range(8)])
    assert {fold.enrolled for fold in protocol} == {4}
    assert {(len(fold.pairs), fold.impostors) for fold in protocol} == {(40, 20)}
    assert len({tuple(np.unique(fold.subjects)) for fold in protocol}) > 1


def test_row_numbers_are_those_of_the_view() -> None:
    spec = ViewSpec("digits", split="test", classes=(9, 7), protocol=ProtocolRule(splits=1))
    data = open_view(spec, None)
    protocol = data.protocol()
    assert protocol is not None
    labels = data.batch(torch.from_numpy(protocol[0].rows))["labels"].numpy()
    subjects = protocol[0].subjects[protocol[0].owners]
    assert (np.array([9, 7])[labels] == subjects).all()
    assert open_view(ViewSpec("digits"), None).protocol() is None


def test_no_classes_of_lists(root: Path) -> None:
    with pytest.raises(PlanError) as problem:
        view_protocol(ViewSpec("templates", tuple(ARGS.items()), "test", classes=(0, 1)), root)
    assert problem.value.diagnostics[0].code == "KD0728"
