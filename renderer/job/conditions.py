"""What goes into a picture besides its prompts: other pictures, and what its model is given to render it with."""

from __future__ import annotations

import math
from typing import Self

from renderer.job.value import Size, Value


class Input(Value):
    """A picture that goes in: the SHA-256 over its pixels, whatever file they come from, and its size."""

    sha256: str
    width: int
    height: int


EDITED_SIZE_STEP = 32
"""Of the sides of pictures that are edited, in pixels: what DiffSynth brings them to."""


class Edit(Value):
    """Pictures that a model is shown to edit, in their order, and how it takes them.

    Each is brought to about so many `pixels`, in its own shape. `numbered` ones are shown to the text encoder small,
    each under its number; one that is not, as large as it goes in. `zero_cond_t` is DiffSynth's: they are no noise.
    """

    images: tuple[Input, ...]
    pixels: int
    numbered: bool = True
    zero_cond_t: bool = False

    def size_of(self, image: Input) -> Size:
        """What one of them is brought to: DiffSynth's `calculate_dimensions`, of multiples of 32."""
        ratio, step = image.width / image.height, EDITED_SIZE_STEP
        width = math.sqrt(self.pixels * ratio)
        return Size(width=max(1, round(width / step)) * step, height=max(1, round(width / ratio / step)) * step)


class Region(Value):
    """A part of a picture with a prompt of its own, which is drawn where the mask is white: DiffSynth's EliGen."""

    prompt: str
    mask: Input


class InputFile(Value):
    """Where an input's pixels are: a file, with the SHA-256 over its bytes when it was looked at.

    Of one that has gone since, `kept` is where a copy of it is, or would be.
    """

    sha256: str
    path: str
    file_sha256: str
    kept: str = ""

    def kept_at(self, place: str) -> InputFile:
        """The same file, which has gone."""
        return self.model_copy(update={"kept": place})


class ExtraNetwork(Value):
    """What a picture is rendered with besides its model.

    `source` is where it is found: the catalogue's id, or a file's path from where the command is called. `identity` is
    which one it is: the SHA-256 over its tensors, or a catalogue id with its revision.
    """

    source: str
    identity: str

    @property
    def name(self) -> str:
        """What it is called, for people: the last part of its source, without the ending of a file."""
        return self.source.rpartition("/")[2].removesuffix(".safetensors")

    def found_at(self, source: str) -> Self:
        """The same, which is found elsewhere."""
        return self.model_copy(update={"source": source})


class Lora(ExtraNetwork):
    """Small differences to a model's weights. `weight` scales what it adds.

    `file_hash` is what picture sites know it by, and is empty where it was not here: 12 digits of its data's SHA-256.
    """

    weight: float = 1.0
    file_hash: str = ""


class ControlNet(ExtraNetwork):
    """A network that holds a picture to another one: to its edges, its depth, to what is around a gap in it.

    `image` is that one, and `mask` says where it is a gap, for networks that inpaint: there it is white. `scale` is how
    strongly; it begins and ends at shares of the steps, which `start` and `end` are: from 0 to 1.
    """

    image: Input
    mask: Input | None = None
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def acts_at(self, step: int, steps: int) -> bool:
        """Whether it does anything in a step, counted from 0: as DiffSynth has it, which counts down from 1."""
        left = (steps - 1 - step) / max(steps - 1, 1)
        return 1 - self.end - _HAIR <= left <= 1 - self.start + _HAIR


_HAIR = 1e-4
"""By so much DiffSynth lets a ControlNet begin earlier and end later."""
