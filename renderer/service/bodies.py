"""What requests say, as the routes read it and as `/openapi.json` describes it: one declaration for both.

A job's own fields are the manifest's (`JobFields`); here stand those that other protocols have besides, and instead.
Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    Required,  # pydantic asks for this one before Python 3.12
    TypeVar,
)

from pydantic import BeforeValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from renderer.job import Format
from renderer.manifest.checking import Checker
from renderer.manifest.fields import MOST_IMAGES
from renderer.manifest.kinds import Prompt, Shaped, Steps, Within
from renderer.service.intake import FieldError

MOST_PICTURES = 10
"""Pictures that one request of another protocol asks for at most."""

MOST_PREVIEWS = 3
"""Of one picture on its way."""

ResponseFormat = Literal["b64_json", "url"]
Endpoint = Literal["/v1/images/generations"]

_REST = ConfigDict(strict=True, extra="allow")
_WINDOW = r"^0{0,9}[1-9][0-9]{0,3}[mhd]$"

DataUrl = Annotated[
    str,
    Shaped(r"^data:image/[^,]*;base64,", "is no picture as a data URL", "like data:image/png;base64,iVBOR…"),
]
Window = Annotated[str, Shaped(_WINDOW, 'must be like "24h"')]


def _whole(value: Any) -> Any:
    """A number without a fraction as a whole number: some clients send 512.0."""
    return int(value) if isinstance(value, float) and abs(value) < 2**63 and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
_Pixels = Annotated[int, BeforeValidator(_whole), Within(1, 99_999)]


@with_config(_REST)
class PictureFields(TypedDict, total=False):
    """A job's fields that are pictures."""

    image: Annotated[DataUrl, Field(description="A picture to draw over")]
    images: Annotated[
        list[DataUrl],
        Field(min_length=1, max_length=MOST_IMAGES, description="Pictures to edit, with a model that edits"),
    ]
    mask: Annotated[DataUrl, Field(description="What of the image is drawn anew is white")]


@with_config(_REST)
class OtherLora(TypedDict, total=False):
    """A LoRA as vLLM-Omni takes it."""

    name: Required[str]
    scale: float


@with_config(_REST)
class IgnoredFields(TypedDict, total=False):
    """What OpenAI's images API has, and what changes nothing here."""

    quality: Any
    moderation: Any
    user: Any
    style: Any
    safety_identifier: Any
    output_compression: Any
    input_fidelity: Any
    metadata: Any
    prompt_cache_key: Any
    complexity: Any
    frame_count: Any
    frame_duration_ms: Any


@with_config(_REST)
class GenerationFields(IgnoredFields, total=False):
    """What OpenAI's images API has besides a job's fields, and instead of them."""

    model: Annotated[str, Field(description="One of /v1/models; any other name is taken for the first one")]
    n: Annotated[int, Within(1, MOST_PICTURES), Field(description="How many pictures")]
    size: Annotated[
        str,
        Shaped(r"^(auto|0{0,9}[1-9][0-9]{0,4}x0{0,9}[1-9][0-9]{0,4})$", "is not a size", 'like "1024x1024", or "auto"'),
        Field(description="The nearest that the model has is taken"),
    ]
    response_format: Annotated[ResponseFormat, Field(description="A URL is one of this server")]
    output_format: Annotated[Format, Field(description="Of the file")]
    stream: Annotated[bool, Field(description="Answer with server-sent events")]
    partial_images: Annotated[
        int, Within(0, MOST_PREVIEWS), Field(description="Of a stream: so many previews of each picture, or fewer")
    ]
    background: Annotated[str, Field(description="Nothing here is transparent")]
    guidance_scale: Annotated[float, Within(1, 30), Field(description="As cfg_scale")]
    true_cfg_scale: Annotated[float, Within(1, 30), Field(description="As cfg_scale")]
    lora: Annotated[OtherLora, Field(description="As loras, of one")]


@with_config(_REST)
class BatchFields(TypedDict, total=False):
    """What a batch of OpenAI's is made of."""

    input_file_id: Required[Annotated[str, Field(description="An upload with a line a request")]]
    endpoint: Required[Endpoint]
    completion_window: Annotated[Window, Field(description="What has not come by then is left out")]
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None, Field(max_length=16)
    ]


@with_config(_REST)
class UploadFields(TypedDict, total=False):
    """An upload, besides its file."""

    purpose: Required[Literal["batch"]]


@with_config(_REST)
class WindowQuery(TypedDict, total=False):
    """What is said of a manifest that is a batch."""

    completion_window: Annotated[Window, Field(description="What has not come by then is left out")]


@with_config(_REST)
class OverrideFields(TypedDict, total=False):
    """Of AUTOMATIC1111's settings, what counts here."""

    sd_model_checkpoint: str | None


@with_config(_REST)
class DrawFields(TypedDict, total=False):
    """What AUTOMATIC1111's clients send, as far as it counts here."""

    prompt: Prompt
    negative_prompt: str
    steps: Annotated[Steps, BeforeValidator(_whole)]
    cfg_scale: Annotated[float, Within(1, 30)]
    width: Annotated[_Pixels, Field(description="The nearest that the model has is taken")]
    height: _Pixels
    seed: Annotated[Whole, Field(description="-1 is another one each time")]
    batch_size: Annotated[int, BeforeValidator(_whole), Within(1, MOST_PICTURES)]
    n_iter: Annotated[int, BeforeValidator(_whole), Within(1, MOST_PICTURES)]
    override_settings: OverrideFields


@with_config(_REST)
class DrawOverFields(DrawFields, total=False):
    """The same over a picture, within a mask if there is one; or of pictures, with a model that edits."""

    init_images: Required[
        Annotated[
            list[str],
            Field(min_length=1, max_length=MOST_IMAGES, description="A picture as base64; several to edit"),
        ]
    ]
    denoising_strength: Annotated[float, Within(0.01, 1)]
    mask: Annotated[str, Field(description="What of the image is drawn anew is white")]
    mask_blur: Annotated[Whole, Within(0, 2048)]
    inpainting_mask_invert: Any


Said = TypeVar("Said")
_CHECKERS: dict[type[Any], Checker[Any]] = {}


def read(kind: type[Said], given: Mapping[str, Any]) -> Said:
    """What is said, of a kind that stands here; other fields stay. Raises `FieldError` with all that is wrong."""
    checker = _CHECKERS.setdefault(kind, Checker(kind))
    value, complaints = checker.check(given, ())
    if complaints:
        raise FieldError([(".".join(map(str, each.route)), each.message, each.hint) for each in complaints])
    assert value is not None
    found: Said = value
    return found


def without_nulls(given: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody said, without what is there and null: some clients send all fields that they know."""
    return {name: value for name, value in given.items() if value is not None}
