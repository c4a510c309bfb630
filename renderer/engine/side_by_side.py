"""How the rows of riders lie that go through a block together: all texts, then all images; rider by rider in attention.

A row of a product, a norm or a modulation knows nothing of other rows, so that those of many riders can be computed as
one; attention is between the rows of one rider. Knows nothing of what is computed with them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

Sizes = tuple[tuple[int, int], ...]
"""Tokens of each rider's image, and of its text."""

Streams = tuple[torch.Tensor, torch.Tensor]
"""A rider's rows of text and of image: 1 x tokens x width."""

ALIGNED = 16
"""Rows: a product begins at one of so many, for cuBLAS takes no scales that do not begin at 16 bytes."""

IMAGE, TEXT = 0, 1
"""Which of a rider's two modulations is which stream's."""


@dataclass(frozen=True)
class Arrangement:
    """Where the rows of each lie in one tensor of `rows` x width.

    Images begin at a multiple of `aligned` rows, and both parts have at least `fewest`: what fills them up is computed
    with the others, and means nothing.
    """

    sizes: Sizes
    aligned: int = 1
    fewest: int = 1

    @functools.cached_property
    def texts(self) -> int:
        """Rows of all texts."""
        return sum(words for _, words in self.sizes)

    @functools.cached_property
    def images(self) -> int:
        """Rows of all images."""
        return sum(tokens for tokens, _ in self.sizes)

    @functools.cached_property
    def first_image(self) -> int:
        """The row with which the images begin."""
        return max(self.fewest, -(-self.texts // self.aligned) * self.aligned)

    @functools.cached_property
    def rows(self) -> int:
        """All of them."""
        return self.first_image + max(self.fewest, self.images)

    def together(self, riders: Sequence[Streams], out: torch.Tensor | None = None) -> torch.Tensor:
        """All riders' rows as one tensor, `out` where it is given; without it, they stay where they lie so already."""
        lying = self._lying(riders)
        if out is None and lying is not None:
            return lying
        one = riders[0][0]
        out = one.new_empty((self.rows, one.shape[-1])) if out is None else out
        if lying is not None:
            return out.copy_(lying)
        torch.cat([text[0] for text, _ in riders], out=out[: self.texts])
        torch.cat([image[0] for _, image in riders], out=out[self.first_image : self.first_image + self.images])
        return out

    @functools.cached_property
    def spans(self) -> list[tuple[slice, slice]]:
        """Which rows are each rider's text and image."""
        found, text, image = [], 0, self.first_image
        for tokens, words in self.sizes:
            found.append((slice(text, text + words), slice(image, image + tokens)))
            text, image = text + words, image + tokens
        return found

    def apart(self, rows: torch.Tensor) -> list[Streams]:
        """Each rider's part of them, as views."""
        return [(rows[None, text], rows[None, image]) for text, image in self.spans]

    def _lying(self, riders: Sequence[Streams]) -> torch.Tensor | None:
        """The riders' rows, where they are all of one tensor in this very order: what another block gave them."""
        one = riders[0][0]
        width, first = one.shape[-1], one.storage_offset()
        memory = one.untyped_storage()
        if memory.nbytes() < (first + self.rows * width) * one.element_size():
            return None
        whole = one.as_strided((self.rows, width), (width, 1), first)
        for there, expected in zip(riders, self.apart(whole), strict=True):
            for tensor, view in zip(there, expected, strict=True):
                same = tensor.untyped_storage().data_ptr() == memory.data_ptr() and tensor.dtype == one.dtype
                if not same or tensor.storage_offset() != view.storage_offset() or not tensor.is_contiguous():
                    return None
        return whole


@dataclass(frozen=True, slots=True)
class Places:
    """Of each row, whose it is, and where attention has it: int32, on the device.

    `whose` counts modulations, two a rider; `attended` is a row's place there, where a rider's text comes before its
    image, and `back` a place's row. `alike` are riders of one size behind one another: their first place, how many, and
    the rows of each.
    """

    whose: torch.Tensor
    attended: torch.Tensor
    back: torch.Tensor
    alike: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, order: Arrangement, device: torch.device) -> Places:
        """Those of an order; nobody waits for them to come to a GPU."""
        whose, attended = torch.zeros(order.rows, dtype=torch.int32), torch.zeros(order.rows, dtype=torch.int32)
        back = torch.empty(order.texts + order.images, dtype=torch.int32)
        alike: list[tuple[int, int, int]] = []
        text, image, place = 0, order.first_image, 0
        for number, (tokens, words) in enumerate(order.sizes):
            for stream, row, count in ((TEXT, text, words), (IMAGE, image, tokens)):
                whose[row : row + count] = 2 * number + stream
                attended[row : row + count] = torch.arange(place, place + count)
                back[place : place + count] = torch.arange(row, row + count)
                place += count
            if number and order.sizes[number - 1] == (tokens, words):
                first, riders, rows = alike.pop()
                alike.append((first, riders + 1, rows))
            else:
                alike.append((place - tokens - words, 1, tokens + words))
            text, image = text + words, image + tokens
        tables = torch.cat((whose, attended, back))
        if device.type == "cuda":
            tables = tables.pin_memory()
        whose, attended, back = tables.to(device, non_blocking=True).split([order.rows, order.rows, len(back)])
        return cls(whose, attended, back, tuple(alike))

    def split(self, order: Arrangement, index: torch.Tensor) -> Places:
        """The same of one rider whose image has modulations of two kinds, by a 0 or 1 a token: the second is the third.

        Nobody waits for what is on the device.
        """
        image = slice(order.first_image, order.first_image + order.images)
        whose = self.whose.clone()
        whose[image] = 2 * index
        return replace(self, whose=whose)


@dataclass(frozen=True, slots=True)
class Arranged:
    """Riders of such sizes, as a kind of block wants them."""

    order: Arrangement
    places: Places | None = None


def side_by_side(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors behind one another by their first dimension: where they lie so already, it is their own memory."""
    one = tensors[0]
    if len(tensors) == 1:
        return one
    memory, at = one.untyped_storage().data_ptr(), one.storage_offset()
    for tensor in tensors:
        if tensor.untyped_storage().data_ptr() != memory or tensor.storage_offset() != at or not tensor.is_contiguous():
            return torch.cat(list(tensors))
        at += tensor.numel()
    rows = sum(len(tensor) for tensor in tensors)
    return one.as_strided((rows, *one.shape[1:]), one.stride(), one.storage_offset())
