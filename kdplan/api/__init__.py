"""Plans written in Python: the same language, the same core plan, the same keys.

>>> from kdplan.api import PlanBuilder, fn, item, labels
>>> p = PlanBuilder()
>>> digits = p.data("digits")
>>> small = p.student("small", "digits_net", width=4)
>>> quick = p.recipe(optimizer=item("sgd", lr=0.1), epochs=3, batch=64)
>>> alone = p.phase("alone", of=small, on=digits, with_=quick, loss=fn.cross_entropy(small.logits, labels))
>>> table = p.measure("table", of=small @ alone, on=digits.test, metrics=["top1"])
>>> list(p.build().phases)
['alone']
"""

from kdplan.api.builder import PhaseName, PlanBuilder
from kdplan.api.declaration import part, several
from kdplan.api.results import Results, Table
from kdplan.api.terms import EVERY, Term, epoch, fn, indices, init, inputs, item, labels, progress, step, targets, word

__all__ = [
    "EVERY",
    "PhaseName",
    "PlanBuilder",
    "Results",
    "Table",
    "Term",
    "epoch",
    "fn",
    "indices",
    "init",
    "inputs",
    "item",
    "labels",
    "part",
    "progress",
    "several",
    "step",
    "targets",
    "word",
]
