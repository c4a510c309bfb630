"""The kinds of values that `lettering` holds. Which texts a picture is to show by them, `lettering` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypedDict, get_args

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from renderer.errors import shorten
from renderer.job import USUALLY_FORGIVEN, Forgiven
from renderer.lettering.quotes import MOST_TEXTS
from renderer.manifest.complaints import name_kind

MAX_TEXT_LENGTH = 500
"""Characters of one text that is looked for."""

MOST_RETAKES = 20

_HINT = "auto, none, or a list of texts"
_ALLOWED = f"allowed: {', '.join(get_args(Forgiven))}"


class WantedTexts(TypedDict):
    """What was written, in one form."""

    texts: Literal["auto"] | list[str]
    forgive: list[Forgiven]


class _LetteringValue:
    """Which texts are read back: those in quotation marks, a list, or none; and what is forgiven in them."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._read)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_LENGTH}
        texts = {"type": "array", "items": text, "minItems": 1, "maxItems": MOST_TEXTS}
        forgive = {"type": "array", "items": {"enum": list(get_args(Forgiven))}}
        fields = {"texts": {"anyOf": [{"const": "auto"}, texts]}, "forgive": forgive}
        by_fields = {"type": "object", "properties": fields, "additionalProperties": False}
        return {"anyOf": [{"enum": ["auto", "none"]}, texts, by_fields]}

    @classmethod
    def _read(cls, value: Any) -> WantedTexts | Literal["none"]:
        if value == "none":
            return "none"
        if not isinstance(value, Mapping):
            return WantedTexts(texts=_texts(value), forgive=list(USUALLY_FORGIVEN))
        if unknown := [key for key in value if key not in {"texts", "forgive"}]:
            raise _wrong(f"has no {shorten(str(unknown[0]))}", "it takes texts and forgive")
        forgive = value.get("forgive", list(USUALLY_FORGIVEN))
        if not isinstance(forgive, list):
            raise _wrong("forgive must be a list", _ALLOWED)
        for each in forgive:
            if each not in get_args(Forgiven):
                raise _wrong(f"{shorten(str(each))} cannot be forgiven", _ALLOWED)
        return WantedTexts(texts=_texts(value.get("texts", "auto")), forgive=forgive)


def _texts(value: Any) -> Literal["auto"] | list[str]:
    if value == "auto":
        return "auto"
    if not isinstance(value, list):
        said = "has no value" if value is None else f"must be {_HINT}, not {name_kind(value)}"
        raise _wrong(said, f"put the text in [ ]; or {_HINT}" if isinstance(value, str) else _HINT)
    if not value:
        raise _wrong("must not be empty", "write none")
    if len(value) > MOST_TEXTS:
        raise _wrong(f"is too long: {len(value):,}", f"at most {MOST_TEXTS} texts")
    for text in value:
        if not isinstance(text, str):
            raise _wrong(f"has {name_kind(text)} in its list, and no text", "quote it")
        if not text.strip() or len(text) > MAX_TEXT_LENGTH:
            raise _wrong("has a text that is empty or too long", f"at most {MAX_TEXT_LENGTH} characters")
    return value


def _wrong(said: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("renderer", "{said}", {"said": said, "hint": hint})


LetteringText = Annotated[Any, _LetteringValue]
