"""Our own requests: a picture asked for and waited for, or asked for and looked at later.

POST   /api/v1/images/generate      the fields of a job ▶ the picture as a data URL
GET    /api/v1/images/{id}          how one stands; done, with its picture
GET    /api/v1/images/{id}/file     the picture alone
DELETE /api/v1/images/{id}          not wanted any more
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlencode

from PIL import Image
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from renderer.errors import DiskError
from renderer.job import Format, Keep, Sidecar
from renderer.manifest.fields import JobFields
from renderer.outputs import metadata
from renderer.outputs.encode import LayerPixels, Pixels, encode, encode_layer
from renderer.outputs.folder import OutputFolder
from renderer.planning import takes
from renderer.service.answer_bodies import AcceptedTold, DoneTold, ImagesTold, ImageTold, StandingTold
from renderer.service.answers import LostPictureError, RequestError, tell
from renderer.service.bodies import PictureFields
from renderer.service.desk import Desk
from renderer.service.intake import Intake, Requested
from renderer.service.json_values import read_json
from renderer.service.operations import Operation, Sent
from renderer.service.queue_file import Ended
from renderer.service.shifts import Shifts
from renderer.service.standing import Standing, StoppingError, Whose
from renderer.service.uploads import Uploads

MEDIA_TYPES: dict[Format, str] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
GENERATE = "/api/v1/images/generate"
_MOST_DEPTH_HINT = 'send a JSON object, like {"prompt": "a red boat"}'


async def read_object(request: Request) -> dict[str, Any]:
    """A request's body as a JSON object. Raises `RequestError` for any other."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError(415, "not_json", "the body is to be JSON", hint="send Content-Type: application/json")
    body = [part async for part in request.stream()]  # which keeps none of it, while a picture is waited for
    try:
        value = read_json(b"".join(body))
    except (ValueError, RecursionError) as error:
        said = "is nested too deeply" if isinstance(error, RecursionError) else f"is no JSON: {error}"
        raise RequestError(400, "not_json", f"the body {said}", hint=_MOST_DEPTH_HINT) from None
    if not isinstance(value, dict):
        raise RequestError(400, "not_json", "the body is no JSON object", hint=_MOST_DEPTH_HINT)
    return value


class Pictures:
    """What the routes have in common: pictures asked for, waited for, and read from the disk as they are to be sent."""

    def __init__(self, folder: OutputFolder, desk: Desk, intake: Intake, shifts: Shifts) -> None:
        self._folder = folder
        self.uploads = Uploads(folder, intake.takes_apart)
        self.desk = desk
        self.intake = intake
        self._shifts = shifts

    async def ask(self, wanted: Sequence[Requested], whose: Whose) -> list[Standing | Sidecar]:
        """Have pictures rendered that are not there; they are on the disk as accepted. Raises what `Desk.accept` does.

        One that fits on this machine in no way is refused with the numbers, one whose model cannot run here with that,
        and one that is to be read where there is no reader with what brings it.
        """
        takes.check_reader(each.item.picture for each in wanted)
        refusal = await run_in_threadpool(self._shifts.refusal, [each.item.picture.job for each in wanted])
        if refusal is not None:
            raise RequestError(422, "too_large", refusal.message, field="width", hint=refusal.hint)
        return await self.desk.accept(wanted, whose)

    async def wait(self, known: Standing | Sidecar) -> Sidecar:
        """The picture's sidecar, when it is there. Raises `LostPictureError` and `StoppingError`."""
        if isinstance(known, Sidecar):
            return known
        await known.over.wait()
        if known.state == "done":
            sidecar = await run_in_threadpool(self.desk.find, known.item)
            if sidecar is not None:
                return sidecar
        elif known.state in ("waiting", "rendering"):
            raise StoppingError("the server is stopping; the picture comes when it runs again", hint="ask for it then")
        raise LostPictureError(known)

    async def read(self, sidecar: Sidecar, keep: Keep) -> bytes:
        """A picture's file as it is to be sent."""
        return await run_in_threadpool(self._read, sidecar, keep)

    async def read_layers(self, sidecar: Sidecar, keep: Keep) -> list[bytes]:
        """The files of a picture's layers, the hindmost first: PNGs, which say as much of themselves as is asked."""
        paths = [self._folder.layer(sidecar.id, number) for number in range(1, 1 + len(sidecar.layers))]
        return [await run_in_threadpool(self._read_layer, path, sidecar, keep) for path in paths]

    @staticmethod
    def _read_layer(path: Path, sidecar: Sidecar, keep: Keep) -> bytes:
        if keep.embed == sidecar.keep.embed:
            return path.read_bytes()
        with Image.open(path) as image:
            layer = LayerPixels(image.width, image.height, image.convert("RGBA").tobytes())
        return encode_layer(layer, metadata.write_layer_labels(_origin_of(sidecar), keep))

    def _read(self, sidecar: Sidecar, keep: Keep) -> bytes:
        path = self._folder.picture(sidecar.id, sidecar.keep.format)
        if keep == sidecar.keep:
            return path.read_bytes()
        with Image.open(path) as image:
            pixels = Pixels(image.width, image.height, image.convert("RGB").tobytes())
        return encode(pixels, keep.format, metadata.write_labels(_origin_of(sidecar), keep))


def _origin_of(sidecar: Sidecar) -> metadata.PictureOrigin:
    return metadata.PictureOrigin(
        fingerprint=sidecar.fingerprint, job=sidecar.job, model=sidecar.model, software=sidecar.software
    )


def whose(request: Request, batch: str = "") -> Whose:
    """For whom a request asks."""
    return Whose(request.state.client, batch)


class FileQuery(Keep):
    """How a file is to be sent, and which of a picture's layers it is; none: the picture itself."""

    layer: int | None = Field(default=None, ge=1)


def file_url(base: str, key: str, keep: Keep, layer: int | None = None) -> str:
    """Where a picture is there as it is to be sent, or one of its layers; `base` is where the server is."""
    asked = FileQuery(**keep.model_dump()) if layer is None else FileQuery(embed=keep.embed, layer=layer)
    usual = FileQuery().model_dump()
    query = urlencode({name: value for name, value in asked.model_dump().items() if value != usual[name]})
    return f"{base}api/v1/images/{key}/file{'?' if query else ''}{query}"


def data_url(data: bytes, kind: Format) -> str:
    """A picture as a URL that holds it."""
    return f"data:{MEDIA_TYPES[kind]};base64,{base64.b64encode(data).decode()}"


def _asked(request: Request) -> FileQuery:
    """Which file is to be sent, and how, as its URL says."""
    given = {name: value for name, value in request.query_params.items() if name in FileQuery.model_fields}
    try:
        return FileQuery.model_validate(given)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        words = get_args(FileQuery.model_fields[field].annotation)
        allowed = "1 and more" if field == "layer" else ", ".join(words)
        said = "is not one of its values"
        raise RequestError(422, "invalid_request", said, field=field, hint=f"allowed: {allowed}") from error


class ImageRoutes:
    """The routes of this module."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._desk = pictures.desk
        job = Sent((PictureFields, JobFields), without=("rows",), needs=("prompt",))
        self.operations = [
            Operation("POST", GENERATE, self.generate, ImagesTold, takes=job, also={202: AcceptedTold}),
            Operation("GET", "/api/v1/images/{key}", self.look, StandingTold | DoneTold),
            Operation("DELETE", "/api/v1/images/{key}", self.cancel, StandingTold),
            Operation("GET", "/api/v1/images/{key}/file", self.file, "image/*", query=FileQuery),
        ]

    async def generate(self, request: Request) -> Response:
        """Render what is asked for and answer with it; with `Prefer: respond-async`, answer when it is accepted."""
        request_id = request.state.request_id
        async with self._pictures.uploads.of(await read_object(request)) as sent:
            wanted = await run_in_threadpool(self._pictures.intake.read, sent.fields, request_id, sent.named)
            known = await self._pictures.ask(wanted, whose(request))
        if "respond-async" in request.headers.get("prefer", "").lower():
            told = [self._told(one) for one in known]
            location = f"/api/v1/images/{wanted[0].key}"
            body = AcceptedTold(**dict(told[0]), images=told, request_id=request_id)
            return tell(body, 202, {"Location": location, "Preference-Applied": "respond-async"})
        sidecars = await asyncio.gather(*map(self._pictures.wait, known))
        answers = [
            await self._answer(sidecar, one.keep, found=isinstance(before, Sidecar))
            for sidecar, one, before in zip(sidecars, wanted, known, strict=True)
        ]
        images = answers if len(answers) > 1 else None
        return tell(ImagesTold.model_construct(**dict(answers[0]), request_id=request_id, images=images))

    async def look(self, request: Request) -> Response:
        """How a picture stands; one that is done is there with it."""
        known = self._found(request)
        if isinstance(known, Ended):
            with contextlib.suppress(DiskError):  # it is told all the same, and tried again by the next server
                await self._desk.kept()
        if isinstance(known, Sidecar):
            return tell(DoneTold.model_construct(**dict(await self._answer(known, Keep(), found=True))))
        return tell(self._told(known))

    async def file(self, request: Request) -> Response:
        """A picture's file, with `?format=` and `?embed=` as they say; with `?layer=`, that layer, which is a PNG."""
        asked = _asked(request)
        known = self._found(request)
        if not isinstance(known, Sidecar):
            told = self._told(known)
            raise RequestError(404, "not_there", f"the picture is {told.state}", hint=told.hint or "")
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        keep = Keep(format=asked.format, embed=asked.embed)
        if asked.layer is not None:
            if asked.layer > len(known.layers):
                raise RequestError(404, "not_there", f"the picture has {len(known.layers)} layers", field="layer")
            data = (await self._pictures.read_layers(known, keep))[asked.layer - 1]
            return Response(data, media_type=MEDIA_TYPES["png"], headers=headers)
        return Response(await self._pictures.read(known, keep), media_type=MEDIA_TYPES[keep.format], headers=headers)

    async def cancel(self, request: Request) -> Response:
        """A picture is not wanted any more; one that a worker has begun comes all the same."""
        known = self._found(request)
        cancelled = isinstance(known, Standing) and self._desk.cancel(known.key, whose(request))
        await self._desk.kept()
        told = self._told(known)
        if not cancelled:
            why = "a worker has it, or others want it too" if isinstance(known, Standing) else f"it is {told.state}"
            raise RequestError(409, "too_late", f"the picture cannot be cancelled: {why}")
        return tell(told)

    def _found(self, request: Request) -> Standing | Ended | Sidecar:
        key = request.path_params["key"]
        known = self._desk.look(key) if key.isalnum() and key.isascii() else None
        if known is None:
            hint = f"POST {GENERATE} asks for one"
            raise RequestError(404, "unknown", "nobody has asked for such a picture here", hint=hint)
        return known

    def _told(self, known: Standing | Ended | Sidecar) -> StandingTold:
        if isinstance(known, Sidecar):
            return StandingTold(id=known.id, state="done", url=f"/api/v1/images/{known.id}")
        return StandingTold(
            id=known.key,
            state=known.how if isinstance(known, Ended) else known.state,
            url=f"/api/v1/images/{known.key}",
            step=known.step,
            steps=known.steps,
            message=known.message or None,
            hint=known.hint or None,
        )

    async def _answer(self, sidecar: Sidecar, keep: Keep, *, found: bool) -> ImageTold:
        job = sidecar.job
        layers = [data_url(each, "png") for each in await self._pictures.read_layers(sidecar, keep)]
        return ImageTold(
            id=sidecar.id,
            image_url=data_url(await self._pictures.read(sidecar, keep), keep.format),
            model=job.model,
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            width=job.width,
            height=job.height,
            seed=job.seed,
            num_inference_steps=job.num_inference_steps,
            cfg_scale=job.cfg_scale,
            precision=job.precision,
            seconds=sidecar.timing.total_s,
            found=found,
            rendered_by=sidecar.place.job_id,
            layers=layers or None,
            lettering=sidecar.lettering,
        )
