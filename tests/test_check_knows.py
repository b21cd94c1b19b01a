"""What `check` passes, `run` and `export` do: plans changed in many ways, each checked, then run on a few samples.

The one reason for which a checked plan may fail is a loss that stops being finite, which only training shows.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdplan.diagnostics.report import table
from tests.cli.conftest import Kdplan, Ran

pytest_plugins = ["tests.cli.conftest"]

NET = """\
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, n)

    def forward(self, x):
        return self.fc(self.norm(self.first(x.flatten(1))).relu())

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.words(x).mean(1))

def net(n = 10):
    return Net(n)

def words():
    return Words()

def text():
    import numpy as np
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 20, (41, 5)), np.arange(41) % 3
    return {"train": (x, y), "test": (x[:21], y[:21]), "bare": (x, None)}

def spread(x):
    return (x / (x - x.mean(0)).std(0).mean()).square().mean()

def fixed(x):
    return x.reshape(20, -1).square().mean()
"""

PLAN = """\
use "net.py" as my
param seed = 0
data digits = digits { limit = LIMIT }
data words = my.text()
verticals half of digits { low = 0..4  high = 5..9 }
recipe quick { optimizer = sgd(lr = 0.01)  epochs = 1  batch = 20 }
recipe other = quick { optimizer = adam(lr = 0.01) }
teacher big = digits_net(width = 2) {
  def hard = cross_entropy(self.logits, labels)
  phase train on digits with quick { loss = hard }
}
student small = digits_net(width = 2) { seed = 5 }
student mine = my.net()
student reader = my.words()
student part[v in half] = digits_net(width = 2, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
network slow = ema(small, decay = 0.9)
network both = ensemble(big, small@kd)
phase kd of small on digits with quick {
  PHASE
  loss = cross_entropy(small.logits, labels) + kd(teacher = big.logits, student = small.logits, temperature = 4) TERM
  INNER
}
measure table of MEASURED on VIEW { METRICS }
EXPORT
"""

CHOICES: dict[str, list[str]] = {
    "LIMIT": ["41", "40", "20", "7", "1"],
    "PHASE": [
        "", "drop_last = true", "accumulate = 2", "batch = 1", "batch = 64", "steps = 3",
        "steps = 3  keep_epochs = [9]", "steps = 5  keep_epochs = [2]", "epochs = 2  keep_epochs = [1]  ema = 0.9",
        "schedule = cosine(cycles = 3)", "epochs = 3  schedule = cosine(cycles = 3)", "precision = bf16",
        "precision = fp16", "frozen = stored", "frozen = auto  epochs = 2", "channels_last = true", "clip = 1",
        "label_smoothing = 0.1", "warmup = 2", "optimizer = adamw(lr = 0.01)", "schedule = steps(at = [1])",
        "workers = 1",
    ],
    "TERM": [
        "", "+ mse(slow.logits, small.logits)", "+ mse(small.layer1, big.layer1)", "+ my.spread(small.logits)",
        "+ my.fixed(small.logits)",
        "+ attention(teacher = big.layer2, student = small.layer2)", "+ progress * mean(small.layer1)",
        "+ cross_entropy(small.layer9, labels)", "+ 0.1 * confidence_penalty(small.logits)",
    ],
    "INNER": [
        "", "measure on digits.test { top1 }", "measure on digits.test { cross_entropy, top1 }",
        "measure on digits.test { parameters }", "measure of small.layer1 on digits.test { tsne(samples = 40) }",
        "measure on digits[half[0]].test { top1, topk(5) }", "measure on digits.test { topk(5), ece, confusion }",
        "measure on digits.test { plot(x = epoch, y = top1) }", "measure on words.test { top1 }",
    ],
    "MEASURED": [
        "small@kd", "big, small@kd", "small@kd[best]", "small@kd[ema]", "small@kd[epoch = *]", "small@kd[cycle = *]",
        "small@kd[epoch = 2]", "slow@kd", "slow@kd[best]", "both", "part[*]", "part[*], big", "small@kd.layer1",
        "small@kd.features", "small@kd.probabilities", "small@init", "mine@init", "small@kd.layer9", "reader@init",
    ],
    "VIEW": [
        "digits.test", "digits[half[0]].test", "digits.train", "digits.val", "words.test", "words.bare",
        "digits.test by half", "digits.test over half", "digits.test by seed", "digits[half[1]].test by half",
    ],
    "METRICS": [
        "top1", "top1, top5, cross_entropy", "parameters, flops, training_flops", "topk(7)", "score(6)", "ap",
        "tsne", "tsne(classes = 3, samples = 5)", "confusion", "confusion(2)", "svm", "svm(per_class = 3)",
        "siblings", "siblings(groups = half)", "mpvap(groups = half)", "class_distance(groups = half)", "ece",
        "mean(unit = 3)", "mean(unit = 30)", "rank(1)",
    ],
    "EXPORT": [
        "", "export out = small@kd", "export out = small@kd.layer1", "export out = small@kd.probabilities",
        "export out = both", "export out = slow@kd", "export out = small@init", "export out = mine@init",
        "export out = small@kd[best]", "export out = part[0]", "export out = small@kd.layer9",
    ],
}  # fmt: skip
DEFAULTS = {name: values[0] for name, values in CHOICES.items()}

MORE = [
    (
        "phase own of mine on digits with quick { loss = cross_entropy(mine.logits, labels) }\n"
        "measure last of mine@own on digits.test { top1, flops }\nexport last_one = mine@own"
    ),
    (
        "phase read of reader on words with quick { loss = cross_entropy(reader.logits, labels) }\n"
        "measure last of reader@read on words.test { top1, flops, training_flops }\nexport last_one = reader@read"
    ),
    (
        "phase two of small, mine on digits with quick, other {\n"
        "  loss = cross_entropy(small.logits, labels) + cross_entropy(mine.logits, labels)\n"
        "       + mse(slow.logits, mine.logits)\n"
        "  measure of small, mine on digits.test { top1 }\n}\n"
        "measure last of small@two, mine@two, slow@two[best] on digits.test { top1 }\nexport last_one = mine@two[best]"
    ),
    (
        "phase streams of mine on digits, words.bare with quick { batch = [20, 9]\n"
        "  loss = cross_entropy(mine(digits.inputs).logits, digits.labels) }\n"
        "measure last of mine@streams on digits.test { top1 }"
    ),
    (
        "generations line of digits_net(width = 2) on digits with quick { count = 1\n"
        "  patriarch { loss = cross_entropy(self.logits, labels) }\n"
        "  generation { loss = kl(teacher = previous.logits, student = self.logits) }\n"
        "  measure of self on digits.test { top1 } }\n"
        "measure last of line[*] on digits.test { top1, plot(x = generation, y = top1, baseline = line[0]) }\n"
        "export own = line[1]"
    ),
]


def text(**chosen: str) -> str:
    """The plan with some choices, the others by default."""
    return re.sub(r"\b[A-Z]{4,}\b", lambda m: {**DEFAULTS, **chosen}.get(m[0], m[0]), PLAN)


def disagreement(kdplan: Kdplan, plan: str, name: str) -> str:
    """How a run differs from what the check said; "" where it does not."""
    Path(f"{name}.kd").write_text(plan)
    checked = kdplan("check", f"{name}.kd")
    assert checked.code in (0, 2), checked.err
    if checked.code:
        return ""
    store = ("--store", f"store-{name}")
    ran = kdplan("run", f"{name}.kd", *store)
    problems = [_said("run", ran)]
    for export in re.findall(r"^export (\w+)", plan, re.M) if ran.code == 0 else ():
        problems.append(_said(export, kdplan("export", f"{name}.kd", export, "-o", f"out-{name}-{export}", *store)))
    return "\n".join(p for p in problems if p)


def _said(what: str, ran: Ran) -> str:
    if ran.code == 0 or "KD0820" in ran.out + ran.err:
        return ""
    return f"{what}: {ran.code} {ran.out[-400:]}\n{ran.err[-600:]}"


@pytest.fixture
def own_code(folder: Path) -> None:
    (folder / "net.py").write_text(NET)


SINGLE = [(name, value) for name, values in CHOICES.items() for value in values[1:]]
QUICK = [("LIMIT", DEFAULTS["LIMIT"]), *SINGLE[::6]]


@pytest.mark.parametrize(("name", "value"), QUICK, ids=[v for _, v in QUICK])
def test_one_change(kdplan: Kdplan, own_code: None, name: str, value: str) -> None:
    assert disagreement(kdplan, text(**{name: value}), "p") == ""


def test_the_plan_itself_is_fine(kdplan: Kdplan, own_code: None) -> None:
    Path("p.kd").write_text(text())
    assert kdplan("check", "p.kd").code == 0


@pytest.mark.parametrize("more", MORE, ids=range(len(MORE)))
def test_more_declarations(kdplan: Kdplan, own_code: None, more: str) -> None:
    plan = text(LIMIT="40") + more
    assert disagreement(kdplan, plan, "p") == ""
    assert kdplan("check", "p.kd").code == 0, "a plan that is refused shows nothing"


def _pairs() -> Iterator[dict[str, str]]:
    for one, two in itertools.combinations(SINGLE, 2):
        if one[0] != two[0]:
            yield dict([one, two])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(int(os.environ.get("KDPLAN_CHECK_PLANS", "1"))))
def test_generated_plans(kdplan: Kdplan, own_code: None, part: int) -> None:
    """All single changes, and some hundreds of pairs and triples, in eight parts; `KDPLAN_CHECK_PLANS=8` has all."""
    draw = random.Random(part)
    plans = [dict([change]) for change in SINGLE[part::8]]
    plans += draw.sample(list(_pairs()), 30)
    plans += [dict(draw.sample(SINGLE, 3)) for _ in range(15)]
    failed = {}
    for number, chosen in enumerate(plans):
        problem = disagreement(kdplan, text(**chosen), f"p{number}")
        if problem:
            failed[str(chosen)] = problem
    assert failed == {}


def _passing() -> list[object]:
    """The examples of the table of errors that only warn; two of three are slow tests."""
    rows = [(code, row) for code, row in sorted(table().items()) if row.get("severity") == "warning"]
    some = [
        (f"{code}-{i}", bad)
        for code, row in rows
        for i, bad in enumerate(row.get("bad", []))
        if bad.get("stage", "check") == "check"
    ]
    return [
        pytest.param(bad, id=name, marks=[pytest.mark.slow] if number % 3 else [])
        for number, (name, bad) in enumerate(some)
    ]


@pytest.mark.parametrize("bad", _passing())
def test_examples_of_warnings(kdplan: Kdplan, folder: Path, bad: dict[str, object]) -> None:
    files = bad.get("files", {})
    assert isinstance(files, dict)
    for name, content in files.items():
        (folder / name).write_text(content)
    short = re.sub(r"= digits$", "= digits { limit = 60 }", str(bad["plan"]), flags=re.M)
    assert disagreement(kdplan, re.sub(r"epochs = \d+", "epochs = 2", short), "p") == ""
