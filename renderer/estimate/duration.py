"""Seconds, from floating-point operations and bytes against a machine's rates.

A sweep takes as long as the longest of three that go on at the same time: the GPU's arithmetic, the host's launching of
it, and the copies of blocks that are not on the GPU. What is measured afterwards corrects this by one factor
(`renderer.planning.pace`): the shape of the cost is from here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from renderer.catalog import DROPPED_TOKENS, MOST_TOKENS, Architecture
from renderer.estimate import family_costs
from renderer.estimate.fitted import (
    BYTES_A_NUMBER,
    DECODE_ATTENTION,
    DECODE_CONVOLUTIONS,
    DECODE_HOST_CALLS,
    DISK_BYTES_PER_S,
    HOST_CALLS,
    HOST_CALLS_MORE,
    HOST_CALLS_RECORDED,
    KEPT_UP,
    KERNEL_S,
    KERNELS,
    LEAST_ROWS,
    START_S,
    UNPACKING_CALLS,
)
from renderer.estimate.memory import TURNING_SLOTS, Streaming
from renderer.estimate.weights import weight_bytes
from renderer.estimate.work import Work
from renderer.job import Stored
from renderer.machine.rates import Rates

Limit = Literal["arithmetic", "launches", "bus", "disk"]
"""What a sweep waits for."""

LEAST_HIDDEN = 0.05
"""Of a picture's computing, what it has to hide of the copies, or to save, to be let in: with less it makes nobody
earlier."""

MORE_LIKE_IT = (1, 2, 4)
"""How many are tried: where launches are no longer recorded, the first alone may gain nothing."""


@dataclass(frozen=True, slots=True)
class SweepTime:
    """One step of all pictures in flight, in seconds by what it waits for."""

    arithmetic_s: float
    launches_s: float
    bus_s: float
    disk_s: float

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return max(self.computing_s, self.copying_s)

    @property
    def computing_s(self) -> float:
        """How long it would take if all blocks were there: what grows with every picture in flight."""
        return max(self.arithmetic_s, self.launches_s)

    @property
    def copying_s(self) -> float:
        """How long it would take if nothing were computed: the same for any company."""
        return max(self.bus_s, self.disk_s)

    def slowed(self, factor: float) -> SweepTime:
        """The same where computing and launching take `factor` times as long."""
        return replace(self, arithmetic_s=self.arithmetic_s * factor, launches_s=self.launches_s * factor)

    @property
    def limit(self) -> Limit:
        """What it waits for."""
        parts: tuple[tuple[float, Limit], ...] = (
            (self.arithmetic_s, "arithmetic"),
            (self.launches_s, "launches"),
            (self.bus_s, "bus"),
            (self.disk_s, "disk"),
        )
        return max(parts)[1]


# ---- one picture -----------------------------------------------------------------------------------------------------


def block_flops(shape: Architecture, work: Work) -> float:
    """Floating-point operations of one block for all passes of a picture: linear layers, attention, ControlNets."""
    costs = family_costs.of(shape)
    controls = work.controls * costs.control_flops(shape, work.own_tokens) if work.controls else 0.0
    return sum(sum(costs.block_flops(shape, work.tokens, text)) + controls for text in work.texts)


def block_seconds(streaming: Streaming, company: Sequence[tuple[int, int]], rates: Rates) -> tuple[float, float]:
    """Of one block for those that go through it together: seconds of the GPU, and of the host that launches it.

    `company` are tokens of image and text of each.
    """
    shape, arithmetic = streaming.shape, streaming.arithmetic
    calls = HOST_CALLS_RECORDED if streaming.is_recorded(company) else HOST_CALLS[arithmetic]
    host = (calls + HOST_CALLS_MORE * (len(company) - 1)) * rates.launch_s
    tokens, texts = map(sum, zip(*company, strict=True))
    passing = BYTES_A_NUMBER[arithmetic] * (tokens + texts) * shape.width
    flops = [streaming.costs.block_flops(shape, *each) for each in company]
    rows = max(LEAST_ROWS, tokens) + max(LEAST_ROWS, texts)
    gpu = sum(linear for linear, _ in flops) / (tokens + texts) * rows / rates.flops(arithmetic)
    gpu += sum(attention for _, attention in flops) / rates.attention_flops + passing / rates.memory_bytes_per_s
    return gpu, host


def decode_seconds(shape: Architecture, work: Work, rates: Rates) -> float:
    """The VAE's part: its decode, and before that what makes latents of pictures that go in."""
    terms = family_costs.of(shape)
    ways = [terms.decode_flops(shape, work)] * work.decoded
    ways += [terms.encode_flops(shape, replace(work, width=width, height=height)) for width, height in work.encoded]
    return sum(_by_the_vae(*flops, rates) for flops in ways)


def _by_the_vae(convolutions: float, attention: float, rates: Rates) -> float:
    gpu = convolutions / rates.convolution_flops / DECODE_CONVOLUTIONS
    gpu += attention / rates.attention_flops / DECODE_ATTENTION
    return max(gpu, DECODE_HOST_CALLS * rates.launch_s)


def _disk(rates: Rates) -> float:
    return rates.disk_bytes_per_s or DISK_BYTES_PER_S


# ---- pictures in flight ----------------------------------------------------------------------------------------------


def sweep(streaming: Streaming, works: Sequence[Work], rates: Rates, *, from_disk: bool = False) -> SweepTime:
    """One step of pictures in flight."""
    companies = Counter(streaming.companies(works))
    parts = [(block_seconds(streaming, company, rates), count) for company, count in companies.items()]
    blocks = streaming.shape.layers
    gaps = blocks * companies.total() * KERNELS[streaming.arithmetic] * KERNEL_S
    moved = moved_bytes(streaming)
    if streaming.restores:
        plain = weight_bytes(streaming.shape, "bf16").block
        restoring = blocks * 7 * plain / rates.memory_bytes_per_s  # to float32, times the scales, to bf16
    elif streaming.unpacked:
        restoring = blocks * (streaming.weights.block + streaming.unpacked) / rates.memory_bytes_per_s
    else:
        restoring = 0.0
    calls = blocks * UNPACKING_CALLS * rates.launch_s if streaming.unpacked else 0.0
    return SweepTime(
        arithmetic_s=(blocks * sum(gpu * count for (gpu, _), count in parts) + restoring) / KEPT_UP + gaps,
        launches_s=blocks * sum(host * count for (_, host), count in parts) + calls,
        bus_s=moved / rates.bus_bytes_per_s,
        disk_s=moved / _disk(rates) if from_disk else 0.0,
    )


def least_seconds(streaming: Streaming, works: Sequence[Work], rates: Rates) -> float:
    """The floor of a step: its operations and its copies at the rates that were measured, and nothing besides."""
    shape = streaming.shape
    products = rates.flops(streaming.arithmetic)
    parts = [streaming.costs.block_flops(shape, work.tokens, text) for work in works for text in work.texts]
    computing = sum(linear / products + attention / rates.attention_flops for linear, attention in parts)
    return max(shape.layers * computing, moved_bytes(streaming) / rates.bus_bytes_per_s)


def moved_bytes(streaming: Streaming) -> int:
    """Bytes that a sweep copies to the GPU: every block that has no slot of its own."""
    blocks = streaming.shape.layers
    resident = blocks if streaming.slots >= blocks else max(0, streaming.slots - TURNING_SLOTS)
    return (blocks - resident) * streaming.weights.block


def pays(
    now: Streaming,
    then: Streaming,
    flying: Sequence[Work],
    more: Work,
    rates: Rates,
    *,
    slower: float = 1.0,
    from_disk: bool = False,
) -> bool:
    """Whether one picture more in flight makes more pictures an hour: the sweep grows by less than it takes alone.

    It computes while the others wait for copies, or goes through the blocks together with them; and there it has to
    take less than those that go together already, if not alone, then with some more like it. `now` is how those that
    fly are computed, `then` how they are with more, which may take room from what they could do without. `slower` is
    how many times as long computing takes as these rates say.
    """
    before = sweep(now, flying, rates, from_disk=from_disk).slowed(slower)
    shared_s = sweep(now, [], rates).slowed(slower).computing_s
    alone_s = {work: sweep(now, [work], rates).slowed(slower).computing_s - shared_s for work in {*flying, more}}
    gained = (before.seconds - shared_s) / sum(alone_s[work] for work in flying)
    own_s = alone_s[more] * min(1.0, gained)
    for count in MORE_LIKE_IT:
        after = sweep(then, [*flying, *[more] * count], rates, from_disk=from_disk).slowed(slower)
        if after.seconds - before.seconds < (1 - LEAST_HIDDEN) * count * own_s:
            return True
    return False


# ---- besides the steps -----------------------------------------------------------------------------------------------


def encode_seconds(
    shape: Architecture,
    precision: Stored,
    prompts: Sequence[int],
    timesteps: int,
    rates: Rates,
    *,
    looking: bool = False,
) -> float:
    """Encoding prompts in groups, one sweep of the encoder's layers each, and the modulation of so many timesteps.

    `prompts` are the tokens of each that is still to be encoded, `timesteps` the different ones of all schedules.
    `looking`: they are about pictures, and go past the vision tower first.
    """
    weights = weight_bytes(shape, precision)
    groups = 0
    left = 0
    for tokens in (DROPPED_TOKENS + tokens for tokens in prompts):
        if groups == 0 or tokens > left:
            groups, left = groups + 1, MOST_TOKENS
        left -= tokens
    layers = shape.text_layers * groups
    tower = groups * weights.vision if looking else 0
    reading = (layers * weights.text_block + tower + shape.layers * weights.modulation * bool(timesteps)) / _disk(rates)
    launching = shape.layers * timesteps * 6 * rates.launch_s + shape.text_layers * 40 * rates.launch_s * len(prompts)
    return reading + launching


def load_seconds(
    shape: Architecture, precision: Stored, rates: Rates, *, pinned_bytes_a_second: float = 3.3e9
) -> float:
    """Opening a worker: libraries, and the DiT's blocks into pinned memory, as fast as pages can be had or read."""
    blocks = shape.layers * weight_bytes(shape, precision).block
    return START_S + blocks / min(pinned_bytes_a_second, _disk(rates))
