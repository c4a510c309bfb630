"""What the pictures of one model and precision take on one device: a part of a forecast. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from renderer.catalog import Model
from renderer.dealing.played import DeviceRate
from renderer.estimate import Estimate, Native, Stage, Work, decide, duration, host, shape_of
from renderer.estimate.decide import Decision
from renderer.estimate.work import WorkKind
from renderer.job import Job
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates
from renderer.planning import takes
from renderer.planning.fitting import SizeRefusal, available_bytes, streaming_of
from renderer.planning.group_forecast import GroupForecast, GroupTime
from renderer.planning.pace import Pace, PaceKey, Way, seconds, timesteps
from renderer.planning.plan import Planned
from renderer.planning.retakes import RetakeRate
from renderer.planning.riding import Riding, licences, riding
from renderer.protocol import Setup

AlikeWork = tuple[Work, int]
"""What pictures have in common that take as long: what is computed, and the steps."""


class ToRender:
    """Pictures of one model and precision, and what is told of them on every device."""

    def __init__(self, items: Sequence[Planned], rate: RetakeRate, model: Model) -> None:
        """`rate` says how many further takes are expected of each."""
        self.items = items
        self.jobs = [item.picture.job for item in items]
        self.model = model
        self._rate = rate

    def but(self, left_out: Collection[Job]) -> ToRender:
        """The same without some of them."""
        if not left_out:  # all of them are looked at for nothing
            return self
        return ToRender([item for item in self.items if item.picture.job not in left_out], self._rate, self.model)

    @cached_property
    def riding(self) -> Riding:
        """The LoRAs and ControlNets of those that are not refused, whether they can be had or not."""
        return riding(self.jobs, self.model)

    @cached_property
    def had(self) -> ToRender:
        """Without those that fail, for something of theirs cannot be had."""
        return self.but({job for job in self.jobs if self.riding.fails(job)} if self.riding.troubles else ())

    @cached_property
    def kinds(self) -> Mapping[AlikeWork, Sequence[Planned]]:
        """They by their kinds."""
        found: defaultdict[AlikeWork, list[Planned]] = defaultdict(list)
        for item in self.items:
            found[Work.of(item.picture.job), item.picture.job.num_inference_steps].append(item)
        return found

    @cached_property
    def works(self) -> Sequence[Work]:
        """What is computed for them, each once."""
        return list(dict.fromkeys(work for work, _ in self.kinds))

    @cached_property
    def takes(self) -> Mapping[AlikeWork, float]:
        """How many takes are expected of each kind: of each picture one, and of some a further one."""
        return {
            kind: sum(self._rate.takes(takes.count_left(item.picture)) for item in items)
            for kind, items in self.kinds.items()
        }

    @property
    def retakes(self) -> float:
        """How many are expected besides the first ones."""
        return sum(self.takes.values()) - len(self.items)

    @cached_property
    def timesteps(self) -> int:
        """How many different ones their schedules have."""
        return timesteps(self.jobs)

    @cached_property
    def split(self) -> bool:
        """Whether some are modulated apart."""
        return any(job.edit is not None and job.edit.zero_cond_t for job in self.jobs)

    @cached_property
    def licences(self) -> Mapping[str, str]:
        """What is known of the licences of their weights."""
        return licences(self.model, self.jobs)


class OnDevice:
    """Finds out what pictures take on one device, of which it is one worker's machine."""

    def __init__(
        self, pictures: ToRender, setup: Setup, refused: Mapping[Job, SizeRefusal], machine: Machine, pace: Pace
    ) -> None:
        """`refused` are those that do not fit there."""
        self.setup, self.refused = setup, refused
        fitting = pictures.but(refused)
        self.riding, self.left = fitting.riding, fitting.had
        self._machine = machine
        self._pace = pace
        self._picture_s: dict[AlikeWork, float] = {}
        self._key = PaceKey(setup.weights, setup.profile)
        self._shape = shape_of(pictures.model)
        self._cpu = machine.gpu is None
        recording = self.streamed and not self._cpu
        self._streaming = replace(streaming_of(setup, machine), recording=recording)
        host_has = machine.ram_free_bytes, machine.sharers
        self._from_disk = self.streamed and not host.blocks_in_memory(self._shape, setup.stored, *host_has)

    @property
    def streamed(self) -> bool:
        return self.setup.profile == "stream"

    def picture_s(self, kind: AlikeWork) -> float | None:
        """Seconds of the device's own time for a picture of a kind; None where it does not fit. After `group`."""
        return self._picture_s.get(kind)

    def rate(self, kinds: Sequence[AlikeWork], found: GroupForecast) -> DeviceRate | None:
        """As it is dealt to, by what was found; None where nobody knows how fast it is."""
        if found.seconds is None:
            return None
        return DeviceRate(found.seconds.start, tuple(map(self.picture_s, kinds)), found.in_flight)

    def group(self, known: Rates | None) -> GroupForecast:
        """What those that are not refused take, of which there are some; `known` are the machine's rates, if so."""
        rates = known or (self._pace.rates(self._key) if self._pace.knows(self._key) else None)
        decision, estimate = self._decide(rates)
        slots, company = decision.slots if decision else self._shape.layers, self._company(decision)
        spent = self._seconds(slots, company, rates) if rates else None
        sweep = self._sweep(slots, company, rates) if rates else None
        there = available_bytes(self.setup, self._machine)
        return GroupForecast(
            model=self.setup.model,
            precision=self.setup.precision,
            profile=self.setup.profile,
            pictures=len(self.left.items),
            slots=decision.slots if decision else None,
            blocks=self._shape.layers,
            in_flight=decision.in_flight if decision else 1,
            estimate=self.riding.beside(estimate, there if self.streamed else None),
            available_bytes=there,
            host=self._host(),
            from_disk=self._from_disk,
            seconds=spent,
            step_s=sweep.seconds * self._pace.factor(self._key) if sweep else None,
            limit=sweep.limit if sweep and known else None,
            measured=self._pace.knows(self._key),
            loras=len(self.riding.weights),
            lora_bytes=sum(each.bytes for each in self.riding.weights.values()),
            controlnets=len(self.riding.controls),
            controlnet_bytes=sum(each.bytes for each in self.riding.controls.values()),
            licences=self.left.licences,
            retakes=self.left.retakes,
        )

    def _decide(self, rates: Rates | None) -> tuple[Decision | None, Estimate]:
        """Slots and pictures in flight, where blocks are streamed; the peak of the picture that needs most."""
        works = self.left.works
        if not self.streamed:
            setup = self.setup
            native = Native(self._shape, setup.stored, setup.profile, setup.vram_bytes, self._streaming.kernels)
            return None, max(map(native.estimate, works), key=lambda each: each.allocated)
        there = available_bytes(self.setup, self._machine)
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
        return self.riding.in_host(
            host.estimate_host(
                self._shape,
                setup.stored,
                setup.profile,
                timesteps=self.left.timesteps,
                split=self.left.split,
                free_bytes=self._machine.ram_free_bytes,
                sharers=self._machine.sharers,
                inputs_bytes=host.of_inputs(self.left.jobs, setup.profile),
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
            for work in self.left.works
        ]
        return max(sweeps, key=lambda each: each.seconds)

    def _seconds(self, slots: int, company: Mapping[WorkKind, int], rates: Rates) -> GroupTime:
        """Where the time goes: the arithmetic, times what earlier pictures took more or less than it."""
        factor = self._pace.factor(self._key)
        denoise = decode = 0.0
        pictures = len(self.left.items)
        encode = self._pace.prepare_s(self._key, self.left.jobs, rates)
        riding_s = self.riding.seconds(self.left.jobs, rates) * (1 + self.left.retakes / pictures)
        for kind, items in self.left.kinds.items():
            job, count = items[0].picture.job, self.left.takes[kind]
            way = Way(slots, company.get(kind[0].kind, 1), cpu=self._cpu, from_disk=self._from_disk)
            share, _ = seconds(self._shape, job, self.setup.profile, way, rates)
            decoding = duration.decode_seconds(self._shape, kind[0], rates)
            denoise += (share - decoding) * count * factor
            decode += decoding * count * factor
            besides = (encode + riding_s) / pictures
            self._picture_s[kind] = share * factor * count / len(items) + besides
        denoise += riding_s
        start = self._pace.load_s(self._key)
        if start is None:
            start = duration.load_seconds(self._shape, self.setup.stored, rates)
        return GroupTime(start, encode, denoise, decode)
