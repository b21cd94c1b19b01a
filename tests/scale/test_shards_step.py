"""A step in shards: a reference in float64, the tree of its sums, what it has in common with a whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.compile import check_text
from kdplan.diagnostics.report import PlanError
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.shards import Shards, cut
from kdplan.runtime.streams import samples
from kdplan.runtime.tree import Node, cover, tree_sum
from tests.runtime.small import phase_graph, recipe, same, train

# ---- the tree


@pytest.mark.parametrize("count", range(1, 17))
def test_every_number_of_ranks_adds_in_one_order(count: int) -> None:
    draws = torch.Generator().manual_seed(count)
    shards = [torch.randn(50, generator=draws) * 10 ** (i % 5) for i in range(count)]
    whole = tree_sum((0, count), lambda i: shards[i].clone(), Tensor.add_, {})
    for size in (n for n in range(1, count + 1) if count % n == 0):
        known: dict[Node, Tensor] = {}
        for rank in range(size):
            for node in cover((0, count), Ranks(rank, size).shards_of(count)):
                total = tree_sum(node, lambda i: shards[i].clone(), Tensor.add_, {})
                assert total is not None
                known[node] = total

        def nobody(i: int) -> Tensor:
            raise AssertionError(f"no rank has shard {i}")

        together = tree_sum((0, count), nobody, Tensor.add, known)
        assert whole is not None and together is not None and torch.equal(whole, together)


def test_powers_of_two_are_balanced_and_a_block_is_one_node() -> None:
    assert tree_sum((0, 8), str, lambda a, b: f"({a}{b})", {}) == "(((01)(23))((45)(67)))"
    assert [len(list(cover((0, 16), Ranks(r, 4).shards_of(16)))) for r in range(4)] == [1] * 4


def test_shards_that_are_empty_add_nothing() -> None:
    assert tree_sum((0, 4), lambda i: None if i > 1 else i + 1, int.__add__, {}) == 3
    assert [samples(s) for s in cut({"inputs_0": torch.zeros(2), "inputs_1": torch.zeros(5)}, 4)] == [1, 1]


# ---- against a reference


def reference(
    net: nn.Sequential, x: Tensor, y: Tensor, count: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], float]:
    """Gradients, running statistics and loss of a step, in float64 and from the formulas.

    The network is conv, batch norm, relu, flatten, dropout (off), linear.
    """
    p = {n: t.detach().double().requires_grad_() for n, t in net.named_parameters()}
    total, means, variances = torch.zeros((), dtype=torch.float64), [], []
    first, n = 0, len(x)
    for shard in range(count):
        size = n // count + (shard < n % count)
        here = slice(first, first + size)
        first += size
        maps = F.conv2d(x[here].double(), p["0.weight"], p["0.bias"], stride=2, padding=1)
        columns = maps.transpose(0, 1).flatten(1)  # one row a channel
        mean, deviation = columns.mean(1), columns - columns.mean(1, keepdim=True)
        variance = deviation.square().mean(1)
        normal = (maps - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        shown = normal * p["1.weight"][:, None, None] + p["1.bias"][:, None, None]
        scores = shown.clamp(min=0).flatten(1) @ p["5.weight"].T + p["5.bias"]
        chosen = scores.gather(1, y[here, None])[:, 0]
        total = total + (scores.exp().sum(1).log() - chosen).sum() / n
        means.append(mean.detach() * size / n)
        variances.append(deviation.detach().square().sum(1) / (columns.shape[1] - 1) * size / n)
    gradients = dict(zip(p, torch.autograd.grad(total, [*p.values()]), strict=True))
    running = {
        "1.running_mean": 0.1 * sum(means, torch.zeros(())),
        "1.running_var": 0.9 + 0.1 * sum(variances, torch.zeros(())),
    }
    return gradients, running, float(total.detach())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.0), nn.Linear(64, 10))


@pytest.mark.parametrize(("count", "n"), [(1, 6), (3, 10), (4, 8), (4, 3), (5, 23)])
def test_a_step_is_the_reference(count: int, n: int) -> None:
    net, draws = network(), torch.Generator().manual_seed(n)
    x, y = torch.randn(n, 1, 8, 8, generator=draws), torch.randint(10, (n,), generator=draws)
    gradients, running, loss = reference(net, x, y, min(count, n))
    net.double()
    graph = phase_graph(net)
    graph.set_modes()
    shards = Shards(graph, count, Ranks(), "p", None)

    def step(shard: int, batch: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        result: dict[str, Tensor] = graph.trainable_graph(**batch)
        (result["loss"] * share).backward()
        return result

    result = shards.train({"inputs_0": x.double(), "labels_0": y}, n, step)
    assert float(result["loss"]) == pytest.approx(loss, rel=1e-12)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-12)
    for name, value in running.items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    assert int(net.state_dict()["1.num_batches_tracked"]) == 1


def without_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"batch": 37, "clip": 0.5}])
def test_a_loss_of_single_samples_is_the_same_in_shards(changes: dict[str, int], tmp_path: Path) -> None:
    whole, cut_up = without_batch_norm(), without_batch_norm()
    one = train(tmp_path, recipe(**changes), whole, "whole")
    other = train(tmp_path, recipe(shards=4, **changes), cut_up, "shards")
    for a, b in zip(whole.parameters(), cut_up.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert other.history[-1]["loss"] == pytest.approx(one.history[-1]["loss"], rel=1e-5)


# ---- what is different for each shard


def test_shards_draw_their_own_numbers_and_a_second_run_draws_the_same(tmp_path: Path) -> None:
    nets = [nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)) for _ in range(3)]
    for net in nets:
        net.load_state_dict(nets[0].state_dict())
    for number, (net, shards) in enumerate(zip(nets, (2, 2, 4), strict=True)):
        train(tmp_path, recipe(shards=shards), net, str(number))
    assert same(nets[0], nets[1]) and not same(nets[0], nets[2])
    graph, masks = phase_graph(nets[0]), list[Tensor]()
    graph.set_modes()
    nets[0][1].register_forward_hook(lambda module, args, out: masks.append(out == 0))
    batch = {"inputs_0": torch.ones(4, 1, 8, 8), "labels_0": torch.zeros(4, dtype=torch.int64)}

    def step(shard: int, part: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        torch.manual_seed(shard)
        result: dict[str, Tensor] = graph.trainable_graph(**part)
        return result

    Shards(graph, 2, Ranks(), "p", None).train(batch, 4, step)
    assert not torch.equal(masks[0], masks[1])


class Queue(nn.Module):
    """Keeps the last features in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(2, 64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept.copy_(x.flatten(1)[:2].detach())
        scores: Tensor = self.fc(x.flatten(1))
        return scores


def test_a_buffer_of_samples_is_named_and_a_counter_counts_steps(tmp_path: Path) -> None:
    net = Queue()
    with pytest.raises(PlanError) as problem:
        train(tmp_path, recipe(shards=4), net)
    assert [d.code for d in problem.value.diagnostics] == ["KD0951"] and "kept" in str(problem.value)
    net.forward = lambda x: Queue.forward(net, torch.ones_like(x))  # type: ignore[method-assign]
    done = train(tmp_path, recipe(shards=4), net, "alike")
    assert int(net.calls) == done.step + 1  # and one in the run that failed


def test_a_frozen_batch_norm_keeps_its_bits(tmp_path: Path) -> None:
    net, teacher = without_batch_norm(), network().eval()
    for tensor in teacher.buffers():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) / 3)
    before = {n: t.clone() for n, t in teacher.state_dict().items()}
    graph = phase_graph(net)
    graph.root.add_module("teacher", teacher)
    train(tmp_path, recipe(shards=3, batch=50), net, phase_graph=graph)
    assert all(torch.equal(t, before[n]) for n, t in teacher.state_dict().items())


# ---- losses that couple samples

TERMS = {
    "cross_entropy(small.logits, labels)": False,
    "kd(small.logits, big@init.logits, temperature = 4)": False,
    "0.01 * mean(small.features)": False,
    "my.worst(small.logits, labels)": False,
    "my.weighted(small.logits, epoch)": False,
    "1e-6 * my.relations(small.features, big@init.features)": True,
    "my.contrast(small.logits)": True,
    "my.standardised(small.logits)": True,
    "my.total(small.logits, labels)": True,
    "my.rolled(small.logits)": True,
    "my.root(small.logits, big@init.logits)": True,
    "my.counted(small.logits, labels)": True,
    "my.correlation(small.logits, big@init.logits)": True,
    "my.crowded(small.logits, labels)": True,
    "my.covered(small.logits, labels)": True,
    "my.far(small.logits, labels)": True,
}
CODE = """
import torch
from torch.nn import functional as F
def worst(x, labels): return F.cross_entropy(x, labels, reduction="none").clamp(max=3).mean()
def weighted(x, epoch): return (1 + epoch) * x.square().mean()
def relations(x, y): return (torch.cdist(x, x) - torch.cdist(y, y)).square().mean()
def contrast(x): return F.cross_entropy(F.normalize(x) @ F.normalize(x).T, torch.arange(len(x)))
def standardised(x): return ((x - x.mean(0)) / (x.std(0) + 1e-3)).abs().mean()
def total(x, labels): return F.cross_entropy(x, labels, reduction="sum")
def rolled(x): return (x - x.roll(1, 0)).square().mean()
def root(x, y): return F.mse_loss(x, y).sqrt()
def counted(x, labels): return ((labels < 5) * F.cross_entropy(x, labels, reduction="none")).sum() / (labels < 5).sum()
def crowded(x, labels):
    many = (labels[:, None] == labels[None, :]).float()
    return F.cross_entropy(x, labels) + (many.sum(1).max() >= 7) * (torch.cdist(x, x) * many).mean()
def covered(x, labels):
    apart = x - x.mean(0)
    return F.cross_entropy(x, labels) + 5e-4 * (apart.T @ apart).square().mean()
def far(x, labels): return F.cross_entropy(x, labels) + (x.std(0) - 3).relu().square().sum()
def correlation(x, y): return -F.cosine_similarity((x - x.mean()).flatten(), (y - y.mean()).flatten(), dim=0)
"""


def test_terms_that_couple_samples_are_named_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    text = f"""data digits = digits {{ limit = 90 }}
    recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1  batch = 32  shards = 2 }}
    use "net.py" as my
    teacher big = digits_net(width = 4)
    student small = digits_net(width = 2)
    phase alone of small on digits with quick {{ loss = {" + ".join(TERMS)} }}"""
    answers = check_text(text, folder=tmp_path)
    assert {d.code for d in answers} == {"KD0961"}, [d.message for d in answers]
    assert [d.span.text for d in answers if d.span] == [term for term, couples in TERMS.items() if couples]
    assert not [d for d in check_text(text.replace("shards = 2", ""), folder=tmp_path) if d.severity == "error"]


def test_a_loss_that_is_one_term_is_looked_at_as_well(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CODE)
    text = """data digits = digits {{ limit = 90 }}
    recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1  batch = 32  shards = 2 }}
    use "net.py" as my
    student small = digits_net(width = 2)
    phase alone of small on digits with quick {{ loss = {} }}"""
    for term in ("my.contrast(small.logits)", "cross_entropy(small.logits, labels)"):
        assert [d.code for d in check_text(text.format(term), folder=tmp_path)] == ["KD0961"] * TERMS[term]


def test_shards_are_in_the_key_and_one_is_no_shard() -> None:
    from kdplan.compile import compile_source
    from kdplan.diagnostics.span import Source

    def key(settings: str) -> str:
        text = f"""data digits = digits
        recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1  batch = 32 {settings} }}
        student small = digits_net(width = 2)
        phase alone of small on digits with quick {{ loss = cross_entropy(small.logits, labels) }}"""
        return compile_source(Source("a.kd", text), Path()).keys["alone"].key

    assert key("") == key(" shards = 1") != key(" shards = 2") != key(" shards = 4")
