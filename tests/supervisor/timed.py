"""A night by a clock of its own: the real pool and the real dealing, with workers that say when they would be done.

Whoever has the next word of all workers is heard next, and the clock stands where that is; so a night of hours takes as
long as its files. A worker has several pictures in flight, which share its device evenly, as the engine's riders do.
`python -m tests.supervisor.timed` prints what `dealing.played` foretells of some nights, and what they took then.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from renderer import catalog, protocol
from renderer.dealing.played import DealtGroup, DeviceRate, deal
from renderer.estimate.host import AT_HAND
from renderer.job import Engine, Job, Memory, Precision, Size, Timing
from renderer.machine import rates
from renderer.machine.devices import WorkerDevice
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.machine.rates import SOME_GPU, Rates
from renderer.manifest.manifest import Manifest
from renderer.outputs.summary import Summary
from renderer.planning import fitting
from renderer.planning.fitting import SizeRefusal
from renderer.planning.pace import weight
from renderer.protocol import AnyEvent, AnyOrder, Setup
from renderer.supervisor import run, speeds
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.worker import Heard, Hire
from tests.fakes import SOFTWARE, draw
from tests.making import make_manifest


@dataclass(frozen=True, slots=True)
class TimedDevice:
    """A device that takes `step_s` seconds for a step at bf16, and `start_s` to open a model; with so many `in_flight`.

    Pictures of more than `most_steps` do not fit there: what is refused for its size elsewhere, is so here.
    """

    step_s: float
    start_s: float = 5.0
    in_flight: int = 4
    most_steps: int = 1000


def seconds(job: Job) -> float:
    """What a job takes on a device of 1 s a step: by its work, of which its group's share and order are made too."""
    return weight(SimpleNamespace(picture=SimpleNamespace(job=job), model=catalog.DEMO)) / _STEP  # type: ignore[arg-type]


_STEP = 0.05106


@dataclass(slots=True)
class _Clock:
    """When it is, in seconds, and who has something to say."""

    now_s: float = 0.0
    workers: list[TimedWorker] = field(default_factory=list)

    def is_next(self, worker: TimedWorker) -> bool:
        """Whether nobody has a word before this one's."""
        due = worker.due_s
        return due is not None and all(other.due_s is None or due <= other.due_s for other in self.workers)


class TimedWorker:
    """A worker by the clock."""

    def __init__(self, clock: _Clock, device: TimedDevice) -> None:
        self.pid, self.unsent_bytes = None, 0
        self._clock, self._device = clock, device
        self._said: deque[Heard] = deque()
        self._waiting: deque[tuple[str, Job]] = deque()
        self._left: dict[str, tuple[Job, float]] = {}
        self._step: dict[str, int] = {}
        self._looked_s = clock.now_s
        self._opens_s: float | None = None
        clock.workers.append(self)

    @property
    def due_s(self) -> float | None:
        """When it says something next; None where it waits for orders."""
        if self._said:
            return self._clock.now_s
        if self._opens_s is not None:
            return self._opens_s
        least = min(map(self._to_step, self._left), default=None)
        return None if least is None else self._looked_s + least * len(self._left)

    def _to_step(self, key: str) -> float:
        """Seconds of the device's own time until a picture's next step is done."""
        job, left = self._left[key]
        return left - self._takes(job) * (1 - (self._step[key] + 1) / job.num_inference_steps)

    def _takes(self, job: Job) -> float:
        return seconds(job) * self._device.step_s

    def send(self, order: AnyOrder, _payload: bytes = b"") -> None:
        match order:
            case protocol.Open():
                self._opens_s = self._clock.now_s + self._device.start_s
            case protocol.Render(key=key, job=job):
                self._waiting.append((key, job))
            case protocol.Withdraw():
                self._said.append((protocol.Withdrawn(keys=tuple(key for key, _ in self._waiting)), b""))
                self._waiting.clear()
        self._begin()

    def _begin(self) -> None:
        """Have as many in flight as there may be."""
        self._pass()
        while self._waiting and len(self._left) < self._device.in_flight:
            key, job = self._waiting.popleft()
            self._left[key], self._step[key] = (job, self._takes(job)), 0
            self._said.append((protocol.Started(key=key), b""))

    def _pass(self) -> None:
        """What has been done of what is in flight since somebody looked."""
        each_s = (self._clock.now_s - self._looked_s) / max(1, len(self._left))
        self._left = {key: (job, left - each_s) for key, (job, left) in self._left.items()}
        self._looked_s = self._clock.now_s

    def hear(self, _timeout_s: float) -> Heard | None:
        if not self._clock.is_next(self):
            return None
        if not self._said:
            assert self.due_s is not None
            self._clock.now_s = self.due_s
            self._said.append(self._next())
        return self._said.popleft()

    def _next(self) -> tuple[AnyEvent, bytes]:
        if self._opens_s is not None:
            self._opens_s, self._looked_s = None, self._clock.now_s
            engine = Engine(name="fake", profile="stream", device="cpu")
            load_s = self._device.start_s
            return protocol.Opened(capacity=AT_HAND, load_s=load_s, engine=engine, software=SOFTWARE, gpu=None), b""
        self._pass()
        key = min(self._left, key=self._to_step)
        job, _ = self._left[key]
        self._step[key] += 1
        if self._step[key] < job.num_inference_steps:
            return protocol.Stepped(key=key, step=self._step[key], steps=job.num_inference_steps), b""
        del self._left[key]
        now = datetime.now(UTC)
        timing = Timing(began_at=now, ended_at=now, denoise_s=self._takes(job))
        self._begin()
        size = {"width": job.width, "height": job.height}
        return protocol.Rendered(key=key, **size, timing=timing, memory=Memory()), draw(job).rgb

    def wake(self) -> None:
        """It is never waited for."""

    def ring(self, bell: Callable[[], None]) -> None:
        """It has something to say only when it is asked."""

    def log_into(self, log: Path) -> None:
        """It prints nothing."""

    def end(self) -> None:
        if self in self._clock.workers:
            self._clock.workers.remove(self)

    kill = end

    def excerpt(self) -> str:
        return ""


class TimedFleet:
    """Devices of given speeds, and the clock that their workers go by."""

    brings_models = True

    def __init__(self, devices: Sequence[TimedDevice]) -> None:
        self._devices = devices
        self.clock = _Clock()

    @property
    def hire(self) -> Hire:
        return self._hire

    def _hire(self, log: Path) -> TimedWorker:
        number = int(log.stem.partition("-")[2] or 1)
        return TimedWorker(self.clock, self._devices[number - 1])

    def devices(self, *_: object) -> tuple[WorkerDevice, ...]:
        return tuple(
            WorkerDevice(
                Machine((_gpu(number, device),), cpus=2, ram_bytes=2**36, ram_free_bytes=2**35, chosen=True),
                number,
                f"GPU {number}",
            )
            for number, device in enumerate(self._devices)
        )


def _gpu(number: int, device: TimedDevice) -> LocalGpu:
    return LocalGpu(number, f"{device.step_s} s a step", f"GPU-{number}", 2**36, 2**36, "", (9, 0))


def known(machine: Machine) -> Rates | None:
    """The rates of a device's: those of some card, slower by what it takes for a step."""
    assert machine.gpu is not None
    slower = 1000 * float(machine.gpu.name.partition(" ")[0])  # so that what is alike on all cards is nothing beside it
    told = SOME_GPU.model_dump()
    return Rates.model_validate(
        {name: value / slower if name.endswith(("_flops", "_per_s")) else value for name, value in told.items()}
        | {"launch_s": SOME_GPU.launch_s * slower}
    )


def unknown(machine: Machine) -> Rates | None:  # noqa: ARG001  # of any
    """Nobody knows."""
    return None


@dataclass(frozen=True, slots=True)
class TimedNight:
    """Devices, and pictures as (precision, how many, steps): those of a precision are opened as one."""

    devices: tuple[TimedDevice, ...]
    pictures: tuple[tuple[Precision, int, int], ...]

    @property
    def manifest(self) -> Manifest:
        """With all its pictures."""
        kinds = [(precision, steps) for precision, count, steps in self.pictures for _ in range(count)]
        made = make_manifest([str(number) for number in range(len(kinds))])
        pictures = tuple(
            each.model_copy(
                update={"job": each.job.model_copy(update={"precision": precision, "num_inference_steps": steps})}
            )
            for each, (precision, steps) in zip(made.pictures, kinds, strict=True)
        )
        return dataclasses.replace(made, pictures=pictures)

    def foretold_s(self) -> float:
        """What it is to take."""
        groups: dict[Precision, Counter[Job]] = {}
        for picture in self.manifest.pictures:
            job = picture.job.model_copy(update={"seed": 0, "prompt": ""})
            groups.setdefault(job.precision, Counter())[job] += 1
        shares = deal(
            [
                DealtGroup(
                    tuple(jobs.values()),
                    tuple(map(seconds, jobs)),
                    {number: _rate(device, list(jobs)) for number, device in enumerate(self.devices)},
                )
                for jobs in groups.values()
            ]
        )
        return max(share.ended_s for share in shares)

    def refusals(self, jobs: Sequence[Job], setup: Setup, machine: Machine) -> dict[Job, SizeRefusal]:
        """What does not fit on a device, whatever the setup is."""
        assert setup.gpu is not None
        assert machine.gpu is not None
        most = self.devices[machine.gpu.index].most_steps
        return {
            job: SizeRefusal(Size(width=job.width, height=job.height), 2, 1, None)
            for job in jobs
            if job.num_inference_steps > most
        }

    def took(self, outputs: Path) -> tuple[Summary, float]:
        """How it went with the real pool, and the seconds that it took by its clock.

        `rates.known` and `fitting.refusals` are to be `known` and `refusals` meanwhile.
        """
        fleet = TimedFleet(self.devices)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(speeds, "now_s", lambda: fleet.clock.now_s)
            (summary,) = run.render([self.manifest], Settings(outputs, fleet=fleet), lambda _: None, StopRequests())
        return summary, fleet.clock.now_s

    def alone_s(self) -> float:
        """What the first device alone would take."""
        opened = len({picture.job.precision for picture in self.manifest.pictures})
        work = sum(seconds(picture.job) for picture in self.manifest.pictures)
        return work * self.devices[0].step_s + opened * self.devices[0].start_s


def _rate(device: TimedDevice, jobs: Sequence[Job]) -> DeviceRate:
    each = (seconds(job) * device.step_s if job.num_inference_steps <= device.most_steps else None for job in jobs)
    return DeviceRate(device.start_s, tuple(each), device.in_flight)


_FAST, _SLOW = TimedDevice(1), TimedDevice(10)

NIGHTS: Mapping[str, TimedNight] = {
    "one card": TimedNight((_FAST,), (("bf16", 20, 10),)),
    "two equal cards": TimedNight((_FAST, _FAST), (("bf16", 20, 10),)),
    "two equal cards, a large and a small group": TimedNight((_FAST, _FAST), (("bf16", 24, 10), ("fp8", 4, 10))),
    "two equal cards, four groups": TimedNight(
        (_FAST, _FAST), (("bf16", 10, 10), ("fp8", 20, 10), ("int8", 12, 8), ("int4", 8, 8))
    ),
    "10:1, 60 pictures": TimedNight((_FAST, _SLOW), (("bf16", 60, 10),)),
    "10:1, 20 pictures of three sizes": TimedNight((_FAST, _SLOW), (("bf16", 8, 16), ("bf16", 8, 8), ("bf16", 4, 2))),
    "10:1, two groups": TimedNight((_FAST, TimedDevice(10, in_flight=8)), (("bf16", 20, 10), ("fp8", 12, 10))),
    "10:1, six pictures": TimedNight((_FAST, _SLOW), (("bf16", 6, 10),)),
    "4:2:1": TimedNight((_FAST, TimedDevice(2), TimedDevice(4)), (("bf16", 30, 10),)),
    "3:1, four groups": TimedNight(
        (_FAST, TimedDevice(3)), (("bf16", 10, 10), ("fp8", 20, 10), ("int8", 12, 8), ("int4", 8, 8))
    ),
    "3:1, the faster takes small ones only": TimedNight(
        (TimedDevice(3), TimedDevice(1, most_steps=8)), (("bf16", 8, 20), ("fp8", 6, 5))
    ),
    "2:1, the slower takes small ones only": TimedNight(
        (_FAST, TimedDevice(2, most_steps=8)), (("bf16", 12, 20), ("bf16", 24, 5))
    ),
}


STRANGERS: Mapping[str, tuple[TimedDevice, ...]] = {
    "10:1": (_FAST, _SLOW),
    "3:1": (_FAST, TimedDevice(3)),
    "4:2:1": (_FAST, TimedDevice(2), TimedDevice(4)),
    "10:3:1": (_FAST, TimedDevice(3), _SLOW),
    "10:10:1:1": (_FAST, _FAST, _SLOW, _SLOW),
}
"""Cards side by side whose speeds nobody knows."""


def among_strangers(cards: str, pictures: int) -> TimedNight:
    """A short night of cards that nobody knows."""
    return TimedNight(STRANGERS[cards], (("bf16", pictures, 10),))


def played(nights: int) -> tuple[float, float, int]:
    """Random nights on two to four cards of 1:1 to 1:10, by `deal`, beside what the fastest alone takes for them.

    How many times as long they take on the average, and at most; and how many take longer by more than 2 %.
    """
    dice, found = random.Random(5), []  # noqa: S311  (no secret)
    for _ in range(nights):
        slower = [1.0, *(dice.choice((1, 1.5, 2, 3, 5, 10)) for _ in range(dice.choice((1, 1, 2, 3))))]
        in_flight, start_s = dice.choice((1, 2, 4, 8)), dice.choice((2, 10, 30))
        groups = []
        for _ in range(dice.choice((1, 2, 3, 5))):
            counts = tuple(dice.randint(1, 30) for _ in range(dice.choice((1, 2, 3))))
            each = tuple(dice.choice((2.0, 5.0, 10.0, 20.0)) for _ in counts)
            there = {
                number: DeviceRate(start_s, tuple(seconds * times for seconds in each), in_flight)
                for number, times in enumerate(slower)
            }
            groups.append(DealtGroup(counts, each, there))
        alone = [dataclasses.replace(group, rates={0: group.rates[0]}) for group in groups]
        together_s, alone_s = (max(share.ended_s for share in deal(those)) for those in (groups, alone))
        found.append(together_s / alone_s)
    return statistics.mean(found), max(found), sum(each > 1.02 for each in found)


def main() -> None:
    """Print the table; with a number, what as many random nights come to; with `unknown`, those of unknown cards."""
    if sys.argv[1:] == ["unknown"]:
        rates.known = unknown
        sys.stdout.write("| cards | pictures | speeds known | took |\n| --- | ---: | ---: | ---: |\n")
        for cards in STRANGERS:
            for pictures in (8, 20, 50):
                night = among_strangers(cards, pictures)
                with tempfile.TemporaryDirectory() as folder:
                    _, took_s = night.took(Path(folder))
                sys.stdout.write(f"| {cards} | {pictures} | {night.foretold_s():.0f} s | {took_s:.0f} s |\n")
        return
    if sys.argv[1:]:
        mean, most, longer = played(int(sys.argv[1]))
        sys.stdout.write(f"{mean:.2f} times as long on the average, {most:.2f} at most; {longer} take longer\n")
        return
    rates.known = known
    sys.stdout.write("| night | the first card alone | foretold | took |\n| --- | ---: | ---: | ---: |\n")
    for name, night in NIGHTS.items():
        fitting.refusals = night.refusals
        with tempfile.TemporaryDirectory() as folder:
            _, took_s = night.took(Path(folder))
        sys.stdout.write(f"| {name} | {night.alone_s():.0f} s | {night.foretold_s():.0f} s | {took_s:.0f} s |\n")


if __name__ == "__main__":
    main()
