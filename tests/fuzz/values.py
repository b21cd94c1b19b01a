"""Values of every kind that the language has, to stand where another kind is wanted, and the plan around them."""

from __future__ import annotations

from pathlib import Path

PLAN = """use "mine.py" as my
use "shared.kd" as shared
param rate = 0.1
param points in 0..1
data digits = digits
verticals half of digits = random(parts = 2, seed = 0)
recipe quick { optimizer = sgd(lr = rate)  epochs = 2  batch = 64 }
model m = digits_net(width = 4)
def f(x) = mean(x)
teacher big = digits_net(width = 8) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
teacher t[v in half] = digits_net(width = 4, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 4)
student both = digits_net(width = 6, classes = digits.classes)
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
"""
"""What the values are made of."""

FILES = {
    "mine.py": "from torch import nn\n\ndef f(x):\n    return x.mean()\n\n"
    "def net(width=3):\n    return nn.Linear(width, 2)\n",
    "shared.kd": "param depth = 2\ndata other = digits\nrecipe slow { optimizer = sgd(lr = 0.1)  epochs = 1 }\n",
}

VALUES = {
    "integer": "3",
    "zero": "0",
    "negative": "-1",
    "large": "10 ** 18",
    "huge": "10 ** 100000000",
    "number": "0.5",
    "tiny": "1e-300",
    "not whole": "2.5",
    "string": '"x"',
    "empty string": '""',
    "boolean": "true",
    "none": "none",
    "list": "[1, 2]",
    "empty list": "[]",
    "nested list": "[[1, 2], [3, 4]]",
    "mixed list": '[1, "x", none]',
    "list of signals": "[small.layer1, labels]",
    "range": "0..2",
    "long range": "0..1000000000",
    "comprehension": "[i * 2 for i in 0..2]",
    "record": "case(a = 1, b = small)",
    "field": "case(a = 1).a",
    "data": "digits",
    "split": "digits.test",
    "unlabelled": "digits.unlabelled",
    "classes": "digits.classes",
    "verticals": "half",
    "vertical": "half[0]",
    "part of data": "digits[half[0]]",
    "network": "small",
    "version": "small@alone",
    "start": "small@init",
    "snapshot": "small@alone[best]",
    "tap": "small.layer1",
    "logits": "small.logits",
    "applied": "small(inputs)",
    "applied tap": "big@init(inputs).layer1",
    "family": "t",
    "member": "t[0]",
    "members": "t[*]",
    "routed": "t[half(labels)]",
    "routed logits": "t[half(labels)].logits",
    "choice of verticals": "half(labels)",
    "labels": "labels",
    "inputs": "inputs",
    "counter": "epoch",
    "recipe": "quick",
    "model": "m",
    "architecture": "digits_net(width = 4)",
    "named architecture": "digits_net",
    "choice": "cosine()",
    "transform": "flip()",
    "function": "kd",
    "call": "kd(small.logits, big@init.logits)",
    "scores": "top(softmax(small.logits), 2)",
    "own function": "f",
    "user's file": "my",
    "user's function": "my.f",
    "user's call": "my.f(small.logits)",
    "user's network": "my.net(width = 3)",
    "file": "shared",
    "part of a file": "shared.other",
    "part": "upto(small.layer1)",
    "ensemble": "ensemble(big, small@alone)",
    "branches": "branched(small, from = layer2, count = 2, shape = [1, 8, 8])",
    "param": "rate",
    "axis": "points",
    "sum": "1 + mean(small.logits)",
    "difference": "small.logits - labels",
    "comparison": "epoch < 3",
    "unknown name": "nothing",
    "unknown attribute": "small.nothing",
    "self": "self",
}
"""A value of each kind, as it is written."""


def write_files(folder: Path) -> None:
    """Writes the files that `PLAN` uses."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
