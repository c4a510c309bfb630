"""The kinds of values that `controlnets` and `regions` hold: networks with their pictures, prompts with their masks.

What was written is checked here; what a matrix's names in it become, `controlnets` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import (
    Annotated,
    Any,
    Required,  # pydantic asks for these before Python 3.12
)

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, with_config
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from typing_extensions import TypedDict

from renderer.errors import shorten
from renderer.manifest.additions import MAX_LORA_LENGTH, Weighing
from renderer.manifest.complaints import name_kind
from renderer.manifest.kinds import PathText, Prompt, Within

MOST_CONTROLNETS = 8
"""ControlNets of one picture."""

MOST_REGIONS = 16
"""Regions of one picture."""

SCALES = (0.0, 4.0)
"""The least and the most that a ControlNet can be scaled."""

_HINT = "like {id: DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Canny, image: edges.png}"


class _Whole:
    """A mapping that names one network, and in which what ends does not begin after it."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        before = core_schema.no_info_before_validator_function(cls._named, handler(source))
        return core_schema.no_info_after_validator_function(cls._in_order, before)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema)

    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            said = "has no value" if value is None else f"must be a mapping, not {name_kind(value)}"
            raise _wrong(said, _HINT)
        if ("file" in value) == ("id" in value):
            raise _wrong("needs a file or an id, and one of them", _HINT)
        return value

    @classmethod
    def _in_order(cls, value: Any) -> Any:
        start, end = value.get("start", 0.0), value.get("end", 1.0)
        if start > end:
            raise _wrong(f"starts at {shorten(str(start))}, after its end at {shorten(str(end))}", "both from 0 to 1")
        return value


def _wrong(said: str, hint: str = "") -> PydanticCustomError:
    return PydanticCustomError("renderer", "{said}", {"said": said, "hint": hint})


_Named = Annotated[str, Field(min_length=1, max_length=MAX_LORA_LENGTH)]


@with_config(ConfigDict(strict=True, extra="forbid"))
class ControlNetFields(TypedDict, total=False):
    """A ControlNet, the picture that it holds another one to, and how strongly."""

    file: Annotated[_Named, Field(description="A safetensors file, from the manifest's folder")]
    id: Annotated[_Named, Field(description="The catalogue's")]
    image: Required[Annotated[PathText, Field(description="What it looks at, as it was made for: edges, depth")]]
    mask: Annotated[PathText, Field(description="For networks that inpaint: white is drawn anew")]
    scale: Annotated[float | str, Weighing(*SCALES), Field(description="How strongly: 1 when missing")]
    start: Annotated[float, Within(0, 1), Field(description="At which share of the steps it begins: 0 when missing")]
    end: Annotated[float, Within(0, 1), Field(description="At which share of the steps it ends: 1 when missing")]


@with_config(ConfigDict(strict=True, extra="forbid"))
class RegionFields(TypedDict):
    """A part of a picture with a prompt of its own."""

    prompt: Annotated[Prompt, Field(description="What is drawn there; {name} stands for a matrix's value")]
    mask: Annotated[PathText, Field(description="Where: it is white there")]


ControlNetItem = Annotated[ControlNetFields, _Whole]
