"""What is known of a picture that has been rendered: how it was made, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from renderer.job.letters_read import LetteringRead
from renderer.job.request import (
    RENDERING_VERSION,
    BlockArithmetic,
    DeviceArithmetic,
    Job,
    Keep,
    ModelIdentity,
    Place,
    Profile,
)
from renderer.job.value import Value

SIDECAR_VERSION: Literal[1] = 1
"""Goes up when a sidecar's fields change their meaning."""

Seconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]


class Start(Value):
    """What a worker's start was made of, in seconds, from the order to open the model to the end of its first step.

    Libraries are imported; networks are built, with what stands outside of blocks; kernels are tried; slots are made,
    and their first blocks copied. Then come the first prompts and modulations, and the first sweep. `blocks_s` is when
    all blocks had come into host memory, beside all that; null where they are read from the disk as they are wanted.
    """

    imports_s: Seconds | None = None
    networks_s: Seconds | None = None
    kernels_s: Seconds | None = None
    slots_s: Seconds | None = None
    prompts_s: Seconds | None = None
    modulations_s: Seconds | None = None
    first_sweep_s: Seconds | None = None
    blocks_s: Seconds | None = None
    first_step_s: Seconds | None = None


class Timing(Value):
    """Seconds of wall time, and when it was. `load_s` is the worker's start, shared by all pictures it rendered.

    `start` is what that was made of, where blocks are streamed; other engines, and earlier versions, do not tell. Steps
    and the decode are timed by the device's own clock.

    `encode_s` is everything before the first denoising step, `decode_s` everything after the last; streamed, they are
    the picture's part of what was made ready for many at once, and the decoding alone, whose values become pixels
    beside the next sweep. `save_s` is the encoding and writing of the file; `total_s` is `encode_s + denoise_s +
    decode_s + save_s`.
    """

    load_s: Seconds | None = None
    start: Start | None = None
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
    """The card that rendered. `short_uuid` is the first part of its UUID, which tells it from others of its machine."""

    name: str
    total_bytes: Bytes
    driver: str | None = None
    compute_capability: str | None = None
    short_uuid: str | None = None

    @property
    def described(self) -> str:
        """Its name, and which of several it is."""
        return f"{self.name} ({self.short_uuid})" if self.short_uuid else self.name


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

    `arithmetic` is the type of all but products of what is stored; a sidecar without it is of an engine that knew bf16
    only.
    `instead_of_streaming` is in older sidecars: why it was not streamed. Everything can be now. `formats` are the forms
    that the networks' files were in, as `gguf: Q4_K, Q6_K`, where that is not the hub's own.
    """

    name: str
    profile: Profile
    device: Literal["cuda", "cpu"]
    arithmetic: DeviceArithmetic = "bf16"
    instead_of_streaming: str | None = None
    formats: dict[str, str] = Field(default_factory=dict)


class Sharing(Value):
    """How a picture shared the machine with others that were in flight, and what it cost them all.

    `share_s` is its part of the worker's time while it was in flight; `timing` tells the wall's. `slots` are the
    fewest of `blocks` that there were places for on the GPU in any of its sweeps; `streamed_bytes` is the picture's
    part of what was copied to it, `bus_bytes_per_s` the mean rate of all copies, without what they waited for,
    `flops_per_s` the mean arithmetic of all pictures. `adjustments` are what a want of memory changed, on the GPU or of
    the host's that can be pinned.
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


class Provenance(Value):
    """Where something of a picture's weights comes from: a hub's `files` at a commit, or files of one's own.

    `name` is that of the model, LoRA or ControlNet that it is a `part` of: the catalogue's id, or what its file is
    called. `content_sha256` is over what files of one's own hold: all tensors of a model, or those of a LoRA. What
    comes with the package has no repository, and a revision of its own.
    """

    name: str
    part: str | None = None
    repository: str | None = None
    revision: str | None = None
    files: str | None = None
    content_sha256: str | None = None


class FileFacts(Value):
    """The picture's file: its name beside the sidecar, and what it must be byte by byte."""

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Bytes
    width: int
    height: int


class LayerFacts(FileFacts):
    """The same of a layer, a PNG beside the picture: and of its transparency, how much of the whole it covers.

    `covered` is the mean of its opacity, from 0 to 1; `box` is where anything of it is seen at all: left, top, right
    and bottom, in pixels, or null where nothing is.
    """

    covered: Annotated[float, Field(ge=0, le=1)]
    box: tuple[int, int, int, int] | None = None


class Sidecar(Value):
    """What stands beside a picture, and the mark that it is done. Its fields are a list of what may be told.

    `licences` are those that are known of the weights, by the names of the model and of its LoRAs; `provenance` is
    where each part of them comes from, of which sidecars of earlier versions do not tell. `lettering` is what was read
    in the picture; null where nobody asked for it, or it is not read yet. `worker` is which of several rendered it, by
    its device; empty where there was one. `layers` are those that it was taken apart
    into, the hindmost first.
    """

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
    worker: str = ""
    timing: Timing
    memory: Memory
    sharing: Sharing | None = None
    keep: Keep = Keep(embed="none")
    file: FileFacts
    attempt: int = 1
    warnings: tuple[str, ...] = ()
    licences: dict[str, str] = Field(default_factory=dict)
    provenance: tuple[Provenance, ...] = ()
    lettering: LetteringRead | None = None
    layers: tuple[LayerFacts, ...] = ()

    @property
    def own_s(self) -> float:
        """Seconds of the device's own time: of those that it shared with others, the picture's part."""
        if self.sharing is None:
            return self.timing.total_s or 0.0
        return self.sharing.share_s + (self.timing.decode_s or 0.0)
