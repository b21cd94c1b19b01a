"""Specialists chosen by label, as graphs: against the same loss written out sample by sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdplan.compile import Compiled, inspect
from kdplan.graph.assemble import assemble
from kdplan.graph.cost import cost as graph_cost
from kdplan.graph.phase_graph import Networks, PhaseGraph
from kdplan.ir.versions import read_versions
from kdplan.nn.models import create
from kdplan.passes.expand import expand
from tests.passes.plans import compiled

HEAD = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 16 }
verticals V of digits { low = 0..2  middle = 3..6  high = [9, 8, 7] }
teacher t[v in V] = digits_net(classes = v, width = 2) {
  phase train on digits[v] with quick { loss = sigmoid_cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2, classes = digits.classes)
"""
PARTS = [[0, 1, 2], [3, 4, 5, 6], [9, 8, 7]]


def build(loss: str, head: str = HEAD) -> tuple[PhaseGraph, Networks, Compiled]:
    """The phase's graphs on fresh networks."""
    found = compiled(f"{head}phase kc of small on digits with quick {{ loss = {loss} }}\n")
    plan = found.plan
    phase = plan.phases["kc"]

    def fresh(name: str) -> torch.nn.Module:
        network = plan.networks[name]
        arguments = dict(network.architecture.arguments)
        return create(network.architecture.name, **arguments)

    torch.manual_seed(0)
    frozen = {str(v): fresh(v.network).eval() for v in read_versions(phase)}
    networks = Networks([fresh("small")], frozen)
    return assemble(plan, phase, networks), networks, found


def run(made: PhaseGraph, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    made.set_modes()
    batch = {"inputs_0": x, "labels_0": y}
    crossing = {}
    if made.frozen is not None:
        with torch.no_grad():
            crossing = made.frozen(**{n: batch[n] for n in made.frozen_inputs})
    return made.trainable_graph(**{n: ({**batch, **crossing})[n] for n in made.trainable_inputs})["loss"]


def by_hand(networks: Networks, x: torch.Tensor, y: torch.Tensor, k: int, soft: bool) -> tuple[np.ndarray, float]:
    """Dense targets, one sample after the other, in float64."""
    z = np.zeros((len(x), 10))
    for i, label in enumerate(y.tolist()):
        part = next(j for j, ids in enumerate(PARTS) if label in ids)
        scores = list(networks.frozen.values())[part](x[i : i + 1])[0].double().detach().numpy()
        p = np.exp(scores) / np.exp(scores).sum() if soft else 1 / (1 + np.exp(-scores))
        for place in np.argsort(-p)[:k]:
            z[i, PARTS[part][place]] = p[place]
    small = networks.trainable[0].train()
    logits = small(x).double().detach().numpy()
    s = 1 / (1 + np.exp(-logits))
    value = -(z * np.log(s) + (1 - z) * np.log1p(-s)).sum() / len(x)
    return z, float(value)


@pytest.mark.parametrize(("k", "soft"), [(2, False), (4, False), (3, True)])
def test_targets_of_ones_own_specialist(k: int, soft: bool) -> None:
    """K of a vertical with fewer classes keeps all of these."""
    text = "softmax(t[V(labels)].logits)" if soft else "sigmoid(t[V(labels)].logits)"
    made, networks, _ = build(f"sigmoid_cross_entropy(small.logits, top({text}, {k}))")
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    _, value = by_hand(networks, x, y, k, soft)
    loss = run(made, x, y)
    assert loss.item() == pytest.approx(value, rel=1e-5)
    loss.backward()
    trained = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in networks.trainable[0].parameters()]
    assert sum(trained) >= len(trained) - 1  # a bias before batch norm has no gradient
    assert all(p.grad is None for net in networks.frozen.values() for p in net.parameters())


def test_batches_of_other_sizes_and_of_one_vertical() -> None:
    made, networks, _ = build("sigmoid_cross_entropy(small.logits, top(sigmoid(t[V(labels)].logits), 2))")
    for labels in ([7, 7, 7], [0, 5]):
        x, y = torch.randn(len(labels), 1, 8, 8), torch.tensor(labels)
        _, value = by_hand(networks, x, y, 2, soft=False)
        assert run(made, x, y).item() == pytest.approx(value, rel=1e-5)


def test_probabilities_need_no_top_and_softmax_stays_within_the_vertical() -> None:
    made, networks, _ = build("sigmoid_cross_entropy(small.logits, t[V(labels)].probabilities)")
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    z, value = by_hand(networks, x, y, 4, soft=True)
    assert z.sum(axis=1) == pytest.approx(1)
    assert run(made, x, y).item() == pytest.approx(value, rel=1e-5)


def test_each_sample_costs_one_teacher_pass() -> None:
    """Three specialists cost what one does, predicted and run; equal routes run once."""
    soft = "top(sigmoid(t[V(labels)].logits), 2)"
    loss = f"sigmoid_cross_entropy(small.logits, {soft})"
    made, networks, found = build(f"{loss} + 0.1 * {loss}")
    seen = {name: 0 for name in networks.frozen}
    for name, net in networks.frozen.items():
        net.fc.register_forward_hook(lambda _m, inputs, _o, n=name: seen.update({n: seen[n] + len(inputs[0])}))
    calls = [n for n in made.frozen.graph.nodes if n.op == "call_module" and "route" in str(n.target)]
    assert len(calls) == 1
    run(made, torch.randn(16, 1, 8, 8), torch.arange(16) % 10)
    assert sum(seen.values()) == 16 and min(seen.values()) > 0
    one = HEAD.replace("t[v in V] = digits_net(classes = v,", "t = digits_net(classes = 10,").replace(
        "digits[v]", "digits"
    )
    single = compiled(f"{one}phase kc of small on digits with quick {{ loss = {loss.replace('t[V(labels)]', 't')} }}")
    joined = [inspect(c, ["kc"])["kc"].joined for c in (found, single)]
    costs = [graph_cost(j.graph_module, j.trainable).flops_frozen for j in joined]
    assert costs[0] == pytest.approx(costs[1], rel=0.02) and costs[0] > 0


def test_features_are_gathered_as_they_are() -> None:
    made, networks, _ = build("mse(small.layer2, t[V(labels)].layer2) + 0 * cross_entropy(small.logits, labels)")
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10)
    nets = list(networks.frozen.values())
    part = [next(j for j, ids in enumerate(PARTS) if c in ids) for c in range(10)]
    wanted = torch.cat([nets[part[i]][:3](x[i : i + 1]) for i in range(10)])
    small = networks.trainable[0].train()
    assert run(made, x, y).item() == pytest.approx(torch.nn.functional.mse_loss(small[:3](x), wanted).item(), rel=1e-4)


def test_a_student_in_another_order_of_classes() -> None:
    """Columns are found by class, for students over all classes in another order and for subsets' teachers."""
    head = (
        HEAD.replace("classes = digits.classes)", "classes = all[0])")
        + "verticals all of digits { a = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0] }\n"
    )
    made, networks, _ = build("sigmoid_cross_entropy(small.logits, top(sigmoid(t[V(labels)].logits), 2))", head)
    x, y = torch.randn(10, 1, 8, 8), torch.arange(10)
    z, _ = by_hand(networks, x, y, 2, soft=False)
    logits = networks.trainable[0].train()(x).double().detach().numpy()[:, ::-1]
    s = 1 / (1 + np.exp(-logits))
    value = -(z * np.log(s) + (1 - z) * np.log1p(-s)).sum() / len(x)
    assert run(made, x, y).item() == pytest.approx(value, rel=1e-5)


def test_one_specialist_teaches_a_student_of_all_classes() -> None:
    loss = "sigmoid_cross_entropy(small.logits, top(sigmoid(t[high].logits), 2))"
    made, networks, _ = build(loss)
    x, y = torch.randn(4, 1, 8, 8), torch.tensor([7, 8, 9, 7])
    networks.frozen = {str(i): next(iter(networks.frozen.values())) for i in range(3)}
    _, value = by_hand(networks, x, y, 2, soft=False)
    assert run(made, x, y).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("stage", ["attribute", "version", "applied"])
def test_ways_to_write_it(stage: str, tmp_path: Path) -> None:
    text = {
        "attribute": "t[V(labels)].logits",
        "version": "t[V(labels)]@train.logits",
        "applied": "t[V(labels)](inputs).logits",
    }[stage]
    usual = "route(V, labels, t[*].logits)"
    one, two = (
        compiled(
            f"{HEAD}phase kc of small on digits with quick {{\n"
            f"  loss = sigmoid_cross_entropy(small.logits, top(sigmoid({s}), 2))\n}}"
        )
        for s in (text, usual)
    )
    assert one.keys["kc"].key == two.keys["kc"].key
    again = compiled(expand(one.plan))
    assert again.keys["kc"].key == one.keys["kc"].key


def test_smeared_labels(tmp_path: Path) -> None:
    """A label is positive for the classes above it, as far as the specialist has them."""
    (tmp_path / "tree.csv").write_text("".join(f"{i},{i // 2 if i > 1 else ''}\n" for i in range(10)))
    text = (
        HEAD + "student all = digits_net(width = 2) "
        '{ phase p on digits with quick { loss = sigmoid_cross_entropy(self.logits, smear(labels, "tree.csv")) } }\n'
        "student part = digits_net(width = 2, classes = V[0]) { phase p on digits[V[0]] with quick {\n"
        '  loss = sigmoid_cross_entropy(self.logits, smear(labels, "tree.csv")) } }\n'
    )
    found = compiled(text, tmp_path)
    above = {i: {i, i // 2, i // 4, i // 8} - ({0} if i else set()) for i in range(10)}
    for name, classes in (("all", [*range(10)]), ("part", [0, 1, 2])):
        torch.manual_seed(1)
        net = create("digits_net", **found.plan.networks[name].architecture.arguments)
        made = assemble(found.plan, found.plan.phases[f"{name}@p"], Networks([net]))
        x, y = torch.randn(6, 1, 8, 8), torch.arange(6) % len(classes) + (4 if name == "all" else 0)
        z = np.array([[float(c in above[classes[label]]) for c in classes] for label in y.tolist()])
        s = 1 / (1 + np.exp(-net.train()(x).double().detach().numpy()))
        value = -(z * np.log(s) + (1 - z) * np.log1p(-s)).sum() / len(x)
        assert z.sum() > len(x) and run(made, x, y).item() == pytest.approx(value, rel=1e-5)
    again = compiled(expand(found.plan))
    assert sorted(k.key for k in again.keys.values()) == sorted(k.key for k in found.keys.values())
