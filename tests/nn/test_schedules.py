"""Schedules: their curves, their pauses and resumptions, and their messages."""

from __future__ import annotations

import inspect
import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.ir.implementation import load
from kdplan.ir.optimizers import SCHEDULES
from kdplan.nn.schedules import Plateau, build_schedule

SETTINGS: dict[str, dict[str, object]] = {"steps": {"at": [5, 7]}, "plateau": {"patience": 2, "until": 1e-5}}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_full_and_never_rises_within_a_cycle(name: str) -> None:
    s = build_schedule(name, SETTINGS.get(name, {}), total=10, lr=0.1)
    curve = [s.lr_factor(e / 8) for e in range(81)]
    assert curve[0] == 1.0
    assert all(b <= a for a, b in itertools.pairwise(curve))
    assert min(curve) >= 0.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_to_the_schedule_and_leaves_the_rest_alone(name: str) -> None:
    plain = build_schedule(name, SETTINGS.get(name, {}), total=10, lr=0.1)
    warm = build_schedule(name, SETTINGS.get(name, {}), total=10, lr=0.1, warmup=2)
    assert warm.lr_factor(0) == pytest.approx(0.01)
    assert warm.lr_factor(1) == pytest.approx(0.505 * plain.lr_factor(1))
    for epoch in (2, 2.5, 6, 10):
        assert warm.lr_factor(epoch) == plain.lr_factor(epoch)


def test_steps_fall_exactly_at_their_epochs() -> None:
    s = build_schedule("steps", {"at": [150, 180, 210], "factor": 0.1}, total=240, lr=0.05)
    per_epoch = 782
    for epoch, power in [(150, 1), (180, 2), (210, 3)]:
        step = epoch * per_epoch
        assert s.lr_factor((step - 1) / per_epoch) == pytest.approx(0.1 ** (power - 1))
        assert s.lr_factor(step / per_epoch) == pytest.approx(0.1**power)


def test_cosine_cycles_start_anew() -> None:
    s = build_schedule("cosine", {"cycles": 5, "final": 0.1}, total=300, lr=0.1)
    assert [s.lr_factor(e) for e in (0, 60, 240)] == pytest.approx([1.0, 1.0, 1.0])
    assert s.lr_factor(30) == pytest.approx(0.55)
    assert s.lr_factor(59.999) == pytest.approx(0.1, abs=1e-4)
    assert s.lr_factor(300) == s.lr_factor(301) == 0.1


def test_linear_is_the_polynomial_of_power_one() -> None:
    a, b = (build_schedule(n, {"final": 0.2}, total=8, lr=1.0) for n in ("linear", "polynomial"))
    assert [a.lr_factor(e) for e in range(10)] == [b.lr_factor(e) for e in range(10)]
    assert a.lr_factor(4) == pytest.approx(0.6)


def test_plateau_reaches_the_last_rate_and_ends() -> None:
    s = Plateau(lr=0.01, factor=0.1, patience=5, until=1e-5)
    epochs, factors = 0, []
    while not s.finished:
        s.epoch_end(1.0)
        epochs += 1
        factors.append(s.lr_factor(epochs))
    assert epochs == 1 + 3 * 5  # the first loss is progress
    assert factors[5] == pytest.approx(0.1) and factors[-1] == pytest.approx(1e-3)


def test_plateau_waits_while_the_loss_falls() -> None:
    s = Plateau(lr=0.1, patience=2, min_delta=0.01)
    for i in range(50):
        s.epoch_end(0.98**i)
    assert s.reductions == 0 and not s.finished
    for i in range(4):
        s.epoch_end(0.98**49 * 0.999**i)  # falls, but by less than asked for
    assert s.reductions == 2


def test_plateau_counts_broken_losses_as_no_progress() -> None:
    s = Plateau(lr=0.1, patience=2)
    for loss in (1.0, math.nan, math.inf):
        s.epoch_end(loss)
    assert s.reductions == 1
    json.dumps(s.state_dict(), allow_nan=False)
    s.epoch_end(0.5)
    assert s.best == 0.5


def test_negative_losses_fall_too() -> None:
    s = Plateau(lr=0.1, patience=2)
    for loss in (-1.0, -2.0, -3.0, -4.0):
        s.epoch_end(loss)
    assert s.best == -4.0 and s.reductions == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(0, 40), st.floats(0, 0.9))
def test_plateau_goes_on_exactly_where_it_stopped(losses: list[float], cut: int, smoothing: float) -> None:
    def fresh() -> Plateau:
        return Plateau(lr=0.1, patience=2, until=1e-4, smoothing=smoothing)

    whole, before, after = fresh(), fresh(), fresh()
    for i, loss in enumerate(losses):
        whole.epoch_end(loss)
        if i < cut:
            before.epoch_end(loss)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    for loss in losses[cut:]:
        after.epoch_end(loss)
    assert after.state_dict() == whole.state_dict()
    assert after.lr_factor(3) == whole.lr_factor(3) and after.finished == whole.finished


def test_catalog_is_the_classes() -> None:
    for name, spec in SCHEDULES.items():
        signature = inspect.signature(load(spec.implementation)).parameters
        own = [key for key in signature if key not in ("total", "lr", "warmup")]
        assert [p.name for p in spec.params] == (["final"] if name == "linear" else own)
        for p in spec.params:
            default = signature[p.name].default
            assert p.required == (default is inspect.Parameter.empty)
            assert p.required or p.default == default
        assert spec.reads_length == ("total" in signature) and spec.reads_loss == ("lr" in signature)


@pytest.mark.parametrize(
    ("name", "given_settings", "message"),
    [
        ("cosin", {}, "did you mean `cosine`"),
        ("steps", {}, "needs `at`"),
        ("cosine", {"cycle": 2}, "no setting `cycle`"),
        ("cosine", {"cycles": 0}, "one cycle or more"),
        ("polynomial", {"power": 0}, "above 0"),
        ("plateau", {"factor": 1}, "between 0 and 1"),
        ("plateau", {"patience": 0}, "at least one epoch"),
        ("plateau", {"smoothing": 1}, "from 0 to below 1"),
    ],
)
def test_mistakes_are_told(name: str, given_settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_schedule(name, given_settings, total=10, lr=0.1)
    with pytest.raises(ValueError, match="0 epochs or more"):
        build_schedule("constant", {}, total=10, lr=0.1, warmup=-1)
