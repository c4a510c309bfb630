"""A timestep's modulation vectors, ready-made: a third of the DiT's weights never moves in a sweep.

`img_mod` and `txt_mod` of every block see the timestep alone. For each timestep that any picture will need, their
vectors are computed once, in one pass over those weights, by the very operation the block would have run: one timestep
at a time, so that not a bit differs. The weights come past through two slots; the vectors are kept
in host memory by the timestep's rounded value, and come to the device a step at a time: 4.4 MB for Qwen-Image. Knows
nothing of pictures or sweeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from renderer.engine import precision, schedules
from renderer.engine.adapted import AddedTo, added, adding
from renderer.engine.adapters import Adapted, AdapterShelf, Worn
from renderer.engine.device import Device, computation_dtype
from renderer.engine.pinned import host_buffer
from renderer.engine.slots import ReadAhead, Slots
from renderer.estimate.host import MOST_TABLES
from renderer.estimate.memory import TURNING_SLOTS
from renderer.families.qwen_image.transformer import BLOCKS, MODULATION
from renderer.job import Job, Schedule
from renderer.weights.store import BlockFile, views

Key = tuple[float, Worn, bool]
"""A timestep, the LoRAs that what it gives is added to by, and whether pictures are edited as of no noise."""

STEMS = MODULATION.layers
"""A block's two modulations, in the order of a table."""


@dataclass(frozen=True, slots=True)
class ReadyModulation:
    """What one block's two modulations give for one timestep: 2 x (6 * width). Stands in for `temb`.

    With DiffSynth's `zero_cond_t` it is 3 x (6 * width): the third are those of the pictures that are edited.
    """

    both: torch.Tensor

    @classmethod
    def __torch_function__(
        cls, function: Any, _types: Any, arguments: tuple[Any, ...] = (), _named: Any = None
    ) -> tuple[ReadyModulation, ...]:
        """DiffSynth's block takes the half of `temb` that is the text's; here that is there already."""
        return (arguments[0],) if function is torch.chunk else NotImplemented

    @property
    def image(self) -> torch.Tensor:
        """1 x (6 * width); with `zero_cond_t`, 2 x (6 * width)."""
        return self.both[0::2]

    @property
    def text(self) -> torch.Tensor:
        """1 x (6 * width)."""
        return self.both[1:2]


_EMBED = "time_text_embed."


class PickImage(torch.nn.Module):
    """In a block, in `img_mod`'s place."""

    def forward(self, ready: ReadyModulation) -> torch.Tensor:
        return ready.image


class PickText(torch.nn.Module):
    """In a block, in `txt_mod`'s place."""

    def forward(self, ready: ReadyModulation) -> torch.Tensor:
        return ready.text


class Modulations:
    """The vectors of the timesteps that somebody needs, and of some that somebody needed lately."""

    def __init__(self, embed: Any, files: Sequence[BlockFile], device: Device, shelf: AdapterShelf) -> None:
        """`embed` is the DiT's `time_text_embed`; `files` hold each block's modulation weights.

        The `shelf` has jobs' LoRAs, which may add to both.
        """
        self._shelf = shelf
        self._embed = embed
        self._files = files
        self._device = device
        self._dtype = computation_dtype(device)
        self._tables: dict[Key, torch.Tensor] = {}
        self._copied: dict[Key, Any] = {}

    def has(self, job: Job) -> bool:
        """Whether all timesteps of a job are at hand."""
        return self._wanted(job) <= self._tables.keys()

    def prepare(self, jobs: Iterable[Job]) -> int:
        """Compute what these jobs' schedules need and is not there yet; how many timesteps that were.

        The first job's are always computed; of the others', as many whole schedules as `MOST_TABLES` allow.
        """
        missing: dict[Key, Adapted] = {}
        for job in jobs:
            more = missing | dict.fromkeys(self._wanted(job) - self._tables.keys(), self._shelf.of(job))
            if missing and len(more) > MOST_TABLES:
                break
            missing = more
        if missing:
            self._compute(dict(sorted(missing.items(), key=lambda pair: pair[0])))
        return len(missing)

    def at(self, job: Job, step: int) -> torch.Tensor:
        """The vectors of all blocks at a job's step, from 0, on the device: blocks x 2 (or 3) x (6 * width)."""
        return self._at((timesteps(job, self._dtype)[step], self._shelf.of(job).ahead, _is_split(job)))

    def _at(self, timestep: Key) -> torch.Tensor:
        found = self._tables[timestep].to(self._device, non_blocking=True)
        if self._device == "cuda":
            self._copied[timestep] = event = torch.cuda.Event()
            event.record()
        return found

    def forget(self, still_wanted: Iterable[Job]) -> None:
        """Let go of the oldest that these jobs do not need, until no more than `MOST_TABLES` are left.

        A copy of one may still be under way, for a picture that has failed meanwhile: it is waited for.
        """
        surplus = len(self._tables) - MOST_TABLES
        if surplus > 0:
            wanted = set[Key]().union(*(self._wanted(job) for job in still_wanted if self._shelf.has(job)))
            for timestep in [each for each in self._tables if each not in wanted][:surplus]:
                if timestep in self._copied:
                    self._copied.pop(timestep).synchronize()
                del self._tables[timestep]

    def _wanted(self, job: Job) -> set[Key]:
        added_by = self._shelf.of(job).ahead
        return {(timestep, added_by, _is_split(job)) for timestep in timesteps(job, self._dtype)}

    def _compute(self, missing: Mapping[Key, Adapted]) -> None:
        embedded = [self._embedded(key, adapted.outside()) for key, adapted in missing.items()]
        tables: list[torch.Tensor] = []
        slots = Slots(ReadAhead(self._files, self._device), TURNING_SLOTS, self._device, once=True)
        try:
            for number, slot in slots.sweep():
                places = self._files[number].tensors
                tensors = precision.restored(views(slot, places), precision.kept(places), self._dtype)
                by_set = {worn: adapted.ready(BLOCKS.name, number) for (_, worn, _), adapted in missing.items()}
                for place, (silent, (_, worn, _)) in enumerate(zip(embedded, missing, strict=True)):
                    vectors = _vectors(silent, tensors, by_set[worn])
                    if len(tables) == place:
                        tables.append(_table(len(self._files), vectors, self._device))
                    tables[place][number].copy_(vectors, non_blocking=True)
            if self._device == "cuda":
                torch.cuda.synchronize()
        finally:
            slots.close()
        self._tables.update(zip(missing, tables, strict=True))

    def _embedded(self, key: Key, outside: AddedTo) -> torch.Tensor:
        """What a block's modulation multiplies: SiLU of the embedded timestep, as DiffSynth's model function has it.

        Of the last one as well, where pictures are edited as of no noise.
        """
        timestep, _, split = key
        moment = torch.tensor([timestep], dtype=self._dtype, device=self._device) / 1000
        moment = torch.cat([moment, moment * 0]) if split else moment
        own = {name.removeprefix(_EMBED): each for name, each in outside.items() if name.startswith(_EMBED)}
        named = {}
        if self._embed.use_additional_t_cond:  # of the two that layered models know, DiffSynth takes the first
            named["addition_t_cond"] = torch.tensor([0], dtype=torch.long, device=self._device)
        with adding(self._embed, own):
            embedded: torch.Tensor = self._embed(moment, self._dtype, **named)
        return torch.nn.functional.silu(embedded)


def _is_split(job: Job) -> bool:
    """Whether a picture's own tokens and those of what is edited are modulated apart."""
    return job.edit is not None and job.edit.zero_cond_t


def _vectors(silent: torch.Tensor, tensors: dict[str, torch.Tensor], factors: AddedTo) -> torch.Tensor:
    """What a block is given: the image's, the text's, and those of what is edited, where they are apart."""
    image_stem, text_stem = STEMS
    image = _linear(silent, tensors, image_stem, factors)
    return torch.cat([image[:1], _linear(silent[:1], tensors, text_stem, factors), image[1:]])


def _linear(silent: torch.Tensor, tensors: dict[str, torch.Tensor], stem: str, factors: AddedTo) -> torch.Tensor:
    plain = torch.nn.functional.linear(silent, tensors[f"{stem}.weight"], tensors[f"{stem}.bias"])
    return added(plain, silent, factors.get(stem, ()))


def timesteps(job: Job, dtype: torch.dtype) -> tuple[float, ...]:
    """The timesteps at which DiffSynth runs the DiT for a job, rounded to what is computed in as it hands them over."""
    return schedules.timesteps(Schedule.of(job), dtype)


def _table(blocks: int, vectors: torch.Tensor, device: Device) -> torch.Tensor:
    flat = host_buffer(blocks * vectors.nbytes, device)
    return flat.view(vectors.dtype).view(blocks, *vectors.shape)
