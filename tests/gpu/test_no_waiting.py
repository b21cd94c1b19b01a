"""Between two reports a step asks nothing of the device, and so the CPU runs ahead of it."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdplan.nn.host import known_on_host
from kdplan.nn.routed import Routed
from kdplan.runtime import optimise
from kdplan.runtime.gpu.ahead import ahead
from kdplan.runtime.gpu.arithmetic import Arithmetic
from tests.gpu.second_device import META, noting, plan_text, training_there

PLAIN = "phase p of small on digits with quick { loss = cross_entropy(small.logits, labels) }"
KD = """phase p of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + kd(small.logits, big@init.logits, temperature = 4)
       + mse(fit(small.layer2, like = big@init.layer2), big@init.layer2)
}"""
BRANCHES = """branches one of digits_net(width = 2) from layer2 on digits with quick {
  count = 3
  loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
       + sum(kl(b.logits, gated.logits, temperature = 3) for b in branch)
}"""
AUGMENT = """augment = [rotation(10), pad_crop(8, pad = 1), flip(), cutout(2), color_jitter(brightness = 0.2),
                        random_resized_crop(8)]"""
COUNTERS = "phase p of small on digits with quick { loss = (1 - progress) * cross_entropy(small.logits, labels) }"

PHASES = {
    "plain": plan_text(PLAIN),
    "distillation": plan_text(KD),
    "branches": plan_text(BRANCHES),
    "step counters": plan_text(COUNTERS),
    "augmentation": plan_text(PLAIN, data=AUGMENT),
    "averages, clipping, warm-up": plan_text(PLAIN, recipe="ema = 0.9  clip = 1  warmup = 1"),
    "accumulation": plan_text(KD, recipe="accumulate = 2"),
    "adam": plan_text(PLAIN, optimizer="adam(lr = 0.01)"),
    "stored": plan_text(KD, recipe="frozen = stored"),
    "stored, accumulation": plan_text(KD, recipe="frozen = stored  accumulate = 2"),
}


@pytest.mark.parametrize("name", PHASES)
def test_a_step_does_not_wait(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with training_there(PHASES[name], tmp_path, monkeypatch) as training:
        if training.job.stored is not None:
            training.job.stored.hold(1 << 30)
        batches = training.job.streams.epoch(0)
        training.train_step(next(batches))  # an epoch's order goes to the device with its first batch
        training.step += 1
        with noting() as noted:
            for batch in batches:
                training.train_step(batch)
                training.step += 1
                training.save_and_report(0, False)
        assert training.step == training.per_epoch > 2
        assert noted.waits == [] and noted.copies == []


def test_stored_values_on_the_disk_are_sent_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the device does not hold is read by the numbers that the CPU has, and sent without waiting."""
    with training_there(PHASES["stored, accumulation"], tmp_path, monkeypatch) as training:
        stored = training.job.stored
        assert stored is not None and stored.there == {} and len(stored.rows) == 2
        smallest = min(rows.bytes for _, rows in stored.rows.values())
        for most, sent in ((0, 2), (smallest, 1)):
            stored.hold(most)
            batches = ahead(training.job.streams.epoch(0), META, stored)
            training.train_step(next(batches))
            with noting() as noted:
                training.train_step(next(batches))
            assert noted.waits == [] and len(noted.copies) == sent


def test_fp16_looks_for_infinities_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused optimizer leaves a step out by itself; another one asks."""
    from torch.optim import adam
    from torch.utils import _foreach_utils

    def precision(self: Arithmetic, precision: str) -> Any:  # there is no autocast for this device
        return nullcontext()

    monkeypatch.setattr(Arithmetic, "_autocast", precision)
    for module in (adam, _foreach_utils):
        if hasattr(module, "_get_fused_kernels_supported_devices"):
            monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
    text = plan_text(PLAIN, optimizer="adam(lr = 0.01)", recipe="precision = fp16  clip = 1")

    def waits(folder: Path) -> list[str]:
        with training_there(text, folder, monkeypatch) as training, noting() as noted, suppress(RuntimeError):
            for batch in list(training.job.streams.epoch(0)):
                training.train_step(batch)
        return [w for w in noted.waits if "scalar" in w]

    assert waits(tmp_path / "a") != []
    monkeypatch.setattr(optimise, "fastest", lambda *of: {"fused": True})
    assert waits(tmp_path / "b") == []


def test_routing_counts_what_the_cpu_knows() -> None:
    """How many samples go through each network follows from labels that the CPU has, too."""
    net = Routed([nn.Linear(4, 2), nn.Linear(4, 2)], part_of=[0, 0, 1])
    labels, x = torch.tensor([2, 0, 1, 2, 1]), torch.randn(5, 4)
    expected = net(labels, x)
    assert expected.shape == (5, 2)
    torch.testing.assert_close(expected[0], net.members[1](x[0]))
    net.to(META)
    there = labels.to(META)
    with noting() as noted, known_on_host([(there, labels)]):
        assert net(there, torch.zeros(5, 4, device=META)).shape == (5, 2)
    assert noted.waits == []
    with noting() as noted, suppress(NotImplementedError):
        net(there, torch.zeros(5, 4, device=META))
    assert noted.waits != []


def test_the_second_device_notes_what_waits() -> None:
    """The check can fail: each of these would wait for a GPU."""
    x = torch.zeros(4, device=META)
    for wait in (
        lambda: x.sum().item(),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: bool(x.sum() > 0),
        lambda: float(x.sum()),
        lambda: torch.tensor(1.0, device=META),
        lambda: torch.ones(4).to(META),
        lambda: x.copy_(torch.ones(4)),
        lambda: x + torch.ones(4),
        lambda: x[torch.tensor([0, 1])],
        lambda: x[x > 0],
        lambda: x.nonzero(),
    ):
        with noting() as noted, suppress(RuntimeError, NotImplementedError):
            wait()
        assert noted.waits, wait
    with noting() as noted:
        torch.ones(4).to(META, non_blocking=True)
        torch.full((), 1.0, device=META) + x
    assert noted.waits == [] and len(noted.copies) == 1
