"""LoRAs that pictures ride with: opened once for all of them, and brought to the device in step with the blocks.

A picture has its own set, in its own order and weights. What a layer gives is added to in DiffSynth's own order and
types, `y + x A^T B^T` with the weight in A, as its hot-loaded LoRAs do it, so that the bits are the same. Knows nothing
of sweeps, slots or other pictures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from greenlet import getcurrent

from renderer import families
from renderer.catalog import Model
from renderer.engine.budget import Budget
from renderer.engine.device import Device
from renderer.errors import ModelError, PictureError
from renderer.job import Job, Lora
from renderer.weights.adapters.packed import FactorsOf, PackedAdapter, prepare_adapter

Added = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""What is added to one layer, in order: A, which is rank x columns and has the weight in it, and B, rows x rank."""

AddedTo = Mapping[str, Added]
"""What is added to a block, or outside of blocks, by its modules' names there."""

KEPT = 8
"""LoRAs that stay open on the host when nobody wants them any more."""

ADAPTED = "adapted"
"""Under this name a block is given what is added to it."""


def added(out: torch.Tensor, x: torch.Tensor, factors: Added) -> torch.Tensor:
    """A layer's result with what LoRAs add to it, for the rows `x` that went in."""
    for down, up in factors:
        out = out + x @ down.T @ up.T
    return out


@contextlib.contextmanager
def adding(module: torch.nn.Module, factors: AddedTo) -> Iterator[None]:
    """Within, the linear layers of a network or block give what LoRAs add to them besides."""
    hooks = [module.get_submodule(name).register_forward_hook(_hook(each)) for name, each in factors.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(factors: Added) -> Callable[..., torch.Tensor]:
    def hook(_module: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return added(out, args[0], factors)

    return hook


# ---- outside of blocks: the networks are everybody's, and each call has its own set ----------------------------------


def carry(factors: AddedTo) -> None:
    """From now on, the layers that this rider's call runs outside of blocks give what is added to them."""
    getcurrent().adapted = factors  # type: ignore[attr-defined]  # a greenlet takes any attribute


def listen(module: torch.nn.Module) -> None:
    """Let a network's linear layers ask the call that runs them what is added."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(_asking(name))


def _asking(name: str) -> Callable[..., torch.Tensor]:
    def hook(_module: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        factors: Added = getattr(getcurrent(), "adapted", {}).get(name, ())
        return added(out, args[0], factors)

    return hook


# ---- the shelf -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """One LoRA: its file's blocks on the host, and those that are on the device. `stays` says that all of them stay."""

    packed: PackedAdapter
    device: Device
    dtype: torch.dtype
    stays: bool
    beside: Any
    host: dict[tuple[str, int] | None, FactorsOf] = field(default_factory=dict)
    there: dict[tuple[str, int] | None, tuple[FactorsOf, Any]] = field(default_factory=dict)

    def block(self, section: str, index: int) -> FactorsOf:
        """A block's factors on the device; the next block's set out meanwhile."""
        key = (section, index)
        found = self._fetched(key)
        if not self.stays:
            for other in [other for other in self.there if other not in {key, None}]:
                if other != (section, index + 1):
                    del self.there[other]
            self._set_out((section, index + 1))
        return found

    def outside(self) -> FactorsOf:
        return self._fetched(None)

    def _fetched(self, key: tuple[str, int] | None) -> FactorsOf:
        self._set_out(key)
        found, copied = self.there[key]
        if copied is not None:
            copied.wait()
            for pair in found.values():
                for tensor in pair:
                    tensor.record_stream(torch.cuda.current_stream())
        return found

    def _set_out(self, key: tuple[str, int] | None) -> None:
        if key in self.there:
            return
        host = self._on_host(key)
        if self.device != "cuda":
            self.there[key] = host, None
            return
        with torch.cuda.stream(self.beside):
            found = {
                name: (down.to("cuda", non_blocking=True), up.to("cuda", non_blocking=True))
                for name, (down, up) in host.items()
            }
            copied = torch.cuda.Event()
            copied.record()
        self.there[key] = found, copied

    def _on_host(self, key: tuple[str, int] | None) -> FactorsOf:
        if key not in self.host:
            factors = self.packed.outside() if key is None else self.packed.block(*key)
            self.host[key] = {name: (self._ready(down), self._ready(up)) for name, (down, up) in factors.items()}
        return self.host[key]

    def _ready(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(self.dtype)
        return tensor.pin_memory() if self.device == "cuda" else tensor


@dataclass(frozen=True, slots=True)
class Adapted:
    """One picture's LoRAs. `key` tells it from other sets; two pictures with equal keys are added the same."""

    key: tuple[tuple[str, float], ...]
    _loras: tuple[tuple[_Open, float], ...]
    _beforehand: Mapping[str, Collection[str]]

    def block(self, section: str, index: int) -> AddedTo:
        """What is added to a block in a sweep."""
        beforehand = self._beforehand.get(section, ())
        return {name: each for name, each in self.ready(section, index).items() if name not in beforehand}

    def ready(self, section: str, index: int) -> AddedTo:
        """What is added to a block, also to what of it is computed beforehand."""
        return self._joined(each.block(section, index) for each, _ in self._loras)

    def whole(self, sections: Mapping[str, tuple[str, int]]) -> AddedTo:
        """What is added to a whole network, by its layers' names: `sections` are prefixes of blocks, and how many."""
        found = dict(self.outside())
        for section, (prefix, count) in sections.items():
            for index in range(count):
                found |= {f"{prefix}{index}.{name}": each for name, each in self.ready(section, index).items()}
        return found

    def __bool__(self) -> bool:
        return bool(self._loras)

    def outside(self) -> AddedTo:
        """What is added outside of blocks."""
        return self._joined(each.outside() for each, _ in self._loras)

    def _joined(self, parts: Iterable[FactorsOf]) -> AddedTo:
        found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        for (_, weight), factors in zip(self._loras, parts, strict=True):
            for name, (down, up) in factors.items():
                found.setdefault(name, []).append((down if weight == 1 else down * weight, up))
        return found


NOTHING = Adapted((), (), {})


class AdapterShelf:
    """The LoRAs that are open."""

    def __init__(self, model: Model, device: Device, dtype: torch.dtype, budget: Budget | None = None) -> None:
        """They are for `model`. Those stay on the device that the `budget` has room for beside slots and pictures."""
        self._model = model
        self._device = device
        self._dtype = dtype
        self._budget = budget
        sections = families.find(model.family).network("transformer").sections
        self._beforehand = {each.name: each.beforehand.layers for each in sections if each.beforehand}
        self._beside = torch.cuda.Stream() if device == "cuda" else None
        self._open: dict[Lora, _Open] = {}

    def has(self, job: Job) -> bool:
        """Whether all of a job's are open."""
        return all(_plain(lora) in self._open for lora in _riding(job))

    def prepare(self, jobs: Iterable[Job]) -> None:
        """Open what is not open yet; one that was never used is packed first.

        Raises `PictureError` for one that is not here, or does not fit the model; `DiskError`.
        """
        for lora in dict.fromkeys(_plain(lora) for job in jobs for lora in _riding(job)):
            if lora in self._open:
                continue
            try:
                packed = prepare_adapter(lora, self._model)
            except ModelError as error:
                raise PictureError(error.message, hint=error.hint) from error
            stays = self._budget is None or packed.all_bytes <= self._budget.spare
            self._open[lora] = _Open(packed, self._device, self._dtype, stays, self._beside)
            self._set_aside()

    def of(self, job: Job) -> Adapted:
        """A job's, which are open."""
        loras = tuple((self._open[_plain(lora)], lora.weight) for lora in _riding(job))
        key = tuple((each.packed.identity, weight) for each, weight in loras)
        return Adapted(key, loras, self._beforehand)

    def forget(self, still_wanted: Iterable[Job]) -> None:
        """Let go of what these jobs do not need, but for the latest."""
        wanted = {_plain(lora) for job in still_wanted for lora in _riding(job)}
        for lora in [each for each in self._open if each not in wanted][:-KEPT]:
            del self._open[lora]
        self._set_aside()

    def _set_aside(self) -> None:
        """Let the budget know what those take that stay on the device."""
        if self._budget is not None:
            staying = {each.packed.identity: each.packed.all_bytes for each in self._open.values() if each.stays}
            self._budget.set_aside(sum(staying.values()))

    def let_go(self) -> None:
        """Take what lies on the device from it: it comes again as it is needed."""
        for each in self._open.values():
            each.there.clear()


def _riding(job: Job) -> Iterable[Lora]:
    """Those that add anything."""
    return (lora for lora in job.loras if lora.weight)


def _plain(lora: Lora) -> Lora:
    return lora.model_copy(update={"weight": 1.0})
