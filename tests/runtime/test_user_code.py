"""Keys cover what ran: the files of the user, what they import, and edits while a plan runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdplan.cli import main
from kdplan.runtime import export

NET = """
from torch import nn

import helper


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return helper.SCALE * self.fc(x.flatten(1))
"""
EDITS = """

def f(x):
    from pathlib import Path
    file = Path(__file__).parent / "edit.json"
    if file.exists():
        import json
        for name, text in json.loads(file.read_text()).items():
            Path(name).write_text(text)
        file.unlink()
    return 0 * x.sum()
"""
PLAN = """
use "net.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  steps = 3  batch = 32 }
student a = my.Net()
student b = my.Net()
phase one of a on digits with quick { loss = cross_entropy(a.logits, labels) }
phase two of b on digits with quick { loss = cross_entropy(b.logits, labels) + mse(a@one.logits, b.logits) }
export out = b@two
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "helper.py").write_text("SCALE = 2.0\n")
    (tmp_path / "plan.kd").write_text(PLAN)
    monkeypatch.setenv("KDPLAN_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["run", "plan.kd", *arguments]) == 0
    caught = capsys.readouterr()
    return caught.out + caught.err


def test_an_edit_of_a_module_beside_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "2 to run" in run(capsys)
    assert "2 cached" in run(capsys)
    (folder / "helper.py").write_text("SCALE = 3.0\n")
    assert "2 to rerun" in run(capsys)
    record = json.loads(next((folder / "store" / "phases").glob("*/environment.json")).read_text())
    assert {Path(name).name for name in record["code"]} == {"net.py", "helper.py"}


def weights(store: Path) -> dict[str, bytes]:
    return {p.name: (p / "weights-0-last.safetensors").read_bytes() for p in (store / "phases").iterdir()}


def with_an_edit(folder: Path, edits: dict[str, str]) -> None:
    """A loss that edits files when it is called for the first time: after they were read, before a phase trains."""
    (folder / "net.py").write_text(NET + EDITS)
    first = "cross_entropy(a.logits, labels)"
    (folder / "plan.kd").write_text(PLAN.replace(first, f"{first} + my.f(a.logits)"))
    (folder / "edit.json").write_text(json.dumps(edits))


def test_an_edit_during_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Phases after the edit still use the text that was read, whose key they have."""
    with_an_edit(folder, {"net.py": NET.replace("helper.SCALE *", "7 *"), "helper.py": "SCALE = 9.0\n"})
    assert run(capsys).count("KD0825") == 1
    assert (folder / "helper.py").read_text() == "SCALE = 9.0\n"
    (folder / "net.py").write_text(NET + EDITS)
    (folder / "helper.py").write_text("SCALE = 2.0\n")
    assert "2 cached" in run(capsys)
    run(capsys, "--store", str(folder / "again"))
    assert len(weights(folder / "again")) == 2 and weights(folder / "again") == weights(folder / "store")


def test_a_module_that_python_finds_and_that_changes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "src" / "outer_z").mkdir(parents=True)
    (folder / "src" / "outer_z" / "__init__.py").write_text("SCALE = 2.0\n")
    monkeypatch.syspath_prepend(folder / "src")
    (folder / "helper.py").write_text("from outer_z import SCALE\n")
    (folder / "net.py").write_text(NET + EDITS)
    (folder / "edit.json").write_text(json.dumps({"src/outer_z/__init__.py": "SCALE = 5.0\n"}))
    (folder / "plan.kd").write_text(
        PLAN.replace("cross_entropy(a.logits, labels)", "cross_entropy(a.logits, labels) + my.f(a.logits)")
    )
    assert main(["run", "plan.kd"]) == 1
    caught = capsys.readouterr()
    assert "KD0824" in caught.out + caught.err
    assert not list((folder / "store" / "phases").iterdir())


def test_an_export_holds_what_its_code_imports(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys)
    assert main(["export", "plan.kd", "out", "-o", "out"]) == 0
    assert main(["export", "plan.kd", "out", "-o", "out"]) == 0
    x = torch.rand(3, 1, 8, 8)
    expected = export.load(folder / "out")(x)
    (folder / "out").rename(folder / "moved")
    for name in ("net.py", "helper.py"):
        (folder / name).unlink()
    assert torch.equal(export.load(folder / "moved")(x), expected)


def test_a_buffer_that_shares_a_global_tensor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What code keeps outside of networks is put back after a phase, but not what its artifact holds."""
    net = NET.replace("import helper", "import torch\n\nC = torch.zeros(1)").replace("helper.SCALE * ", "")
    net = net.replace("self.fc =", 'self.register_buffer("seen", C)\n        self.fc =')
    (folder / "net.py").write_text(net.replace("return self", "self.seen.add_(1)\n        return self"))
    (folder / "plan.kd").write_text(
        PLAN.partition("student b")[0] + PLAN.partition("b = my.Net()\n")[2].splitlines()[0]
    )
    run(capsys)
    (weights,) = (folder / "store" / "phases").glob("*/weights-0-last.safetensors")
    assert load_file(weights)["seen"] == 3


def test_why_names_the_file_whose_code_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also that of a module which the file imports, and of a function of a loss; not one that nothing reads."""

    def why(phase: str) -> str:
        capsys.readouterr()
        assert main(["why", "plan.kd", phase]) == 0
        return " ".join(capsys.readouterr().out.split())

    (folder / "loss.py").write_text("import scale\n\ndef f(x):\n    return scale.BY * x.mean()\n")
    (folder / "scale.py").write_text("BY = 1.0\n")
    (folder / "other.py").write_text("x = 1\n")
    plan = PLAN.replace("data digits", 'use "loss.py" as l\ndata digits', 1)
    (folder / "plan.kd").write_text(plan.replace("mse(a@one", "l.f(b.logits) + mse(a@one"))
    assert main(["run", "plan.kd"]) == 0
    (folder / "other.py").write_text("x = 2\n")
    assert "its artifact is in the store" in why("one")
    (folder / "helper.py").write_text("SCALE = 3.0\n")
    assert "the network's code in helper.py changed" in why("one") and "plan.kd:6:13" in why("one")
    assert "net.py" not in why("one")
    (folder / "helper.py").write_text("SCALE = 2.0\n")
    (folder / "scale.py").write_text("BY = 2.0\n")
    assert "the code of f in scale.py changed" in why("two")
    assert "its artifact is in the store" in why("one")
    (folder / "more.py").write_text("z = 1\n")
    (folder / "net.py").write_text(NET.replace("import helper", "import helper, more"))
    assert "the network's code in more.py is new" in why("one") and "in net.py changed" in why("one")
