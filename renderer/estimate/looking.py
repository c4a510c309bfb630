"""How many tokens a prompt has more where the text encoder is shown pictures with it: by Qwen2.5-VL's patches.

A picture is cut into patches of 14 pixels, of which four are a token. DiffSynth shows those that are numbered small.
"""

from __future__ import annotations

import math
from functools import lru_cache

from renderer.catalog import DROPPED_TOKENS, EDIT_DROPPED_TOKENS
from renderer.job import Edit, Size

_SHOWN_PIXELS = 384 * 384
"""DiffSynth's `resize_image`: about what a numbered picture is shown in."""

_FEWEST_PIXELS = 56 * 56
"""Of a picture that is smaller, its processor makes a larger one."""

_TOKEN_SIDE = 28
_AROUND = 2
_NUMBERED = 6
"""Tokens around a picture, and before it where it is numbered: "Picture 1: "."""


def shown_size(edit: Edit, size: Size) -> Size:
    """What a picture that is brought to `size` is shown in: multiples of a token's side."""
    width, height = float(size.width), float(size.height)
    if edit.numbered:
        ratio = width / height
        width = math.sqrt(_SHOWN_PIXELS * ratio)
        width, height = round(width / 32) * 32, round(width / ratio / 32) * 32
    sides = [round(side / _TOKEN_SIDE) * _TOKEN_SIDE for side in (width, height)]
    if math.prod(sides) < _FEWEST_PIXELS:
        larger = math.sqrt(_FEWEST_PIXELS / (width * height))
        sides = [math.ceil(side * larger / _TOKEN_SIDE) * _TOKEN_SIDE for side in (width, height)]
    return Size(width=sides[0], height=sides[1])


def looked_tokens(edit: Edit) -> int:
    """Tokens of all pictures as the text encoder sees them, without any text."""
    sizes = [shown_size(edit, edit.size_of(image)) for image in edit.images]
    return sum(size.width * size.height for size in sizes) // _TOKEN_SIDE**2


@lru_cache(maxsize=4096)
def told_tokens(edit: Edit | None) -> int:
    """What an edit's prompt has more in the DiT than its text."""
    if edit is None:
        return 0
    return looked_tokens(edit) + len(edit.images) * (_AROUND + (_NUMBERED if edit.numbered else 0))


def shown_tokens(edit: Edit | None) -> int:
    """What an edit's prompt has more while it is encoded than a picture's from text, whose template is shorter."""
    return 0 if edit is None else told_tokens(edit) + EDIT_DROPPED_TOKENS - DROPPED_TOKENS


def shown_bytes(tokens: int) -> int:
    """Pixels that the vision tower is shown for so many tokens, in float32: two frames, three colours."""
    return tokens * _TOKEN_SIDE**2 * 2 * 3 * 4
