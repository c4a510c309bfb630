"""What is known of a model: its parts and where they come from, its shape, its sizes, its defaults. Frozen values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from renderer.job import DeviceArithmetic, Format, ScheduleKind, Shift, Size

Role = Literal["transformer", "text_encoder", "vae"]
"""The networks of a model."""

PartRole = Literal["transformer", "text_encoder", "vae", "tokenizer", "processor", "lora", "controlnet"]

Ability = Literal["picture", "edit", "layers", "lora", "controlnet"]
"""What a model is for: text to picture; picture and text to picture; picture to layers; an addition to another; a
network that holds another's pictures to a picture."""

_NOT_FOR_COMMERCE = re.compile(r"non-?\s?commercial|\bNC\b|research", re.IGNORECASE)


def forbids_commerce(licence: str) -> bool:
    """Whether a licence, by its name, is for research or for no commercial use."""
    return bool(_NOT_FOR_COMMERCE.search(licence))


SIZE_STEP = 16
"""Widths and heights are multiples of this: the VAE halves three times, and the DiT takes patches of two."""

TRAINED_TOKENS = 512
"""The longest prompts Qwen-Image was trained with."""

MOST_TOKENS = 4096
"""Where DiffSynth cuts a prompt off."""

MOST_REGION_TOKENS = 1024
"""The same of a region's prompt."""

DROPPED_TOKENS = 34
"""Of its template, before every prompt: DiffSynth drops them after encoding."""

EDIT_DROPPED_TOKENS = 64
"""The same of its template for edits."""


@dataclass(frozen=True, slots=True)
class Part:
    """Files of a model that belong together, as the pattern they have inside a repository; a folder's ends in `/`.

    `repository` and `revision` are set where the part is taken from another model's repository. `count` and `bytes`
    are what the hub holds, null where nobody has looked; `bytes` is rounded to what its page shows. `comfyui` is the
    name under which ComfyUI's users have the same tensors in one file.
    """

    role: PartRole
    files: str
    count: int | None = None
    bytes: int | None = None
    repository: str | None = None
    revision: str | None = None
    comfyui: str | None = None


@dataclass(frozen=True, slots=True)
class NetworkFiles:
    """A network of any model in Qwen-Image's layout: its role, and the pattern of its files in the model's folder."""

    role: Role
    files: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """A member of a family in numbers: its DiT's, its text encoder's and its VAE's."""

    layers: int
    width: int
    heads: int
    text_layers: int
    text_width: int
    text_heads: int
    text_key_heads: int
    text_mlp_width: int
    vocabulary: int
    vae_width: int
    family: str = "qwen-image"

    @property
    def head_width(self) -> int:
        """Channels of one of the DiT's heads."""
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        """Channels inside the DiT's MLPs."""
        return 4 * self.width

    @property
    def text_key_width(self) -> int:
        """Channels of the text encoder's keys, and of its values."""
        return self.text_width // self.text_heads * self.text_key_heads


@dataclass(frozen=True, slots=True)
class UNetShape:
    """Another architecture in numbers: a UNet over latents of an eighth of the side, with CLIP before and a VAE after.

    The first four are numbers of weights. `channels` are the UNet's by level, each half as wide and high as the one
    before, `vae_channels` the VAE decoder's at the picture's full size, first what comes in, then what goes out.
    """

    unet: int
    vae: int
    text_encoder: int
    safety_checker: int
    channels: tuple[int, ...]
    heads: int
    text_width: int
    vae_channels: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Density:
    """How many bytes a picture's file has for each pixel, beside what it says of itself.

    `bytes_a_pixel` up to `pixels` of them; in a larger picture the same shapes have more pixels, and a pixel has less:
    `fall` is the power by which that goes. `pictures` says how much the figure is worth beside files that were written:
    as much as so many of them, and 0 where it is an assumption. The figure is of pictures computed in bf16;
    `in_float32` is what those have of it that were computed in float32: their plain areas are smoother.
    """

    bytes_a_pixel: float
    pixels: int = 1
    fall: float = 0.0
    pictures: int = 0
    in_float32: float = 1.0

    def bytes_of(self, pixels: int, arithmetic: DeviceArithmetic = "bf16") -> float:
        """Of a file of so many pixels, computed in such numbers."""
        larger = max(1.0, pixels / self.pixels)
        found = pixels * self.bytes_a_pixel / math.pow(larger, self.fall)
        return found * (self.in_float32 if arithmetic == "float32" else 1.0)


@dataclass(frozen=True, slots=True)
class Fused:
    """A LoRA that a model's weights have in them for good: a catalogue's id or a file, and its weight."""

    source: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Editing:
    """How a model takes pictures that it is to edit: at most so many, each brought to about so many `pixels`.

    `numbered` and `zero_cond_t` are as an `Edit` of a job has them.
    """

    most_images: int
    pixels: int = 1024 * 1024
    numbered: bool = True
    zero_cond_t: bool = False


@dataclass(frozen=True, slots=True)
class Layering:
    """How a model takes a picture apart: into so many layers where a job does not say, and into `most` at the most.

    One that is `alone` takes out of a picture the one layer that the prompt tells of, and nothing else comes of it.
    """

    usual: int = 4
    most: int = 16
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A model: what it is called, of which family, what it consists of, and what it renders when a job does not say.

    Sides and areas are in pixels. `gpu_bytes` is what the weights take on a GPU at each precision, text encoder and
    VAE included; `densities` how large its pictures' files come out. `editing` is how an edit model takes pictures,
    `layering` how one takes a picture apart; `schedule` how its noise falls. A LoRA or ControlNet is for the model of
    the id `base`, and one that is `masked` looks at a mask as well. `licence` is by its SPDX name where it has one;
    empty where nobody has told. A model is from a hub (`parts` and `revision`), or a local folder in Qwen-Image's
    layout (`folder`), or single files by role (`files`), whose other parts are the hub's; the demo models have none
    of these, and come with the package. `fused` are LoRAs that are in its weights: it is made of its `origin`.
    """

    id: str
    about: str
    family: str
    ratios: Mapping[str, Size]
    min_side: int
    max_side: int
    max_pixels: int
    steps: int
    cfg_scale: float
    ability: Ability = "picture"
    parts: tuple[Part, ...] = ()
    revision: str | None = None
    pinned: bool = False
    folder: Path | None = None
    files: Mapping[PartRole, Path] = field(default_factory=dict)
    shape: Architecture | None = None
    schedule: ScheduleKind | Shift = "qwen-image"
    base: str = ""
    licence: str = ""
    fused: tuple[Fused, ...] = ()
    origin: Model | None = None
    editing: Editing | None = None
    layering: Layering | None = None
    masked: bool = False
    gpu_bytes: Mapping[str, int] = field(default_factory=dict)
    densities: Mapping[Format, Density] = field(default_factory=dict)
    proof_side: int | None = None

    @property
    def reference(self) -> str:
        """The text that `find` turns into this model."""
        return f"{self.id}@{self.revision}" if self.pinned else self.id

    @property
    def file_name(self) -> str:
        """What the file of a LoRA or a ControlNet is called."""
        given = self.files.get("lora") or self.files.get("controlnet")
        return Path(self.parts[0].files).name if given is None else given.name

    @property
    def is_extra(self) -> bool:
        """Whether it renders nothing by itself: it is used beside another model."""
        return self.ability in {"lora", "controlnet"}

    @property
    def is_distilled(self) -> bool:
        """Whether it is a LoRA by which a model needs few steps, no guidance and a schedule: these go with it."""
        return self.ability == "lora" and self.schedule == "lightning"

    @property
    def is_embedded(self) -> bool:
        """Whether it comes with the package: nothing of it is fetched, and it is packed where it is used."""
        return not (self.parts or self.folder or self.files)

    @property
    def is_the_demo(self) -> bool:
        """Whether it is one of the demo models, or made of one: what a CPU renders in seconds."""
        return (self.origin or self).is_embedded

    @property
    def forbids_commerce(self) -> bool:
        """Whether its licence is for research or for no commercial use."""
        return forbids_commerce(self.licence)

    @property
    def unfit(self) -> str:
        """Why a manifest cannot render with this model alone, or an empty string."""
        if self.ability == "lora":
            return f"{self.id} is a LoRA, which is added to a model: name it under loras"
        if self.ability == "controlnet":
            return f"{self.id} is a ControlNet, which is used beside a model: name it under controlnets"
        return ""

    def refusal(self, size: Size) -> str:
        """Why this model does not render `size`, or an empty string."""
        if size.width % SIZE_STEP or size.height % SIZE_STEP:
            return f"{size} is not a multiple of {SIZE_STEP} both ways"
        if min(size.width, size.height) < self.min_side:
            return f"{size} is below {self.id}'s smallest side of {self.min_side} pixels"
        if max(size.width, size.height) > self.max_side:
            return f"{size} is above {self.id}'s largest side of {self.max_side} pixels"
        if size.width * size.height > self.max_pixels:
            return f"{size} has more than {self.id}'s {self.max_pixels} pixels"
        return ""

    def nearest(self, size: Size, count: int = 2) -> list[Size]:
        """The `count` sizes nearest to `size` that this model renders, nearest first."""
        low, high = self.min_side // SIZE_STEP, self.max_side // SIZE_STEP

        def around(pixels: int) -> set[int]:
            middle = min(max(pixels // SIZE_STEP, low), high)
            return {steps * SIZE_STEP for steps in range(max(low, middle - 1), min(high, middle + 2) + 1)}

        def distance(candidate: Size) -> float:
            return abs(candidate.width - size.width) + abs(candidate.height - size.height)

        shrunk = size
        if size.width * size.height > self.max_pixels:
            scale = (self.max_pixels / (size.width * size.height)) ** 0.5
            shrunk = Size(width=int(size.width * scale), height=int(size.height * scale))
        candidates = [Size(width=w, height=h) for w in around(shrunk.width) for h in around(shrunk.height)]
        fitting = [candidate for candidate in candidates if not self.refusal(candidate)]
        return sorted(fitting, key=lambda found: (distance(found), found.width, found.height))[:count]
