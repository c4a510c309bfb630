"""What answers say, as the routes make it and as `/openapi.json` describes it. Knows no HTTP."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from renderer.job import Format, LetteringRead, Precision, Value
from renderer.service.batch_store import BatchObject, UploadedFile
from renderer.service.standing import Fate

Health = Literal["starting", "ready", "busy", "failed", "stopping"]


class ImageTold(Value):
    """A picture that is there. `found` says that it was there before it was asked for.

    `lettering` is what was read in it, where that was asked for; the seed is that of the take that was kept.
    """

    id: str
    image_url: str
    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    seed: int
    num_inference_steps: int
    cfg_scale: float
    precision: Precision
    seconds: float | None
    found: bool
    rendered_by: str
    layers: list[str] | None = None
    lettering: LetteringRead | None = None


class ImagesTold(ImageTold):
    """The first of a request's pictures, and all of them where there are several."""

    request_id: str
    images: list[ImageTold] | None = None


class StandingTold(Value):
    """How a picture stands."""

    id: str
    state: Fate
    url: str
    step: int | None = None
    steps: int | None = None
    message: str | None = None
    hint: str | None = None


class AcceptedTold(StandingTold):
    """How the first of the pictures that were accepted stands, and how all of them do."""

    images: list[StandingTold]
    request_id: str


class DoneTold(ImageTold):
    """A picture that is looked at, and is there."""

    state: Literal["done"] = "done"


class OurTrouble(Value):
    """What is wrong: with which field, and what helps. `problems` are all that were found."""

    code: str
    message: str
    field: str | None
    hint: str | None
    problems: list[dict[str, Any]] | None = None


class OurError(Value):
    """What went wrong, at our own paths."""

    error: OurTrouble


class OpenAITrouble(Value):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(Value):
    """What went wrong, at OpenAI's paths."""

    error: OpenAITrouble


class WebuiError(Value):
    """What went wrong, at AUTOMATIC1111's paths."""

    error: str
    detail: str
    errors: str


class GeneratedImage(Value):
    """One picture of a request of OpenAI's: its bytes, or where they are. `layer` says which one of a picture it is."""

    b64_json: str | None = None
    url: str | None = None
    seed: int
    id: str
    layer: int | None = None


class GeneratedImages(Value):
    """A request's pictures, as OpenAI's clients read them."""

    created: int
    data: list[GeneratedImage]
    size: str
    quality: str
    background: str
    output_format: Format


class ModelTold(Value):
    """A model, as OpenAI's clients read it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "renderer"


class ModelList(Value):
    """The server's models."""

    object: Literal["list"] = "list"
    data: list[ModelTold]


class FileList(Value):
    """Uploads."""

    object: Literal["list"] = "list"
    data: list[UploadedFile]
    has_more: bool = False


class FileTold(Value):
    """An upload, or what a batch made."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class RemovedFile(Value):
    """An upload that is there no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class BatchList(Value):
    """Batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class HealthTold(Value):
    """How the server is."""

    status: Health
    worker: Literal["none", "opening", "open"]
    waiting: int
    rendering: int
    version: str


class Drawn(Value):
    """Pictures as AUTOMATIC1111's clients read them: base64, what was asked for, and JSON as a text."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class ProgressState(Value):
    """Of what this client waits for, the picture that is being drawn."""

    skipped: bool = False
    interrupted: bool = False
    job: str
    job_count: int
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int
    sampling_steps: int


class ProgressTold(Value):
    """How far this client's pictures are."""

    progress: float
    eta_relative: float = 0.0
    state: ProgressState
    current_image: str | None = None
    textinfo: str | None = None


class Nothing(Value):
    """An answer that says nothing."""


class Anything(Value):
    """An answer that other tools read, and whose fields are theirs."""

    model_config = ConfigDict(extra="allow")
