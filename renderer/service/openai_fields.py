"""What OpenAI's clients ask for, in a job's fields; and what they ask for that is not so, as warnings.

Sizes that a model has not become the nearest that it has, names of models that clients make up become the usual one:
their clients send fixed values, and nothing of it is silent. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from renderer.catalog import SIZE_STEP, Model
from renderer.errors import shorten
from renderer.job import Format, Size
from renderer.manifest.expand import find_model
from renderer.service.answers import RequestError
from renderer.service.bodies import GenerationFields, ResponseFormat, read, without_nulls
from renderer.service.intake import with_plain_prompts

NOT_TAKEN = ("rows", "format")
"""Fields of a job that are not asked for here, or by another name."""

_RENAMED: Mapping[str, str] = {"guidance_scale": "cfg_scale", "true_cfg_scale": "cfg_scale", "lora": "loras"}
"""Fields of other servers of this kind, and what they are called here."""

_OWN = GenerationFields.__annotations__.keys() - _RENAMED.keys()


@dataclass(frozen=True, slots=True)
class OpenAIRequest:
    """A request in a job's fields. `warnings` say what was asked for and is otherwise."""

    fields: Mapping[str, Any]
    response_format: ResponseFormat
    output_format: Format
    stream: bool
    previews: int
    warnings: tuple[str, ...]


def translate(
    body: Mapping[str, Any], models: Mapping[str, str], *, strict: bool, key: str = "", derived: bool = False
) -> OpenAIRequest:
    """A request's body in a job's fields; `models` are the server's, by their names.

    Without a seed each request has another; `key` makes it the same one each time, `derived` leaves it to the prompt.
    Raises `RequestError` for what cannot be.
    """
    given = read(GenerationFields, without_nulls(body))
    warnings: list[str] = []
    model = _model(given.get("model"), models, warnings, strict=strict)
    fields = _renamed(without_nulls(body))  # in the order in which they were said
    fields["model"] = model
    take_pictures(fields, find_model(models[model]))
    if "width" not in given:
        fields |= _size(given.get("size"), find_model(models[model]), warnings)
    elif given.get("size", "auto") != "auto":
        warnings.append("width and height are taken, and size is passed over")
    if (count := given.get("n", 1)) > 1:
        fields["count"] = count
    if "seed" not in fields and not derived:
        fields["seed"] = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) if key else secrets.randbelow(2**32)
    if given.get("background") == "transparent":
        warnings.append("no picture here is transparent")
    output_format = fields["format"] = given.get("output_format", "png")
    wanted, stream = given.get("response_format", "b64_json"), given.get("stream", False)
    if (previews := given.get("partial_images", 0)) and not stream:
        warnings.append("partial images come in a stream, and this is none")
    if "matrix" not in fields:  # then it is one of ours
        fields = with_plain_prompts(fields)
    return OpenAIRequest(fields, wanted, output_format, stream, previews if stream else 0, tuple(warnings))


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are a job's, by their names here. Raises `RequestError` where two are the same one."""
    fields: dict[str, Any] = {}
    asked_by: dict[str, str] = {}
    for name, value in given.items():
        if name in _OWN:
            continue
        here = _RENAMED.get(name, name)
        if here in asked_by:
            said = f"is the same as {asked_by[here]}, which is there too"
            raise RequestError(422, "invalid_request", said, field=name, hint="send one of them")
        asked_by[here] = name
        fields[here] = [{"id": value["name"], "weight": value.get("scale", 1.0)}] if name == "lora" else value
    return fields


def take_pictures(fields: dict[str, Any], model: Model) -> None:
    """What goes in, as the model takes it: to edit, to take apart, or to draw over.

    Raises `RequestError` for several where one goes in.
    """
    if model.editing or model.layering:
        if "image" in fields and "images" not in fields:
            fields["images"] = [fields.pop("image")]
    elif isinstance(images := fields.get("images"), list) and len(images) > 1:
        said = "several were sent, and one goes in"
        raise RequestError(422, "invalid_request", said, field="image", hint=f"{model.id} draws over one picture")


def _model(name: str | None, models: Mapping[str, str], warnings: list[str], *, strict: bool) -> str:
    usual = next(iter(models))
    if name is None:
        return usual
    if name in models:
        return name
    said = f'there is no model "{shorten(name)}" here'
    if strict:
        raise RequestError(404, "model_not_found", said, field="model", hint=f"known: {', '.join(models)}")
    warnings.append(f"{said}: {usual} is taken")
    return usual


def _size(text: str | None, model: Model, warnings: list[str]) -> dict[str, int]:
    """Width and height: as asked for, or the nearest that the model has; nothing where it is left to the model."""
    if text is None or text == "auto":
        return {}
    width, _, height = text.partition("x")
    size = Size(width=int(width), height=int(height))
    if model.refusal(size):
        asked, size = size, nearest_in_shape(model, size)
        warnings.append(f"{model.id} has no {asked}: {size} is the nearest")
    return {"width": size.width, "height": size.height}


def nearest_in_shape(model: Model, size: Size) -> Size:
    """The size that a model has and that is nearest in shape, and then in area."""
    scale = min(1.0, model.max_side / max(size.width, size.height))
    scale = min(scale, math.sqrt(model.max_pixels / (size.width * size.height)))
    scale = max(scale, min(1.0, model.min_side / min(size.width, size.height))) if scale == 1.0 else scale

    def fit(pixels: float) -> int:
        steps = max(1, int(pixels * scale / SIZE_STEP + 0.5))
        return min(max(steps * SIZE_STEP, model.min_side), model.max_side)

    fitted = Size(width=fit(size.width), height=fit(size.height))
    while fitted.width * fitted.height > model.max_pixels:  # both were rounded up
        longer = "width" if fitted.width >= fitted.height else "height"
        fitted = fitted.model_copy(update={longer: getattr(fitted, longer) - SIZE_STEP})
    return fitted
