"""Seconds a picture takes: the arithmetic's shape of the cost, times what earlier pictures took more or less than it.

One factor a model, precision and profile, the median of the last pictures' steps and decodes. What comes before the
steps is learnt apart: streamed, prompts and modulations are made ready once for many, as a worker's start is; native,
every picture has its own prompts encoded, the same ones again too. Where nothing has been measured yet, a machine's
rates tell; where they are not known either, nobody does. Reads no files.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from renderer import catalog
from renderer.catalog import Architecture
from renderer.estimate import Kernels, Streaming, Work, count_tokens, duration, shape_of
from renderer.estimate.host import MOST_TABLES
from renderer.estimate.looking import told_tokens
from renderer.job import Edit, Job, Precision, Profile, Schedule, Stored, Weights
from renderer.job.precisions import multiplies_stored, stored
from renderer.machine.hardware import Machine
from renderer.machine.rates import SOME_GPU, Rates
from renderer.outputs.done import Done
from renderer.planning.plan import Planned

RECENT = 50
"""Pictures that count: a machine is not always as fast as it was."""

_SOME_CPU = Rates(
    source="card",
    device="some CPU",
    product_flops=2e11,
    fp8_flops=None,
    int8_flops=None,
    attention_flops=1e11,
    convolution_flops=1e11,
    memory_bytes_per_s=2e10,
    pinned_bytes_per_s=None,
    pageable_bytes_per_s=1e11,
    host_copy_bytes_per_s=1e10,
    disk_bytes_per_s=1e9,
    launch_s=2e-5,
)
"""Only what these rates are to one another matters: measured factors stand before them."""

_Prompt = tuple[str, Edit | None]
"""A text, and what it is about, where pictures are edited."""

FEWEST_WORKERS, RECENT_WORKERS = 2, 3
"""Workers whose preparing counts, and fewer of which may all have been broken off."""


@dataclass(frozen=True, slots=True)
class PaceKey:
    """Pictures that take as long by the same factor: of the same weights, by the same profile."""

    weights: Weights
    profile: Profile


@dataclass(frozen=True, slots=True)
class Way:
    """How pictures are rendered: through how many slots, how many in flight, on which kind of device.

    `from_disk` says that there is no room in host memory for the blocks.
    """

    slots: int
    in_flight: int
    cpu: bool = False
    from_disk: bool = False


class Pace:
    """What pictures will take, learnt from pictures that were rendered the same way: of each kind from the latest."""

    def __init__(self, sidecars: Iterable[Done] = (), rates: Rates | None = None, most: int | None = None) -> None:
        """`rates` are this machine's rates, if they are known.

        Of one worker's pictures at most so many are kept as `most` says (None: all): a server's may work for months.
        """
        self._rates = rates
        self._most = most
        self._factors: dict[PaceKey, deque[float]] = {}
        self._walls: dict[PaceKey, deque[float]] = {}
        self._encodes: dict[PaceKey, deque[float]] = {}
        self._ways: dict[PaceKey, Way] = {}
        self._workers: dict[PaceKey, dict[float, deque[Done]]] = {}
        for sidecar in sidecars:
            self.learn(sidecar)

    def learn(self, sidecar: Done) -> None:
        """Take a finished picture's seconds into account: those of denoising and decoding, and what came before apart.

        Where it did not share the machine, encoding its prompts and saving its file were its own too.
        """
        timing, sharing = sidecar.timing, sidecar.sharing
        key, way = _key(sidecar), _way(sidecar)
        if timing.load_s:  # pictures of one worker have it to the last digit
            self._workers.setdefault(key, {}).setdefault(timing.load_s, deque(maxlen=self._most)).append(sidecar)
        if timing.total_s is None:
            return
        if sharing is None:
            own = timing.total_s - (timing.encode_s or 0.0)
            self._encodes.setdefault(key, _latest()).append((timing.encode_s or 0.0) / len(_prompts(sidecar.job)))
        else:
            own = sharing.share_s + (timing.decode_s or 0.0)
        share, wall = self._arithmetic(key, sidecar.job, way)
        self._factors.setdefault(key, _latest()).append(own / share)
        self._walls.setdefault(key, _latest()).append(timing.total_s / wall)
        self._ways[key] = way

    def learn_other(self, sidecars: Iterable[Done]) -> None:
        """Take those into account that are of kinds of which nothing is known: of the others it is known better."""
        unknown = [sidecar for sidecar in sidecars if not self.knows(_key(sidecar))]
        for sidecar in unknown:
            self.learn(sidecar)

    def expect_s(self, item: Planned, profile: Profile, way: Way | None = None) -> float | None:
        """Seconds of the machine's time that a picture will take; None when nothing tells.

        A picture that shares the machine with n others is there n times as late.
        """
        job = item.picture.job
        key = PaceKey(Weights.of(job), profile)
        factors = self._factors.get(key)
        if factors is None and self._rates is None:
            return None
        way = way or self._ways.get(key) or Way(_shape(key.weights).layers, 1, cpu=profile == "cpu")
        share, _ = self._arithmetic(key, job, way)
        return share * self.factor(key) + self._encode_s(key, [job])

    def factor(self, key: PaceKey) -> float:
        """How much longer pictures take than the arithmetic says; 1 where none were measured."""
        factors = self._factors.get(key)
        return statistics.median(factors) if factors else 1.0

    def load_s(self, key: PaceKey) -> float | None:
        """Seconds that opening a worker took, the median of all; None where none was opened."""
        loads = self._workers.get(key)
        return statistics.median(loads) if loads else None

    def prepare_s(self, key: PaceKey, jobs: Sequence[Job], rates: Rates) -> float:
        """Seconds before the steps of jobs: of prompts and modulations, by arithmetic and by what it took so far.

        Native, each picture takes as long for its prompts as earlier ones did. Streamed, prompts of pictures that are
        finished are remembered on the disk. What pictures tell of preparing is the least that it took, for those that
        were prepared for and never finished have their part of it: so that worker counts that tells of most, and a
        single one only adds.
        """
        if key in self._encodes:
            return self._encode_s(key, jobs)
        known: set[_Prompt] = set()
        factors: list[float] = []
        workers = self._workers.get(key, {}).values()
        for pictures in sorted(workers, key=lambda each: min(picture.timing.began_at for picture in each)):
            sharing = [picture for picture in pictures if picture.sharing is not None]
            if sharing:
                arithmetic = _prepare_s(key, [picture.job for picture in sharing], known, rates)
                factors.append(sum(picture.timing.encode_s or 0.0 for picture in sharing) / arithmetic)
                known.update(prompt for picture in sharing for prompt in _prompts(picture.job))
        least = 1.0 if len(factors) < FEWEST_WORKERS else 0.0
        return _prepare_s(key, jobs, known, rates) * max([least, *factors[-RECENT_WORKERS:]])

    def _encode_s(self, key: PaceKey, jobs: Sequence[Job]) -> float:
        """Seconds of encoding jobs' prompts where each picture has its own encoded; 0 where nothing tells."""
        encodes = self._encodes.get(key)
        return statistics.median(encodes) * sum(len(_prompts(job)) for job in jobs) if encodes else 0.0

    def knows(self, key: PaceKey) -> bool:
        """Whether pictures of this kind were measured."""
        return key in self._factors

    def rates(self, key: PaceKey) -> Rates:
        """The rates that pictures of this kind are reckoned with: measured ones, or some, which the factor corrects."""
        way = self._ways.get(key)
        return self._rates or (_SOME_CPU if way is not None and way.cpu else SOME_GPU)

    def expect_of(self, sidecar: Done) -> float | None:
        """Seconds by the wall's clock that a picture like this one will take; None when none like it was measured."""
        walls = self._walls.get(_key(sidecar))
        if not walls:
            return None
        _, wall = self._arithmetic(_key(sidecar), sidecar.job, _way(sidecar))
        return statistics.median(walls) * wall

    def _arithmetic(self, key: PaceKey, job: Job, way: Way) -> tuple[float, float]:
        """A picture's part of the machine's time, and the wall's, by the arithmetic alone."""
        rates = self._rates or (_SOME_CPU if way.cpu else SOME_GPU)
        return seconds(_shape(key.weights), job, key.profile, way, rates)


class Paces:
    """What pictures take on each kind of card, learnt from those that were rendered on one."""

    def __init__(self, sidecars: Iterable[Done]) -> None:
        self._sidecars = list(sidecars)
        self._found: dict[tuple[str | None, Rates | None], Pace] = {}

    def on(self, machine: Machine, rates: Rates | None) -> Pace:
        """Of the GPU that renders on a machine, or its CPU, with its rates.

        Pictures of other cards tell something only where nothing else does.
        """
        card = machine.gpu.name if machine.gpu else None
        if (card, rates) not in self._found:
            own = [each for each in self._sidecars if (each.gpu.name if each.gpu else None) == card]
            self._found[card, rates] = Pace(own or (self._sidecars if rates is None else ()), rates)
        return self._found[card, rates]


def _latest() -> deque[float]:
    return deque(maxlen=RECENT)


def weight(item: Planned) -> float:
    """What a picture takes beside others of its batch: seconds, as if all weights were there, on some machine."""
    job = item.picture.job
    shape, cpu = shape_of(item.model), item.model.is_the_demo
    return seconds(shape, job, "stream", Way(shape.layers, 1, cpu=cpu), _SOME_CPU if cpu else SOME_GPU)[0]


def seconds(shape: Architecture, job: Job, profile: Profile, way: Way, rates: Rates) -> tuple[float, float]:
    """A picture's part of the machine's time and its time by the wall's clock: steps and decode, by arithmetic."""
    return work_seconds(shape, Work.of(job), job.num_inference_steps, job.precision, profile, way, rates)


def work_seconds(
    shape: Architecture, work: Work, steps: int, precision: Precision, profile: Profile, way: Way, rates: Rates
) -> tuple[float, float]:
    """The same of a kind of picture that no job asks for."""
    swept, decoded = _sweep_and_decode(shape, work, precision, profile, way, rates)
    return swept * steps / way.in_flight + decoded, swept * steps + decoded


@lru_cache(maxsize=4096)
def _sweep_and_decode(
    shape: Architecture, work: Work, precision: Precision, profile: Profile, way: Way, rates: Rates
) -> tuple[float, float]:
    """Seconds of one sweep and of a decode: thousands of pictures have the same."""
    streamed = profile == "stream"
    kept: Stored = stored(precision) if streamed else "bf16"
    kernels = Kernels() if multiplies_stored(precision) else Kernels(products=frozenset())
    streaming = Streaming(shape, kept, way.slots if streamed else shape.layers, kernels, streamed and not way.cpu)
    sweep = duration.sweep(streaming, [work] * way.in_flight, rates, from_disk=way.from_disk)
    return sweep.seconds, duration.decode_seconds(shape, work, rates)


def timesteps(jobs: Iterable[Job]) -> int:
    """How many different timesteps the schedules of jobs have, of which the engine keeps a number at hand."""
    return min(MOST_TABLES, sum(schedule.steps for schedule in set(map(Schedule.of, jobs))))


def _prepare_s(key: PaceKey, jobs: Sequence[Job], known: Collection[_Prompt], rates: Rates) -> float:
    """Encoding those of the jobs' prompts that are not known, and all modulations, by arithmetic alone.

    Native, modulations are a part of each step.
    """
    prompts = dict.fromkeys(prompt for job in jobs for prompt in _prompts(job) if prompt not in known)
    tokens = [count_tokens(text) + told_tokens(edit) for text, edit in prompts]
    different = timesteps(jobs) if key.profile == "stream" else 0
    kept, looking = stored(key.weights.precision), any(edit for _, edit in prompts)
    return duration.encode_seconds(_shape(key.weights), kept, tokens, different, rates, looking=looking)


def _prompts(job: Job) -> tuple[_Prompt, ...]:
    """The prompts that are encoded for a job, with what they are about; without guidance, not the negative one."""
    texts = (job.prompt, job.negative_prompt) if job.cfg_scale != 1.0 else (job.prompt,)
    return tuple((text, job.edit) for text in texts)


def _key(sidecar: Done) -> PaceKey:
    return PaceKey(Weights.of(sidecar.job), sidecar.engine.profile)


def _way(sidecar: Done) -> Way:
    cpu, sharing = sidecar.engine.device == "cpu", sidecar.sharing
    if sharing is None:
        return Way(_shape(Weights.of(sidecar.job)).layers, 1, cpu)
    return Way(sharing.slots, max(1, round(sharing.mean_in_flight)), cpu)


@lru_cache(maxsize=64)
def _shape(weights: Weights) -> Architecture:
    return shape_of(catalog.find(weights.model))
