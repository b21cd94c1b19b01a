"""Imports as Python and other languages write them: one message each, with the `use` that is meant."""

from __future__ import annotations

import pytest

from kdplan.compile import check_text
from kdplan.diagnostics.report import Reporter
from kdplan.diagnostics.span import Source
from kdplan.syntax.parse import parse, parse_recovering

DATA = "data digits = digits\nrecipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }\n"
MY_A = 'Write `use "nets.py" as my`, then `my.A(…)`.'
ANY = 'Write `use "nets.py" as my`, then `my.NAME(…)`.'
PACKAGE = 'Write this import into a Python file, then `use "net.py" as my` and `my.net(…)` in the plan.'


@pytest.mark.parametrize(
    ("line", "help"),
    [
        ("from torch import nn", PACKAGE),
        ("from torch.nn import *", PACKAGE),
        ("import torch", PACKAGE),
        ("import torch.nn as nn", PACKAGE),
        ("import math", PACKAGE),
        ("use torch.nn as nn", PACKAGE),
        ('from "nets.py" import A', MY_A),
        ('from "nets.py" use A', MY_A),
        ("from nets import A, B", MY_A),
        ("from .nets import (A,\n  B)", MY_A),
        ("from nets.py import A", MY_A),
        ('use "nets.py" import A', MY_A),
        ('use "nets.py" use A', MY_A),
        ('use A from "nets.py"', MY_A),
        ('import { A } from "nets.py"', MY_A),
        ('import A from "nets.py"', MY_A),
        ('import "nets.py" as my', ANY),
        ("import nets", ANY),
        ("use nets", ANY),
        ('include "nets.py"', ANY),
        ('from "nets.py"', ANY),
        ('use own = "nets.py"', 'Write `use "nets.py" as own`, then `own.NAME(…)`.'),
        ("import models.nets as own", 'Write `use "models/nets.py" as own`, then `own.NAME(…)`.'),
        ('from "common.kd" import big', 'Write `use "common.kd"`, then `big`.'),
        ('include "common.kd"', 'Write `use "common.kd"`.'),
        ('import "common.kd" as c', 'Write `use "common.kd" as c`, then `c.NAME`.'),
        (
            "from torchvision.models import resnet18",
            'Write `torchvision("resnet18")` as the architecture of a network.',
        ),
        ("import timm", 'Write `timm("resnet18")` as the architecture of a network.'),
    ],
)
@pytest.mark.parametrize("before", [DATA, DATA + "student s = digits_net()\n"], ids=["a body", "no body"])
def test_one_message_that_shows_use(line: str, help: str, before: str) -> None:
    """Also after a declaration without a body, which such a line does not continue; and the rest is still checked."""
    found = check_text(f"{before}{line}  # code\nstudent other = digits_net(widht = 2)\n")
    assert [d.code for d in found] == ["KD0128", "KD0230"], found
    assert found[0].span is not None and found[0].span.text == line
    assert found[0].help == help


def test_several() -> None:
    """Each line is a mistake of its own, and its names are not reported again."""
    text = (
        "from torch import nn\nfrom nets import A\nimport loss as l\nstudent s = A(width = 2)\nstudent t = nn.Linear()"
    )
    assert [d.code for d in check_text(text)] == ["KD0128"] * 3


def test_other_mistakes_are_still_found() -> None:
    reporter = Reporter()
    parse_recovering(Source("a.kd", "import torch\nrecipe r { epochs: 3 }\nstudent a = b"), reporter)
    assert [d.code for d in reporter.diagnostics] == ["KD0128", "KD0101"]


@pytest.mark.parametrize(
    "text",
    [
        'use "nets.py" as my',
        'use "a.kd" { epochs, width = 3 }',
        "use = 3",
        "stages mimic of small\n  from big on digits with quick { stages = auto }",
        'verticals half of digits\n  from "half.csv"',
        "# from torch import nn\nparam w = 1",
        "def important = 3\ndef user = important",
        "recipe importing { epochs = 1 }\nuse_it x = y",
    ],
)
def test_lines_that_are_no_imports(text: str) -> None:
    assert parse(Source("a.kd", text)).items
