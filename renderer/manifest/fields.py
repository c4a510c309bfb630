"""The manifest's fields: their names, kinds and ranges, and what is said about a value that does not fit.

A mapping is checked on its own, without its surroundings; what a job lacks, or what fits no model, shows later. The
JSON Schema comes from the same declarations. Knows nothing of files, lines or pictures.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, ValidationError, with_config
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from renderer import catalog
from renderer.errors import ModelError, shorten
from renderer.job import MAX_SEED, Embed, Format, Precision
from renderer.manifest import habits
from renderer.manifest.yaml_reader import MAX_PROBLEMS, Route
from renderer.text import AMOUNT, bytes_in

MAX_PICTURES = 10_000
"""How many pictures a manifest makes at most when it does not say."""

MAX_MODEL_LENGTH = 1000
"""Characters of a model's name, folder or files."""

MAX_PROMPT_LENGTH = 10_000
"""Characters; Qwen-Image reads about a thousand tokens."""

OUTPUT_FIELDS = ("id", "index", "seed", "width", "height", "model", "hash")
"""What `{…}` may name in `output`, besides a matrix's own names."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something wrong at a route of the document. `at_key` points at the key rather than at its value."""

    route: Route
    message: str
    hint: str = ""
    at_key: bool = False


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `word`, or all of them when none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5) if len(word) <= MAX_WORD_LENGTH else []
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {shorten(', '.join(words), 300)}" if words else ""


MAX_WORD_LENGTH = 100
"""Longer keys, ids and names are a mistake, and comparing them is work."""


# ---- kinds of values -------------------------------------------------------------------------------------------------


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
        files = {"type": "object", "properties": dict.fromkeys(catalog.BY_ROLE, path), "minProperties": 1}
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
            said = "has no value" if value is None else f"must be text or files by part, not {_name_kind(value)}"
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


_SIZE_HINT = 'like "1328x1328", or a ratio like "16:9"'
Prompt = Annotated[str, Field(max_length=MAX_PROMPT_LENGTH), Shaped(r"\S", "must not be empty")]
SizeText = Annotated[str, Shaped(r"^[0-9]{1,6}(x[0-9]{1,6}|:[0-9]{1,6})$", "is not a size", _SIZE_HINT)]
Side = Annotated[int, Within(1, 999_999)]
Seed = Annotated[int, Within(0, MAX_SEED)]
Steps = Annotated[int, Within(2, 200)]  # DiffSynth's schedule of one step divides zero by zero
AmountOfBytes = Annotated[int, _AmountOfBytes]
ModelText = Annotated[str, _ModelText]
MatrixName = Annotated[str, _MatrixName]
Written = Annotated[str, _Written]
Combination = dict[MatrixName, Written]

_STRICT = ConfigDict(strict=True, extra="forbid")


def _without(*pairs: tuple[str, str]) -> dict[str, Any]:
    """The JSON Schema's words for "these two keys exclude each other"."""
    return {"allOf": [{"not": {"required": list(pair)}} for pair in pairs]}


# ---- mappings --------------------------------------------------------------------------------------------------------


@with_config(_STRICT)
class ExpectFields(TypedDict, total=False):
    """Limits that fail a picture when it exceeds them."""

    seconds: Annotated[float, Within(0, 10**9), Field(description="Seconds for the whole picture")]
    vram: Annotated[AmountOfBytes, Field(description="GPU memory, in bytes or like 10GiB")]
    ram: Annotated[AmountOfBytes, Field(description="Memory of the worker's process, in bytes or like 10GiB")]


EXCLUDING = (
    ("size", "sizes"),
    ("size", "width"),
    ("size", "height"),
    ("sizes", "width"),
    ("sizes", "height"),
    ("seed", "seeds"),
    ("seeds", "count"),
    ("steps", "num_inference_steps"),
)
"""Fields that say the same thing in two ways: a mapping may give one of each pair."""


@with_config(ConfigDict(**_STRICT, json_schema_extra=_without(*EXCLUDING)))
class JobFields(TypedDict, total=False):
    """A job: one prompt, and the pictures to make of it."""

    id: Annotated[
        str,
        Field(min_length=1, max_length=MAX_WORD_LENGTH, description="Names the pictures; numbered when missing"),
    ]
    prompt: Annotated[Prompt, Field(description="What to draw; {name} stands for a matrix's value")]
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT_LENGTH, description="What to keep out")]
    model: Annotated[
        ModelText,
        Field(description="Qwen/Qwen-Image, demo, a folder in their layout, or safetensors files by the part they are"),
    ]
    precision: Annotated[Precision, Field(description="How weights are kept and multiplied")]
    cfg_scale: Annotated[float, Within(1, 30), Field(description="Guidance; 1 is none")]
    num_inference_steps: Annotated[Steps, Field(description="Denoising steps; steps is the short form")]
    steps: Annotated[Steps, Field(description="Denoising steps")]
    size: Annotated[SizeText, Field(description='Like "1328x1328", or a ratio like "16:9"')]
    sizes: Annotated[list[SizeText], Field(min_length=1, max_length=1000, description="Several sizes")]
    width: Annotated[Side, Field(description="Pixels, a multiple of 16")]
    height: Annotated[Side, Field(description="Pixels, a multiple of 16")]
    seed: Annotated[Seed, Field(description="Derived from the job's content when missing")]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=100_000, description="Several seeds")]
    count: Annotated[int, Within(1, 10_000), Field(description="That many seeds: seed, seed + 1, and so on")]
    matrix: Annotated[
        dict[MatrixName, Annotated[list[Written], Field(min_length=1)]],
        Field(min_length=1, max_length=20, description="Names and their values; every combination makes a picture"),
    ]
    include: Annotated[
        list[Combination], Field(max_length=1000, description="Combinations to add; each gives all of the names")
    ]
    exclude: Annotated[
        list[Annotated[Combination, Field(min_length=1)]],
        Field(max_length=1000, description="Combinations to leave out; each gives some of the names"),
    ]
    format: Annotated[Format, Field(description="Of the file; webp without loss, jpeg at quality 95")]
    embed: Annotated[Embed, Field(description="What the file says of itself: prompt and settings, less, or nothing")]
    expect: ExpectFields


@with_config(_STRICT)
class HeadFields(TypedDict, total=False):
    """A manifest without its jobs."""

    version: Annotated[int, Within(1, 1), Field(description="The manifest language's version")]
    name: Annotated[
        str,
        Field(min_length=1, max_length=MAX_WORD_LENGTH, description="Folder under outputs/; default: the file's stem"),
    ]
    output: Annotated[
        str,
        Field(
            min_length=1,
            max_length=300,
            description="Pictures' names: {id}, {index}, {seed}, {width}, {height}, {model}, {hash}, a matrix's names",
        ),
    ]
    max_pictures: Annotated[int, Within(1, 100_000), Field(description="More than that is refused as a mistake")]


@with_config(ConfigDict(**_STRICT, json_schema_extra={"required": ["jobs"]}))
class ManifestFields(HeadFields, total=False):
    """What to render: a list of jobs, and what they have in common."""

    defaults: Annotated[JobFields, Field(description="Any of a job's fields, for the jobs that do not give them")]
    jobs: Annotated[list[Prompt | JobFields], Field(min_length=1, description="Jobs, or just their prompts")]


# ---- checking --------------------------------------------------------------------------------------------------------

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
            hint = _SIZE_HINT
        if location and not at_key:
            field = str(location[0]) if len(location) == 1 else _ONE_OF.get(str(location[0]), "")
            hint = habits.of_value(field, detail["input"]) or hint
        return Complaint(there, message, hint, at_key=at_key)

    def _hint_at_key(self, key: str, field: str | int) -> str:
        if field == "expect":
            return nearest(key, ExpectFields.__annotations__)
        top = "jobs" in self._known
        return habits.of_key(key, known=self._known, elsewhere=self._elsewhere, top=top) or nearest(key, self._known)


_ONE_OF = {"sizes": "size", "seeds": "seed"}
"""What the parts of a list are."""

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def _say(detail: ErrorDetails) -> tuple[str, str]:
    """A pydantic error in the manifest's words: the message and its hint."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    message, hint = detail["msg"], ""
    if kind == "renderer":
        message, hint = str(context["said"]), str(context["hint"])
    elif value is None:
        message, hint = "has no value", "give it one, or remove the key"
    elif kind in _KINDS:
        given = str(value) if kind == "int_type" and isinstance(value, float) else _name_kind(value)
        message, hint = f"must be {_KINDS[kind]}, not {given}", _hint_at_kind(kind, value)
    elif kind == "literal_error":
        message = f"{shorten(str(value))} is not one of its values"
        hint = "allowed: " + context["expected"].replace("'", "")
    elif kind in {"too_long", "string_too_long"}:
        message, hint = f"is too long: {len(value):,}", f"at most {context['max_length']:,}"
    elif kind in {"too_short", "string_too_short"}:
        message = "must not be empty"
    return message, hint


def _name_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else "text"


def _hint_at_kind(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "quote it"
    if kind in {"int_type", "float_type"} and isinstance(value, str) and value.strip().lstrip("+-").isdigit():
        return "remove the quotes"
    if kind == "list_type" and isinstance(value, str | int | float):
        return "put it in [ ]"
    return ""
