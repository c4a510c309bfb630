"""A mapping held against what its fields may be, and pydantic's errors in a manifest's words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from renderer.errors import shorten
from renderer.manifest import habits
from renderer.manifest.additions import LoraFields
from renderer.manifest.complaints import Complaint, name_kind, nearest
from renderer.manifest.control_kinds import ControlNetFields, RegionFields
from renderer.manifest.document import MAX_PROBLEMS, Route
from renderer.manifest.fields import ExpectFields
from renderer.manifest.kinds import SIZE_HINT

Fields = TypeVar("Fields")


class Checker(Generic[Fields]):
    """Checks one kind of mapping."""

    def __init__(self, kind: type[Fields], known: Iterable[str] = (), elsewhere: Iterable[str] = ()) -> None:
        self._adapter: TypeAdapter[Fields] = TypeAdapter(kind)
        self._known = frozenset(known or kind.__annotations__)
        self._elsewhere = frozenset(elsewhere)

    def check(self, value: Any, route: Route) -> tuple[Fields | None, list[Complaint]]:
        """The mapping with its values in their kinds, or None and all that is wrong with it."""
        try:
            return self._adapter.validate_python(value), []
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=True)
            return None, [self._explain(detail, route) for detail in details[:MAX_PROBLEMS]]

    def _explain(self, detail: ErrorDetails, route: Route) -> Complaint:
        location = detail["loc"]
        at_key = bool(location) and location[-1] == "[key]"
        there = (*route, *(location[:-1] if at_key else location))
        if detail["type"] == "extra_forbidden":
            return Complaint(there, "unknown key", self._hint_at_key(str(location[-1]), location[0]), at_key=True)
        message, hint = _say(detail)
        if location and location[0] in {"size", "sizes"} and detail["type"] == "string_type":
            hint = SIZE_HINT
        if location and not at_key:
            field = str(location[0]) if len(location) == 1 else _ONE_OF.get(str(location[0]), "")
            hint = habits.of_value(field, detail["input"]) or hint
        return Complaint(there, message, hint, at_key=at_key)

    def _hint_at_key(self, key: str, field: str | int) -> str:
        if field == "expect":
            return nearest(key, ExpectFields.__annotations__)
        if field == "loras":
            return nearest(key, LoraFields.__annotations__)
        if field == "controlnets":
            return nearest(key, ControlNetFields.__annotations__)
        if field == "regions":
            return nearest(key, RegionFields.__annotations__)
        top = "jobs" in self._known
        return habits.of_key(key, known=self._known, elsewhere=self._elsewhere, top=top) or nearest(key, self._known)


_ONE_OF = {"sizes": "size", "seeds": "seed"}
"""What the parts of a list are."""

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def _say(detail: ErrorDetails) -> tuple[str, str]:
    """A pydantic error in the manifest's words: the message and its hint."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    message, hint = detail["msg"], ""
    if kind == "renderer":
        message, hint = str(context["said"]), str(context["hint"])
    elif kind == "missing":
        message = "is missing"
    elif value is None:
        message, hint = "has no value", "give it one, or remove the key"
    elif kind in _KINDS:
        given = str(value) if kind == "int_type" and isinstance(value, float) else name_kind(value)
        message, hint = f"must be {_KINDS[kind]}, not {given}", _hint_at_kind(kind, value)
    elif kind == "literal_error":
        message = f"{shorten(str(value))} is not one of its values"
        hint = "allowed: " + context["expected"].replace("'", "")
    elif kind in {"too_long", "string_too_long"}:
        message, hint = f"is too long: {len(value):,}", f"at most {context['max_length']:,}"
    elif kind in {"too_short", "string_too_short"}:
        message = "must not be empty"
    return message, hint


def _hint_at_kind(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "quote it"
    if kind in {"int_type", "float_type"} and isinstance(value, str) and value.strip().lstrip("+-").isdigit():
        return "remove the quotes"
    if kind == "bool_type" and value in ("true", "false"):
        return "remove the quotes"
    if kind == "list_type" and isinstance(value, str | int | float):
        return "put it in [ ]"
    return ""
