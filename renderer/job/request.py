"""What is rendered: a `Job` is everything a picture's bits depend on besides the weights; a `Picture` has a name too.

The fingerprint ties it to what was rendered.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from renderer.job.conditions import ControlNet, Edit, ExtraNetwork, Input, InputFile, Lora, Region
from renderer.job.value import Size, Value

RENDERING_VERSION = 1
"""Goes up when the same job would give another picture; every picture is then rendered anew.

Not for a last bit that kernels round otherwise: those have never been fixed, neither from one processor to another nor,
where cuDNN chooses by free memory, on one GPU.
"""

MAX_SEED = 2**63 - 1

Precision = Literal["bf16", "fp8", "fp8-weights", "int8", "int4"]
"""A job's: bf16; FP8 weights and products; FP8 weights, scaled back and multiplied in bf16 on every card; int8 weights
and products, whose inputs are turned before; the same products of weights of four bits."""

AskedPrecision = Literal[Precision, "auto"]
"""What a manifest may say: its jobs may leave it to the machine that renders them."""

Stored = Literal["bf16", "fp8", "int8", "int4"]
"""The codecs by which weights are kept (`renderer.weights.codecs`)."""

Profile = Literal["stream", "resident", "fp8", "disk", "cpu"]
Format = Literal["png", "webp", "jpeg"]
Embed = Literal["none", "basic", "full"]
EngineName = Literal["native", "streaming"]

DeviceArithmetic = Literal["bf16", "float32"]
"""What a device computes in: a CPU without bf16 units in float32, every GPU in bf16."""

BlockArithmetic = Literal["bf16", "fp8", "int8", "float32"]
"""What the products of a picture's blocks are computed in."""


ScheduleKind = Literal["qwen-image", "lightning"]
"""How noise falls from step to step: the model's own way, and that of models distilled to few steps."""


class Shift(Value):
    """The model's own schedule with one shift for pictures of all sizes: 1 is none, more keeps the noise for longer.

    DiffSynth's `exponential_shift_mu` is its logarithm.
    """

    shift: float


class Job(Value):
    """What is rendered: all that a picture's bits depend on besides the weights and the machine's kernels.

    Field names are those of DiffSynth's `QwenImagePipeline.__call__`; `loras`, `schedule`, `edit`, `controlnets` and
    `regions` are ours. `width` and `height` are pixels, multiples of 16. A picture that is taken apart into layers is
    `layer_input_image`; `layer_num` is how many there are beside the whole, and 0 where one is taken out alone.
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
    loras: tuple[Lora, ...] = ()
    schedule: ScheduleKind | Shift = "qwen-image"
    input_image: Input | None = None
    denoising_strength: float = 1.0
    inpaint_mask: Input | None = None
    inpaint_blur_size: int | None = None
    edit: Edit | None = None
    layer_input_image: Input | None = None
    layer_num: int | None = None
    controlnets: tuple[ControlNet, ...] = ()
    regions: tuple[Region, ...] = ()
    context_image: Input | None = None

    @property
    def riding(self) -> tuple[Lora, ...]:
        """The LoRAs that count, in their order: one of weight 0 adds nothing, not even a rounding."""
        return tuple(lora for lora in self.loras if lora.weight)

    @property
    def controlling(self) -> tuple[ControlNet, ...]:
        """The ControlNets that count, in their order: one of scale 0 adds nothing."""
        return tuple(each for each in self.controlnets if each.scale)

    @property
    def extra_networks(self) -> tuple[ExtraNetwork, ...]:
        """All that it is rendered with besides its model."""
        return (*self.riding, *self.controlling)

    @property
    def mask_inputs(self) -> tuple[Input, ...]:
        """Those of its inputs that are masks."""
        controls = (net.mask for net in self.controlnets)
        found = (self.inpaint_mask, *controls, *(region.mask for region in self.regions))
        return tuple(each for each in found if each is not None)

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The pictures that go in, each once."""
        edited = self.edit.images if self.edit else ()
        controls = [each for net in self.controlnets for each in (net.image, net.mask)]
        found = (self.input_image, self.inpaint_mask, *edited, self.layer_input_image, *controls)
        found = (*found, *(region.mask for region in self.regions), self.context_image)
        return tuple(dict.fromkeys(each for each in found if each is not None))

    @property
    def layers(self) -> int:
        """How many layers come of it, each a picture with its own transparency; 0 where it is not taken apart."""
        return 0 if self.layer_num is None else max(1, self.layer_num)


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

    `shift` takes the place of what the tokens make; None where they do. `strength` is where it begins: at 1 with
    nothing but noise, below with so much less of it in a picture that went in.
    """

    kind: ScheduleKind
    steps: int
    tokens: int
    shift: float | None = None
    strength: float = 1.0

    @classmethod
    def of(cls, job: Job) -> Schedule:
        """A job's schedule: a token is 16 by 16 pixels."""
        own, tokens = job.schedule, (job.height // 16) * (job.width // 16)
        steps, strength = job.num_inference_steps, job.denoising_strength
        if isinstance(own, Shift):
            return cls("qwen-image", steps, tokens, own.shift, strength)
        return cls(own, steps, tokens, strength=strength)


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


Forgiven = Literal["case", "spaces", "punctuation"]
"""What makes no difference when what was read is compared with what was wanted."""

USUALLY_FORGIVEN: tuple[Forgiven, ...] = ("case", "spaces")


class Lettering(Value):
    """The texts that a picture is to show, and what is forgiven in them.

    Reading changes no bit, so a job has none of it. `seeds` are those of the takes that a picture may have, the job's
    own first: each is a job with a fingerprint of its own, and one whose texts are right ends the row. Without any, the
    picture is read and not begun again.
    """

    texts: tuple[str, ...]
    forgives: tuple[Forgiven, ...] = USUALLY_FORGIVEN
    seeds: tuple[int, ...] = ()


class Expect(Value):
    """Limits that fail a picture when it exceeds them, as a smoke test does. They do not enter the fingerprint.

    `lettering` is the share of each wanted text that has to be read in the picture.
    """

    seconds: float | None = None
    vram_bytes: int | None = None
    ram_bytes: int | None = None
    lettering: float | None = None


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
    inputs: tuple[InputFile, ...] = ()
    lettering: Lettering | None = None


def canonical(value: BaseModel | dict[str, Any]) -> str:
    """A value as JSON with sorted keys and no spaces: the same text for the same value, always."""
    return _as_canonical(value if isinstance(value, dict) else value.model_dump(mode="json"))


_as_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def fingerprint(job: Job, model: ModelIdentity) -> str:
    """SHA-256 (64 hex digits) over the job, the model's identity and the rendering version.

    What does not change the picture is not in it: the name of weights that are known by their content, where a LoRA or
    ControlNet lies and one that counts for nothing, the negative prompt where nothing is guided. A field that is
    younger than `_ALWAYS_TOLD` is in it where it is not at its default, so that it can be added without any older
    picture becoming another.
    """
    told = job.model_dump(mode="json", exclude_defaults=True)
    told |= {name: getattr(job, name) for name in _ALWAYS_TOLD}
    told["model"], weights = model.id, model.model_dump(mode="json")
    if model.content_sha256 is not None:
        told["model"] = weights["id"] = ""
    if job.cfg_scale == 1:
        told["negative_prompt"] = ""
    told.pop("loras", None)
    if riding := job.riding:
        told["loras"] = [[lora.identity, lora.weight] for lora in riding]
    told.pop("controlnets", None)
    if controlling := job.controlling:
        told["controlnets"] = [
            each.model_dump(mode="json", exclude={"source"}, exclude_defaults=True) for each in controlling
        ]
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
