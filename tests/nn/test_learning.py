"""The parts together: a small network learns real digits in a second or two, the same way each time."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from kdplan.nn.losses import cross_entropy
from kdplan.nn.metrics import build_metric
from kdplan.nn.models import create, initialise
from kdplan.nn.optim import WeightAverage, build_optimizer, set_lr_factor
from kdplan.nn.schedules import build_schedule


def train(epochs: int = 5) -> tuple[float, float, dict[str, torch.Tensor]]:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    net = initialise(lambda: create("digits_net", width=8), 0)
    optimizer = build_optimizer("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}, net.parameters())
    schedule = build_schedule("cosine", {}, total=epochs, lr=0.1, warmup=0.5)
    average = WeightAverage(net, decay=0.9)
    order = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        batches = torch.randperm(1400, generator=order).split(100)  # type: ignore[no-untyped-call]
        for i, batch in enumerate(batches):
            set_lr_factor(optimizer, schedule.lr_factor(epoch + i / len(batches)))
            optimizer.zero_grad()
            cross_entropy(net(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            average.update()
    net.eval()
    metric = build_metric("top1")
    metric.update(net(x[1400:]), y[1400:])
    averaged = build_metric("top1")
    with average.swapped():
        averaged.update(net(x[1400:]), y[1400:])
    return metric.compute(), averaged.compute(), net.state_dict()


def test_digits_are_learned_and_learned_again_to_the_bit() -> None:
    top1, averaged, weights = train()
    assert top1 > 85 and averaged > 85  # the last 397 digits are by other hands
    again = train()
    assert again[:2] == (top1, averaged)
    assert all(torch.equal(v, again[2][k]) for k, v in weights.items())
