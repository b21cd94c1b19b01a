"""A joined, pruned and split phase trains exactly as the same step written with hooks."""

from __future__ import annotations

import copy
import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdplan.graph.build import Builder
from kdplan.graph.freeze import split
from kdplan.graph.joined import JoinedPhase
from kdplan.graph.prune import prune
from tests.graph.networks import CASES, batch, hooked_step


def joined(student: nn.Module, teacher: nn.Module, tap: str, size: int, count: int) -> JoinedPhase:
    b = Builder()
    x = b.input("inputs", torch.zeros(count, 3, size, size))
    y = b.input("labels", torch.zeros(count, dtype=torch.long))
    b.network("big", teacher)
    b.network("small", student)
    logits = b.apply("small", (x,), "logits")
    terms = [
        b.call(F.cross_entropy, logits, y),
        b.call(F.mse_loss, b.apply("small", (x,), tap), b.apply("big", (x,), tap)),
        b.call(F.mse_loss, logits, b.apply("big", (x,), "logits")),
    ]
    total = b.call(operator.add, b.call(operator.add, terms[0], terms[1]), terms[2])
    return b.finish({"loss": total})


def _same(what: str, a: torch.Tensor, b: torch.Tensor, exact: bool) -> None:
    if exact:
        assert torch.equal(a, b), f"{what} differs by {float((a - b).abs().max())}"
    else:
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_two_steps_are_equal(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    mine, teacher = case.make().train(), case.make().eval()
    theirs = copy.deepcopy(mine)
    phase = joined(mine, teacher, case.tap, case.size, 2)  # traced with another batch size than it runs with
    gm = prune(phase.graph_module).graph_module
    trainable = {n for n, _ in gm.named_parameters() if n.startswith("nets.small.")}
    run = split(gm, trainable)
    assert run.frozen is not None and run.cacheable
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (mine, theirs)]
    for step in range(2):
        x, y = batch(case.size, seed=step)
        torch.manual_seed(step)
        a = run(inputs=x, labels=y)["loss"]
        torch.manual_seed(step)
        b = hooked_step(theirs, teacher, case, x, y)
        _same("loss", a, b, exact=not case.clone)
        for loss, optimizer in zip((a, b), optimizers, strict=True):
            optimizer.zero_grad()
            torch.autograd.backward(loss)
        for (n, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), n
            if p.grad is not None and q.grad is not None:
                _same(n, p.grad, q.grad, exact=not case.clone)
        for optimizer in optimizers:
            optimizer.step()
        for (n, u), v in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            _same(f"{n} after step {step}", u, v, exact=not case.clone)


@pytest.mark.parametrize("name", ["cifar_resnet8", "mobilenet_v3_small", "timm_efficientnet_b0"])
def test_student_cut_at_the_tap_matches_hooks(name: str) -> None:
    """With the loss at the tap only, both tails go, and gradients and statistics up to the tap stay the same."""
    case = CASES[name]
    torch.manual_seed(0)
    mine, teacher = case.make().train(), case.make().eval()
    theirs = copy.deepcopy(mine)
    b = Builder()
    x = b.input("inputs", torch.zeros(2, 3, case.size, case.size))
    for n, net in (("big", teacher), ("small", mine)):
        b.network(n, net)
    phase = b.finish({"loss": b.call(F.mse_loss, b.apply("small", (x,), case.tap), b.apply("big", (x,), case.tap))})
    found = prune(phase.graph_module)
    assert found.removed > 0 and all(p.startswith("nets.small.") for p in found.buffers)
    images, _ = batch(case.size)
    torch.manual_seed(1)
    found.graph_module(inputs=images)["loss"].backward()
    caught: list[torch.Tensor] = []
    for net in (theirs, teacher):
        handle = net.get_submodule(case.tap).register_forward_hook(lambda m, i, o: caught.append(o))
        torch.manual_seed(1)
        with torch.set_grad_enabled(net is theirs):
            net(images)
        handle.remove()
    torch.autograd.backward(F.mse_loss(caught[0], caught[1]))
    for (n, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), n
        assert p.grad is None or torch.equal(p.grad, q.grad), n  # type: ignore[arg-type]
    skipped = tuple(p.removeprefix("nets.small.") for p in found.buffers)
    for (n, u), v in zip(mine.named_buffers(), theirs.buffers(), strict=True):
        if not n.startswith(skipped):
            assert torch.equal(u, v), n
