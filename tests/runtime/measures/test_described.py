"""Metrics that describe a network, in plans: k-th scores, confusion, distances of superclasses, transfer to an SVM."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdplan.cli import main
from kdplan.compile import check_text
from kdplan.data.dataset import Dataset, open_view
from kdplan.data.loader import Loader
from kdplan.data.select import balanced
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError
from kdplan.ir.expr import Version
from kdplan.ir.plan import ClassSet, Item, Measure, Network, Plan, Row, Target, View
from kdplan.nn.scores import chosen
from kdplan.nn.transfer import LinearSvm
from kdplan.runtime.measures.cells import Cell, cell_key
from kdplan.runtime.measures.results import Drawn, MeasureResult, pooled
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from kdplan.runtime.views import view_spec
from kdplan.view.plots import write_plots
from kdplan.view.tables import notes
from tests.passes.plans import BIG, CE, HEAD, compiled
from tests.runtime import small

GROUPS = [[0, 3, 5, 6, 8, 9], [1, 2, 4, 7]]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    plan = small.digits_plan()
    for seed in range(2):
        plan.networks[f"n{seed}"] = Network(f"n{seed}", Item("digits_net", {"width": 4}), seed=seed)
    plan.data["d"].superclasses = {"round": GROUPS[0], "straight": GROUPS[1]}
    return Sources(plan, Store(tmp_path / "store"), small.keys(plan))


def table(
    sources: Sources, *metrics: Item, path: str = "", views: list[View] | None = None, seeds: int = 1
) -> MeasureResult:
    rows = [Row("n", Target([Version(f"n{s}")], path), {"seed": s}) for s in range(seeds)]
    sources.plan.measures = {"t": Measure("t", rows, views or [View("d", "test")], list(metrics))}
    (result,) = run_measures(sources.plan, sources.keys, sources.store, RunOptions(device="cpu"))
    return result


def part(sources: Sources, split: str) -> Dataset:
    return open_view(view_spec(sources.plan, View("d", split)), None)


def outputs(sources: Sources, data: Dataset, path: str = "", net: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A network's outputs on all samples at once, or what goes into its last layer."""
    module = materialise(sources, Version(f"n{net}"))
    batch = data.batch(torch.arange(len(data)))
    caught: list[torch.Tensor] = []
    head = module.get_submodule("fc")
    head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        values = module(batch["inputs"])
    return caught[0] if path else values, batch["labels"]


def test_train_and_test_are_measured_without_augmentation(sources: Sources) -> None:
    sources.plan.data["d"].augment = [Item("pad_crop", {"size": 8, "pad": 3})]
    result = table(sources, Item("score", {"k": 2}), views=[View("d", "train"), View("d", "test")])
    for row, split in zip(result.rows, ("train", "test"), strict=True):
        scores, _ = outputs(sources, part(sources, split))
        wanted = 100 * scores.double().softmax(1).sort(descending=True).values[:, 1].mean().item()
        assert row.values["last"]["score(k = 2)"].mean == pytest.approx(wanted, rel=1e-6)


def test_confusion_has_a_matrix_of_all_runs(sources: Sources) -> None:
    result = table(sources, Item("confusion", {"k": 2}), seeds=2)
    (panel,) = result.panels
    wanted = np.zeros((10, 10), int)
    for net in range(2):
        scores, labels = outputs(sources, part(sources, "test"), net=net)
        np.add.at(wanted, (labels.numpy(), chosen(scores, 2).numpy()), 1)
    assert panel.data["matrix"] == wanted.tolist() and panel.title == "n"
    assert panel.data["classes"] == [str(i) for i in range(10)]
    assert panel.data["groups"] == {"round": GROUPS[0], "straight": GROUPS[1]}
    assert table(sources, Item("confusion", {"k": 2}), seeds=2) == result, "and the store keeps it"


def test_pairs_are_listed_and_drawn(sources: Sources, tmp_path: Path) -> None:
    result = table(sources, Item("confusion", {"k": 2}))
    (line,) = notes(result, most=3)
    assert line.startswith("n, confusion(k = 2): ") and line.count("→") == 3
    (file,) = write_plots(result, tmp_path)
    assert Image.open(file.with_suffix(".png")).size[0] > 600
    assert "2nd highest" in file.read_text() or file.stat().st_size > 10_000
    empty = Drawn(0.0, "matrix", {"matrix": [[3, 0], [0, 0]], "classes": ["a", "b"], "groups": {}, "k": 1})
    result.panels = [replace(result.panels[0], data=pooled([empty]).data)]  # type: ignore[union-attr]
    assert notes(result) == ["n, confusion(k = 2): no confusions"]


def test_superclasses_of_some_classes(sources: Sources) -> None:
    """Numbers of a view's classes are its own."""
    chosen_ids = [9, 1, 0, 4]
    some = View("d", "test", ClassSet("d", chosen_ids))
    result = table(sources, Item("class_distance"), Item("superclass_distance"), path="features", views=[some])
    given = [Item(name, {"groups": GROUPS}) for name in ("class_distance", "superclass_distance")]
    again = table(sources, *given, path="features", views=[some])
    x, y = outputs(sources, open_view(ViewSpec("digits", split="test", classes=(9, 1, 0, 4)), None), "features")
    v = {c: x[y == i].double().mean(0) for i, c in enumerate(chosen_ids)}
    s = [x[(y == 0) | (y == 2)].double().mean(0), x[(y == 1) | (y == 3)].double().mean(0)]
    cosine = torch.nn.functional.cosine_similarity
    pairs = [(v[9], s[0]), (v[0], s[0]), (v[1], s[1]), (v[4], s[1])]
    within = torch.stack([cosine(a, b, 0).arccos() for a, b in pairs]).mean().item()
    between = torch.stack([cosine(a, (s[0] + s[1]) / 2, 0).arccos() for a in s]).mean().item()
    values = [n.mean for n in result.rows[0].values["last"].values()]
    assert values == pytest.approx([within, between], rel=1e-5)
    assert [n.mean for n in again.rows[0].values["last"].values()] == pytest.approx(values)


def test_svm_on_features_of_the_train_part(sources: Sources) -> None:
    result = table(sources, Item("svm", {"per_class": 15, "seed": 2}), Item("svm"), path="features")
    train, test = (part(sources, s) for s in ("train", "test"))
    x, y = outputs(sources, train, "features")
    rows = torch.from_numpy(balanced(y.numpy(), train.classes, 15, 2))
    assert torch.bincount(y[rows]).tolist() == [15] * 10
    for name, at in (("svm(per_class = 15, seed = 2)", rows), ("svm", torch.arange(len(y)))):
        metric = LinearSvm(seed=2 if len(at) == 150 else 0)
        metric.fit(x[at], y[at])
        metric.update(*outputs(sources, test, "features"))
        assert result.rows[0].values["last"][name].mean == pytest.approx(metric.compute(), abs=0.3)


def test_features_of_the_training_set_are_taken_once(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    epoch = Loader.epoch
    monkeypatch.setattr(Loader, "epoch", lambda self, *a: seen.append(self._maker.size) or epoch(self, *a))
    metrics = [Item("svm", {"per_class": 5, "C": c}) for c in (0.1, 1.0, 10.0)]
    table(sources, *metrics, Item("svm", {"per_class": 5, "scale": "unit"}), path="features")
    assert seen == [50, 360]


def test_the_training_part_belongs_to_the_key(sources: Sources) -> None:
    cells = [Cell(Target([Version("n0")], "features"), View("d", "test"), Item(name)) for name in ("svm", "top1")]
    before = [cell_key(sources, c) for c in cells]
    sources.plan.data["d"].limit = 100
    after = [cell_key(sources, c) for c in cells]
    assert before[0] != after[0] and before[1] == after[1]


def test_too_few_images_are_reported_without_a_plan_text(sources: Sources) -> None:
    with pytest.raises(PlanError) as problem:
        table(sources, Item("svm", {"per_class": 500}), path="features")
    assert problem.value.diagnostics[0].code == "KD0845"


def test_features_that_are_not_finite(sources: Sources) -> None:
    sources.plan.data["d"].normalize = ([0.0], [1e-45])  # too small for a float: inputs are infinite
    with pytest.raises(PlanError, match=r"KD0840.*svm.*not finite"):
        table(sources, Item("svm"), path="features")


def test_transfer_to_folders_of_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network of ten digits, and images in folders of three other classes."""
    draw = np.random.default_rng(0)
    for c, name in enumerate(("dark", "grey", "light")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = draw.integers(80 * c, 80 * c + 90, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    plan = tmp_path / "plan.kd"
    plan.write_text(
        HEAD
        + BIG
        + 'data images = image_folder("images") { augment = [center_crop(8), grayscale()]'
        + " split = per_class(train = 8) normalize = [[0.5], [0.25]] }\n"
        + "measure transfer of big.features on images.test { svm(per_class = 6), svm(C = 0.1, scale = unit) }\n"
    )
    store = tmp_path / "store"
    assert main(["run", str(plan), "--store", str(store), "--data", str(tmp_path), "--csv", str(tmp_path)]) == 0
    cells = (tmp_path / "transfer.csv").read_text().splitlines()[1].split(",")
    assert float(cells[2]) > 90


AXIS = HEAD + BIG
AXIS += f"phase line[m in 0..2] of small on digits with quick {{ {CE}  seed = fold(0, m) }}\n"
AXIS += "verticals half of digits { round = [0, 3, 5, 6, 8, 9]  straight = [1, 2, 4, 7] }\n"
AXIS += "measure s of small@line[*] on digits.train { score, score(2), siblings(groups = half),"
AXIS += " plot(x = m, y = score(2)) }\n"
AXIS += "measure f of small@line[*].features on digits.test { class_distance(groups = half), svm(per_class = 5),"
AXIS += " plot(x = m, y = class_distance(groups = half)), plot(x = m, y = svm(per_class = 5)) }\n"


def test_all_of_them_along_an_axis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "line.kd"
    plan.write_text(AXIS)
    assert main(["run", str(plan), "--store", str(tmp_path / "store")]) == 0
    folder = tmp_path / "store" / "plots" / "line"
    assert sorted(p.name for p in folder.glob("*.svg")) == ["f-2.svg", "f.svg", "s.svg"]
    _, drawn = json.loads((folder / "s.json").read_text())
    assert [x for x, _ in drawn["lines"]["small@line"]] == [0, 1, 2] and drawn["y"] == "score(k = 2)"


def test_best_and_last_stand_side_by_side(tmp_path: Path) -> None:
    text = HEAD.replace("epochs = 1", "epochs = 3") + BIG
    text += f"phase alone of small on digits with quick {{ {CE}  measure on digits.test {{ error }} }}\n"
    both = compiled(text + "measure t of small@alone, small@alone[best] on digits.train { error }\n")
    plan = tmp_path / "plan.kd"
    plan.write_text(text + "measure t of small@alone, small@alone[best] on digits.train { error }\n")
    assert [r.target.versions[0].snapshot for r in both.plan.measures["t"].rows] == ["last", "best"]
    assert main(["run", str(plan), "--store", str(tmp_path / "s"), "--csv", str(tmp_path)]) == 0
    head, both, best = (line.split(",") for line in (tmp_path / "t.csv").read_text().splitlines())
    assert head[2] == "error_last" and head[5] == "error_best"
    assert both[5] == best[5] and best[2] == ""
    tested = text + "measure t of small@alone[best] on digits.test { error }\n"
    assert [d.code for d in check_text(tested)] == ["KD0361"]


def test_a_tap_that_is_no_feature(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\n\nclass Where(torch.nn.Module):\n    def forward(self, x):\n        return x.argmax(1)\n\n\n"
        "class Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = torch.nn.Linear(64, 10)\n        self.where = Where()\n\n"
        "    def forward(self, x):\n        y = self.fc(x.flatten(1))\n"
        "        return y + 0 * self.where(y)[:, None]\n\n\n"
        "def net():\n    return Net()\n"
    )
    text = 'use "net.py" as my\n' + HEAD + "student small = my.net()\n"
    text += f"phase alone of small on digits with quick {{ {CE} }}\n"
    fine = text + "measure t of small@alone.fc on digits.test { tsne, svm, score(10) }\n"
    assert check_text(fine, folder=tmp_path) == []
    (problem,) = check_text(fine.replace("alone.fc", "alone.where"), folder=tmp_path)
    assert problem.code == "KD0840" and "not a feature: int64" in problem.message


def test_superclasses_come_with_the_data(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        "import numpy as np\n\n\ndef four():\n"
        "    x, y = np.random.default_rng(0).random((40, 3, 4, 4)), np.arange(40) % 4\n"
        "    groups = {'pets': ['cat', 'dog'], 'cars': ['bus', 'van']}\n"
        "    names = ['cat', 'bus', 'dog', 'van']\n"
        "    return {'train': (x, y), 'test': (x, y), 'classes': names, 'superclasses': groups}\n"
    )
    file = tmp_path / "my.py"
    text = f'use "{file}" as my\ndata four = source("{file}:four")\n' + HEAD
    text += "student small = digits_net(width = 2, channels = 3, classes = four.classes)\n"
    text += f"phase alone of small on four with quick {{ {CE} }}\n"
    text += "measure t of small@alone on four.test { siblings, confusion(2) }\n"
    plan: Plan = compiled(text).plan
    assert plan.data["four"].superclasses == {"pets": [0, 2], "cars": [1, 3]}
    bad = text.replace("siblings,", "siblings(groups = four.superclasses), score(5),")
    assert [d.code for d in check_text(bad)] == ["KD0243"]
