"""Code that would end the process when it is handed a traced value: the module around it stays whole, with its values.

Each network runs through `check` and `run` in a process of its own, and its graph is compared with the module itself.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from kdplan.graph.trace import trace
from tests.conformance.user_files import HEAD, NETWORK, in_child, network

SQUARE = """class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 3 * g * ctx.saved_tensors[0]  # not the derivative, so that a replaced backward shows


square = Square.apply


@torch.jit.script
def scripted(x):
    return x * 2


"""
CHECKPOINT = "from torch.utils.checkpoint import checkpoint\n"
CASES = {
    "function": "f = Square.apply(f)",
    "captured": "f = square(f)",
    "starred": "f = square(*[f])",
    "by name": "f = getattr(Square, 'apply')(f)",
    "mapped": "f = list(map(Square.apply, [f]))[0]",
    "in a thread": "from concurrent.futures import ThreadPoolExecutor\n"
    "f = list(ThreadPoolExecutor(1).map(Square.apply, [f]))[0]",
    "reduced": "import functools\nf = functools.partial(Square.apply, f)()",
    "by a key": "f = min([f], key=lambda z: float(square(z).sum()))",
    "checkpoint": CHECKPOINT + "f = checkpoint(lambda z: z.relu() * 2, f, use_reentrant=False)",
    "reentrant": CHECKPOINT + "f = checkpoint(lambda z: z.relu() * 2, f, use_reentrant=True)",
    "sequential": "from torch.utils.checkpoint import checkpoint_sequential\n"
    "f = checkpoint_sequential(nn.Sequential(nn.ReLU(), nn.Tanh()), 2, f, use_reentrant=False)",
    "scripted": "f = scripted(f)",
    "vmap": "f = torch.func.vmap(lambda v: v * 2)(f)",
    "grad": "f = f + torch.func.grad(lambda v: (v * v).sum())(f)",
}


def loaded(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("conformance", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", CASES)
def test_values(case: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + network(CASES[case], SQUARE))
    net = loaded(path).Net()
    plain = copy.deepcopy(net)
    traced = trace(net, torch.zeros(2, 1, 8, 8))
    assert tuple(traced.leaves) == ("",)
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    one, two = traced.graph_module(x), plain(x)
    assert torch.equal(one, two)
    one.sum().backward()
    two.sum().backward()
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None and torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("case", ["function", "checkpoint"])
def test_run(case: str, tmp_path: Path) -> None:
    outcome = in_child(tmp_path, network(CASES[case], SQUARE), NETWORK, "run")
    assert outcome.exit_code == 0, outcome.output


def test_what_is_not_recognised_is_tried_in_a_child(tmp_path: Path) -> None:
    dies = (
        "if type(f) not in (torch.Tensor, torch._subclasses.FakeTensor):\n    import os\n    os.kill(os.getpid(), 11)"
    )
    outcome = in_child(tmp_path, network(dies), NETWORK)
    assert outcome.exit_code == 0 and "tracing it ends the process" in outcome.output, outcome


def test_part_of_a_network(tmp_path: Path) -> None:
    """Only the module that calls the function is kept whole; its neighbours stay in the graph."""
    path = tmp_path / "mine.py"
    path.write_text(HEAD + network(CASES["function"], SQUARE))
    net = torch.nn.Sequential(torch.nn.Identity(), loaded(path).Net(), torch.nn.ReLU())
    traced = trace(net, torch.zeros(2, 1, 8, 8))
    assert tuple(traced.leaves) == ("1",) and {"0", "1", "2"} <= set(traced.taps)


@pytest.mark.parametrize("line", [
    "f = torch.from_dlpack(torch.utils.dlpack.to_dlpack(f))",
    "f = f * isinstance(f, torch.FloatTensor)",
    "f = torch.compile(lambda z: z * 2, backend='eager')(f)",
    "f = torch.autograd.grad(f.sum(), f)[0]",
    "f = torch.jit.trace(lambda z: z * 2, torch.zeros(2, 10))(f)",
    "import torchvision; f = f + torchvision.ops.roi_align(x, [f[:, :4]], 2).mean()",
    "import numpy; f = f + torch.from_numpy(numpy.asarray(f))",
    "import ctypes; ctypes.c_void_p(f.data_ptr())",
    "f = torch.futures.wait_all([torch.jit.fork(lambda z: z * 2, f)])[0]",
])  # fmt: skip
def test_process_lives(line: str, tmp_path: Path) -> None:
    outcome = in_child(tmp_path, network(line), NETWORK)
    assert outcome.exit_code in (0, 2) and "Traceback" not in outcome.output, outcome
