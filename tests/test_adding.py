"""Each row of the table "adding things" in `docs/architecture.md`, done: what is new is added and used by a plan.

Rows of dicts are added in this process, with their code in this file. What needs a change of the package is applied to
a copy of it (`tests/adding.py`), and the files that differ are those that the table names.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdplan.cli import main
from kdplan.compile import Compiled, check_text, compile_source
from kdplan.data.augment import Draws, Numbers, augment
from kdplan.data.transforms import TRANSFORMS, TransformSpec, steps, transform
from kdplan.diagnostics.span import Source
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.losses import signal
from kdplan.ir.optimizers import OPTIMIZERS, SCHEDULES, ScheduleSpec
from kdplan.ir.spec import REQUIRED, Param, Spec
from kdplan.nn.catalog import METRICS, MODELS, MetricSpec
from kdplan.nn.metric import Metric
from kdplan.nn.schedules import Schedule
from kdplan.passes.expand import expand
from tests.adding import ADDITIONS, PLAN, SCRIPT, apply, contents, copy_package, differing

HEAD = """
data digits = digits { limit = 96 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 2  batch = 32 }
student small = digits_net(width = 2)
"""
ALONE = "phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }\n"


def compiled(text: str) -> Compiled:
    return compile_source(Source("plan.kd", text), Path("."))


def trained(text: str, folder: Path) -> list[dict[str, Any]]:
    """Train the plan's only phase; its metrics, one record an epoch. The plan's text has the same key."""
    plan = compiled(text)
    again = compiled(expand(plan.plan))
    assert [k.key for k in again.keys.values()] == [k.key for k in plan.keys.values()]
    (folder / "plan.kd").write_text(text, encoding="utf-8")
    store = folder / "store"
    arguments = ["run", str(folder / "plan.kd"), "--store", str(store), "--csv", str(folder), "--device", "cpu"]
    assert main(arguments) == 0
    (file,) = store.glob("phases/*/metrics.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert all(math.isfinite(r["loss"]) for r in records)
    return records


# ---- rows of dicts


def huber(a: Tensor, b: Tensor, delta: float = 1.0) -> Tensor:
    return nn.functional.huber_loss(a, b, delta=delta)


def test_a_loss_is_a_function_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec(
        "huber",
        (signal("a"), signal("b"), Param("delta", "number", 1.0, above=0)),
        result="scalar",
        alike={"": "shape"},
        implementation=f"{__name__}:huber",
    )
    monkeypatch.setitem(FUNCTIONS, "huber", spec)
    big = "network big = digits_net(width = 3)\n"
    line = "phase kd of small on digits with quick {{ loss = huber(small.{0}, big@init.{0}{1}) }}\n"
    records = trained(HEAD + big + line.format("logits", ", delta = 0.5"), tmp_path)
    assert records[-1]["loss"] < records[0]["loss"]
    for tap, more, code in (("logits", ", delta = 0", "KD0243"), ("layer1", "", "KD0502")):
        assert [d.code for d in check_text(HEAD + big + line.format(tap, more))] == [code]


class Margin(Metric):
    """How far the highest score is above the second one."""

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        first, second = outputs.topk(2).values.unbind(1)
        return (first - second).sum()


def test_a_metric_is_a_class_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = MetricSpec("margin", (), needs="logits", unit="value", implementation=f"{__name__}:Margin")
    monkeypatch.setitem(METRICS, "margin", spec)
    trained(HEAD + ALONE + "measure table of small@alone on digits.test { margin, top1 }\n", tmp_path)
    (row,) = csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines())
    assert any(float(value) > 0 for name, value in row.items() if "margin" in name), row


def wide_net(width: int, classes: int = 10) -> nn.Module:
    layers = {"flat": nn.Flatten(), "hidden": nn.Linear(64, width), "relu": nn.ReLU(), "fc": nn.Linear(width, classes)}
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


def test_a_network_is_a_factory_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = (Param("width", "integer", REQUIRED), Param("classes", "classes", 10, low=1))
    monkeypatch.setitem(MODELS, "wide_net", Spec("wide_net", params, implementation=f"{__name__}:wide_net"))
    text = HEAD + "student wide = wide_net(width = 16)\n" + ALONE.replace("small", "wide")
    trained(text + "measure table of wide@alone.hidden on digits.test { mean }\n", tmp_path)
    assert [d.code for d in check_text(text.replace("width = 16", "widht = 16"))] == ["KD0230"]


def invert(x: Tensor, args: dict[str, Any], draws: Draws) -> Tensor:
    return 255 - x


def test_a_transform_is_a_function_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TransformSpec("invert", random=False, boxes=True, implementation=f"{__name__}:invert")
    monkeypatch.setitem(TRANSFORMS, "invert", spec)
    images = torch.tensor([[[[0, 200]]]], dtype=torch.uint8)
    inverted = augment(images, steps([transform("invert")], train=True), torch.tensor([0]), Numbers(0, 0))
    assert inverted.flatten().tolist() == [255, 55]
    plain, text = HEAD + ALONE, (HEAD + ALONE).replace("limit = 96", "limit = 96  augment = [invert()]")
    assert compiled(text).keys["alone"].key != compiled(plain).keys["alone"].key
    trained(text, tmp_path)


class SignDescent(torch.optim.Optimizer):
    """Steps of one length in the direction of the gradient's sign."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad.sign())


def test_an_optimizer_is_a_class_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = (Param("lr", "number", 0.01, low=0),)
    monkeypatch.setitem(OPTIMIZERS, "sign", Spec("sign", params, implementation=f"{__name__}:SignDescent"))
    records = trained((HEAD + ALONE).replace("sgd(lr = 0.1)", "sign(lr = 0.002)"), tmp_path)
    assert records[-1]["loss"] < records[0]["loss"]


class Halved(Schedule):
    """Half the rate after every epoch."""

    def factor(self, epoch: float) -> float:
        return 0.5 ** int(epoch)


def test_a_schedule_is_a_class_and_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "halved", ScheduleSpec("halved", implementation=f"{__name__}:Halved"))
    records = trained((HEAD + ALONE).replace("epochs = 2", "epochs = 2  schedule = halved"), tmp_path)
    assert {r["lr"] for r in records} == {0.1, 0.05}


# ---- changes of the package


class Extended:
    """A copy of the package with every addition, what each of them changed, and what the script in it answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "package"
        copy_package(package)
        self.changed: dict[str, set[str]] = {}
        before = contents(package)
        for name, addition in ADDITIONS.items():
            apply(addition, package)
            self.changed[name] = differing(before, before := contents(package))
        (folder / "plan.kd").write_text(PLAN, encoding="utf-8")
        (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
        env = {**os.environ, "PYTHONPATH": str(package), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"}
        ran = subprocess.run([sys.executable, "script.py"], cwd=folder, env=env, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        self.answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        self.written = differing(before, contents(package))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extended]:
    yield Extended(tmp_path_factory.mktemp("extended"))


def test_a_source_is_a_file_and_its_name_in_the_catalog(extended: Extended) -> None:
    assert extended.changed["source"] == {"kdplan/data/sources/stripes.py", "kdplan/data/catalog.py"}
    assert "data lines = stripes(count = 48)" in extended.answers["expanded"]
    assert extended.answers["examples"]["source stripes"] == []


def test_a_construct_is_a_file_and_its_name_in_the_table(extended: Extended) -> None:
    assert extended.changed["construct"] == {"kdplan/constructs/warmed.py", "kdplan/constructs/table.py"}
    assert extended.answers["phases"] == ["easy@last", "easy@whole"]
    assert "phase easy_whole of small@easy_last on lines" in extended.answers["expanded"]
    assert extended.answers["examples"]["kind warmed"] == []


def test_a_derived_network_is_a_file_a_row_and_a_rule(extended: Extended) -> None:
    files = {"kdplan/resolve/derive/scaled.py", "kdplan/ir/functions.py", "kdplan/resolve/plan_functions.py"}
    assert extended.changed["derived"] == files
    assert extended.changed["origin"] == {"kdplan/ir/origins.py", "kdplan/runtime/networks.py"}
    assert "network weak = scaled(small@easy_whole, factor = 0.5)" in extended.answers["expanded"]
    assert "easy@whole" in (extended.folder / "plan.mmd").read_text(encoding="utf-8")
    rows = list(csv.DictReader((extended.folder / "csv" / "table.csv").read_text(encoding="utf-8").splitlines()))
    entropies = [float(next(v for k, v in row.items() if "cross_entropy" in k)) for row in rows]
    assert len({*entropies}) == 3 and entropies[2] == pytest.approx(math.log(2), abs=1e-3), rows
    assert (extended.folder / "tiny" / "model.safetensors").is_file()
    assert extended.answers["examples"]["function scaled"] == []


def test_what_is_new_is_written_out_and_read_again(extended: Extended) -> None:
    assert extended.answers["keys_again"] == extended.answers["keys"]
    assert extended.answers["again"] == extended.answers["expanded"]


def test_a_check_is_a_row_and_a_report(extended: Extended) -> None:
    assert extended.changed["check"] == {"kdplan/diagnostics/errors/08_recipes.toml", "kdplan/passes/legal.py"}
    assert extended.answers["diagnostics"] == [["KD0899", "1"]] and extended.answers["silent"] == []
    assert "a batch of one sample" in extended.answers["explained"]


def test_a_view_is_a_file(extended: Extended) -> None:
    assert extended.changed["view"] == {"kdplan/view/outline.py"}
    assert extended.answers["outline"].splitlines()[0] == "easy@last: 1 epoch, sgd lr 0.1, batch 16"


def test_a_command_is_a_function_and_its_arguments(extended: Extended) -> None:
    assert extended.changed["command"] == {"kdplan/cli/commands.py", "kdplan/cli/parser.py"}
    assert "  small@easy@last" in extended.answers["outline"]


def test_the_reference_is_written_anew(extended: Extended) -> None:
    assert extended.written == {"grammar/README.md"}
    text = (extended.folder / "package" / "grammar" / "README.md").read_text(encoding="utf-8")
    assert all(f"`{word}" in text for word in ("stripes", "warmed", "scaled", "KD0899"))
