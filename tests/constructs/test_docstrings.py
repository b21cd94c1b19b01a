"""The docstring of each construct shows a declaration and the core declarations that it lowers to: the same keys."""

from __future__ import annotations

import importlib

import pytest

from kdplan.constructs.table import CONSTRUCTS
from tests.passes.plans import bag

FRAME = """
param seed = 0
data D = digits
recipe R { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64 }
model net = digits_net(width = 2)
verticals V of D { low = 0..4  high = 5..9 }
def hard(x) = cross_entropy(x, labels)
teacher big = digits_net(width = 4) { phase train on D with R { loss = hard(self.logits) } }
teacher a = digits_net(width = 2, classes = V[0]) { phase train on D[V[0]] with R { loss = hard(self.logits) } }
teacher b = digits_net(width = 2, classes = V[1]) { phase train on D[V[1]] with R { loss = hard(self.logits) } }
student small = net
student both = digits_net(width = 3, classes = D.classes)
phase alone of small on D with R { loss = hard(small.logits) }
"""


@pytest.mark.parametrize("kind", CONSTRUCTS)
def test_what_a_construct_lowers_to(kind: str) -> None:
    shown = importlib.import_module(f"kdplan.constructs.{kind}").__doc__ or ""
    before, arrow, after = shown.partition("\n\n")[2].partition("\n↓\n")
    assert arrow and before.split()[0] == kind
    frame, lowered, by_hand = bag(FRAME), bag(FRAME + before), bag(FRAME + after)
    assert lowered == by_hand
    assert sum(lowered.values()) > sum(frame.values())
