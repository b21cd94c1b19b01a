"""Rows of functions say all that the lowering needs: a loss is one function and one row."""

from __future__ import annotations

import importlib
import operator

import pytest
from torch import Tensor

from kdplan.compile import inspect
from kdplan.diagnostics.report import PlanError
from kdplan.graph.adapter import ADAPTERS
from kdplan.graph.functions import sparse_form
from kdplan.graph.sparse_signals import SPARSE
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.spec import Param, Spec
from kdplan.nn import functions as code
from kdplan.nn.losses import as_logits
from tests.passes.plans import BIG, HEAD, compiled


def targets(loss: str) -> list[object]:
    """What the nodes of a phase with this loss call, without those of networks."""
    plan = compiled(f"{HEAD}{BIG}phase copy of small on digits with quick {{ loss = {loss} }}\n")
    graph = inspect(plan)["copy"].joined.graph_module.graph
    return [n.target for n in graph.nodes if not str(n.meta.get("owner", "net ")).startswith(("net ", "inputs"))]


def margin(scores: Tensor, others: Tensor) -> Tensor:
    return (scores - others).abs().mean()


def test_a_new_loss_is_one_function_and_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = {"scores": ("logits",), "others": ("logits", "probabilities")}
    params = tuple(Param(n, "signal", roles=r) for n, r in roles.items())
    row = Spec("margin", params, over_classes=True, distributions=True, implementation=f"{__name__}:margin")
    monkeypatch.setitem(FUNCTIONS, "margin", row)
    assert len(targets("margin(small.logits, big.logits)")) == 1
    # Probabilities are accepted where the row says so, and become logits of themselves.
    assert as_logits in targets("margin(small.logits, big.probabilities)")
    for wrong, problem in (("small.probabilities, big.logits", "KD0505"), ("labels, big.logits", "KD0510")):
        with pytest.raises(PlanError) as caught:
            targets(f"margin({wrong})")
        assert [d.code for d in caught.value.diagnostics] == [problem]


@pytest.mark.parametrize("gives", ["signal", "same", "probabilities"])
def test_what_a_row_gives_decides_what_the_result_fits(gives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of the role `probabilities` is refused where logits are wanted."""
    row = Spec("half", (Param("x", "signal"),), gives=gives)  # type: ignore[arg-type]
    monkeypatch.setitem(FUNCTIONS, "half", row)
    monkeypatch.setitem(code.FUNCTIONS, "half", lambda x: x / 2)
    loss = "kl(small.logits, half(big.logits), temperature = 2)"
    if gives == "probabilities":
        with pytest.raises(PlanError) as caught:
            targets(loss)
        assert [d.code for d in caught.value.diagnostics] == ["KD0505"]
    else:
        assert len(targets(loss)) == 2


def test_every_row_names_how_it_is_built() -> None:
    assert {s.name for s in FUNCTIONS.values() if s.built == "adapter"} == ADAPTERS.keys()
    assert {s.name for s in FUNCTIONS.values() if s.built == "sparse"} == SPARSE.keys()
    by_name = {s.name for s in FUNCTIONS.values() if s.built == "function" and not s.implementation}
    assert by_name <= code.FUNCTIONS.keys()
    for spec in FUNCTIONS.values():
        if spec.implementation:
            module, _, path = spec.implementation.partition(":")
            assert callable(operator.attrgetter(path)(importlib.import_module(module))), spec.name


def test_every_loss_over_classes_says_which_roles_it_takes() -> None:
    for spec in FUNCTIONS.values():
        signals = [p for p in spec.params if p.type == "signal"]
        assert all(bool(p.roles) == spec.over_classes for p in signals), spec.name
        if spec.over_classes and spec.sparse:
            assert spec.activation in FUNCTIONS and callable(sparse_form(spec.name)), spec.name
