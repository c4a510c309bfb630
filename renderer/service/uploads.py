"""Pictures that clients send along: checked, kept in the server's folder by their pixels, and named to the intake.

They come in multipart forms, as OpenAI's clients send them, or in JSON as data URLs. Nothing of theirs is a path: what
is named to the manifest's rules is a file that this module wrote.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from renderer.errors import PictureError
from renderer.job import Input, InputFile
from renderer.manifest import scalars
from renderer.manifest.fields import MOST_IMAGES
from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder
from renderer.service.answers import RequestError
from renderer.system.files import write_whole

FIELDS = ("image", "mask")
"""A job's fields that are pictures."""

SEVERAL = "images"
"""And the one that is several of them, for a model that edits."""

_DATA_URL = "data:image/"
_MOST_FIELDS = 64
_TEXTS = frozenset({"prompt", "negative_prompt", "model", "size", "user", "background", "quality", "style"})


class Uploads:
    """Keeps what is sent in the server's folder.

    One picture at a time is decoded: a large one takes a GiB or two of memory for a second, and many clients may send.
    """

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._one_at_a_time = asyncio.Lock()

    async def take(self, fields: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
        """The same fields, with a file in the place of each data URL; and these files. Raises `RequestError`."""
        taken, files = dict(fields), set[str]()
        for name in FIELDS:
            value = taken.get(name)
            if isinstance(value, str) and value.startswith(_DATA_URL):
                taken[name] = await self._kept(name, _decoded(name, value))
                files.add(taken[name])
        if isinstance(images := taken.get(SEVERAL), list):
            taken[SEVERAL] = [await self._taken(each, files) for each in images[:MOST_IMAGES]] + images[MOST_IMAGES:]
        return taken, frozenset(files)

    async def _taken(self, value: Any, files: set[str]) -> Any:
        """A file in the place of one of several data URLs; what is none stays."""
        if not isinstance(value, str) or not value.startswith(_DATA_URL):
            return value
        kept = await self._kept(SEVERAL, _decoded(SEVERAL, value))
        files.add(kept)
        return kept

    async def form(self, request: Request) -> tuple[dict[str, Any], frozenset[str]]:
        """A multipart form's fields, numbers as numbers, and its pictures as files. Raises `RequestError`.

        Several of the name `image` are `images`.
        """
        try:
            form = await request.form(max_files=MOST_IMAGES + 2, max_fields=_MOST_FIELDS)
        except AssertionError as error:
            hint = "install the renderer with its extra: pip install 'renderer[service]'"
            raise RequestError(501, "unsupported", "this server cannot read forms", hint=hint) from error
        except MultiPartException as error:
            raise RequestError(400, "not_a_form", f"the form cannot be read: {error.message}") from error
        try:
            return await self._of_form(form)
        finally:
            await form.close()

    async def _of_form(self, form: FormData) -> tuple[dict[str, Any], frozenset[str]]:
        taken: dict[str, Any] = {}
        images: list[str] = []
        files = set[str]()
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if name in taken and not (name == "image" and isinstance(value, UploadFile)):
                raise RequestError(422, "invalid_request", "is there twice", field=name)
            if not isinstance(value, UploadFile):
                taken[name] = value if name in _TEXTS else scalars.resolve(value)[0]
                continue
            if name not in FIELDS:
                raise RequestError(422, "invalid_request", "no file goes in here", field=name, hint="image, or mask")
            taken[name] = kept = await self._kept(name, await value.read(), of_form=True)
            files.add(kept)
            images += [kept] if name == "image" else []
        if len(images) > 1:
            taken[SEVERAL] = images
            del taken["image"]
        return taken, frozenset(files)

    async def _kept(self, name: str, data: bytes, *, of_form: bool = False) -> str:
        async with self._one_at_a_time:
            return await run_in_threadpool(self._keep, name, data, of_form=of_form)

    def _keep(self, name: str, data: bytes, *, of_form: bool) -> str:
        """A picture's file in the server's folder, there once for all that are sent with the same pixels.

        What others sent with these pixels stays: pictures that wait were planned with its bytes.
        """
        purpose: input_files.Purpose = "mask" if name == "mask" else "picture"
        try:
            data = _where_transparent(data) if of_form and name == "mask" else data
            known = input_files.decode(data, name, purpose).known
        except PictureError as error:
            raise RequestError(422, "invalid_request", error.message, field=name, hint=error.hint) from error
        file = InputFile(sha256=known.sha256, path=f"{name}.png", file_sha256=hashlib.sha256(data).hexdigest())
        place = self._folder.path / input_files.kept_name(file)
        if not _is_of(place, known, purpose):
            write_whole(place, data)
        return str(place.absolute())


def _is_of(place: Path, known: Input, purpose: input_files.Purpose) -> bool:
    """Whether a file is there with these pixels; one that is damaged is written anew."""
    try:
        return input_files.identify(place, place.name, purpose)[0] == known
    except PictureError:
        return False


def _decoded(name: str, url: str) -> bytes:
    try:
        return base64.b64decode(url.partition(";base64,")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        hint = "like data:image/png;base64,iVBOR…"
        raise RequestError(422, "invalid_request", "is no data URL with base64", field=name, hint=hint) from error


def _where_transparent(data: bytes) -> bytes:
    """A mask as OpenAI's clients send it, whose transparent parts are edited, as ours: white is drawn anew."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
            if image.size[0] * image.size[1] > input_files.MOST_PIXELS or "A" not in image.getbands():
                return data
            alpha = image.getchannel("A")
    except Exception:  # noqa: BLE001  # whatever it is, `decode` says it
        return data
    buffer = io.BytesIO()
    alpha.point(lambda value: 255 - value).save(buffer, "PNG")
    return buffer.getvalue()
