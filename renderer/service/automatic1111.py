"""AUTOMATIC1111's API, as far as desktop clients use it: lists that do not change, pictures, progress.

GET  /sdapi/v1/…        options, sd-models, samplers, schedulers, upscalers, loras, progress and other lists
POST /sdapi/v1/txt2img, img2img, options, interrupt, skip
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from renderer.catalog import Model
from renderer.job import Keep, Sidecar, Size
from renderer.manifest.expand import find_model
from renderer.outputs import metadata
from renderer.service.answer_bodies import Anything, Drawn, Nothing, ProgressState, ProgressTold
from renderer.service.answers import RequestError, tell
from renderer.service.bodies import MOST_PICTURES, DrawFields, DrawOverFields, OverrideFields, read, without_nulls
from renderer.service.configuration import ServiceSettings
from renderer.service.images import Pictures, read_object, whose
from renderer.service.intake import with_plain_prompts
from renderer.service.openai_fields import nearest_in_shape, take_pictures
from renderer.service.openai_images import WARNING
from renderer.service.operations import Operation, Sent
from renderer.service.standing import Standing

_PREFIX = "/sdapi/v1"
_SAMPLER = {"name": metadata.SAMPLER, "aliases": ["euler"], "options": {}}
_SCHEDULER = {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}
_NO_UPSCALER = {"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}
_LISTS: Mapping[str, Any] = {
    "samplers": [_SAMPLER],
    "schedulers": [_SCHEDULER],
    "upscalers": [_NO_UPSCALER],
    "latent-upscale-modes": [],
    "sd-vae": [],
    "sd-modules": [],
    "loras": [],
    "hypernetworks": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "prompt-styles": [],
    "face-restorers": [],
    "cmd-flags": {},
}
"""What clients ask for before they draw, and what is the same at every time."""

_KINDS: Mapping[type, Any] = {list: list[Anything], dict: Anything}

PIXELS_OF_A_BLUR = 8
"""A soft edge is counted in steps of so many pixels here."""

_SAME = ("prompt", "negative_prompt", "steps", "cfg_scale")
"""Fields that are called the same here."""


@dataclass(frozen=True, slots=True)
class _Accepted:
    """How the pictures of a request stand that were accepted, and what is told of it: without the pictures it sent."""

    known: Sequence[Standing | Sidecar]
    told: Mapping[str, Any]
    warnings: Sequence[str]


class WebuiRoutes:
    """The routes of this module."""

    def __init__(self, pictures: Pictures, settings: ServiceSettings) -> None:
        self._pictures = pictures
        self._models = settings.shelf.models
        options, draw, over = (Sent((kind,), nulls=True) for kind in (OverrideFields, DrawFields, DrawOverFields))
        self.operations = [
            Operation("GET", f"{_PREFIX}/options", self.options, Anything),
            Operation("POST", f"{_PREFIX}/options", self.choose, Nothing, takes=options),
            Operation("GET", f"{_PREFIX}/sd-models", self.models, list[Anything]),
            Operation("GET", f"{_PREFIX}/progress", self.progress, ProgressTold),
            Operation("POST", f"{_PREFIX}/interrupt", self.interrupt, Nothing),
            Operation("POST", f"{_PREFIX}/skip", self.interrupt, Nothing),
            Operation("POST", f"{_PREFIX}/txt2img", self.draw, Drawn, takes=draw),
            Operation("POST", f"{_PREFIX}/img2img", self.draw_over, Drawn, takes=over),
            *(Operation("GET", f"{_PREFIX}/{name}", self.known, _KINDS[type(told)]) for name, told in _LISTS.items()),
        ]

    async def known(self, request: Request) -> Response:
        """One of the lists that do not change."""
        return JSONResponse(_LISTS[request.url.path.rpartition("/")[2]])

    async def options(self, _request: Request) -> Response:
        """What a client may want to know of the settings."""
        usual = next(iter(self._models))
        return JSONResponse({"sd_model_checkpoint": usual, "samples_format": "png", "CLIP_stop_at_last_layers": 1})

    async def choose(self, request: Request) -> Response:
        """Settings are the server's; a model that it has is chosen with each picture."""
        name = read(OverrideFields, without_nulls(await read_object(request))).get("sd_model_checkpoint")
        if name is not None and name not in self._models:
            raise RequestError(422, "invalid_request", "there is no such model here", field="sd_model_checkpoint")
        return tell(Nothing())

    async def models(self, _request: Request) -> Response:
        """The server's models."""
        return JSONResponse(
            [
                {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name, "config": None}
                for name in self._models
            ]
        )

    async def progress(self, request: Request) -> Response:
        """How far this client's pictures are."""
        mine = [each for each in self._pictures.desk.standing if each.is_wanted_by(request.state.client)]
        steps = sum(each.steps for each in mine)
        done = sum(each.step for each in mine)
        first = next((each for each in mine if each.state == "rendering"), None)
        state = ProgressState(
            job=first.key if first else "",
            job_count=len(mine),
            sampling_step=first.step if first else 0,
            sampling_steps=first.steps if first else 0,
        )
        return tell(ProgressTold(progress=done / steps if steps else 0.0, state=state), nulls=True)

    async def interrupt(self, request: Request) -> Response:
        """Cancel what this client waits for; what a worker has begun comes all the same."""
        await request.body()
        for each in self._pictures.desk.standing:
            if whose(request) in each.wanted_by:
                self._pictures.desk.cancel(each.key, whose(request))
        await self._pictures.desk.kept()
        return tell(Nothing())

    async def draw(self, request: Request) -> Response:
        """Pictures from text."""
        return await self._answered(await self._asked_to_draw(request))

    async def draw_over(self, request: Request) -> Response:
        """Pictures over another, within a mask if there is one: what is white in it is drawn anew. Or edits of some."""
        return await self._answered(await self._asked_to_draw_over(request))

    async def _asked_to_draw(self, request: Request) -> _Accepted:
        body = await read_object(request)
        fields, warnings = self._fields(read(DrawFields, without_nulls(body)))
        return await self._accepted(request, body, fields, warnings)

    async def _asked_to_draw_over(self, request: Request) -> _Accepted:
        body = await read_object(request)
        given = read(DrawOverFields, without_nulls(body))
        fields, warnings = self._fields(given)
        taken, more = pictures_of(given, find_model(self._models[fields["model"]]))
        return await self._accepted(request, body, fields | taken, [*warnings, *more])

    async def _accepted(
        self, request: Request, body: Mapping[str, Any], given: Mapping[str, Any], warnings: Sequence[str]
    ) -> _Accepted:
        async with self._pictures.uploads.of(with_plain_prompts(given)) as sent:
            request_id = request.state.request_id
            wanted = await run_in_threadpool(self._pictures.intake.read, sent.fields, request_id, sent.named)
            known = await self._pictures.ask(wanted, whose(request))
        told = {name: value for name, value in body.items() if name not in ("init_images", "mask")}
        return _Accepted(known, told, warnings)

    async def _answered(self, asked: _Accepted) -> Response:
        sidecars = await asyncio.gather(*map(self._pictures.wait, asked.known))
        files = [await self._pictures.read(each, Keep()) for each in sidecars]
        files += [layer for each in sidecars for layer in await self._pictures.read_layers(each, Keep())]
        images = [base64.b64encode(each).decode() for each in files]
        headers = {WARNING: "; ".join(asked.warnings)} if asked.warnings else {}
        info = json.dumps(_info(sidecars))
        return tell(Drawn(images=images, parameters=asked.told, info=info), headers=headers, nulls=True)

    def _fields(self, given: DrawFields) -> tuple[dict[str, Any], list[str]]:
        """The request in a job's fields, and what of it is otherwise."""
        warnings: list[str] = []
        name = given.get("override_settings", {}).get("sd_model_checkpoint")
        fields: dict[str, Any] = {"model": name if name in self._models else next(iter(self._models))}
        fields |= {field: given[field] for field in _SAME if field in given}  # type: ignore[literal-required]
        fields |= self._size(given, str(fields["model"]), warnings)
        count = given.get("batch_size", 1) * given.get("n_iter", 1)
        if count > MOST_PICTURES:
            raise RequestError(
                422, "invalid_request", f"1 to {MOST_PICTURES} pictures come at once", field="batch_size"
            )
        if count > 1:
            fields["count"] = count
        seed = given.get("seed", -1)
        fields["seed"] = seed if seed >= 0 else secrets.randbelow(2**32)
        return fields, warnings

    def _size(self, given: DrawFields, name: str, warnings: list[str]) -> dict[str, int]:
        """Width and height: as asked for, or the nearest that the model has; nothing where neither is said."""
        if "width" not in given and "height" not in given:
            return {}
        size = Size(width=given.get("width", 512), height=given.get("height", 512))
        model = find_model(self._models[name])
        if model.refusal(size):
            asked, size = size, nearest_in_shape(model, size)
            warnings.append(f"{model.id} has no {asked}: {size} is the nearest")
        return {"width": size.width, "height": size.height}


def pictures_of(given: DrawOverFields, model: Model) -> tuple[dict[str, Any], list[str]]:
    """What goes in, in a job's fields, as the model takes it; and what of it is otherwise than it was asked for.

    Raises `RequestError` for what cannot be.
    """
    warnings: list[str] = []
    fields: dict[str, Any] = {"images": list(map(_data_url, given["init_images"]))}
    take_pictures(fields, model)
    looks, mask = model.editing or model.layering, given.get("mask")
    if not looks:
        fields["image"] = fields.pop("images")[0]
    if "denoising_strength" in given and looks and not mask:
        warnings.append(f"{model.id} takes no denoising_strength without a mask")
    elif "denoising_strength" in given:
        fields["strength"] = given["denoising_strength"]
    if mask:
        if given.get("inpainting_mask_invert"):
            hint = "send it the other way round"
            raise RequestError(422, "unsupported", "no mask is inverted", field="inpainting_mask_invert", hint=hint)
        fields["mask"] = _data_url(mask)
        fields["mask_blur"] = round(given.get("mask_blur", 0) / PIXELS_OF_A_BLUR)
    return fields, warnings


def _data_url(picture: str) -> str:
    """A picture as base64, with or without what data URLs begin with."""
    return picture if picture.startswith("data:") else f"data:image/png;base64,{picture}"


def _info(sidecars: Sequence[Sidecar]) -> dict[str, Any]:
    """What AUTOMATIC1111's clients read of the pictures, which is JSON as a text."""
    first = sidecars[0].job
    origins = [
        metadata.PictureOrigin(fingerprint=each.fingerprint, job=each.job, model=each.model, software=each.software)
        for each in sidecars
    ]
    return {
        "prompt": first.prompt,
        "all_prompts": [each.job.prompt for each in sidecars],
        "negative_prompt": first.negative_prompt,
        "seed": first.seed,
        "all_seeds": [each.job.seed for each in sidecars],
        "width": first.width,
        "height": first.height,
        "steps": first.num_inference_steps,
        "cfg_scale": first.cfg_scale,
        "sampler_name": metadata.SAMPLER,
        "batch_size": len(sidecars),
        "sd_model_name": first.model,
        "infotexts": [metadata.write_parameters(origin) for origin in origins],
        "index_of_first_image": 0,
    }
