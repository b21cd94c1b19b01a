"""`run --fully-shard`: pieces give the weights of one process up to rounding, and checkpoints that any run reads."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

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
    "rprop": of("Plain", head=RPROP),
    "copy": (HEAD + COPY).replace("EXTRA", "shards = 4"),
    "layout": of("Plain", "channels_last = true"),
    "compile": of("Plain", "compile = true"),
}
OFTEN = ("--fully-shard", "--checkpoint-seconds", "0.01")
SMALL = {"KDPLAN_PARTS_ABOVE": "0"}
RUNS = {
    "kd on 1": run("kd", 1, "kd-1"),
    "kd on 2": run("kd", 2, "kd-2", "--fully-shard"),
    "odd on 1": run("odd", 1, "odd-1"),
    "odd on 2": run("odd", 2, "odd-2", "--fully-shard"),
    "stopped": run("kd", 2, "resumed", *OFTEN, stop=FIRST),
    "resumed": run("kd", 1, "resumed"),
    "in parts": run("kd", 3, "parts", *OFTEN, stop=FIRST, environment=SMALL),
    "kept": run("kd", 3, "kept", *OFTEN, stop=FIRST, environment=SMALL),
    "from parts": run("kd", 1, "parts"),
    "turned": run("turned", 2, "turned", "--fully-shard"),
    **{name: run(name, 2, name, "--fully-shard") for name in ("rprop", "copy", "layout", "compile")},
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    files = {f"{name}.kd": text for name, text in PLANS.items()}
    return Session(tmp_path_factory.mktemp("pieces"), {"net.py": CODE + MORE + ODD, **files}, RUNS)


@pytest.mark.parametrize("name", ["kd", "odd"])
def test_pieces_agree_with_one_process(session: Session, name: str) -> None:
    assert session.codes[f"{name} on 2"] == [0, 0], session.said(f"{name} on 2")
    assert farthest(session.folder / f"{name}-1", session.folder / f"{name}-2") < CLOSE


def test_a_checkpoint_of_pieces_is_resumed_by_one_process(session: Session) -> None:
    assert session.codes["stopped"] == [75, 75], session.said("stopped")
    assert session.codes["resumed"] == [0] and "resumes at step" in session.said("resumed")
    assert "sums over 2 processes (--fully-shard) then and in a fixed order now" in session.said("resumed")
    assert farthest(session.folder / "kd-1", session.folder / "resumed") < CLOSE


def test_each_process_writes_its_parts_of_a_large_checkpoint(session: Session) -> None:
    assert session.codes["kept"] == [75] * 3, session.said("kept")
    checkpoints = sorted(session.folder.glob("kept/work/*/checkpoints/step-*"))
    assert checkpoints
    for checkpoint in checkpoints:
        assert len([*checkpoint.glob("shard-*.safetensors")]) == 3
        whole = load_file(checkpoint / "state.safetensors")
        assert whole and not [n for n in whole if n.startswith(("model/0", "optim"))]
    assert not [*session.folder.glob("kept/work/*/checkpoints/.*parts*")]


def test_one_process_resumes_from_parts(session: Session) -> None:
    assert session.codes["in parts"] == [75] * 3 and session.codes["from parts"] == [0], session.said("from parts")
    assert "resumes at step" in session.said("from parts")
    assert farthest(session.folder / "kd-1", session.folder / "parts") < CLOSE


@pytest.mark.parametrize(
    ("name", "what"),
    [("rprop", "`rprop`"), ("copy", "`slow`"), ("layout", "`channels_last`"), ("compile", "`compile`")],
)
def test_what_cannot_be_divided_is_named(session: Session, name: str, what: str) -> None:
    assert "KD0986" in session.said(name) and what in session.said(name)
    assert session.codes[name] == [2, 2]


def test_what_torch_refuses_is_named(session: Session) -> None:
    assert "KD0987" in session.said("turned") and "contiguous" in session.said("turned")
    assert session.codes["turned"] == [1, 1]
