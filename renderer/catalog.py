"""Models as data: which files, which sizes, which defaults. Reads nothing but a folder's names, imports no torch.

A model is named by a catalogue id (`Qwen/Qwen-Image`, `demo`) or by a local folder in Qwen-Image's layout.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from renderer.errors import ModelError, shorten
from renderer.job import Size

Role = Literal["transformer", "text_encoder", "vae"]

SIZE_STEP = 16
"""Widths and heights are multiples of this: the VAE halves three times, and the DiT takes patches of two."""


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a model: its role and the pattern of its files inside the model's folder."""

    role: Role
    files: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model: what it is called, what it consists of, and what it renders when a job does not say.

    Sides and areas are in pixels. `gpu_bytes` is what the weights take on a GPU at each precision, text encoder and
    VAE included; `folder` is set for a model that lies in a local folder rather than under an id of a hub.
    """

    id: str
    about: str
    ratios: Mapping[str, Size]
    min_side: int
    max_side: int
    max_pixels: int
    steps: int
    cfg_scale: float
    revision: str | None = None
    folder: Path | None = None
    gpu_bytes: Mapping[str, int] = field(default_factory=dict)
    proof_side: int | None = None

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


PARTS = (
    Part("transformer", "transformer/diffusion_pytorch_model*.safetensors"),
    Part("text_encoder", "text_encoder/model*.safetensors"),
    Part("vae", "vae/diffusion_pytorch_model.safetensors"),
)
"""Qwen-Image's layout; every model of the family has it."""

TOKENIZER = "tokenizer/"

_GIB = 2**30

QWEN_IMAGE = Model(
    id="Qwen/Qwen-Image",
    about="text to picture, 20 billion parameters, English and Chinese lettering",
    ratios=MappingProxyType(
        {
            "1:1": Size(width=1328, height=1328),
            "16:9": Size(width=1664, height=928),
            "9:16": Size(width=928, height=1664),
            "4:3": Size(width=1472, height=1104),
            "3:4": Size(width=1104, height=1472),
            "3:2": Size(width=1584, height=1056),
            "2:3": Size(width=1056, height=1584),
        }
    ),
    min_side=256,
    max_side=2560,
    max_pixels=2048 * 2048,
    steps=40,
    cfg_scale=4.0,
    revision="75e0b4be04f60ec59a75f475837eced720f823b6",
    gpu_bytes=MappingProxyType({"bf16": 58 * 10**9, "fp8": 29 * 10**9}),
)

DEMO = Model(
    id="demo",
    about="a small member of the family that is made on this machine: rehearsals, tests, CI",
    ratios=MappingProxyType(
        {
            "1:1": Size(width=256, height=256),
            "16:9": Size(width=336, height=192),
            "9:16": Size(width=192, height=336),
            "4:3": Size(width=304, height=224),
            "3:4": Size(width=224, height=304),
            "3:2": Size(width=320, height=208),
            "2:3": Size(width=208, height=320),
        }
    ),
    min_side=64,
    max_side=1024,
    max_pixels=1024 * 1024,
    steps=8,
    cfg_scale=4.0,
    revision="1",
    gpu_bytes=MappingProxyType({"bf16": 64 * 2**20, "fp8": 64 * 2**20}),
    proof_side=256,
)

MODELS: Mapping[str, Model] = MappingProxyType({model.id: model for model in (QWEN_IMAGE, DEMO)})


def find(reference: str) -> Model:
    """The model a manifest names: a catalogue id, or a folder in Qwen-Image's layout.

    Raises `ModelError`, with the nearest id as its hint, when it is neither.
    """
    if reference in MODELS:
        return MODELS[reference]
    try:
        folder = Path(reference).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError):
        # A name that no file system takes, or a ~user that this machine does not know.
        is_folder = False
    if is_folder:
        return _local(reference, folder)
    near = difflib.get_close_matches(reference, MODELS, n=1, cutoff=0.4)
    known = ", ".join(MODELS)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {known}; or a folder in Qwen-Image's layout"
    raise ModelError(f'there is no model "{shorten(reference)}"', hint=hint)


def _local(reference: str, folder: Path) -> Model:
    missing = [part.files for part in PARTS if not any(folder.glob(part.files))]
    if not (folder / TOKENIZER).is_dir():
        missing.append(TOKENIZER)
    if missing:
        raise ModelError(
            f'the folder "{shorten(reference)}" lacks {", ".join(missing)}', hint="it must have Qwen-Image's layout"
        )
    base = QWEN_IMAGE
    return Model(
        id=reference,
        about="a local folder",
        ratios=base.ratios,
        min_side=DEMO.min_side,
        max_side=base.max_side,
        max_pixels=base.max_pixels,
        steps=base.steps,
        cfg_scale=base.cfg_scale,
        folder=folder,
        gpu_bytes=base.gpu_bytes,
    )
