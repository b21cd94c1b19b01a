"""A user's functions in a loss: their values are a plain PyTorch loop's, and what differs from itself is reported."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.cli import main as kdplan
from kdplan.compile import check_text, compile_source
from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.span import Source
from kdplan.graph.build import Builder
from kdplan.graph.compare import Verdict, compare_call
from kdplan.graph.inspect import fresh
from kdplan.graph.kept import Kept
from kdplan.ir.user_code import module_of_file
from tests.conformance.plain import batches, loop, same

HEAD = """
import random, time
import numpy as np
import torch
from torch import nn

n, center, kept = 0, torch.zeros(4), []
inner = nn.BatchNorm1d(4)
ticks = iter(range(10**9))

class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z * 1

    @staticmethod
    def backward(ctx, g):
        return 3 * g

def closed():
    calls = 0
    def inner(z):
        nonlocal calls
        calls += 1
        return z.mean() * calls
    return inner

g = closed()

def f(z):
"""
PLAIN = {
    "draws": "return z.mean() * random.random() * np.random.rand() * torch.rand(())",
    "drops": "return nn.functional.dropout(z, 0.5).pow(2).mean()",
    "in place": "z.div_(4).clamp_(min=0)\nreturn z.pow(2).mean()",
    "in place by index": "z[:, 0] = 0\nreturn z.pow(2).mean()",
    "own gradient": "return Tripled.apply(z).pow(2).mean()",
    "detached": "return (z - z.detach().mean(0)).pow(2).mean()",
    "control flow on shapes": "return z.mean() if z.shape[0] > 2 else z.sum()",
    "functorch": "return torch.func.grad(lambda v: v.pow(3).sum())(z).mean()",
    "no grad": "with torch.no_grad():\n    w = z.softmax(1)\nreturn (w * z).mean()",
}
CENTER = "global center\ncenter = 0.9 * center + z.detach().mean(0)\nreturn (z - center).pow(2).mean()"
STATEFUL = {
    "global number": ("n", "global n\nn += 1\nreturn z.mean() * n"),
    "global tensor": ("center", CENTER),
    "written tensor": ("center", "center.mul_(0.9).add_(z.detach().mean(0))\nreturn (z - center).pow(2).mean()"),
    "list": ("kept", "kept.append(z.detach())\nreturn (z - kept[0]).pow(2).mean()"),
    "closure": ("calls", "return g(z)"),
    "attribute": ("f.t", "f.t = getattr(f, 't', 0) + 1\nreturn z.mean() * f.t"),
    "module": ("inner", "return inner(z).pow(4).mean()"),
}  # fmt: skip
UNSTABLE = {
    "clock": "return z.mean() * (1e4 * time.perf_counter() % 1)",
    "iterator": "return z.mean() * next(ticks)",
    "own generator": "return z.mean() * next(ticks) * float(np.random.default_rng().random())",
}


def function(folder: Path, body: str) -> Callable[[Tensor], Tensor]:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (folder / "mine.py").write_text(HEAD + lines)
    f: Callable[[Tensor], Tensor] = module_of_file(folder / "mine.py").f
    return f


def both_loops(f: Callable[[Tensor], Tensor]) -> None:
    """Three steps with the loss `f(logits) + cross_entropy(logits) + f(logits)`, by a graph and by hand, are equal."""
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    plain, data = copy.deepcopy(net), batches(3)
    b = Builder()
    x, y = b.input("inputs_0", data[0][0]), b.input("labels_0", data[0][1])
    b.network("n", net)
    logits = b.apply("n", (x,))
    total = b.call(torch.add, b.call(f, logits), b.call(F.cross_entropy, logits, y))
    gm = b.finish({"loss": total}).graph_module
    kept = Kept(f)
    ours = loop(net, lambda x, y: gm(inputs_0=x, labels_0=y)["loss"], data)
    kept.restore()

    def by_hand(x: Tensor, y: Tensor) -> Tensor:
        z = plain(x)
        return f(z.clone()) + F.cross_entropy(z, y)

    same(ours, loop(plain, by_hand, data))


@pytest.mark.parametrize("case", PLAIN)
def test_values_and_gradients(case: str, tmp_path: Path) -> None:
    f = function(tmp_path, PLAIN[case])
    assert compare_call(f, (torch.randn(6, 4),), {}) == Verdict()
    both_loops(f)


@pytest.mark.parametrize("case", STATEFUL)
def test_state(case: str, tmp_path: Path) -> None:
    name, body = STATEFUL[case]
    f = function(tmp_path, body)
    verdict = compare_call(f, (torch.randn(6, 4),), {})
    assert not verdict.unstable and not verdict.differs
    assert all(kept.startswith(name) for kept in verdict.kept) and verdict.kept
    assert Kept(f).changed() == [] and compare_call(f, (torch.randn(6, 4),), {}).kept == verdict.kept
    both_loops(f)


@pytest.mark.parametrize("case", UNSTABLE)
def test_what_differs_from_itself(case: str, tmp_path: Path) -> None:
    assert "outputs" in compare_call(function(tmp_path, UNSTABLE[case]), (torch.randn(6, 4),), {}).unstable


def test_two_calls_with_state_are_two(tmp_path: Path) -> None:
    f = function(tmp_path, "global n\nn += 1\nreturn z.mean() * n")
    b = Builder()
    x = b.input("inputs_0", torch.zeros(6, 4))
    assert b.call(f, x) is not b.call(f, x)


# ---- whole plans

PLAN = """
use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64 }
student small = digits_net(width = 2)
phase alone of small on digits with quick { loss = LOSS }
"""


def text_of(folder: Path, body: str, loss: str = "my.f(small.logits) + cross_entropy(small.logits, labels)") -> str:
    function(folder, body)
    mine = folder / "mine.py"
    mine.write_text(mine.read_text().replace("torch.zeros(4)", "torch.zeros(10)"))
    return PLAN.replace("LOSS", loss)


def test_state_outside_of_networks_is_a_warning(tmp_path: Path) -> None:
    found = check_text(text_of(tmp_path, CENTER), folder=tmp_path)
    assert [(d.code, d.message) for d in found] == [
        ("KD0543", "`f` changes `center`; a resumed run starts with the first values again.")
    ]


def test_a_function_that_differs_from_itself_is_an_error(tmp_path: Path) -> None:
    found = check_text(text_of(tmp_path, UNSTABLE["clock"]), folder=tmp_path)
    assert [d.code for d in found] == ["KD0542"]
    assert found[0].message.startswith("Two runs of `f` from one state give other outputs")


def test_labels_are_labels(tmp_path: Path) -> None:
    body = "return nn.functional.cross_entropy(z, n) * (1e4 * time.perf_counter() % 1)"
    text = text_of(tmp_path, body, "my.f(small.logits, labels) + cross_entropy(small.logits, labels)")
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("def f(z)", "def f(z, n)"))
    assert [d.code for d in check_text(text, folder=tmp_path)] == ["KD0542"]


def test_a_phase_leaves_state_as_it_was(tmp_path: Path) -> None:
    """Two phases of one meaning have equal losses, in one process."""
    again = PLAN.splitlines()[-1].replace("alone", "again").replace("LOSS", "1 * my.f(small.logits)")
    text = text_of(tmp_path, CENTER, "my.f(small.logits)") + again
    (tmp_path / "plan.kd").write_text(text)
    assert kdplan(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store"), "--device", "cpu"]) == 0
    logs = [p / "metrics.jsonl" for p in (tmp_path / "store" / "phases").iterdir()]
    losses = [json.loads(log.read_text().splitlines()[-1])["loss"] for log in logs]
    assert len(losses) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("factor", ["next(ticks)", "(1 + next(ticks) % 2)"])
def test_a_run_reports_the_first_batch(factor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a function that is stable on drawn numbers and not on those of the phase, even if every other call agrees."""
    body = "try:\n    low = float(z.detach().abs().max()) < 2\nexcept Exception:\n    low = False\n"
    body += f"return z.mean() * ({factor} if low else 1)"
    assert check_text(text_of(tmp_path, body), folder=tmp_path) == []
    (tmp_path / "plan.kd").write_text(text_of(tmp_path, body))
    assert kdplan(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store"), "--device", "cpu"]) != 0
    caught = capsys.readouterr()
    assert "KD0542" in caught.out + caught.err


@pytest.mark.parametrize(
    "definition",
    [
        "class Gap(nn.Module):\n    def forward(self, z):\n        return z.pow(2).mean()\n\n\nf = Gap()",
        "class Gap:\n    def __call__(self, z):\n        return z.pow(2).mean()\n\n\nf = Gap()",
        "import functools\n\n\ndef power(z, n):\n    return z.pow(n).mean()\n\n\nf = functools.partial(power, n=2)",
        "f = lambda z: z.pow(2).mean()",
    ],
)
def test_what_can_be_called_is_a_loss(definition: str, tmp_path: Path) -> None:
    from kdplan.compile import check_text
    from tests.conformance.user_files import LOSS
    from tests.conformance.user_files import write as write_files

    write_files(tmp_path, definition + "\n", LOSS)
    assert check_text(LOSS, folder=tmp_path) == []


FROZEN = {
    "NumPy": "return torch.from_numpy(np.clip(z.numpy(), -1, 1) * 2)",
    "NumPy of a detached value": "return torch.from_numpy(z.detach().cpu().numpy().copy())",
    "numbers": "return torch.tensor(z.tolist())",
    "a number": "return z * float(z.abs().mean())",
    "in place": "z.clamp_(-1, 1)\nreturn z",
    "in place by index": "z[:, 0] = 0\nreturn z * 2",
    "a question about gradients": "assert not z.requires_grad\nreturn z * 1",
    "a flag": "return z.requires_grad_(False)",
}


@pytest.mark.parametrize("frozen", ["live", "stored"])
@pytest.mark.parametrize("kind", FROZEN)
def test_a_function_of_frozen_values_may_do_what_needs_no_gradient(kind: str, frozen: str, tmp_path: Path) -> None:
    """Its value is that of the same function of torch: the trained weights are equal to those of a plain loop."""
    body = "\n    ".join(FROZEN[kind].splitlines())
    (tmp_path / "my.py").write_text(f"import numpy as np\nimport torch\n\n\ndef f(z):\n    {body}\n")
    text = f"""
    use "my.py" as my
    data digits = digits {{ limit = 128 }}
    recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 2  batch = 64  frozen = {frozen} }}
    network big = digits_net(width = 4)
    network small = digits_net(width = 2) {{ seed = 1 }}
    phase kd of small on digits with quick {{ loss = mse(small.logits, my.f(big@init.logits)) }}
    """
    assert check_text(text, folder=tmp_path) == []
    plan = tmp_path / "plan.kd"
    plan.write_text(text)
    assert kdplan(["run", str(plan), "--store", str(tmp_path / "store")]) == 0
    compiled = compile_source(Source("plan.kd", text), tmp_path)
    small, big = (fresh(compiled.plan.networks[n]) for n in ("small", "big"))
    f = module_of_file(tmp_path / "my.py").f
    optimizer = torch.optim.SGD(small.train().parameters(), lr=0.1)
    data = open_view(ViewSpec("digits", limit=128), None)
    for epoch in range(2):
        for batch in Loader(data, 64, 0, train=True).epoch(epoch):
            optimizer.zero_grad()
            with torch.no_grad():
                wanted = f(big(batch["inputs"]))
            F.mse_loss(small(batch["inputs"]), wanted).backward()
            optimizer.step()
    (folder,) = (tmp_path / "store" / "phases").iterdir()
    trained = load_file(folder / "weights-0-last.safetensors")
    for name, value in small.state_dict().items():
        assert torch.allclose(trained[name], value, atol=1e-5), name


@pytest.mark.parametrize(
    "code",
    ["return torch.from_numpy(z.numpy() * 2)", "return z * float(z.mean())", "return z[z > 0]"],
)
def test_a_function_that_needs_a_gradient_may_not(code: str, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(f"import torch\n\n\ndef f(z):\n    {code}\n")
    text = """
    use "my.py" as my
    data digits = digits { limit = 128 }
    recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
    network small = digits_net(width = 2)
    phase alone of small on digits with quick { loss = mean(my.f(small.logits)) }
    """
    assert [d.code for d in check_text(text, folder=tmp_path)] == ["KD0506"]


def test_a_shape_that_depends_on_frozen_values_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("def f(z):\n    return z[z > 0].mean() + z[z > 0]\n")
    text = """
    use "my.py" as my
    data digits = digits { limit = 128 }
    recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
    network big = digits_net(width = 2)
    network small = digits_net(width = 2) { seed = 1 }
    phase kd of small on digits with quick { loss = mean(small.logits) * mean(my.f(big@init.logits)) }
    """
    (problem,) = check_text(text, folder=tmp_path)
    assert problem.code == "KD0506" and "the values of a tensor decide a shape" in problem.message


GAP = """
class Gap(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, z):
        return (z * self.scale).pow(2).mean()

gap, scale = Gap(), nn.Parameter(torch.ones(10))
unused = Gap()

def f(z):
"""


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("return gap(z)", "`gap.scale`"),
        ("return (z * scale).mean()", "`scale`"),
        ("return gap(z) + (z * scale).mean()", "`gap.scale` and `scale`"),
        ("return (z * scale.detach()).mean()", ""),
        ("with torch.no_grad():\n        target = gap(z)\n    return (z.mean() - target) ** 2", ""),
        ("return z.pow(2).mean()", ""),
    ],
)
def test_parameters_of_a_function_are_a_warning(body: str, names: str, tmp_path: Path) -> None:
    text = PLAN.replace("LOSS", "my.f(small.logits) + cross_entropy(small.logits, labels)")
    (tmp_path / "mine.py").write_text(f"import torch\nfrom torch import nn\n{GAP}    {body}\n")
    found = check_text(text, folder=tmp_path)
    assert [d.code for d in found] == (["KD0552"] if names else [])
    for d in found:
        listed = d.message.removeprefix("No phase trains ").removesuffix(", which `f` keeps.")
        assert set(listed.split(" and ")) == set(names.split(" and "))
