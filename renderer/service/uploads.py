"""Pictures that clients send along: checked, kept in the server's folder by their pixels, and named to the intake.

They come in multipart forms, as OpenAI's clients send them, or in JSON as data URLs. Nothing of theirs is a path: what
is named to the manifest's rules is a file that this module wrote.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from renderer.errors import PictureError
from renderer.job import Input, InputFile
from renderer.manifest import scalars
from renderer.manifest.fields import MOST_IMAGES
from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder
from renderer.service.answers import RequestError
from renderer.system.files import write_whole
from renderer.text import installing

FIELDS = ("image", "mask")
"""A job's fields that are pictures."""

SEVERAL = "images"
"""And the one that is several of them, for a model that edits."""

BESIDE = "context_image"
"""And one that no form has."""

WITHIN: Mapping[str, tuple[str, ...]] = {"controlnets": ("image", "mask"), "regions": ("mask",)}
"""Lists of a job, and what of each of their mappings is a picture."""

_MOST_WITHIN = 16

_DATA_URL = "data:image/"
_MOST_FIELDS = 64
_TEXTS = frozenset({"prompt", "negative_prompt", "model", "size", "user", "background", "quality", "style"})


@dataclass(slots=True)
class Received:
    """What came with one request: its fields, with a file in the place of each picture, and these files."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    @property
    def named(self) -> frozenset[str]:
        """The files, as the intake wants them."""
        return frozenset(self.files)


@asynccontextmanager
async def form_of(request: Request, **most: int) -> AsyncIterator[FormData]:
    """A multipart form, with no more in it than that. Raises `RequestError`."""
    try:
        form = await request.form(**most)
    except AssertionError as error:
        hint = f"its operator has it with: {installing('service')}"
        raise RequestError(501, "unsupported", "this server cannot read forms", hint=hint) from error
    except HTTPException as error:
        raise RequestError(400, "not_a_form", f"the form cannot be read: {error.detail}") from error
    try:
        yield form
    finally:
        await form.close()


class Uploads:
    """Keeps what is sent in the server's folder, and takes away again what came with a request that was refused.

    One picture at a time is decoded: a large one takes a GiB or two of memory for a second, and many clients may send.
    A file that is there already, or that somebody else has sent meanwhile and been accepted with, stays.
    """

    def __init__(self, folder: OutputFolder, takes_apart: Callable[[object], bool]) -> None:
        """`takes_apart` says of a model, as requests name it, whether transparency counts in what it is sent."""
        self._folder = folder
        self._takes_apart = takes_apart
        self._one_at_a_time = asyncio.Lock()
        self._undecided: Counter[str] = Counter()
        self._new: set[str] = set()
        self._clearing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def of(self, fields: Mapping[str, Any]) -> AsyncIterator[Received]:
        """The same fields, with a file in the place of each data URL. Raises `RequestError`.

        Within, the request is decided about: where that raises something, its files go again.
        """
        async with self._deciding() as sent:
            await self._take(sent, fields)
            yield sent

    @asynccontextmanager
    async def form(self, request: Request) -> AsyncIterator[Received]:
        """A multipart form's fields, numbers as numbers, and its pictures as files. Raises `RequestError`.

        Several of the name `image` are `images`. Within, as with `of`.
        """
        async with self._deciding() as sent:
            async with form_of(request, max_files=MOST_IMAGES + 2, max_fields=_MOST_FIELDS) as form:
                await self._take_form(sent, form)
            yield sent

    # -- what becomes of files --

    @asynccontextmanager
    async def _deciding(self) -> AsyncIterator[Received]:
        sent = Received()
        try:
            yield sent
        except BaseException:
            # On its own, for whoever asked may be gone, and this with it.
            clearing = asyncio.create_task(self._clear(sent.files))
            self._clearing.add(clearing)
            clearing.add_done_callback(self._clearing.discard)
            await asyncio.shield(clearing)
            raise
        self._undecided = self._undecided - Counter(sent.files)
        self._new -= sent.files

    async def _clear(self, files: Iterable[str]) -> None:
        async with self._one_at_a_time:  # whoever looks whether one is there is not to lose it then
            self._undecided = self._undecided - Counter(files)
            gone = {file for file in files if file in self._new and file not in self._undecided}
            self._new -= gone
            await run_in_threadpool(_remove, gone)

    # -- what was sent --

    async def _take(self, sent: Received, fields: Mapping[str, Any]) -> None:
        taken = sent.fields = dict(fields)
        apart = self._takes_apart(fields.get("model"))
        for name in (*FIELDS, BESIDE):
            if _is_data_url(value := taken.get(name)):
                taken[name] = await self._kept(sent, name, _decoded(name, value), apart=apart)
        if isinstance(images := taken.get(SEVERAL), list):
            taken[SEVERAL] = [
                await self._kept(sent, SEVERAL, _decoded(SEVERAL, each), apart=apart)
                if place < MOST_IMAGES and _is_data_url(each)
                else each
                for place, each in enumerate(images)
            ]
        for name, keys in WITHIN.items():
            if isinstance(listed := taken.get(name), list):
                taken[name] = [
                    await self._take_within(sent, each, keys)
                    if place < _MOST_WITHIN and isinstance(each, Mapping)
                    else each
                    for place, each in enumerate(listed)
                ]

    async def _take_within(self, sent: Received, each: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
        taken = dict(each)
        for key in keys:
            if _is_data_url(value := taken.get(key)):
                taken[key] = await self._kept(sent, key, _decoded(key, value), apart=False)
        return taken

    async def _take_form(self, sent: Received, form: FormData) -> None:
        taken = sent.fields
        files: list[tuple[str, UploadFile]] = []
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if isinstance(value, UploadFile) and name not in FIELDS:
                raise RequestError(422, "invalid_request", "no file goes in here", field=name, hint="image, or mask")
            if name in taken or (name != "image" and name in dict(files)):
                raise RequestError(422, "invalid_request", "is there twice", field=name)
            if isinstance(value, UploadFile):
                files.append((name, value))
            else:
                taken[name] = value if name in _TEXTS else scalars.resolve(value)[0]
        apart, images = self._takes_apart(taken.get("model")), list[str]()
        for name, file in files:  # what they are for is known only when all fields are
            if name in taken and not images:
                raise RequestError(422, "invalid_request", "is there twice", field=name)
            taken[name] = kept = await self._kept(sent, name, await file.read(), of_form=True, apart=apart)
            images += [kept] if name == "image" else []
        if len(images) > 1:
            taken[SEVERAL] = images
            del taken["image"]

    async def _kept(self, sent: Received, name: str, data: bytes, *, of_form: bool = False, apart: bool) -> str:
        purpose: input_files.Purpose = "mask" if name == "mask" else "layers" if apart else "picture"
        async with self._one_at_a_time:
            kept, is_new = await run_in_threadpool(self._keep, name, data, purpose, of_form=of_form)
            if kept not in sent.files:
                sent.files.add(kept)
                self._undecided[kept] += 1
            self._new |= {kept} if is_new else set()
        return kept

    def _keep(self, name: str, data: bytes, purpose: input_files.Purpose, *, of_form: bool) -> tuple[str, bool]:
        """A picture's file in the server's folder, there once for all that are sent with the same pixels.

        And whether it was not there before. What others sent with these pixels stays: pictures that wait were planned
        with its bytes.
        """
        try:
            data = _where_transparent(data) if of_form and name == "mask" else data
            known = input_files.decode(data, name, purpose).known
        except PictureError as error:
            said = error.message.removeprefix(f"{name}: ")
            raise RequestError(422, "invalid_request", said, field=name, hint=error.hint) from error
        file = InputFile(sha256=known.sha256, path=f"{name}.png", file_sha256=hashlib.sha256(data).hexdigest())
        place = self._folder.path / input_files.kept_name(file)
        is_new = not place.exists()
        if not _is_of(place, known, purpose):
            write_whole(place, data)
        return str(place.absolute()), is_new


def _remove(files: Iterable[str]) -> None:
    """Remove what may go; what cannot be is left, and costs its bytes."""
    for file in files:
        with contextlib.suppress(OSError):
            Path(file).unlink(missing_ok=True)


def _is_data_url(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.startswith(_DATA_URL)


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
