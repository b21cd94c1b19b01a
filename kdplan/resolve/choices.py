"""The tables of choices: for each type of setting, the rows that a plan can name there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from kdplan.constructs.table import KINDS
from kdplan.data.catalog import SOURCES
from kdplan.data.rules import PARTITIONS, PROTOCOLS, SPLITS
from kdplan.data.transforms import TRANSFORMS
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS
from kdplan.ir.optimizers import OPTIMIZERS, SCHEDULES
from kdplan.ir.policies import POLICIES
from kdplan.ir.spec import Param, SettingSpec, Spec
from kdplan.nn.catalog import METRICS, MODELS
from kdplan.nn.layers import GATES, LAYERS, LOGIT_SCALES

Tables = Mapping[str, Mapping[str, Spec]]
"""Type of setting -> name -> row."""

_TABLES: Tables = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "policy": POLICIES,
    "model": MODELS,
    "metric": METRICS,
    "source": SOURCES,
    "transform": TRANSFORMS,
    "split": SPLITS,
    "protocol": PROTOCOLS,
    "partition": PARTITIONS,
    "gate": GATES,
    "head": LAYERS,
    "logit_scale": LOGIT_SCALES,
}

_WORD_SETTINGS = {"precision": "recipe", "frozen": "recipe", "mode": "network"}
"""Settings that take one of a few words, which functions of a plan can hand on -> a kind that has it."""


@cache
def choices() -> Tables:
    """All tables; for a parameter that takes one of a few words, `word_type` is its type."""
    settings = {name: KINDS[kind].setting(name) for name, kind in _WORD_SETTINGS.items()}
    specs = [spec for table in (FUNCTIONS, PLAN_FUNCTIONS, *_TABLES.values()) for spec in table.values()]
    params = {word_type(p): p for spec in specs for p in spec.params if p.choices}
    return {**_TABLES, **{type: _words(row) for type, row in (*settings.items(), *params.items()) if row is not None}}


def word_type(param: Param) -> str:
    """
    >>> word_type(Param("convention", "choice", choices=("code", "paper")))
    'code | paper'
    """
    return " | ".join(param.choices)


def _words(row: Param | SettingSpec) -> dict[str, Spec]:
    return {word: Spec(word) for word in row.choices}


def fresh() -> dict[str, Any]:
    """The tables for one plan: `superclasses` is filled as its data sets are looked at."""
    return {**choices(), "superclasses": {}}
