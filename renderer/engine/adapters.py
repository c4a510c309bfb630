"""LoRAs that pictures ride with: a second network of blocks, brought past in step with the first; ControlNets likewise.

What a LoRA adds to a block lies in one piece, and comes to the device as the block does, through slots of its own; with
room all of it stays there. A picture has its own set, in its own order and weights, and those of several come past in
one sweep. Knows nothing of how a block is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from renderer.catalog import Model
from renderer.engine.adapted import AddedTo
from renderer.engine.budget import Budget
from renderer.engine.controls import ControlNetNetworks, OpenControlNet, is_control
from renderer.engine.device import Device
from renderer.engine.in_step import InStep
from renderer.engine.riders import Halt
from renderer.engine.sections import Passing
from renderer.engine.slots import FILLING_THREADS
from renderer.errors import ModelError, PictureError
from renderer.families.family import Section
from renderer.job import ControlNet, Job, Lora
from renderer.weights import control_files
from renderer.weights.adapters.factors import Factors
from renderer.weights.adapters.packed import FactorsOf, PackedAdapter, prepare_adapter

KEPT = 2
"""LoRAs that stay open on the host when nobody wants them any more: the next picture may."""

KEPT_CONTROLNETS = 1
"""The same of ControlNets, which are larger: 2.3 GB."""

_LEAST_BYTES = 64
"""Of a block to which nothing is added: slots hold no nothing."""

Worn = tuple[tuple[str, float], ...]
"""LoRAs by what they hold, each with its weight, in a picture's order."""

Order = Sequence[tuple[Section, int]]
"""Blocks as they come past: sections, and numbers within them."""


class AdapterBlock:
    """What one LoRA adds to one block, as slots want it: all A in the order of the block's layers, then all B."""

    def __init__(self, packed: PackedAdapter, section: Section, number: int, dtype: torch.dtype) -> None:
        """Its file is held against its hash. Raises `ModelError`."""
        self._packed, self._section, self._number, self._dtype = packed, section, number, dtype
        pairs = self._pairs()
        self._shapes = tuple((name, tuple(down.shape), tuple(up.shape)) for name, (down, up) in pairs.items())
        self._downs = sum(down.numel() for down, _ in pairs.values())
        numbers = self._downs + sum(up.numel() for _, up in pairs.values())
        self._bytes = max(numbers * dtype.itemsize, _LEAST_BYTES)
        self.is_ahead = bool(packed.block(section.name, number).keys() - pairs.keys())
        """Whether it adds to what of the block is computed beforehand."""

    @property
    def bytes(self) -> int:
        return self._bytes

    def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
        """Read it into host memory, in the type that is computed in. Raises `ModelError`."""
        del direct
        flat, at = buffer.view(self._dtype), 0
        pairs = self._pairs().values()
        for factor in (*(down for down, _ in pairs), *(up for _, up in pairs)):
            flat[at : at + factor.numel()].copy_(factor.flatten())
            at += factor.numel()

    def factors(self, slot: torch.Tensor, weight: float) -> dict[str, Factors]:
        """Its factors in a slot, by the names of a block's layers. A is weighted, as DiffSynth weights it."""
        flat = slot.view(self._dtype)
        downs = flat[: self._downs] if weight == 1 else flat[: self._downs] * weight
        found, at, after = {}, 0, self._downs
        for name, (rank, columns), (rows, _) in self._shapes:
            down, up = downs[at : at + rank * columns], flat[after : after + rows * rank]
            found[name] = down.view(rank, columns), up.view(rows, rank)
            at, after = at + rank * columns, after + rows * rank
        return found

    def _pairs(self) -> FactorsOf:
        found = self._packed.block(self._section.name, self._number)
        return {name: found[name] for name in self._section.streamed.layers if name in found}


class OpenAdapter(InStep):
    """A LoRA that is open: what of it was read stays until nobody wants it."""

    def __init__(self, packed: PackedAdapter, order: Order, device: Device, dtype: torch.dtype) -> None:
        """All its files are read once, and held against their hashes. Raises `ModelError`."""
        self.packed = packed
        self._order, self._dtype = order, dtype
        self._weighted: dict[float, Mapping[str, Factors]] = {}
        with ThreadPoolExecutor(FILLING_THREADS) as pool:
            self._blocks = list(pool.map(lambda at: AdapterBlock(packed, at[0], at[1], dtype), order))
        super().__init__(self._blocks, device)
        self.outside = {name: self._here(pair) for name, pair in packed.outside().items()}
        self.is_ahead = bool(self.outside) or any(block.is_ahead for block in self._blocks)
        """Whether it may add to what is computed before sweeps."""

    def beforehand(self, section: Section, number: int) -> FactorsOf:
        """What it adds to those layers of a block that are computed beforehand, on the device."""
        layers = section.beforehand.layers if section.beforehand else ()
        found = self.packed.block(section.name, number)
        return {name: self._here(found[name]) for name in layers if name in found}

    def forget_block(self) -> None:
        """Let go of the factors that were weighted."""
        self._weighted = {}

    def block(self, section: str, index: int, weight: float) -> Mapping[str, Factors]:
        """What it adds to the block that is there, which is this one."""
        assert self._there is not None
        number, slot = self._there
        assert (self._order[number][0].name, self._order[number][1]) == (section, index)
        if weight not in self._weighted:
            self._weighted[weight] = self._blocks[number].factors(slot, weight)
        return self._weighted[weight]

    def _here(self, pair: Factors) -> Factors:
        return pair[0].to(self._device, self._dtype), pair[1].to(self._device, self._dtype)


@dataclass(frozen=True, slots=True)
class Adapted:
    """One picture's LoRAs. `key` tells it from other sets; two pictures with equal keys are added the same.

    `ahead` is what of it counts for what is computed before sweeps. `controls` are its ControlNets, which nothing else
    here is about: whether it has LoRAs, this is true of.
    """

    key: Worn
    ahead: Worn
    _loras: tuple[tuple[OpenAdapter, float], ...]
    _sections: Mapping[str, Section]
    controls: tuple[OpenControlNet, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._loras)

    @property
    def networks(self) -> list[Any]:
        """Its ControlNets as DiffSynth calls them, with stops for blocks."""
        return [each.network for each in self.controls]

    def board(self) -> None:
        """Bring what of it is not there yet to host memory. Raises `PictureError` for one that is damaged."""
        with its_own():
            for each in (*(lora for lora, _ in self._loras), *self.controls):
                each.host  # noqa: B018  # read now

    def block(self, section: str, index: int) -> AddedTo:
        """What is added to the block that is there, in a sweep."""
        return _joined(each.block(section, index, weight) for each, weight in self._loras)

    def ready(self, section: str, index: int) -> AddedTo:
        """What is added to what of a block is computed beforehand."""
        place = self._sections[section]
        with its_own():
            return _joined(_weighted(each.beforehand(place, index), weight) for each, weight in self._loras)

    def outside(self) -> AddedTo:
        """What is added outside of blocks."""
        return _joined(_weighted(each.outside, weight) for each, weight in self._loras)


NOTHING = Adapted((), (), (), {})


class AdapterShelf:
    """The LoRAs and ControlNets that are open. Whatever is wrong with one is its pictures' own failure."""

    def __init__(
        self,
        model: Model,
        order: Order,
        device: Device,
        dtype: torch.dtype,
        budget: Budget | None = None,
        family: ControlNetNetworks | None = None,
    ) -> None:
        """They are for `model`, whose blocks come past in this order.

        Those stay on the device that the `budget` has room for beside slots and the pictures in flight. Without a
        `family`, which builds them, ControlNets are somebody else's to open.
        """
        self._model, self._order, self._device, self._dtype, self._budget = model, order, device, dtype, budget
        self._sections = {section.name: section for section, _ in order}
        self._open: dict[Lora, OpenAdapter] = {}
        self._family = family
        self._controls: dict[str, OpenControlNet] = {}

    def has(self, job: Job) -> bool:
        """Whether all of a job's are open."""
        controls = all(net.identity in self._controls for net in self._controlling(job))
        return controls and all(_plain(lora) in self._open for lora in job.riding)

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Open what is not open yet; a LoRA that was never used is packed first.

        Raises `PictureError` for one that is not here, does not fit the model, or is damaged; `DiskError`.
        """
        for lora in dict.fromkeys(_plain(lora) for job in jobs for lora in job.riding):
            if lora not in self._open:
                with its_own():
                    packed = prepare_adapter(lora, self._model)
                    same = (each for each in self._open.values() if each.packed.identity == packed.identity)
                    found = next(same, None) or OpenAdapter(packed, self._order, self._device, self._dtype)
                self._open[lora] = found
        for net in (net for job in jobs for net in self._controlling(job)):
            if net.identity not in self._controls:
                assert self._family is not None
                with its_own():
                    path, shape = control_files.here(net, self._model)
                    opened = OpenControlNet(net.identity, path, shape, self._family, self._device, self._dtype)
                self._controls[net.identity] = opened

    def _controlling(self, job: Job) -> tuple[ControlNet, ...]:
        return job.controlling if self._family is not None else ()

    def of(self, job: Job) -> Adapted:
        """A job's, which are open."""
        loras = tuple((self._open[_plain(lora)], lora.weight) for lora in job.riding)
        key = tuple((each.packed.identity, weight) for each, weight in loras)
        ahead = tuple((each.packed.identity, weight) for each, weight in loras if each.is_ahead)
        controls = tuple(self._controls[net.identity] for net in self._controlling(job))
        return Adapted(key, ahead, loras, self._sections, controls)

    def packed(self, job: Job) -> list[tuple[PackedAdapter, float]]:
        """A job's, which are open, as they are packed, with their weights."""
        return [(self._open[_plain(lora)].packed, lora.weight) for lora in job.riding]

    def forget(self, still_wanted: Sequence[Job]) -> None:
        """Let go of what these jobs do not need, but for the latest, which leave the device."""
        wanted = {_plain(lora) for job in still_wanted for lora in job.riding}
        there = {id(self._open[lora]) for lora in wanted if lora in self._open}
        unwanted = [lora for lora, each in self._open.items() if id(each) not in there]
        for lora in unwanted:
            self._open[lora].close()
        for lora in unwanted[:-KEPT]:
            del self._open[lora]
        controls = {net.identity for job in still_wanted for net in job.controlling}
        spare = [identity for identity in self._controls if identity not in controls]
        for identity in spare:
            self._controls[identity].close()
        for identity in spare[:-KEPT_CONTROLNETS]:
            del self._controls[identity]
        self._set_aside()

    def admits(self, flying: Sequence[Job], job: Job) -> bool:
        """Whether the budget lets a picture in beside those in flight, with two blocks of each LoRA at the least.

        One that is not open yet counts when it is. What is there and would not stay beside that picture leaves at once,
        before it sets out: the next sweep says anew what stays.
        """
        assert self._budget is not None
        jobs = [*flying, job]
        if not self._budget.admits(flying, job, sum(each.least_bytes for each in self._wanted(jobs))):
            return False
        if not self._budget.keeps(jobs, sum(each.device_bytes for each in self._each())):
            self.close()
        return True

    # -- in sweeps --

    def begin(self, jobs: Sequence[Job]) -> None:
        """Have slots for what the pictures of these jobs ride with, and for no other; a sweep begins.

        Raises what torch raises where there is no room for two blocks of each.
        """
        wanted = self._wanted(jobs)
        taken = sum(each.least_bytes for each in wanted)
        staying: set[int] = set()
        for each in wanted:
            whole = taken - each.least_bytes + each.whole_bytes
            if not each.does_not_fit and (self._budget is None or self._budget.keeps(jobs, whole)):
                taken = whole
                staying.add(id(each))
        for each in self._each():  # what leaves makes room for what comes
            if id(each) not in staying and (each not in wanted or each.device_bytes > each.least_bytes):
                each.close()
        for each in wanted:
            each.begin(stays=id(each) in staying)
        self._set_aside()

    def arrive(self) -> None:
        """What is added to the next block is there, until that of the one after it arrives."""
        for each in self._each():
            each.arrive()

    def beside(self, passing: Passing, halts: Iterable[Halt]) -> list[Passing]:
        """The blocks of ControlNets at this block's place that somebody waits for."""
        waited = {halt.section for halt in halts if is_control(halt.section) and halt.index == passing.index}
        return [each.passing(last=passing.last) for each in self._controls.values() if each.section in waited]

    def end(self) -> None:
        """The sweep is over."""
        for each in self._each():
            each.end()

    def close(self) -> None:
        """Take all off the device: a sweep broke off, or there is no room for it beside another picture."""
        for each in self._each():
            each.close()
        self._set_aside()

    def _wanted(self, jobs: Sequence[Job]) -> list[InStep]:
        """Those that jobs ride with and that are open, each once, in the order in which they were opened."""
        wanted = {_plain(lora) for job in jobs for lora in job.riding}
        controls = {net.identity for job in jobs for net in job.controlling}
        there = {id(each) for lora, each in self._open.items() if lora in wanted}
        there |= {id(each) for identity, each in self._controls.items() if identity in controls}
        return [each for each in self._each() if id(each) in there]

    def _each(self) -> list[InStep]:
        return [*{id(each): each for each in self._open.values()}.values(), *self._controls.values()]

    def _set_aside(self) -> None:
        """Let the budget know what is taken on the device."""
        if self._budget is not None:
            self._budget.set_aside(sum(each.device_bytes for each in self._each()))


def _plain(lora: Lora) -> Lora:
    return lora.model_copy(update={"weight": 1.0})


def _weighted(factors: FactorsOf, weight: float) -> FactorsOf:
    return factors if weight == 1 else {name: (down * weight, up) for name, (down, up) in factors.items()}


def _joined(parts: Iterable[Mapping[str, Factors]]) -> AddedTo:
    found: dict[str, list[Factors]] = {}
    for factors in parts:
        for name, pair in factors.items():
            found.setdefault(name, []).append(pair)
    return found


@contextlib.contextmanager
def its_own() -> Iterator[None]:
    """What is wrong with a LoRA or ControlNet within is its pictures' own failure, and not the model's."""
    try:
        yield
    except ModelError as error:
        raise PictureError(error.message, hint=error.hint) from error
