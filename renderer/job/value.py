"""What all frozen values have in common, and the smallest of them."""

from __future__ import annotations

from functools import cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    @classmethod
    def of(cls, **parts: Any) -> Self:
        """The value of these parts, all of which must be given and were checked before: nothing is checked again.

        For values that come by the hundred thousand: a third of the time, and half of the memory.
        """
        fields = _all_fields(cls)
        assert parts.keys() == fields
        value = cls.__new__(cls)
        object.__setattr__(value, "__dict__", parts)
        object.__setattr__(value, "__pydantic_fields_set__", fields)
        object.__setattr__(value, "__pydantic_extra__", None)
        object.__setattr__(value, "__pydantic_private__", None)
        return value


@cache
def _all_fields(kind: type[BaseModel]) -> set[str]:
    """One set for all values of a kind, which are frozen: pydantic copies it before it adds to it."""
    return set(kind.model_fields)


class Size(Value):
    """A picture's size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"
