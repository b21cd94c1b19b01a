"""The examples and the shipped plans: all check, and the quick ones run as their READMEs say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from kdplan.cli import main
from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from tests.conftest import root_for

ROOT = Path(__file__).parent.parent
PLANS = sorted(str(p.relative_to(ROOT)) for part in ("plans", "examples") for p in (ROOT / part).rglob("*.kd"))
OF_FACES = "plans/stage_by_stage/table7.kd"


OF_DIGITS = [p for p in PLANS if p.startswith("examples") or p in ("plans/quickstart.kd", "plans/common/digits.kd")]


ONE_PAIR = ["--set", 'teacher=["resnet101"]', "--set", 'student=["resnet18"]']
FEW = ["--set", "keep=3"]
CONCENTRATION = [p for p in PLANS if p.startswith("plans/concentration/") and "cifar" not in p]
PARTS = {
    "plans/stage_by_stage/table8.kd": ONE_PAIR,
    "plans/stage_by_stage/table9.kd": ONE_PAIR,
    **dict.fromkeys(CONCENTRATION, FEW),  # of eleven classes
}
"""Of these, graphs of a part are built: others differ in the networks' depths only, and take minutes."""

SMALL = "KD0371"
"""A batch is larger than the data: true of the stand-ins, which have a few samples."""


@pytest.mark.parametrize("plan", [p if p in OF_DIGITS else pytest.param(p, marks=pytest.mark.slow) for p in PLANS])
def test_plan_checks(plan: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    """With graphs and costs. Plans whose data are not to be had see folders of the right layout."""
    root = root_for(ROOT / plan, request)
    assert main(["check", str(ROOT / plan), *PARTS.get(plan, []), *(["--data", str(root)] if root else [])]) == 0
    said = re.findall(r"^\w+\[(KD\d+)\]: (.*)", capsys.readouterr().err, flags=re.M)
    of_stand_ins = [m for code, m in said if code == SMALL and root and re.search(r"has \d{1,3} samples?\b", m)]
    assert len(of_stand_ins) == len(said), "not even a warning"


@pytest.mark.parametrize("plan", [p for p in PLANS if p not in OF_DIGITS])
def test_plan_compiles(plan: str, request: pytest.FixtureRequest) -> None:
    path = ROOT / plan
    compiled = compile_source(Source(plan, path.read_text(encoding="utf-8")), path.parent, root_for(path, request))
    assert compiled.warnings == []


def test_faces_are_learned_without_labels(any_data: Path) -> None:
    plan = ROOT / OF_FACES
    compiled = compile_source(Source(str(plan), plan.read_text()), plan.parent, any_data)
    assert len(compiled.plan.phases) == 7
    assert all(stream.unlabelled for n, p in compiled.plan.phases.items() if "mimic" in n for stream in p.streams)


def test_shorter_runs_keep_the_shape_of_the_schedule(kdplan_data: Path) -> None:
    path = ROOT / "plans" / "cifar100" / "kd.kd"
    source = Source(str(path), path.read_text())
    full = compile_source(source, path.parent, kdplan_data).plan
    short = compile_source(source, path.parent, kdplan_data, params={"epochs": "8"}).plan
    recipes = [plan.phases["distil[seed=0]"].recipes[0] for plan in (full, short)]
    assert [r.epochs for r in recipes] == [240, 8]
    assert [r.schedule.arguments["at"] for r in recipes if r.schedule] == [[150, 180, 210], [5, 6, 7]]


def test_plans_are_laid_out() -> None:
    assert main(["fmt", "--check", str(ROOT / "plans"), str(ROOT / "examples")]) == 0


def test_commands_of_the_readmes_name_files_that_exist() -> None:
    for page in ROOT.glob("examples/*/README.md"):
        for file in re.findall(r"(?:kdplan \w+|python) (\S+\.(?:kd|py))", page.read_text()):
            assert (ROOT / file).is_file(), f"{page}: {file}"


def python(*arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_first_plan_and_its_artifacts(tmp_path: Path) -> None:
    """Examples 01 and 04: trains, exports, and reads what is there."""
    plan, store, out = str(ROOT / "examples/01_first_plan/plan.kd"), str(tmp_path / "store"), str(tmp_path / "tiny")
    assert main(["run", plan, "--set", "epochs=1", "--store", store]) == 0
    assert main(["export", plan, "tiny", "--set", "epochs=1", "--store", store, "-o", out]) == 0
    output = python("examples/04_reading_artifacts/read.py", plan, "--store", store, "--export", out)
    assert "imitate" in output and "1,009 parameters" in output and "a blank image" in output


def test_own_network_and_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = str(ROOT / "examples/02_own_network_and_loss/plan.kd")
    assert main(["run", plan, "--set", "epochs=1", "--store", str(tmp_path)]) == 0
    assert "own@imitate" in capsys.readouterr().out
    # the named term is in the metrics
    assert any("places" in f.read_text() for f in tmp_path.glob("phases/*/metrics.jsonl"))


@pytest.mark.slow
def test_stage_by_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every method trains, and a ladder is a phase a stage; what the sweep shares with the plan is trained once."""
    plan, sweep = (str(ROOT / f"examples/05_stage_by_stage/{name}.kd") for name in ("plan", "sweep"))
    short = ["--set", "epochs=1", "--set", "seed=[0]", "--store", str(tmp_path / "store")]
    assert main(["run", plan, *short, "--set", "teaching=1"]) == 0
    output = capsys.readouterr().out
    for version in ("alone", "longer", "kd", "at", "nst", "fsp", "fitnet", "multi_head", "mimic"):
        assert f"small@{version} " in output
    assert main(["status", plan, *short, "--set", "teaching=1"]) == 0
    output = capsys.readouterr().out
    assert all(f"mimic[seed=0]@{inner}" in output for inner in ("s1", "s2", "s3", "s4", "head"))
    assert main(["plan", sweep, *short, "--set", "teaching=1", "--no-cost", "--json"]) == 0
    actions = {p["name"]: p["action"] for p in json.loads(capsys.readouterr().out)["phases"]}
    cached = {"kd[weight=1, seed=0]", "at[weight=10, seed=0]", "nst[weight=1, seed=0]", "fsp[weight=10, seed=0]"}
    assert cached | {"big[seed=0]@train", "mimic[seed=0]@head"} <= {n for n, a in actions.items() if a == "cached"}
    assert actions["kd[weight=3, seed=0]"] == "run"


def test_open_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = str(ROOT / "examples/06_open_set/plan.kd")
    out = tmp_path / "tiny"
    short = ["--set", "epochs=1", "--store", str(tmp_path / "store")]
    assert main(["run", plan, *short]) == 0
    output = capsys.readouterr().out
    assert "tar(far = 0.01)" in output and "(10 splits, n = 3)" in output and "small@mimic.features" in output
    assert main(["export", plan, "tiny", *short, "-o", str(out)]) == 0
    weights = load_file(next(out.rglob("*.safetensors")))
    assert weights and not any("fc." in name for name in weights), "the head, which was never trained, is left out"


def test_generations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More generations are new phases and no others; another weight leaves the patriarchs alone."""
    plan, store, plots = str(ROOT / "examples/07_generations/plan.kd"), tmp_path / "store", tmp_path / "plots"
    short = ["--set", "epochs=1", "--set", "seed=[0]", "--store", str(store)]
    assert main(["run", plan, *short, "--set", "length=1", "--plots", str(plots)]) == 0
    output = capsys.readouterr().out
    assert (
        "ban_until error" in output
        and "tsd score(k = 3)" in output
        and "tsd, generation = 0, confusion(k = 2)" in output
    )
    assert {f.stem for f in plots.glob("*.png")} == {"growth", "growth-2", "together", "scores", "scores-2", "second"}

    def todo(*changed: str) -> set[str]:
        assert main(["plan", plan, *short, *changed, "--no-cost", "--json"]) == 0
        return {p["name"] for p in json.loads(capsys.readouterr().out)["phases"] if p["action"] != "cached"}

    assert todo("--set", "length=1") == set()
    assert todo("--set", "length=2") == {f"{line}[generation=2, seed=0]@train" for line in ("ban", "tsd")}
    weight = todo("--set", "length=1", "--set", "hard=0.5")
    assert weight == {f"{line}[generation=1, seed=0]@train" for line in ("ban", "tsd")}


def test_verticals(kdplan_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each vertical, specialists in one column, and a student that is exported."""
    plan, store = str(ROOT / "examples/09_verticals/plan.kd"), str(tmp_path / "store")
    short = ["--set", "epochs=1", "--set", "images=300", "--set", "seed=[0]", "--store", store]
    assert main(["run", plan, *short]) == 0
    output = capsys.readouterr().out
    assert (
        "each on fashion.test" in output
        and "specialist pvap" in output
        and "table on fashion.test, mean over V" in output
    )
    assert all(f"│ {line} " in output for line in ("tops", "shoes", "other", "all", "specialist"))
    assert main(["export", plan, "one", *short, "-o", str(tmp_path / "one")]) == 0


def test_amalgamation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Students of two and of four teachers, in whole and by part; the one that is handed out is the plain network."""
    plan, store = str(ROOT / "examples/10_amalgamation/plan.kd"), str(tmp_path / "store")
    short = ["--set", "epochs=1", "--set", "seed=[0]", "--store", store]
    assert main(["run", plan, *short]) == 0
    output = capsys.readouterr().out
    for text in ("two_teachers on", "four_teachers on", "both@ka@layerwise", "all@ifa", "all@nofam4", "voters4"):
        assert text in output
    assert all(f"│ {part} " in output for part in ("part0", "part3", "all"))
    assert main(["export", plan, "student", *short, "-o", str(tmp_path / "student")]) == 0
    about = json.loads((tmp_path / "student" / "model.json").read_text())
    assert about["architecture"]["factory"] == "digits_net"


@pytest.mark.slow
@pytest.mark.parametrize("only", [[], ["dense@alone"]], ids=["open_images", "eft"])
def test_concentration_takes_steps(only: list[str], any_data: Path, tmp_path: Path) -> None:
    """On a few small images in the layouts of the large sets: everything of Table 6, and one phase of Table 4."""
    plan = str(ROOT / "plans" / "concentration" / ("table4.kd" if only else "table6.kd"))
    short = [t for s in ("keep=2", "epochs=1", "batch=11", "workers=0") for t in ("--set", s)]
    chosen = ["--only", *only] if only else []
    assert main(["run", plan, *short, *chosen, "--data", str(any_data), "--store", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("phases/*/manifest.json"))) == (1 if only else 8)


def test_native_ensembles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything trains and is measured; a branch is handed out as the plain network, the whole with its gate."""
    plan, store, plots = str(ROOT / "examples/08_native_ensembles/plan.kd"), tmp_path / "store", tmp_path / "plots"
    short = ["--set", "epochs=1", "--set", "seed=[0]", "--store", str(store)]
    assert main(["run", plan, *short, "--plots", str(plots)]) == 0
    output = capsys.readouterr().out
    for text in ("a@dml", "one.branch", "no_sharing.gated", "as_coded.branch", "one.gate", "(n = 3)"):
        assert text in output
    assert {f.stem for f in plots.glob("*.png")} == {"by_number", "by_number_together"}
    for name, count in (("small", 6), ("whole", 20)):
        assert main(["export", plan, name, *short, "-o", str(tmp_path / name)]) == 0
        about = json.loads((tmp_path / name / "model.json").read_text())
        assert (about["architecture"]["factory"] == "digits_net") == (name == "small")
        assert len(load_file(tmp_path / name / "model.safetensors")) >= count


def test_plan_api(tmp_path: Path) -> None:
    output = python("examples/03_plan_api/plan.py")
    (tmp_path / "said.kd").write_text(output)
    assert main(["check", str(tmp_path / "said.kd")]) == 0
    run = ["examples/03_plan_api/plan.py", "--run", "--epochs", "1", "--store", str(tmp_path / "store")]
    assert "small4@imitate4" in python(*run)
    assert "trained nothing" in python(*run)
