"""What a picture on its way will look like, at an eighth of its size: its latents through a linear map, and no decode.

The map is fitted, when somebody asks for the first preview, to the VAE that is open: some pictures of patches are
encoded, and the nearest linear map from their latents to their colours is taken. So each model has its own. A preview
is looked at and sent when the device has come to it; nobody waits for that, and nothing of the picture is changed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from renderer.engine.device import Device

LOG = logging.getLogger(__name__)

_REDUCTION = 8
"""Pixels of a picture to each of its preview's, either way."""

_SIDE = 256
_PATCHES = (2, 4, 4, 8, 8)
"""Pictures that the map is fitted to: their sides in patches, each of another colour."""

_NOISES = 1000.0
"""Timesteps are noise levels times so much (DiffSynth's `FlowMatchScheduler`)."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview on its way to the host: `height` x `width` x 3 bytes of RGB, when the device `has_come` to it."""

    step: int
    width: int
    height: int
    _values: torch.Tensor
    _made: Any

    @property
    def has_come(self) -> bool:
        """Whether it is there."""
        return self._made is None or bool(self._made.query())

    @property
    def rgb(self) -> bytes:
        """Its pixels."""
        return self._values.numpy().tobytes()


def steps_of(count: int, steps: int) -> frozenset[int]:
    """After how many of a picture's steps `count` previews of it are made: evenly, and never after the last."""
    return frozenset(max(1, steps * each // (count + 1)) for each in range(1, count + 1)) if steps > 1 else frozenset()


class Previewer:
    """Makes previews by the VAE that is open."""

    def __init__(self, vae: Any, device: Device) -> None:
        self._vae = vae
        self._device = device
        self._map: torch.Tensor | None = None

    def look(self, latents: torch.Tensor, predicted: torch.Tensor, timestep: torch.Tensor, step: int) -> Preview | None:
        """What a step foresees of a picture; None where that fails, which costs the picture nothing.

        `latents` [N, channels, height / 8, width / 8] are those that the step begins with, `predicted` its flow, from
        picture to noise: so the picture is what is left when the noise that is still in it is taken away. Of several,
        the first is shown, which is the whole.
        """
        try:
            foreseen = latents.float() - timestep.float() / _NOISES * predicted.float()
            return self._sent(_applied(self._fitted(latents.dtype), foreseen), step)
        except RuntimeError:  # also a want of memory
            LOG.warning("a preview cannot be made", exc_info=True)
            return None

    def _sent(self, colours: torch.Tensor, step: int) -> Preview:
        """Colours [height, width, 3] from -1 to 1 as bytes on the host, whenever the device comes to it."""
        pixels = (colours.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
        height, width = pixels.shape[:2]
        if self._device != "cuda":
            return Preview(step, width, height, pixels.cpu().contiguous(), None)
        there = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        there.copy_(pixels, non_blocking=True)
        made = torch.cuda.Event()
        made.record()
        return Preview(step, width, height, there, made)

    def _fitted(self, dtype: torch.dtype) -> torch.Tensor:
        """The map [channels + 1, 3]: a row a channel, and what is added. On the device."""
        if self._map is None:
            dice = torch.Generator().manual_seed(1)
            rows, colours = [], []
            for patches in _PATCHES:
                small = torch.rand(1, 3, patches, patches, generator=dice) * 2 - 1
                picture = torch.nn.functional.interpolate(small, size=(_SIDE, _SIDE), mode="nearest")
                device = torch.device(self._device)
                opaque = torch.ones(1, self._vae.channels - 3, _SIDE, _SIDE)
                latents = self._vae.encode(torch.cat((picture, opaque), dim=1).to(device, dtype))[0].float().cpu()
                rows.append(latents.flatten(1).T)
                colours.append(torch.nn.functional.avg_pool2d(picture, _REDUCTION)[0].flatten(1).T)
            values = torch.cat(rows)
            values = torch.cat((values, torch.ones(len(values), 1)), dim=1)
            self._map = torch.linalg.lstsq(values, torch.cat(colours)).solution.to(device)
        return self._map


def _applied(fitted: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return latents[0].movedim(0, -1) @ fitted[:-1] + fitted[-1]
