"""`norm = sync`: shards with the batch statistics of the whole batch, against one batch in float64; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdplan.compile import check_text, compile_source
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.shards import Shards
from kdplan.runtime.synced import SyncedShards
from tests.runtime.small import phase_graph, recipe, same, train

Batch = dict[str, Tensor]


def layers() -> nn.Sequential:
    """Norms on maps and on vectors, with and without weights, running statistics and momentum."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.BatchNorm2d(5, momentum=None),
        nn.Tanh(),
        nn.Flatten(),
        nn.BatchNorm1d(20, affine=False, eps=0.1),
        nn.Linear(20, 12),
        nn.BatchNorm1d(12, track_running_stats=False),
        nn.Linear(12, 10),
    ).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def batch_of(n: int) -> Batch:
    draws = torch.Generator().manual_seed(n)
    x = torch.randn(n, 1, 8, 8, generator=draws, dtype=torch.float64) * 2 + 1
    return {"inputs_0": x, "labels_0": torch.randint(10, (n,), generator=draws)}


def synced(net: nn.Module, count: int) -> tuple[SyncedShards, Callable[..., Batch]]:
    graph = phase_graph(net)
    graph.set_modes()
    shards = SyncedShards(graph, count, Ranks(), "p", None)

    def step(shard: int, batch: Batch, share: float) -> Batch:
        result: Batch = graph.trainable_graph(**batch)
        shards.backward(result["loss"] * share)
        return result

    return shards, step


def one_pass(net: nn.Module, count: int, n: int) -> Batch:
    shards, step = synced(net, count)
    return shards.train(batch_of(n), n, step)


# ---- the reference: one process with the whole batch


def reference(net: nn.Sequential, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Gradients, buffers and loss of a step on a whole batch, from the formulas of batch norm."""
    p = {n: t.detach().clone().requires_grad_() for n, t in net.named_parameters()}
    buffers = {n: t.clone() for n, t in net.named_buffers()}
    x = batch["inputs_0"]
    for name, layer in net.named_children():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            columns = x.transpose(0, 1).flatten(1)
            size = (1, -1, *(1 for _ in x.shape[2:]))
            mean = columns.mean(1)
            squares = (columns - mean[:, None]).square().sum(1)
            x = (x - mean.view(size)) / (squares / columns.shape[1] + layer.eps).sqrt().view(size)
            if layer.affine:
                x = x * p[f"{name}.weight"].view(size) + p[f"{name}.bias"].view(size)
            if layer.track_running_stats:
                part = 0.1 if layer.momentum is not None else 1.0  # a cumulative mean, of the first step
                for key, value in (("mean", mean), ("var", squares / (columns.shape[1] - 1))):
                    running = buffers[f"{name}.running_{key}"]
                    running.copy_((1 - part) * running + part * value.detach())
                buffers[f"{name}.num_batches_tracked"] += 1
        elif isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], layer.stride, layer.padding)
        elif isinstance(layer, nn.Linear):
            x = x @ p[f"{name}.weight"].T + p[f"{name}.bias"]
        else:
            x = layer(x)
    chosen = x.gather(1, batch["labels_0"][:, None])[:, 0]
    loss = (x.exp().sum(1).log() - chosen).mean()
    gradients = dict(zip(p, torch.autograd.grad(loss, [*p.values()]), strict=True))
    return gradients, buffers, loss.detach()


@pytest.mark.parametrize(("count", "n"), [(2, 6), (3, 10), (4, 3), (5, 23), (8, 8)])
def test_a_step_is_that_of_one_process_with_the_whole_batch(count: int, n: int) -> None:
    net = layers()
    gradients, buffers, loss = reference(net, batch_of(n))
    result = one_pass(net, count, n)
    torch.testing.assert_close(result["loss"], loss, rtol=1e-11, atol=0)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-8, atol=1e-11)
    for name, value in net.named_buffers():
        torch.testing.assert_close(value, buffers[name], rtol=1e-10, atol=1e-12)


def test_values_far_from_zero_keep_their_digits() -> None:
    nets = [layers().float(), layers().float()]
    results = []
    for net, count in zip(nets, (4, 1), strict=True):
        shards, step = synced(net, count)
        batch = {n: (t * 0.01 + 300).float() if t.is_floating_point() else t for n, t in batch_of(24).items()}
        results.append(shards.train(batch, 24, step)["loss"])
    exact = [layers(), batch]
    whole = reference(exact[0], {n: t.double() if t.is_floating_point() else t for n, t in exact[1].items()})
    assert [float(loss) for loss in results] == pytest.approx([float(whole[2])] * 2, rel=2e-3)


def test_a_phase_is_that_of_one_process(tmp_path: Path) -> None:
    """Also accumulated, clipped and with a last batch that is not full; draws differ, so there is no dropout."""
    whole, cut_up, apart = (layers().float() for _ in range(3))
    settings: dict[str, Any] = {"batch": 31, "accumulate": 2, "clip": 1.0, "epochs": 1}
    one = train(tmp_path, recipe(**settings), whole, "whole")
    other = train(tmp_path, recipe(**settings, shards=4, norm="sync"), cut_up, "sync")
    train(tmp_path, recipe(**settings, shards=4), apart, "shard")
    assert other.history[-1]["loss"] == pytest.approx(one.history[-1]["loss"], rel=1e-4)
    for a, b in zip(whole.state_dict().values(), cut_up.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)
    assert not same(cut_up, apart)


def test_without_shards_there_is_nothing_to_join(tmp_path: Path) -> None:
    nets = [layers().float(), layers().float()]
    for net, changes in zip(nets, ({}, {"norm": "sync"}), strict=True):
        train(tmp_path, recipe(epochs=1, **changes), net, str(changes))
    assert same(*nets)


# ---- shards in turns


class Turns(nn.Module):
    """Keeps on both sides of a norm what a `forward` can keep: attributes, containers, hooks, modes, draws."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm, self.fc = nn.Linear(64, 9), nn.BatchNorm1d(9), nn.Linear(9, 10)
        self.seen: list[Tensor] = []
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        values = self.body(x.flatten(1))
        self.kept = values
        self.seen.append(values)
        hook = self.norm.register_forward_hook(lambda module, args, out: out + 0 * args[0] + self.kept)
        with torch.no_grad():
            mask = torch.rand(values.shape) < 0.5
            plain = self.norm(values)
        hook.remove()
        assert torch.is_grad_enabled() and not plain.requires_grad and self.kept is values is self.seen[-1]
        assert len(self.seen) == 1 and not self.norm._forward_hooks
        again = torch.rand(values.shape) < 0.5
        out: Tensor = self.fc(self.norm(values) * mask * again + plain)
        return out


def test_shards_in_turns_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    net, batch = Turns(), batch_of(10)
    shards, _ = synced(net, 3)
    graph = shards.graph

    def step(shard: int, part: Batch, share: float) -> Batch:
        torch.manual_seed(shard)
        result: Batch = graph.trainable_graph(**part)
        shards.backward(result["loss"] * share)
        return result

    result = shards.train(batch, 10, step)
    values = net.body(batch["inputs_0"].flatten(1))
    masks = []
    for shard, size in enumerate((4, 3, 3)):
        torch.manual_seed(shard)
        masks.append((torch.rand(size, 9) < 0.5) & (torch.rand(size, 9) < 0.5))
    normal = F.batch_norm(values, None, None, net.norm.weight, net.norm.bias, training=True)
    loss = F.cross_entropy(net.fc(normal * torch.cat(masks) + (normal + values).detach()), batch["labels_0"])
    torch.testing.assert_close(result["loss"], loss.detach(), rtol=1e-11, atol=0)
    gradients = torch.autograd.grad(loss, [*net.parameters()])
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-11)
    assert int(net.calls) == 1 and int(net.norm.num_batches_tracked) == 2
    assert net.seen == [] and not hasattr(net, "kept") and not net.norm._forward_hooks


# ---- what is refused


class Bad(nn.Module):
    """A network that does something to its norm."""

    def __init__(self, way: Callable[[Bad, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.norm, self.fc, self.way = nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10), way
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.way(self, self.body(x)))
        return out


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, net: Bad) -> Tensor:
        return net.norm(x).detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


def _inference(net: Bad, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = net.norm(x)
    return x + y.clone()


HELD: list[nn.Parameter] = []


def _held(net: Bad, x: Tensor) -> Tensor:
    return net.norm(x) * HELD[0]


def _early(net: Bad, x: Tensor) -> Tensor:
    y = net.norm(x)
    return y * torch.autograd.grad(y.sum(), [net.norm.weight])[0].sum()


REFUSED = {
    "a checkpoint": lambda net, x: checkpoint(net.norm, x, use_reentrant=False),
    "a checkpoint of the old kind": lambda net, x: checkpoint(net.norm, x.requires_grad_(), use_reentrant=True),
    "a function": lambda net, x: _Function.apply(x, net),
    "inference": _inference,
    "below": lambda net, x: torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_in_lock_step_is_named(name: str) -> None:
    net = Bad(REFUSED[name])
    with pytest.raises(PlanError) as problem:
        one_pass(net, 3, 9)
    assert [d.code for d in problem.value.diagnostics] == ["KD0964"]
    assert "net.norm" in str(problem.value) or name == "below"
    assert one_pass(Bad(lambda net, x: net.norm(x)), 3, 9)  # and nothing is left of it


def test_parameters_that_code_keeps_elsewhere_are_named() -> None:
    net = Bad(_held)
    HELD[:] = [net.norm.weight]
    with pytest.raises(PlanError, match=r"0/norm\.weight"):
        one_pass(net, 3, 9)


def test_a_gradient_within_forward_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"net\.norm is asked for before all shards"):
        one_pass(Bad(_early), 3, 9)


def test_a_norm_that_not_all_shards_take_is_named() -> None:
    for way in (lambda net, x: net.norm(x) if len(x) > 3 else x, lambda net, x: x if len(x) > 3 else net.norm(x)):
        with pytest.raises(PlanError) as problem:
            one_pass(Bad(way), 3, 10)
        assert [d.code for d in problem.value.diagnostics] == ["KD0963"] and "net.norm" in str(problem.value)


def test_one_value_a_channel_is_an_error_of_torch() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        one_pass(Bad(lambda net, x: net.norm(x)), 4, 1)


def test_sync_batch_norm_and_scripted_modules_are_named() -> None:
    net = nn.Sequential(nn.Flatten(), nn.SyncBatchNorm(64), nn.Linear(64, 10)).double()
    with pytest.raises(PlanError, match="SyncBatchNorm"):
        one_pass(net, 3, 9)


# ---- in plans

PLAN = """data digits = digits {{ limit = 90 }}
recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1  batch = {batch}  {settings} }}
use "net.py" as my
student small = my.Net()
phase alone of small on digits with quick {{ loss = cross_entropy(small.logits, labels) }}"""
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.BatchNorm1d(9))
        self.fc = nn.Linear(9, 10)
    def forward(self, x):
        return self.fc(self.body(x))
"""


def key(settings: str, folder: Path) -> str:
    (folder / "net.py").write_text(NET)
    text = PLAN.format(batch=30, settings=settings)
    return compile_source(Source("a.kd", text), folder).keys["alone"].key


def test_the_setting_is_in_the_key_where_there_are_shards(tmp_path: Path) -> None:
    one, default = key("shards = 2", tmp_path), key("shards = 2  norm = shard", tmp_path)
    assert one == default != key("shards = 2  norm = sync", tmp_path)
    assert key("", tmp_path) == key("norm = sync", tmp_path) == key("shards = 1  norm = sync", tmp_path)


def test_a_single_sample_is_no_error_where_others_are_beside_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)

    def codes(batch: int, settings: str) -> list[str]:
        text = PLAN.format(batch=batch, settings=settings)
        return [d.code for d in check_text(text, folder=tmp_path)]

    assert codes(10, "shards = 10") == ["KD0615"]
    assert codes(10, "shards = 10  norm = sync") == []
    assert codes(89, "shards = 10  norm = sync") == ["KD0615"]  # a last batch of 1


def test_shards_of_their_own_statistics_are_as_before(tmp_path: Path) -> None:
    assert not isinstance(train(tmp_path, recipe(shards=2, epochs=1), layers().float()).shards, SyncedShards)
    assert issubclass(SyncedShards, Shards)
