"""The kinds of values that a manifest's fields hold: what each takes, and what is said of a value that does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from renderer import catalog
from renderer.errors import ModelError, shorten
from renderer.job import MAX_SEED
from renderer.manifest.complaints import MAX_WORD_LENGTH, name_kind
from renderer.text import AMOUNT, bytes_in

MAX_MODEL_LENGTH = 1000
"""Characters of a model's name, folder or files."""

MAX_PROMPT_LENGTH = 10_000
"""Characters; Qwen-Image reads about a thousand tokens."""

OUTPUT_FIELDS = ("id", "index", "seed", "width", "height", "model", "hash")
"""What `{…}` may name in `output`, besides a matrix's own names."""


@dataclass(frozen=True, slots=True)
class Within:
    """A number from `low` to `high`; NaN is not within anything."""

    low: float
    high: float

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "minimum": self.low, "maximum": self.high}

    def _check(self, value: float) -> float:
        if self.low <= value <= self.high:
            return value
        allowed = f"allowed: {self.low:g}" if self.low == self.high else f"allowed: {self.low:,} to {self.high:,}"
        raise PydanticCustomError(
            "renderer", "{said}", {"said": f"{shorten(str(value))} is out of range", "hint": allowed}
        )


@dataclass(frozen=True, slots=True)
class Shaped:
    """A text that matches `pattern` somewhere; `said` and `hint` explain one that does not."""

    pattern: str
    said: str
    hint: str = ""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern}

    def _check(self, value: str) -> str:
        # JSON Schema's $ is the very end; Python's would let a line break follow.
        if re.search(self.pattern.replace("$", r"\Z"), value):
            return value
        raise PydanticCustomError("renderer", "{said}", {"said": self.said, "hint": self.hint})


class _AmountOfBytes:
    """Bytes, as a whole number or with a unit; the value is a whole number."""

    pattern = f"^{AMOUNT}$"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._read)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": cls.pattern}]}

    @classmethod
    def _read(cls, value: Any) -> int:
        count = bytes_in(value) if isinstance(value, str) else value
        if isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= MAX_SEED:
            return count
        said = f"{shorten(str(value))} is not an amount of bytes"
        raise PydanticCustomError("renderer", "{said}", {"said": said, "hint": 'like "10GiB", "512MiB" or 1000000'})


class _ModelText:
    """What names a model: a text, or its files by the part they are, which become one text."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._read)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        path = {"type": "string", "minLength": 1, "maxLength": MAX_MODEL_LENGTH}
        parts: dict[str, Any] = dict.fromkeys(catalog.BY_ROLE, path)
        parts[catalog.KIND] = {"enum": list(catalog.KINDS)}
        files = {"type": "object", "properties": parts, "minProperties": 1}
        return {"anyOf": [path, {**files, "additionalProperties": False}]}

    @classmethod
    def _read(cls, value: Any) -> str:
        said, hint = "", ""
        if isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair):
            try:
                value = catalog.by_role(value)
            except ModelError as error:
                said, hint = error.message, error.hint
        elif not isinstance(value, str):
            said = "has no value" if value is None else f"must be text or files by part, not {name_kind(value)}"
            hint = "an id, a folder, or files like {transformer: mine.safetensors}"
        elif not value:
            said = "must not be empty"
        if not said and len(value) > MAX_MODEL_LENGTH:
            said, hint = f"is too long: {len(value):,}", f"at most {MAX_MODEL_LENGTH:,}"
        if said:
            raise PydanticCustomError("renderer", "{said}", {"said": said, "hint": hint})
        return str(value)


class _Written:
    """A scalar as it was written: the matrix's values, where `1.50` is to stay `1.50` in a prompt.

    The reader's sources have taken the place of the values before this is checked, so that only text is left.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.str_schema(strict=True, max_length=MAX_PROMPT_LENGTH)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": ["string", "number", "boolean"]}


class _MatrixName:
    """A name of the matrix: a word that can stand in braces, and is no field of `output` already."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls._check, core_schema.str_schema(strict=True))

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "not": {"enum": list(OUTPUT_FIELDS)}}

    @classmethod
    def _check(cls, value: str) -> str:
        said, hint = "", ""
        if value in OUTPUT_FIELDS:
            said, hint = f"{value} is a field of output already", "take another name"
        elif not value.isidentifier() or len(value) > MAX_WORD_LENGTH:
            said, hint = f"{shorten(value)} cannot be a name", "letters, digits and _, not beginning with a digit"
        if said:
            raise PydanticCustomError("renderer", "{said}", {"said": said, "hint": hint})
        return value


MAX_PATH_LENGTH = 1000
"""Characters of a path, or of a pattern for several."""

SIZE_HINT = 'like "1328x1328", or a ratio like "16:9"'
Prompt = Annotated[str, Field(max_length=MAX_PROMPT_LENGTH), Shaped(r"\S", "must not be empty")]
SizeText = Annotated[str, Shaped(r"^[0-9]{1,6}(x[0-9]{1,6}|:[0-9]{1,6})$", "is not a size", SIZE_HINT)]
Side = Annotated[int, Within(1, 999_999)]
Seed = Annotated[int, Within(0, MAX_SEED)]
Steps = Annotated[int, Within(2, 200)]  # DiffSynth's schedule of one step divides zero by zero
AmountOfBytes = Annotated[int, _AmountOfBytes]
PathText = Annotated[str, Field(min_length=1, max_length=MAX_PATH_LENGTH)]
ModelText = Annotated[str, _ModelText]
MatrixName = Annotated[str, _MatrixName]
AsWritten = Annotated[str, _Written]
CombinationFields = dict[MatrixName, AsWritten]
