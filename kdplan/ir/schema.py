"""The core plan as JSON: its schema, and a plan written out and read again."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from kdplan.ir.plan import Plan

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@cache
def _adapter() -> TypeAdapter[Plan]:
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)


def schema() -> dict[str, Any]:
    """The JSON schema of a core plan.

    Examples
    --------
    >>> sorted(schema()["properties"])
    ['claims', 'data', 'exports', 'measures', 'networks', 'phases']
    """
    return _adapter().json_schema()


def dump_plan(plan: Plan) -> str:
    """A plan as JSON. Spans are left out: they are no part of what a plan means.

    Examples
    --------
    >>> dump_plan(Plan())
    '{"data":{},"networks":{},"phases":{},"measures":{},"exports":{},"claims":{}}'
    """
    return _adapter().dump_json(plan).decode()


def load_plan(text: str) -> Plan:
    """A plan from JSON.

    Raises
    ------
    pydantic.ValidationError
        Where the text is no JSON or does not have the schema's form.

    Examples
    --------
    >>> load_plan(dump_plan(Plan())) == Plan()
    True
    """
    if '"channels_last":' not in text:
        return _adapter().validate_json(text)
    from pydantic_core import from_json

    plan = from_json(text)
    for phase in plan["phases"].values():
        for recipe in phase["recipes"]:
            if "channels_last" in recipe:  # the older word
                recipe["layout"] = "channels_last" if recipe.pop("channels_last") else "contiguous"
    return _adapter().validate_python(plan)
