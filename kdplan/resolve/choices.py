"""The tables of choices, one for each type of setting, in the one shape that argument checking reads."""

from __future__ import annotations

from functools import cache
from typing import Any

from kdplan.data.catalog import SOURCES
from kdplan.data.transforms import TRANSFORMS
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS
from kdplan.ir.optimizers import OPTIMIZERS, SCHEDULES
from kdplan.ir.spec import Param, Spec
from kdplan.nn.catalog import METRICS, MODELS
from kdplan.nn.layers import LAYERS, LOGIT_SCALES

SPLITS = {
    spec.name: spec
    for spec in (
        Spec("per_class",
             (Param("train", "integer", doc="training images a class", low=1), Param("seed", "integer", 0)),
             "The same number of training images of every class; the rest is `test`, or `val` if there is a `test`."),
        Spec("fraction",
             (Param("train", "number", doc="part for training", above=0, high=1), Param("seed", "integer", 0)),
             "A class-balanced part for training; the rest is `test`, or `val` if there is a `test`."),
    )
}  # fmt: skip

PROTOCOLS = {
    spec.name: spec
    for spec in (
        Spec("templates",
             (Param("size", "integer", 3, "samples in a template", low=1),
              Param("splits", "integer", 10, "how often all is drawn anew", low=1),
              Param("subjects", "integer", None, "classes drawn for each split, by default all", low=2),
              Param("pairs", "integer", 10_000, "at most so many pairs of one subject, and of two", low=1),
              Param("seed", "integer", 0)),
             "In every split each class's samples are shuffled and cut into templates: the first is enrolled in the "
             "gallery, the others are looked up, and all are verified against one another."),
    )
}  # fmt: skip

PARTITIONS = {
    spec.name: spec
    for spec in (
        Spec("random", (Param("parts", "integer", doc="how many", low=2), Param("seed", "integer", 0)),
             "A seeded random partition into parts whose sizes differ by at most one."),
        Spec("hierarchy",
             (Param("file", "text", doc="rows `name,parent` of a CSV file beside the plan or in the data folder, or a "
                                        "JSON object name -> parents"),
              Param("level", "integer", 1, "where it is cut; 0 are the roots", low=0)),
             "One part for each name at a level of a hierarchy: the classes that are it or stand below it."),
    )
}  # fmt: skip


GATES = {
    spec.name: spec
    for spec in (
        Spec("gate", (), "Learnt from the features that the branches share: softmax(relu(bn(fc(mean over places)))).",
             source="ONE (Lan, Zhu, Gong, NeurIPS 2018)"),
        Spec("mean", (), "The same weight for every branch."),
    )
}  # fmt: skip


@cache
def choices() -> dict[str, dict[str, Spec]]:
    """Type of setting -> name -> row; for a parameter that takes one of a few words, `word_type` is its type."""
    tables = _choices()
    params = [
        p
        for table in (FUNCTIONS, PLAN_FUNCTIONS, *tables.values())
        for spec in table.values()
        for p in spec.params
        if p.choices
    ]
    return tables | {word_type(p): {c: Spec(c) for c in p.choices} for p in params}


def word_type(param: Param) -> str:
    """
    >>> word_type(Param("convention", "choice", choices=("code", "paper")))
    'code | paper'
    """
    return " | ".join(param.choices)


def _choices() -> dict[str, dict[str, Spec]]:
    return {
        "optimizer": {n: Spec(n, tuple(s.settings.values()), s.doc) for n, s in OPTIMIZERS.items()},
        "schedule": {n: Spec(n, tuple(s.settings.values()), s.doc) for n, s in SCHEDULES.items()},
        "model": {n: Spec(n, tuple(s.settings.values()), s.doc, more=s.open) for n, s in MODELS.items()},
        "metric": {n: Spec(n, tuple(s.settings.values()), s.doc) for n, s in METRICS.items()},
        "source": {n: Spec(n, s.params, s.doc, more=s.extra) for n, s in SOURCES.items()},
        "transform": {n: Spec(n, s.params, s.doc) for n, s in TRANSFORMS.items()},
        "split": SPLITS,
        "protocol": PROTOCOLS,
        "precision": {c: Spec(c) for c in ("fp32", "bf16", "fp16")},
        "frozen": {c: Spec(c) for c in ("live", "stored", "auto")},
        "mode": {c: Spec(c) for c in ("train", "eval")},
        "partition": PARTITIONS,
        "gate": GATES,
        "head": LAYERS,
        "logit_scale": LOGIT_SCALES,
    }


def fresh() -> dict[str, dict[str, Any]]:
    """The tables for one plan: `superclasses` is filled as its data sets are looked at."""
    return {**choices(), "superclasses": {}}
