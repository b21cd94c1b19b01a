"""`perturbed`: weights at a distance from trained ones, and how the loss grows with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from kdplan.cli import main
from kdplan.compile import compile_source
from kdplan.data.dataset import open_view
from kdplan.data.of_plan import view_of_data
from kdplan.diagnostics.span import Source
from kdplan.ir.expr import Version
from kdplan.passes.expand import expand
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.passes.plans import codes, compiled, keys

TEXT = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 3  batch = 64 }
student small = digits_net(width = 3) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
branches one of digits_net(width = 2) from layer2 on digits with quick {
  loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
}
network near[d in [0, 0.5, 2, 5], i in 0..1] = perturbed(small, distance = d, seed = i)
network branch[i in 0..1] = perturbed(one.branch[1], distance = 3, seed = i)
network whole = perturbed(one.gated, distance = 3)
student next = near[2, 1] { phase more on digits with quick { loss = cross_entropy(self.logits, labels) } }
measure flat of near[*] on digits.test, digits.train over i { cross_entropy, plot(x = d, y = cross_entropy) }
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("flat")
    (folder / "plan.kd").write_text(TEXT)
    assert main(["run", str(folder / "plan.kd"), "--store", str(folder / "store")]) == 0
    built = compile_source(Source("plan.kd", TEXT), folder)
    return Sources(built.plan, Store(folder / "store"), built.keys)


def weights(src: Sources, name: str) -> torch.Tensor:
    return parameters_to_vector(materialise(src, Version(name)).parameters()).detach().double()


def test_weights_are_at_that_distance_in_one_direction(sources: Sources) -> None:
    start = parameters_to_vector(materialise(sources, Version("small", "small@train")).parameters()).detach().double()
    assert torch.equal(weights(sources, "near[d=0, i=0]"), start)
    steps = {(d, i): weights(sources, f"near[d={d}, i={i}]") - start for d in (0.5, 2, 5) for i in (0, 1)}
    for (d, i), step in steps.items():
        assert float(step.norm()) == pytest.approx(d, rel=1e-5)
        torch.testing.assert_close(step / d, steps[5, i] / 5, atol=1e-6, rtol=1e-3)
    assert abs(float(steps[5, 0] @ steps[5, 1])) < 25 * 0.25, "two draws are nearly at right angles"
    unit = steps[5, 0].numpy() / 5 * np.sqrt(len(start))
    assert abs(unit.mean()) < 0.15 and abs((unit**4).mean() - 3) < 1, "every weight is changed, by a normal amount"


def test_statistics_stay_and_branches_are_perturbed_as_plain_networks(sources: Sources) -> None:
    plain, trained = (materialise(sources, v) for v in (Version("small", "small@train"), Version("near[d=5, i=0]")))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), trained.buffers(), strict=True))
    branch = materialise(sources, Version("branch[i=0]"))
    assert type(branch) is type(plain)
    one = materialise(sources, Version("one", "one@train"))
    whole = materialise(sources, Version("whole"))
    trainees = [(a - b).detach().norm() for a, b in zip(one.parameters(), whole.parameters(), strict=True)]
    assert float(torch.stack(trainees).norm()) == pytest.approx(3, rel=1e-5)
    assert all(float(m) > 0 for m in trainees)


def test_the_loss_over_distance_is_that_of_a_loop_by_hand(sources: Sources) -> None:
    (table,) = run_measures(sources.plan, sources.keys, sources.store, RunOptions(device="cpu"))
    net = materialise(sources, Version("small", "small@train"))
    start = parameters_to_vector(net.parameters()).detach().clone()
    for view, count in (("digits.test", 360), ("digits.train", 1437)):
        where = next(v for v in sources.plan.measures["flat"].views if v.split == view.partition(".")[2])
        batch = open_view(view_of_data(sources.plan.data["digits"], where), None).batch(torch.arange(count))
        rows = {r.coordinates["d"]: r.values["last"]["cross_entropy"] for r in table.rows if r.view == view}
        assert list(rows) == [0, 0.5, 2, 5] and all(n.n == 2 for n in rows.values())
        for d, number in rows.items():
            losses = []
            for i in (0, 1):
                direction = weights(sources, f"near[d=5, i={i}]").float() - start
                vector_to_parameters(start + d * direction / direction.norm(), net.parameters())
                with torch.no_grad():
                    scores = net(batch["inputs"]).double().numpy()
                top = scores.max(axis=1, keepdims=True)
                spread = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
                losses.append(float((spread - scores[np.arange(count), batch["labels"].numpy()]).mean()))
            assert number.mean == pytest.approx(np.mean(losses), rel=1e-4)
            assert number.std == pytest.approx(np.std(losses, ddof=1), rel=1e-3, abs=1e-5)
        assert rows[0].mean < rows[2].mean < rows[5].mean, "a trained network is no maximum"
    (curves,) = table.plots
    (line,) = curves.lines.values()
    assert [x for x, _ in line] == [0, 0.5, 2, 5]


def test_distance_and_direction_are_content() -> None:
    def key(call: str) -> str:
        text = TEXT.partition("network near")[0]
        return keys(text + f"student next = {call} {{ phase more on digits with quick "
                    "{ loss = cross_entropy(self.logits, labels) } }\n")["next@more"]  # fmt: skip

    first = key("perturbed(small, distance = 2, seed = 1)")
    assert first == key("perturbed(small, distance = 2.0, seed = 1)")
    assert len({first, key("perturbed(small, distance = 2)"), key("perturbed(small, 3, 1)"), key("small")}) == 4


def test_expanded_it_is_the_same() -> None:
    again = expand(compiled(TEXT).plan)
    assert sorted(keys(again).values()) == sorted(keys(TEXT).values())
    assert expand(compiled(again).plan) == again


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("perturbed(small)", "KD0237"),
        ("perturbed(small, distance = -1)", "KD0243"),
        ("perturbed(small, distance = 1, seed = 0.5)", "KD0244"),
        ("perturbed(small, distance = quick)", "KD0244"),
        ("perturbed(small, 1, 2, 3)", "KD0236"),
        ("perturbed(small, distance = 1, far = 2)", "KD0230"),
        ("perturbed(small, 1, distance = 2)", "KD0226"),
        ("perturbed(digits, distance = 1)", "KD0250"),
        ("perturbed(small.layer1, distance = 1)", "KD0250"),
        ("perturbed(fresh, distance = 1)", "KD0301"),
    ],
)
def test_mistakes(call: str, code: str) -> None:
    start = TEXT.partition("branches")[0] + "student fresh = digits_net(width = 3)\n"
    assert codes(f"{start}network far = {call}\n") == [code]
