"""What a batch will take before it begins: memory, seconds, bytes of the disk; what limits it, and what is refused.

From `estimate`'s arithmetic, a machine (this one or another), its rates, and what earlier sidecars measured. Imports no
torch, starts nothing, asks no network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from renderer.dealing import played
from renderer.dealing.played import DealtGroup, DeviceRate
from renderer.errors import RendererError
from renderer.estimate import Estimate, Native, Stage, Work, decide, duration, host, shape_of
from renderer.estimate.decide import Decision
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.estimate.work import WorkKind
from renderer.job import Job, Profile, Weights
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates
from renderer.planning import deployment, mixtures, precision_choice, space, takes
from renderer.planning.fitting import SizeRefusal, available_bytes, refusals, streaming_of
from renderer.planning.group_forecast import GroupForecast, GroupTime, together
from renderer.planning.pace import Pace, PaceKey, Paces, Way, seconds, timesteps, weight
from renderer.planning.placement import setup_for
from renderer.planning.plan import Plan, Planned
from renderer.planning.retakes import RetakeRate
from renderer.planning.riding import licences, riding
from renderer.planning.space import Disk
from renderer.protocol import Setup

_Kind = tuple[Work, int]
"""What pictures have in common that take as long: what is computed, and the steps."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """How a batch is to be rendered: as `render` is told, or as if on another machine.

    `ready` says that it is another machine: models are taken to be there, and this one's pictures tell nothing.
    `devices` are those that render, with their rates, where there are several.
    """

    machine: Machine
    profile: Profile | None = None
    vram_bytes: int | None = None
    rates: Rates | None = None
    ready: bool = False
    devices: tuple[tuple[WorkerDevice, Rates | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Forecast:
    """All of it.

    `refused` are jobs, for two manifests may have pictures of one id; `troubles` are models and precisions that cannot
    be opened here, and LoRAs and ControlNets that cannot be had. `mixtures` say where pictures that are there were
    computed otherwise than those to come will be; `advice` where another precision is much faster.
    """

    groups: tuple[GroupForecast, ...]
    refused: Mapping[Job, SizeRefusal]
    troubles: tuple[str, ...]
    disk: Disk
    begins_at: datetime
    ends_at: datetime | None
    mixtures: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @property
    def vram_bytes(self) -> int | None:
        """Peak GPU memory, of the largest group: they come one after another. None without a GPU.

        What the allocator holds in vain it gives back where there is no room for it.
        """
        there = [
            min(group.estimate.device, group.available_bytes + CONTEXT_BYTES)
            for each in self.groups
            for group in each.devices or (each,)
            if group.available_bytes is not None
        ]
        return max(there, default=None)

    @property
    def ram_bytes(self) -> int | None:
        """Peak host memory of the workers, of the largest group."""
        return max((group.host_bytes for group in self.groups), default=None)

    @property
    def seconds(self) -> float | None:
        """From the command to the last picture; None where nothing tells."""
        return (self.ends_at - self.begins_at).total_seconds() if self.ends_at else None

    def as_dict(self) -> dict[str, Any]:
        """The forecast as JSON-ready values."""
        return {
            "vram_bytes": self.vram_bytes,
            "ram_bytes": self.ram_bytes,
            "seconds": self.seconds,
            "begins_at": self.begins_at.isoformat(timespec="seconds"),
            "ends_at": self.ends_at.isoformat(timespec="seconds") if self.ends_at else None,
            "disk": self.disk.as_dict(),
            "groups": [group.as_dict() for group in self.groups],
            "troubles": list(self.troubles),
            "mixtures": list(self.mixtures),
            "advice": list(self.advice),
        }


def forecast(plans: Sequence[Plan], terms: Assumptions, now: datetime) -> Forecast:
    """What rendering all that is to do of several manifests will take."""
    todo = [item for plan in plans for item in plan.to_render()]
    sidecars = [item.sidecar for plan in plans for item in plan.items if item.sidecar is not None]
    paces = Paces(sidecars if not terms.ready else ())
    rate = RetakeRate.of(item for plan in plans for item in plan.items)
    found: list[list[_Grouping]] = []
    refused: dict[Job, SizeRefusal] = {}
    troubles: list[str] = []
    setups: list[Setup] = []
    for items in _by_weights(todo):
        try:
            groupings = list(_groupings(items, terms, paces, rate))
        except RendererError as error:
            troubles.append(_told(error))
            continue
        first = groupings[0]
        troubles += first.extra_troubles
        refused |= {job: why for job, why in first.refused.items() if all(job in each.refused for each in groupings)}
        setups.append(first.setup)
        if able := [each for each in groupings if each.left]:
            found.append(able)
    groups, total_s = _played(found)
    ends = None if total_s is None else (now + timedelta(seconds=total_s)).astimezone()  # clocks may change before it
    left = [item for plan in plans for item in plan.to_write() if item.picture.job not in refused]
    return Forecast(
        groups=tuple(groups),
        refused=refused,
        troubles=tuple(troubles),
        disk=space.look(plans, left, setups, ready=terms.ready),
        begins_at=now,
        ends_at=ends,
        mixtures=tuple(mixtures.remarks(plans, setups, terms.machine)),
        advice=tuple(filter(None, (precision_choice.told(setup, terms.machine) for setup in setups))),
    )


def _groupings(items: Sequence[Planned], terms: Assumptions, paces: Paces, rate: RetakeRate) -> Iterator[_Grouping]:
    """One for each device that can open it. Raises `MachineError` where none can."""
    if not terms.devices:
        yield _Grouping(items, terms, paces.on(terms.machine, terms.rates), rate)
        return
    jobs = [item.picture.job for item in items]
    found = deployment.deploy(jobs, [device for device, _ in terms.devices], terms.profile, terms.vram_bytes)
    for device, rates in terms.devices:
        if device.number in found.setups:
            there = replace(terms, machine=device.machine, rates=rates)
            yield _Grouping(items, there, paces.on(device.machine, rates), rate, found.setups[device.number], device)


def _played(found: Sequence[Sequence[_Grouping]]) -> tuple[list[GroupForecast], float | None]:
    """The groups, each by the devices that can open it, and how long all of them take; None where nobody knows.

    A device of which nobody knows how fast it is, and which takes some of a group only, is not counted on.
    """
    each = [[grouping.group() for grouping in groupings] for groupings in found]
    if not found or not all(map(_is_known, each)):
        return [together(groups, None) for groups in each], None
    if found[0][0].is_alone:
        return [group for (group,) in each], sum(group.seconds.total for (group,) in each if group.seconds)
    shares = played.deal([_dealt_group(*pair) for pair in zip(found, each, strict=True)])
    groups = [together(*pair) for pair in zip(each, shares, strict=True)]
    return groups, max(share.ended_s for share in shares)


def _is_known(groups: Sequence[GroupForecast]) -> bool:
    """Whether it is known what all that take most of a group take for it."""
    most = max(group.pictures for group in groups)
    return all(group.seconds is not None for group in groups if group.pictures == most)


def _dealt_group(groupings: Sequence[_Grouping], groups: Sequence[GroupForecast]) -> DealtGroup:
    """What is known of a group, as it is dealt."""
    kinds = list(dict.fromkeys(kind for grouping in groupings for kind in grouping.kinds))
    items = [next(each.kinds[kind] for each in groupings if kind in each.kinds) for kind in kinds]
    return DealtGroup(
        counts=tuple(map(len, items)),
        weights=tuple(weight(of_kind[0]) for of_kind in items),
        rates={
            group.number: DeviceRate(group.seconds.start, tuple(map(grouping.picture_s, kinds)), group.in_flight)
            for grouping, group in zip(groupings, groups, strict=True)
            if group.seconds is not None
        },
    )


def _told(error: RendererError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _by_weights(items: Iterable[Planned]) -> Iterable[list[Planned]]:
    groups: dict[Weights, list[Planned]] = {}
    for item in items:
        groups.setdefault(Weights.of(item.picture.job), []).append(item)
    return groups.values()


# ---- one model and precision -----------------------------------------------------------------------------------------


class _Grouping:
    """Finds out what the pictures of one model and precision take."""

    def __init__(
        self,
        items: Sequence[Planned],
        terms: Assumptions,
        pace: Pace,
        rate: RetakeRate,
        setup: Setup | None = None,
        device: WorkerDevice | None = None,
    ) -> None:
        jobs = [item.picture.job for item in items]
        self._terms = terms
        self._pace = pace
        self._takes = {item.picture.job: rate.takes(takes.count_left(item.picture)) for item in items}
        self._device = device
        self.setup = setup or setup_for(jobs, terms.machine, terms.profile, terms.vram_bytes)
        self.refused = refusals(jobs, self.setup, terms.machine)
        self._picture_s: dict[_Kind, float] = {}
        self._riding = riding((job for job in jobs if job not in self.refused), items[0].model)
        self.left = [job for job in jobs if job not in self.refused and not self._riding.fails(job)]
        self.kinds: defaultdict[_Kind, list[Planned]] = defaultdict(list)
        left = set(self.left)
        for item in items:
            if item.picture.job in left:
                self.kinds[Work.of(item.picture.job), item.picture.job.num_inference_steps].append(item)
        self._key = PaceKey(self.setup.weights, self.setup.profile)
        self._model = items[0].model
        self._shape = shape_of(self._model)
        self._cpu = terms.machine.gpu is None
        recording = self.streamed and not self._cpu
        self._streaming = replace(streaming_of(self.setup, terms.machine), recording=recording)
        host_has = terms.machine.ram_free_bytes, terms.machine.sharers
        self._from_disk = self.streamed and not host.blocks_in_memory(self._shape, self.setup.stored, *host_has)

    @property
    def extra_troubles(self) -> list[str]:
        """Why some LoRAs or ControlNets cannot be had; their pictures are not counted."""
        return list(map(_told, self._riding.troubles.values()))

    @property
    def _retakes(self) -> float:
        """How many takes are expected besides the first ones."""
        return sum(self._takes[job] - 1 for job in self.left)

    @property
    def streamed(self) -> bool:
        return self.setup.profile == "stream"

    @property
    def is_alone(self) -> bool:
        """Whether no other device renders."""
        return self._device is None

    def picture_s(self, kind: _Kind) -> float | None:
        """Seconds of the device's own time for a picture of a kind; None where it does not fit. After `group`."""
        return self._picture_s.get(kind)

    def group(self) -> GroupForecast:
        """What those that are not refused take, of which there are some."""
        rates = self._terms.rates or (self._pace.rates(self._key) if self._pace.knows(self._key) else None)
        decision, estimate = self._decide(rates)
        slots, company = decision.slots if decision else self._shape.layers, self._company(decision)
        spent = self._seconds(slots, company, rates) if rates else None
        sweep = self._sweep(slots, company, rates) if rates else None
        there = available_bytes(self.setup, self._terms.machine)
        return GroupForecast(
            model=self.setup.model,
            precision=self.setup.precision,
            profile=self.setup.profile,
            pictures=len(self.left),
            slots=decision.slots if decision else None,
            blocks=self._shape.layers,
            in_flight=decision.in_flight if decision else 1,
            estimate=self._riding.beside(estimate, there if self.streamed else None),
            available_bytes=there,
            host=self._host(),
            from_disk=self._from_disk,
            seconds=spent,
            step_s=sweep.seconds * self._pace.factor(self._key) if sweep else None,
            limit=sweep.limit if sweep and self._terms.rates else None,
            measured=self._pace.knows(self._key),
            loras=len(self._riding.weights),
            lora_bytes=sum(each.bytes for each in self._riding.weights.values()),
            controlnets=len(self._riding.controls),
            controlnet_bytes=sum(each.bytes for each in self._riding.controls.values()),
            licences=licences(self._model, self.left),
            device=self._device.label if self._device else "",
            card=gpu.described if self._device and (gpu := self._terms.machine.gpu) else "",
            number=self._device.number if self._device else 0,
            retakes=self._retakes,
        )

    def _decide(self, rates: Rates | None) -> tuple[Decision | None, Estimate]:
        """Slots and pictures in flight, where blocks are streamed; the peak of the picture that needs most."""
        works = list(dict.fromkeys(map(Work.of, self.left)))
        if not self.streamed:
            setup = self.setup
            native = Native(self._shape, setup.stored, setup.profile, setup.vram_bytes, self._streaming.kernels)
            return None, max(map(native.estimate, works), key=lambda each: each.allocated)
        there = available_bytes(self.setup, self._terms.machine)
        decision = decide.decide(
            self._streaming,
            list(map(decide.Series.of, self.setup.demands)),
            there if there is None else there - self.setup.extra_bytes,
            rates=rates,
            from_disk=self._from_disk,
            slots=self.setup.slots,
        )
        streaming, company = replace(self._streaming, slots=decision.slots), self._company(decision)
        peaks = (streaming.estimate([work] * company.get(work.kind, 1)) for work in works)
        return decision, max(peaks, key=lambda each: each.allocated)

    def _host(self) -> Stage:
        """The worker's memory on the host."""
        setup = self.setup
        return self._riding.in_host(
            host.estimate_host(
                self._shape,
                setup.stored,
                setup.profile,
                timesteps=timesteps(self.left),
                split=any(job.edit is not None and job.edit.zero_cond_t for job in self.left),
                free_bytes=self._terms.machine.ram_free_bytes,
                sharers=self._terms.machine.sharers,
                inputs_bytes=host.of_inputs(self.left, setup.profile),
            )
        )

    @staticmethod
    def _company(decision: Decision | None) -> dict[WorkKind, int]:
        """How many pictures of each kind ride together; one, where nothing is streamed."""
        return {work.kind: number for work, number in decision.riding.items()} if decision else {}

    def _sweep(self, slots: int, company: Mapping[WorkKind, int], rates: Rates) -> duration.SweepTime:
        """A step of the picture that takes longest."""
        streaming = replace(self._streaming, slots=slots)
        sweeps = [
            duration.sweep(streaming, [work] * company.get(work.kind, 1), rates, from_disk=self._from_disk)
            for work in dict.fromkeys(map(Work.of, self.left))
        ]
        return max(sweeps, key=lambda each: each.seconds)

    def _seconds(self, slots: int, company: Mapping[WorkKind, int], rates: Rates) -> GroupTime:
        """Where the time goes: the arithmetic, times what earlier pictures took more or less than it."""
        factor = self._pace.factor(self._key)
        denoise = decode = 0.0
        encode = self._pace.prepare_s(self._key, self.left, rates)
        riding_s = self._riding.seconds(self.left, rates) * (1 + self._retakes / len(self.left))
        for kind, items in self.kinds.items():
            job, count = items[0].picture.job, sum(self._takes[item.picture.job] for item in items)
            way = Way(slots, company.get(kind[0].kind, 1), cpu=self._cpu, from_disk=self._from_disk)
            share, _ = seconds(self._shape, job, self.setup.profile, way, rates)
            decoding = duration.decode_seconds(self._shape, kind[0], rates)
            denoise += (share - decoding) * count * factor
            decode += decoding * count * factor
            besides = (encode + riding_s) / len(self.left)
            self._picture_s[kind] = share * factor * count / len(items) + besides
        denoise += riding_s
        start = self._pace.load_s(self._key)
        if start is None:
            start = duration.load_seconds(self._shape, self.setup.stored, rates)
        return GroupTime(start, encode, denoise, decode)
