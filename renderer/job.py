"""Frozen values: what is rendered, what was rendered, and the fingerprint that ties the two.

A `Job` is everything a picture's bits depend on besides the weights. A `Picture` is a job with a name and a place in a
manifest. A `Sidecar` is what is known of a picture that has been rendered. Knows nothing of YAML, engines or folders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

RENDERING_VERSION = 1
"""Goes up when the same job would give another picture; every picture is then rendered anew.

Not for a last bit that kernels round otherwise: those have never been fixed, neither from one processor to another nor,
where cuDNN chooses by free memory, on one GPU.
"""

SIDECAR_VERSION: Literal[1] = 1
"""Goes up when a sidecar's fields change their meaning."""

MAX_SEED = 2**63 - 1

Precision = Literal["bf16", "fp8", "fp8-weights"]
"""A job's: bf16; FP8 weights and products; FP8 weights, scaled back and multiplied in bf16 on every card."""

Stored = Literal["bf16", "fp8"]
"""The codecs by which weights are kept (`renderer.weights.codecs`)."""

Profile = Literal["stream", "resident", "fp8", "disk", "cpu"]
Format = Literal["png", "webp", "jpeg"]
Embed = Literal["none", "basic", "full"]
EngineName = Literal["native", "streaming"]

DeviceArithmetic = Literal["bf16", "float32"]
"""What a device computes in: a CPU without bf16 units in float32, every GPU in bf16."""

BlockArithmetic = Literal["bf16", "fp8", "float32"]
"""What the products of a picture's blocks are computed in."""


class Value(BaseModel):
    """A frozen value that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    @classmethod
    def of(cls, **parts: Any) -> Self:
        """The value of these parts, all of which must be given and were checked before: nothing is checked again.

        For values that come by the hundred thousand: a third of the time, and half of the memory.
        """
        fields = _all_fields(cls)
        assert parts.keys() == fields
        value = cls.__new__(cls)
        object.__setattr__(value, "__dict__", parts)
        object.__setattr__(value, "__pydantic_fields_set__", fields)
        object.__setattr__(value, "__pydantic_extra__", None)
        object.__setattr__(value, "__pydantic_private__", None)
        return value


@cache
def _all_fields(kind: type[BaseModel]) -> set[str]:
    """One set for all values of a kind, which are frozen: pydantic copies it before it adds to it."""
    return set(kind.model_fields)


class Size(Value):
    """A picture's size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Job(Value):
    """What is rendered: all that a picture's bits depend on besides the weights and the machine's kernels.

    Field names are those of DiffSynth's `QwenImagePipeline.__call__`. `width` and `height` are pixels, multiples of 16.
    """

    model: str
    precision: Precision
    prompt: str
    negative_prompt: str
    cfg_scale: float
    num_inference_steps: int
    width: int
    height: int
    seed: int


@dataclass(frozen=True, slots=True)
class Weights:
    """What is opened as one, for all jobs that ask for it: a model's reference, and a precision."""

    model: str
    precision: Precision

    @classmethod
    def of(cls, job: Job) -> Weights:
        """The weights that a job is rendered with."""
        return cls(job.model, job.precision)

    def __str__(self) -> str:
        return f"{self.model} at {self.precision}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the sampler follows: so many `steps` over a picture of so many `tokens`, by which its noise is shifted.

    `kind` is the family's, as its catalogue rows name it.
    """

    kind: str
    steps: int
    tokens: int

    @classmethod
    def of(cls, job: Job, kind: str = "qwen-image") -> Schedule:
        """A job's schedule: a token is 16 by 16 pixels."""
        return cls(kind, job.num_inference_steps, (job.height // 16) * (job.width // 16))


class ModelIdentity(Value):
    """Which weights: a catalogue id with its revision, or the SHA-256 over a local folder's files."""

    id: str
    revision: str | None = None
    content_sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.id}@{self.content_sha256[:12] if self.content_sha256 else self.revision}"

    def is_of(self, other: ModelIdentity) -> bool:
        """Whether both are the same weights: by what they hold where that is known, whatever they are called."""
        if self.content_sha256 or other.content_sha256:
            return self.content_sha256 == other.content_sha256
        return (self.id, self.revision) == (other.id, other.revision)


class Expect(Value):
    """Limits that fail a picture when it exceeds them, as a smoke test does. They do not enter the fingerprint."""

    seconds: float | None = None
    vram_bytes: int | None = None
    ram_bytes: int | None = None


class Place(Value):
    """Where a picture stands: the manifest (relative to the project), the line and id of its job, its combination."""

    manifest: str
    line: int
    job_id: str
    index: int
    matrix: dict[str, str] = Field(default_factory=dict)


class Keep(Value):
    """How a picture is kept, which does not enter the fingerprint: the pixels are the job's.

    PNG and WebP keep every pixel's value; JPEG, at quality 95 and full colour, nearly. `embed` is what the file says of
    itself: nothing, that it was generated and by which tool (`basic`), or prompt and settings too (`full`).
    """

    format: Format = "png"
    embed: Embed = "full"


class Picture(Value):
    """One picture of a manifest: its job, its id, and its name without extension under the manifest's output folder."""

    id: str
    output: str
    job: Job
    place: Place
    keep: Keep = Keep()
    expect: Expect | None = None


def canonical(value: BaseModel | dict[str, Any]) -> str:
    """A value as JSON with sorted keys and no spaces: the same text for the same value, always."""
    return _as_canonical(value if isinstance(value, dict) else value.model_dump(mode="json"))


_as_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def fingerprint(job: Job, model: ModelIdentity) -> str:
    """SHA-256 (64 hex digits) over the job, the model's identity and the rendering version.

    What does not change the picture is not in it: the name of weights that are known by their content, the negative
    prompt where nothing is guided. A field that is younger than `_ALWAYS_TOLD` is in it where it is not at its default,
    so that it can be added without any older picture becoming another.
    """
    told = job.model_dump(mode="json", exclude_defaults=True)
    told |= {name: getattr(job, name) for name in _ALWAYS_TOLD}
    told["model"], weights = model.id, model.model_dump(mode="json")
    if model.content_sha256 is not None:
        told["model"] = weights["id"] = ""
    if job.cfg_scale == 1:
        told["negative_prompt"] = ""
    text = f"renderer {RENDERING_VERSION}\n{canonical(weights)}\n{canonical(told)}"
    return hashlib.sha256(text.encode()).hexdigest()


_ALWAYS_TOLD = (
    *("precision", "prompt", "negative_prompt", "cfg_scale", "num_inference_steps"),
    *("width", "height", "seed"),
)
"""The fields that a job had in the beginning. Never add one."""


_as_json = json.JSONEncoder(ensure_ascii=False).encode


def derive_seed(prompt: str, negative_prompt: str, size: Size) -> int:
    """The seed of a job that names none: 32 bits from what the noise stands for, so that a rerun repeats the picture.

    Steps, guidance, precision and model stay out of it: whoever tries more steps compares the same composition.
    """
    text = _as_json([prompt, negative_prompt, size.width, size.height])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


# ---- what is known of a rendered picture -----------------------------------------------------------------------------

Seconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]


class Timing(Value):
    """Seconds of wall time, and when it was. `load_s` is the worker's start, shared by all pictures it rendered.

    `encode_s` is everything before the first denoising step, `decode_s` everything after the last; streamed, they are
    the picture's part of what was made ready for many at once, and the decoding alone, whose values become pixels
    beside the next sweep. `save_s` is the encoding and writing of the file; `total_s` is `encode_s + denoise_s +
    decode_s + save_s`.
    """

    load_s: Seconds | None = None
    encode_s: Seconds | None = None
    step_median_s: Seconds | None = None
    denoise_s: Seconds | None = None
    decode_s: Seconds | None = None
    save_s: Seconds | None = None
    total_s: Seconds | None = None
    began_at: datetime
    ended_at: datetime


class Memory(Value):
    """Peaks in bytes while this picture was rendered; null where the machine has no such figure.

    `allocated` and `reserved` are torch's on the GPU, `device` is all that NVML saw in use there, other processes
    included; `rss` is the worker's highest resident set since it started.
    """

    peak_allocated_bytes: Bytes | None = None
    peak_reserved_bytes: Bytes | None = None
    peak_device_bytes: Bytes | None = None
    peak_rss_bytes: Bytes | None = None


class Gpu(Value):
    """The card that rendered."""

    name: str
    total_bytes: Bytes
    driver: str | None = None
    compute_capability: str | None = None


class Software(Value):
    """Versions that could change a picture's bits; None where something has no part in it.

    `attention` is a package that DiffSynth takes by itself in place of torch's attention. Sidecars of earlier versions
    do not tell of Triton, cuDNN and attention.
    """

    renderer: str
    python: str
    diffsynth: str
    torch: str
    transformers: str
    cuda: str | None = None
    cudnn: str | None = None
    triton: str | None = None
    attention: str | None = None


class Engine(Value):
    """How it was rendered: which engine, with which profile, on which kind of device, which computed in what.

    `arithmetic` is the type of all but FP8 products; a sidecar without it is of an engine that knew bf16 only.
    `instead_of_streaming` is in older sidecars: why it was not streamed. Everything can be now.
    """

    name: str
    profile: Profile
    device: Literal["cuda", "cpu"]
    arithmetic: DeviceArithmetic = "bf16"
    instead_of_streaming: str | None = None


class Sharing(Value):
    """How a picture shared the machine with others that were in flight, and what it cost them all.

    `share_s` is its part of the worker's time while it was in flight; `timing` tells the wall's. `slots` are the
    fewest of `blocks` that there were places for on the GPU in any of its sweeps; `streamed_bytes` is the picture's
    part of what was copied to it, `bus_bytes_per_s` the mean rate of all copies meanwhile, `flops_per_s` the mean
    arithmetic of all pictures. `adjustments` are what a want of memory changed, on the GPU or of the host's that can
    be pinned.
    """

    share_s: Seconds
    mean_in_flight: float
    slots: int
    blocks: int
    arithmetic: BlockArithmetic
    streamed_bytes: Bytes
    bus_bytes_per_s: float
    flops_per_s: float
    adjustments: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _without_tiles(cls, told: Any) -> Any:
        """Earlier sidecars say as well whether the picture was decoded in tiles: there are none now."""
        if not isinstance(told, Mapping):
            return told
        return {name: value for name, value in told.items() if name != "tiled_decode"}


class FileFacts(Value):
    """The picture's file: its name beside the sidecar, and what it must be byte by byte."""

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Bytes
    width: int
    height: int


class Sidecar(Value):
    """What stands beside a picture, and the mark that it is done. Its fields are a list of what may be told."""

    sidecar_version: Literal[1] = SIDECAR_VERSION
    rendering_version: int = RENDERING_VERSION
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    id: str
    place: Place
    job: Job
    model: ModelIdentity
    engine: Engine
    software: Software
    gpu: Gpu | None = None
    timing: Timing
    memory: Memory
    sharing: Sharing | None = None
    keep: Keep = Keep(embed="none")
    file: FileFacts
    attempt: int = 1
    warnings: tuple[str, ...] = ()
