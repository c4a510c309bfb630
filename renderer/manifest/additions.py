"""The kinds of values that `loras` and `schedule` hold: a LoRA by its catalogue id or file, and how it is weighed.

What was written is put into one form; what a matrix's names in it become, `loras` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, with_config
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from renderer.errors import shorten
from renderer.job import ScheduleKind, Shift
from renderer.manifest.complaints import name_kind

MOST_LORAS = 16
"""LoRAs of one picture."""

WEIGHTS = (-4.0, 4.0)
"""The least and the most that a LoRA can be weighed."""

MAX_LORA_LENGTH = 1000
"""Characters of a LoRA's name or file."""

AUTO = "auto"
"""The schedule that goes with a job's LoRAs, and else the model's own."""

_SHIFTS = (0.01, 100.0)
_LORA_HINT = "a catalogue's id, a file, or {file: mine.safetensors, weight: 0.8}"
_SCHEDULE_HINT = f"allowed: {AUTO}, {', '.join(get_args(ScheduleKind))}, or {{shift: 3}}"


def _wrong(said: str, hint: str = "") -> PydanticCustomError:
    return PydanticCustomError("renderer", "{said}", {"said": said, "hint": hint})


class Weighing:
    """A number within bounds, or a text with a matrix's name in braces."""

    def __init__(self, low: float, high: float) -> None:
        self._bounds = low, high

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        low, high = self._bounds
        return {"anyOf": [{"type": "number", "minimum": low, "maximum": high}, {"type": "string", "pattern": r"\{"}]}

    def _read(self, value: Any) -> float | str:
        if isinstance(value, str):
            if "{" in value:
                return value
            raise _wrong("must be a number, not text", "remove the quotes, or name a matrix's values in braces")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(f"must be a number, not {'nothing' if value is None else name_kind(value)}")
        if refusal := refuse_weight(value, self._bounds):
            raise _wrong(*refusal)
        return float(value)


def refuse_weight(value: float, bounds: tuple[float, float] = WEIGHTS) -> tuple[str, str] | None:
    """Why a number is no weight, with a hint; None where it is one."""
    low, high = bounds
    if low <= value <= high:
        return None
    return f"{shorten(str(value))} is out of range", f"allowed: {low:g} to {high:g}"


class _SpelledOut:
    """A LoRA that is written as one text, as the mapping it stands for."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_before_validator_function(cls._spell, handler(source))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "minLength": 1, "maxLength": MAX_LORA_LENGTH}, handler(schema)]}

    @classmethod
    def _spell(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"file": value}
        if not isinstance(value, dict):
            said = "has no value" if value is None else f"must be text or a mapping, not {name_kind(value)}"
            raise _wrong(said, _LORA_HINT)
        if ("file" in value) == ("id" in value):
            raise _wrong("needs a file or an id, and one of them", _LORA_HINT)
        return value


_Named = Annotated[str, Field(min_length=1, max_length=MAX_LORA_LENGTH)]


@with_config(ConfigDict(strict=True, extra="forbid"))
class LoraFields(TypedDict, total=False):
    """A LoRA, and how strongly it is added; {name} stands for a matrix's value."""

    file: Annotated[_Named, Field(description="A safetensors file, from the manifest's folder; a catalogue's id too")]
    id: Annotated[_Named, Field(description="The catalogue's")]
    weight: Annotated[
        float | str, Weighing(*WEIGHTS), Field(description="1 when missing; 0 adds nothing, less than 0 takes away")
    ]


LoraItem = Annotated[LoraFields, _SpelledOut]


class _ScheduleValue:
    """How noise falls: by a name, or by a shift."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(cls._read)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        low, high = _SHIFTS
        shift = {"type": "number", "minimum": low, "maximum": high}
        by_shift = {"type": "object", "properties": {"shift": shift}, "required": ["shift"]}
        return {"anyOf": [{"enum": [AUTO, *get_args(ScheduleKind)]}, {**by_shift, "additionalProperties": False}]}

    @classmethod
    def _read(cls, value: Any) -> str | Shift:
        if isinstance(value, str) and value in {AUTO, *get_args(ScheduleKind)}:
            return value
        if not isinstance(value, Mapping):
            raise _wrong("has no value" if value is None else f"{shorten(str(value))} is no schedule", _SCHEDULE_HINT)
        if value.keys() != {"shift"}:
            raise _wrong("takes a shift, and nothing else", _SCHEDULE_HINT)
        shift, (low, high) = value["shift"], _SHIFTS
        if isinstance(shift, bool) or not isinstance(shift, int | float):
            raise _wrong("the shift must be a number", _SCHEDULE_HINT)
        if not low <= shift <= high:
            raise _wrong(f"a shift of {shorten(str(shift))} is out of range", f"allowed: {low:g} to {high:g}")
        return Shift(shift=float(shift))


ScheduleText = _ScheduleValue
