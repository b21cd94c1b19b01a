"""What pydantic must know of the core plan, said without importing it: only plans as JSON need it."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

EXCLUDED = {"exclude": True}
"""Metadata of a data class's field that is no part of the JSON form."""


class NotInSchema:
    """Marks a type that the JSON schema does not describe."""

    def __get_pydantic_json_schema__(self, *_: object) -> NoReturn:
        from pydantic_core import PydanticOmit

        raise PydanticOmit


class ByKind:
    """Marks a union whose members are told apart by their field `kind`."""

    def __get_pydantic_core_schema__(self, union: Any, schema_of: Any) -> Any:
        from pydantic import Field

        return schema_of(Annotated[union, Field(discriminator="kind")])
