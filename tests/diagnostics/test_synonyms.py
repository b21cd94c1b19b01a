"""Words of the field, and the words of the language that are suggested for them."""

from pathlib import Path

import pytest
from torchvision.models import list_models

from kdplan.compile import check_text
from kdplan.constructs.table import KINDS
from kdplan.diagnostics import synonyms
from kdplan.diagnostics.report import nearest
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS, RESERVED
from kdplan.ir.outputs import OUTPUT_TAPS
from kdplan.resolve.choices import choices

START = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
student small = digits_net(width = 2)
"""


def words() -> set[str]:
    """Every word of the language's tables: kinds, settings, functions, choices, parameters, constants."""
    known = {*RESERVED, *OUTPUT_TAPS}
    for kind in KINDS.values():
        known |= {kind.name, *(s.name for s in kind.settings)}
    for table in (FUNCTIONS, PLAN_FUNCTIONS, *choices().values()):
        known |= {*table, *(p.name for spec in table.values() for p in spec.params)}
    return known


def test_every_suggested_word_is_of_the_language() -> None:
    """A synonym leads to a word that exists, and is none itself where the table stands alone."""
    assert {w for found in synonyms.SYNONYMS.values() for w in found} <= words()


def test_networks_of_torchvision_are_spelt_as_there() -> None:
    """Each call that is suggested can be built."""
    assert set(synonyms._TORCHVISION.split()) <= set(list_models())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("student x = resnet_18(classes = 10)", 'torchvision("resnet18")'),
        ("student x = resnet56()", "cifar_resnet(depth = 56)"),
        ("student x = digitsnet(width = 2)", "digits_net"),
        ("phase p of small on digits with quick { loss = ce(small.logits, labels) }", "cross_entropy"),
        ("phase p of small on digits with quick { loss = CrossEntropyLoss(small.logits, labels) }", "cross_entropy"),
        ("phase p of small on digits with quick { loss = kl_div(small.logits, small@init.logits) }", "kl"),
        ("phase p of small on digits with quick { loss = cross_entropy(small.logits, y) }", "labels"),
        ("phase p of small on digits with quick { criterion = cross_entropy(small.logits, labels) }", "loss"),
        ("measure m of small@init on digits.test { accuracy }", "top1"),
        ("measure m of small@init on digits.test { nll }", "cross_entropy"),
        ("recipe r { optimizer = SGD(lr = 0.1)  epochs = 1 }", "sgd"),
        ("recipe r { optimizer = AdamW(lr = 0.1)  epochs = 1 }", "adamw"),
        ("recipe r { optimizer = sgd(learning_rate = 0.1)  epochs = 1 }", "lr"),
        ("recipe r { optimizer = sgd(lr = 0.1, nesterov = True)  epochs = 1 }", "true"),
        ("recipe r { optimizer = sgd(lr = 0.1)  epochs = 1  clip = None }", "none"),
        ("recipe r { optimizer = sgd(lr = 0.1)  epochs = 1  channels_last = True }", "true"),
        ("recipe r { optimizer = sgd(lr = 0.1)  epochs = 1  precision = bfloat16 }", "bf16"),
        ("recipe r { optimizer = sgd(lr = 0.1)  epochs = 1  schedule = step(30, 0.1) }", "steps"),
        ("recipe r { optimizer = sgd(lr = 0.1)  epochs = 1  schedule = MultiStepLR([30]) }", "steps"),
        ("recipe r { optimizer = sgd(lr = 0.1)  epochs = 1  schedule = CosineAnnealingLR() }", "cosine"),
        ("recipe r { optimizer = sgd(lr = 0.1)  epochs = 1  batch_size = 64 }", "batch"),
        ("recipe r { optimizer = sgd(lr = 0.1)  epochs = 1 }\nimport torch", 'use "net.py" as my'),
        ("data e = digits { augment = [RandomHorizontalFlip()] }", "flip"),
        ('data e = ImageFolder("x")', "image_folder"),
        ("from torch import nn", 'use "net.py" as my'),
    ],
)
def test_help_names_the_word(text: str, wanted: str, tmp_path: Path) -> None:
    """An unknown word of the field is answered with the word of the language."""
    found = check_text(START + text, tmp_path)
    assert len(found) == 1
    assert any(d.help and f"`{wanted}`" in d.help for d in found), [(d.code, d.message, d.help) for d in found]


def test_own_names_come_first() -> None:
    """What the plan itself declares, in another spelling, is nearer than a word of the language."""
    assert nearest("ACC", ["top1", "acc"]) == "acc"
    assert nearest("kl_dv", ["kl_div", "kl"]) == "kl_div"
