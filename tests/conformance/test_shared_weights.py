"""Weights that go by two names, complex weights, and networks that draw in eval mode: averages, resets, measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdplan.cli import main
from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from kdplan.graph.inspect import fresh
from tests.conformance.user_files import write

Capture = pytest.CaptureFixture[str]
NETS = """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.dec, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.dec.weight = self.emb.weight

    def forward(self, x):
        return self.head(self.dec(self.emb(x.flatten(1)).relu()).relu())


class Cplx(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.head = nn.Parameter(torch.randn(1, 8, 5, dtype=torch.cfloat)), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(torch.fft.irfft2(torch.fft.rfft2(x) * self.w, s=(8, 8)).flatten(1))


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        import random
        return self.head(x.flatten(1)) + torch.rand(len(x), 10) + random.random()
"""
HEAD = """use "mine.py" as my
data digits = digits { limit = 200 }
recipe quick { optimizer = sgd(lr = 0.1)  steps = 3  batch = 16 }
student n = my.NET()
"""


def run(folder: Path, net: str, rest: str, command: str = "run") -> int:
    folder.mkdir(exist_ok=True)
    write(folder, NETS, HEAD.replace("NET", net) + rest)
    arguments = [command, str(folder / "plan.kd")]
    return main([*arguments, "--store", str(folder / "store")] if command == "run" else arguments)


def weights(folder: Path, phase: str, file: str) -> dict[str, Tensor]:
    """A weights file of a phase."""
    stored = [p.parent for p in (folder / "store" / "phases").glob("*/phase.json")]
    return load_file(next(f for f in stored if json.loads((f / "phase.json").read_text())["name"] == phase) / file)


@pytest.mark.parametrize("net", ["Tied", "Cplx"])
def test_an_ema_copy_is_averaged_once_a_step(net: str, tmp_path: Path) -> None:
    """Also where a tensor has two names, or is complex."""
    rest = "network slow = ema(n, decay = 0.9)\nrecipe once = quick { steps = 1 }\nphase p of n on digits with once {\n"
    rest += "  loss = cross_entropy(n.logits, labels) + mse(n.logits, slow.logits)\n}\n"
    assert run(tmp_path, net, rest) == 0
    plan = compile_source(Source("plan.kd", (tmp_path / "plan.kd").read_text()), tmp_path).plan
    start = fresh(plan.networks["n"]).state_dict()
    live, copied = (weights(tmp_path, "p", f"weights-{n}-last.safetensors") for n in (0, 1))
    for name, value in copied.items():
        assert torch.allclose(value, 0.9 * start[name] + 0.1 * live[name], atol=1e-6), name
        assert not torch.equal(live[name], start[name])


def test_a_reset_part_is_drawn_under_all_of_its_names(tmp_path: Path) -> None:
    rest = "phase p of n on digits with quick { loss = cross_entropy(n.logits, labels) }\n"
    rest += "student b = n@p { reset = [emb] }\nexport e = b\n"
    assert run(tmp_path, "Tied", rest) == 0
    assert main(["export", str(tmp_path / "plan.kd"), "e", "-o", str(tmp_path / "e"), "--store",
                 str(tmp_path / "store")]) == 0  # fmt: skip
    trained = weights(tmp_path, "p", "weights-0-last.safetensors")
    exported = load_file(tmp_path / "e" / "model.safetensors")
    names = [n for n in ("emb.weight", "dec.weight") if n in exported]
    assert names and not any(torch.equal(exported[n], trained[n if n in trained else "dec.weight"]) for n in names)
    assert torch.equal(exported["head.weight"], trained["head.weight"])


def test_branches_of_tied_weights_are_refused(tmp_path: Path, capsys: Capture) -> None:
    rest = "branches one of my.Tied() from dec on digits with quick {\n  count = 2  gate = mean\n"
    rest += "  loss = sum(cross_entropy(b.logits, labels) for b in branch)\n}\n"
    assert run(tmp_path, "Tied", rest, "check") == 2
    assert "KD0516" in (said := "".join(capsys.readouterr())) and "are one tensor" in said


def test_measures_of_a_network_that_draws_are_the_same_numbers_again(tmp_path: Path) -> None:
    rest = "phase p of n on digits with quick { loss = cross_entropy(n.logits, labels) }\n"
    rest += "measure m of n@p on digits.test { cross_entropy }\n"
    found = []
    for name in ("one", "two"):
        torch.rand(3 if name == "one" else 5)  # what ran before is no part of a measure
        assert run(tmp_path / name, "Noisy", rest) == 0
        (file,) = (tmp_path / name / "store" / "measures").iterdir()
        found.append(file.read_bytes())
    assert found[0] == found[1]


def test_perturbed_and_averaged_complex_weights(tmp_path: Path) -> None:
    rest = "phase p of n on digits with quick { loss = cross_entropy(n.logits, labels) }\n"
    rest += "student far = perturbed(n@p, distance = 0.5)\nstudent half = average(n@p, n@init)\n"
    rest += "".join(f"export e_{k} = {k}\n" for k in ("far", "half"))
    assert run(tmp_path, "Cplx", rest) == 0
    trained, found = weights(tmp_path, "p", "weights-0-last.safetensors"), {}
    for kind in ("far", "half"):
        arguments = ["export", str(tmp_path / "plan.kd"), f"e_{kind}", "-o", str(tmp_path / kind)]
        assert main([*arguments, "--store", str(tmp_path / "store")]) == 0
        found[kind] = load_file(tmp_path / kind / "model.safetensors")
    squares = sum(float((found["far"][n] - w).abs().square().sum()) for n, w in trained.items())
    assert squares**0.5 == pytest.approx(0.5, rel=1e-3)
    assert not torch.equal(found["half"]["w"], trained["w"])


def test_a_decay_above_one_is_refused(tmp_path: Path, capsys: Capture) -> None:
    rest = (
        "network slow = ema(n, decay = 1.5)\nphase p of n on digits with quick { loss = mse(n.logits, slow.logits) }\n"
    )
    assert run(tmp_path, "Tied", rest, "check") == 2
    assert "KD0243" in "".join(capsys.readouterr())
