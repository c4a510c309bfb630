"""OpenAI's images API, as its own clients and people's tools use it.

GET  /v1/models, /v1/models/{name}
POST /v1/images/generations     also as server-sent events
POST /v1/images/edits           a picture drawn over, within a mask if there is one
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from renderer.job import Keep, Sidecar
from renderer.manifest.fields import JobFields
from renderer.outputs.encode import encode
from renderer.service import uploads
from renderer.service.answer_bodies import GeneratedImage, GeneratedImages, ModelList, ModelTold
from renderer.service.answers import RequestError, respond, tell, trouble_of
from renderer.service.bodies import GenerationFields, PictureFields
from renderer.service.configuration import ServiceSettings
from renderer.service.event_stream import ALIVE, ALIVE_S, Listeners, event
from renderer.service.images import Pictures, file_url, read_object, whose
from renderer.service.intake import Requested
from renderer.service.openai_fields import NOT_TAKEN, OpenAIRequest, translate
from renderer.service.operations import FORM, Operation, Sent
from renderer.service.standing import Standing

WARNING = "X-Renderer-Warning"
_BEGAN = int(time.time())


class OpenAIRoutes:
    """The routes of this module."""

    def __init__(self, pictures: Pictures, settings: ServiceSettings) -> None:
        self._pictures = pictures
        self._models = settings.shelf.models
        self._strict = settings.strict_models
        self._listeners = Listeners(settings.limits.streams)
        kinds = (PictureFields, GenerationFields, JobFields)
        body = Sent(kinds, without=NOT_TAKEN, nulls=True, needs=("prompt",))
        form = Sent(kinds, (FORM,), without=NOT_TAKEN, files=uploads.FIELDS, needs=("prompt", "image"))
        generations, edits = "/v1/images/generations", "/v1/images/edits"
        self.operations = [
            Operation("GET", "/v1/models", self.models, ModelList),
            Operation("GET", "/v1/models/{name:path}", self.model, ModelTold),
            Operation("POST", generations, self.generations, GeneratedImages, takes=body, streams=True),
            Operation("POST", edits, self.edits, GeneratedImages, takes=form, streams=True),
        ]

    async def models(self, _request: Request) -> Response:
        """The server's models, the usual one first."""
        return tell(ModelList(data=[_model(name) for name in self._models]))

    async def model(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        if name not in self._models:
            raise RequestError(404, "model_not_found", "there is no such model here", field="model")
        return tell(_model(name))

    async def edits(self, request: Request) -> Response:
        """Edit the pictures of a form, or draw over one: where its mask is transparent, or all of it."""
        async with self._pictures.uploads.form(request) as sent:
            if not sent.fields.keys() & {"image", "images"}:
                raise RequestError(422, "invalid_request", "is missing", field="image", hint="send a file")
            asked, wanted, known = await self._accepted(request, sent)
        return await self._answered(request, asked, wanted, known)

    async def generations(self, request: Request) -> Response:
        """Render, and answer with the pictures when all are there; or with each as it comes."""
        async with self._pictures.uploads.of(await read_object(request)) as sent:
            asked, wanted, known = await self._accepted(request, sent)
        return await self._answered(request, asked, wanted, known)

    async def _accepted(
        self, request: Request, sent: uploads.Received
    ) -> tuple[OpenAIRequest, list[Requested], list[Standing | Sidecar]]:
        """What is asked for, its pictures, and how they stand, which are on the disk as accepted."""
        key = request.headers.get("idempotency-key", "")
        asked = translate(sent.fields, self._models, strict=self._strict, key=key)
        read = self._pictures.intake.read
        wanted = await run_in_threadpool(read, asked.fields, request.state.request_id, sent.named)
        if asked.stream:
            self._listeners.check("ask without stream")
            wanted = [one.shown(asked.previews) for one in wanted]
        return asked, wanted, await self._pictures.ask(wanted, whose(request))

    async def _answered(
        self,
        request: Request,
        asked: OpenAIRequest,
        wanted: Sequence[Requested],
        known: Sequence[Standing | Sidecar],
    ) -> Response:
        headers = {WARNING: "; ".join(asked.warnings).encode("ascii", "replace").decode()} if asked.warnings else {}
        if asked.stream:
            return self._listeners.answer(request, self._stream(request, asked, wanted, known), headers)
        sidecars = await asyncio.gather(*map(self._pictures.wait, known))
        return tell(await self._answer(str(request.base_url), asked, wanted, sidecars), headers=headers)

    async def _answer(
        self, base: str, asked: OpenAIRequest, wanted: Sequence[Requested], sidecars: Sequence[Sidecar]
    ) -> GeneratedImages:
        """The pictures of a request, as OpenAI's clients read them; `base` is where this server is.

        Behind one that was taken apart stand its layers, the hindmost first.
        """
        data = []
        for one, sidecar in zip(wanted, sidecars, strict=True):
            if asked.response_format == "url":
                told = {"url": file_url(base, sidecar.id, one.keep)}
            else:
                told = {"b64_json": base64.b64encode(await self._pictures.read(sidecar, one.keep)).decode()}
            data.append(GeneratedImage(**told, seed=sidecar.job.seed, id=sidecar.id))
            data += [each async for each in self._layers(base, asked, sidecar, one.keep)]
        return GeneratedImages(created=int(time.time()), data=data, **_common(asked, sidecars[0]))

    async def _layers(
        self, base: str, asked: OpenAIRequest, sidecar: Sidecar, keep: Keep
    ) -> AsyncIterator[GeneratedImage]:
        for number, layer in enumerate(await self._pictures.read_layers(sidecar, keep), start=1):
            if asked.response_format == "url":
                told = {"url": file_url(base, sidecar.id, keep, layer=number)}
            else:
                told = {"b64_json": base64.b64encode(layer).decode()}
            yield GeneratedImage(**told, seed=sidecar.job.seed, id=sidecar.id, layer=number)

    async def _stream(
        self, request: Request, asked: OpenAIRequest, wanted: Sequence[Requested], known: Sequence[Standing | Sidecar]
    ) -> AsyncIterator[str]:
        """An event a picture, as it comes, with its previews before it where they are asked for.

        And a comment a step, so that nobody takes the silence for an end.
        """
        kind = "image_edit" if request.url.path.endswith("/edits") else "image_generation"
        for one, standing in zip(wanted, known, strict=True):
            try:
                async for told in _on_its_way(standing, asked, kind):
                    yield told
                sidecar = await self._pictures.wait(standing)
                data = await self._pictures.read(sidecar, one.keep)
            except Exception as error:  # noqa: BLE001  (an answer has begun: what goes wrong is its next event)
                answer = respond(trouble_of(error), request.url.path).body
                yield event(bytes(answer).decode(), name="error")
                return
            yield _picture(f"{kind}.completed", data, _common(asked, sidecar))


async def _on_its_way(known: Standing | Sidecar, asked: OpenAIRequest, kind: str) -> AsyncIterator[str]:
    """A comment for each step of a picture, one every few seconds in which nothing happens, and its previews."""
    if isinstance(known, Sidecar):
        return
    step, steps = 0, known.steps
    preview, index = None, 0
    async for _ in known.follow(ALIVE_S):
        if asked.previews > index and known.preview is not None and known.preview is not preview:
            preview = known.preview
            data = await run_in_threadpool(encode, preview, asked.output_format)
            told = {"partial_image_index": index, "size": f"{preview.width}x{preview.height}"}
            yield _picture(f"{kind}.partial_image", data, {**_how(asked), **told})
            index += 1
        yield ALIVE if known.step == step else f": step {known.step} of {steps}\n\n"
        step = known.step


def _picture(kind: str, data: bytes, told: Mapping[str, Any]) -> str:
    """An event of a stream that has a picture in it."""
    picture = {"type": kind, "b64_json": base64.b64encode(data).decode(), "created_at": int(time.time()), **told}
    return event(json.dumps(picture), name=kind)


def _model(name: str) -> ModelTold:
    return ModelTold(id=name, created=_BEGAN)


def _common(asked: OpenAIRequest, sidecar: Sidecar) -> dict[str, Any]:
    return {**_how(asked), "size": f"{sidecar.job.width}x{sidecar.job.height}"}


def _how(asked: OpenAIRequest) -> dict[str, Any]:
    return {"quality": "auto", "background": "opaque", "output_format": asked.output_format}
