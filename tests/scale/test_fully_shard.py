"""`run --fully-shard`: pieces give the weights of one process up to rounding, and checkpoints that any run reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdplan.cli import main
from kdplan.compile import compile_source
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.runtime.ranks import Ranks
from tests.scale.test_fast_ranks import CLOSE, FIRST, HEAD, KD, MORE
from tests.scale.test_shards_ranks import CODE
from tests.scale.together import Session, farthest, run

ODD = """
class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
        self.two.weight = self.one.weight  # tied
        self.scale = nn.Parameter(torch.tensor(1.5))  # of one number
        self.shift = nn.Parameter(torch.zeros(3, 64))  # read by no module
        self.out = nn.Linear(64, 10, bias=False)
    def forward(self, x):
        x = self.two(self.one(x.flatten(1)).tanh()).tanh() + self.shift.sum(0)
        x = self.out(self.one(x).tanh()) * self.scale
        return x + nn.functional.linear(x, self.out.weight[:, :10])
class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(64, 10).t())
    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.weight)
"""


def of(net: str, extra: str = "", head: str = HEAD) -> str:
    loss = "cross_entropy(big.logits, labels)"
    text = f"student big = my.{net}()\nphase train of big on digits with quick {{ loss = {loss} }}"
    return head.replace("EXTRA", extra) + text


RPROP = HEAD.replace("sgd(lr = 0.05, momentum = 0.9)", "rprop()")
COPY = """student small = digits_net(width = 3)
teacher slow = ema(small, decay = 0.9) { mode = train }
phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + kl(small.logits, slow.logits)
}
"""
PLANS = {
    "kd": (HEAD + KD).replace("EXTRA", "shards = 4  keep_epochs = [1]"),
    "odd": of("Odd", "on_nan = skip").replace("clip = 1", "clip = 0.5"),
    "turned": of("Turned"),
}
APART = {
    "`rprop`": of("Plain", head=RPROP),
    "`slow`": (HEAD + COPY).replace("EXTRA", "shards = 4"),
    "`channels_last`": of("Plain", "channels_last = true"),
    "`compile`": of("Plain", "compile = true"),
}
OFTEN = ("--fully-shard", "--checkpoint-seconds", "0.01")
SMALL = {"KDPLAN_PARTS_ABOVE": "0"}
RUNS = {
    "kd on 1": run("kd", 1, "kd-1"),
    "kd on 2": run("kd", 2, "kd-2", "--fully-shard"),
    "odd on 1": run("odd", 1, "odd-1"),
    "odd on 2": run("odd", 2, "odd-2", "--fully-shard"),
    "stopped": run("kd", 2, "stopped", *OFTEN, stop=FIRST),
    "in parts": run("kd", 3, "parts", *OFTEN, stop=FIRST, environment=SMALL),
    "turned": run("turned", 2, "turned", "--fully-shard"),
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    files = {f"{name}.kd": text for name, text in PLANS.items()}
    return Session(tmp_path_factory.mktemp("pieces"), {"net.py": CODE + MORE + ODD, **files}, RUNS, timeout=600)


@pytest.mark.parametrize("name", ["kd", "odd"])
def test_pieces_agree_with_one_process(session: Session, name: str) -> None:
    assert session.codes[f"{name} on 2"] == [0, 0], session.said(f"{name} on 2")
    assert farthest(session.folder / f"{name}-1", session.folder / f"{name}-2") < CLOSE


@pytest.mark.parametrize(("name", "store", "ranks"), [("stopped", "stopped", 2), ("in parts", "parts", 3)])
def test_one_process_resumes_what_is_in_pieces(
    session: Session, name: str, store: str, ranks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert session.codes[name] == [75] * ranks, session.said(name)
    again = session.folder / f"{store}-again"
    shutil.copytree(session.folder / store, again)
    assert main(["run", str(session.folder / "kd.kd"), "--store", str(again)]) == 0
    said = capsys.readouterr()
    assert "resumes at step" in said.err + said.out
    assert f"sums over {ranks} processes (--fully-shard) then and in a fixed order now" in said.err + said.out
    assert farthest(session.folder / "kd-1", again) < CLOSE


def test_each_process_writes_its_parts_of_a_large_checkpoint(session: Session) -> None:
    checkpoints = sorted(session.folder.glob("parts/work/*/checkpoints/step-*"))
    assert checkpoints
    for checkpoint in checkpoints:
        assert len([*checkpoint.glob("shard-*.safetensors")]) == 3
        whole = load_file(checkpoint / "state.safetensors")
        assert whole and not [n for n in whole if n.startswith(("model/0", "optim"))]
    assert not [*session.folder.glob("parts/work/*/checkpoints/.*parts*")]


@pytest.mark.parametrize("what", APART)
def test_what_cannot_be_divided_is_named(what: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE + MORE)
    compiled = compile_source(Source("a.kd", APART[what]), tmp_path)
    (phase,) = compiled.plan.phases.values()
    with pytest.raises(PlanError) as problem:
        Ranks(0, 2, way="fully-shard").check(compiled.plan, phase)
    (known,) = problem.value.diagnostics
    assert known.code == "KD0986" and what in known.message
    Ranks(0, 2, way="fast").check(compiled.plan, phase)


def test_what_torch_refuses_is_named(session: Session) -> None:
    assert "KD0987" in session.said("turned") and "contiguous" in session.said("turned")
    assert session.codes["turned"] == [1, 1]
