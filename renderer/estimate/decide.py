"""What a batch is rendered with on so many bytes: slots, pictures in flight, what is refused.

One pure function for both: the plan asks it of a machine that may be another one, the engine's budget of the bytes it
really finds free. Knows nothing of jobs' order or of engines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from renderer.catalog import MOST_TOKENS, SIZE_STEP, Model
from renderer.estimate import duration
from renderer.estimate.fitted import PAGES_BYTES, PAGES_PART
from renderer.estimate.memory import TURNING_SLOTS, Streaming
from renderer.estimate.terms import total
from renderer.estimate.work import BEHIND, Work
from renderer.job import Size
from renderer.machine.rates import Rates
from renderer.protocol import Demand

MOST_IN_FLIGHT = 16


ROWS_PARTS = (1, 2, 4)
"""Where room is short, of the rows that go together half, then a quarter."""

_AS_GOOD = 1.01
"""Seconds of a batch up to which more slots are taken for it: the fewer ride, the earlier is each."""


@dataclass(frozen=True, slots=True)
class Series:
    """Pictures of a batch that ask for the same: how many there are (None: many), and the steps of all of them."""

    work: Work
    pictures: int | None = None
    steps: int = 1

    @classmethod
    def of(cls, demand: Demand) -> Series:
        """A setup's."""
        work = Work(
            **{name: getattr(demand, name) for name in ("width", "height", "prompt_tokens", "negative_tokens")},
            **{
                name: getattr(demand, name)
                for name in (
                    "guided",
                    "takes_in",
                    "edited",
                    "split",
                    "layer_num",
                    "controls",
                    "region_tokens",
                    "context",
                )
            },
        )
        return cls(work, demand.pictures, demand.steps)


@dataclass(frozen=True, slots=True)
class Decision:
    """How a batch is rendered. `riding` is how many pictures of each kind ride together; `refused` are sizes.

    `bytes` is what torch's allocator may hold, and `needed` what it has to, before small pictures' launches are
    recorded.
    """

    slots: int
    riding: Mapping[Work, int]
    refused: frozenset[tuple[int, int]]
    bytes: int | None
    needed: int

    @property
    def in_flight(self) -> int:
        """How many pictures at most."""
        return max(self.riding.values(), default=1)


def needed(streaming: Streaming, works: Sequence[Work]) -> int:
    """Bytes that pictures in flight need of the allocator: their peak, and pages begun.

    Each goes through the blocks alone, and nothing is recorded. The last of them may have to be prepared while the
    others fly: its prompts are then encoded one by one.
    """
    return joined(replace(streaming, together=0), works)


def joined(streaming: Streaming, works: Sequence[Work]) -> int:
    """The same where small ones go through the blocks together, as `streaming` says."""
    return _peak(replace(streaming, recording=False), tuple(works))


@lru_cache(maxsize=1024)
def _peak(streaming: Streaming, works: tuple[Work, ...]) -> int:
    waiting = sum(streaming.waiting(work) // 2 + streaming.belongings(work) for work in works[:-1])
    longest = max(text for work in works for text in work.texts)
    preparing = max(streaming.encode(works, [longest - BEHIND]).bytes, streaming.modulate(works).bytes) + waiting
    peak = max(preparing, streaming.denoise(works).bytes, streaming.decode(works).bytes)
    return round(peak * (1 + PAGES_PART)) + PAGES_BYTES


def least(streaming: Streaming, works: Sequence[Work]) -> int:
    """Bytes without which pictures in flight cannot be rendered at all: each prepared alone, nothing recorded.

    From here to what is `needed` they may be, with luck in where pages begin: no slots are chosen so, but nothing is
    refused.
    """
    scant = replace(streaming, recording=False, together=0)
    longest = max(text for work in works for text in work.texts)
    stages = scant.encode(works, [longest - BEHIND]), scant.modulate(works), scant.denoise(works), scant.decode(works)
    return max(stage.bytes for stage in stages)


def recording(streaming: Streaming, works: Sequence[Work]) -> int:
    """Bytes that pictures in flight need that go together, and whose launches are recorded where they are small."""
    return _recording(replace(streaming, recording=True), tuple(works))


@lru_cache(maxsize=1024)
def _recording(streaming: Streaming, works: tuple[Work, ...]) -> int:
    return joined(streaming, works) + total(streaming.recorded(works)) + streaming.pools(works)


def with_room(streaming: Streaming, works: Sequence[Work], available: int | None) -> Streaming:
    """The same, with what it can do without as far as there is room for it beside these pictures.

    That is as many rows together as `streaming` lets, or a half or a quarter of them; then recordings.
    """
    if available is None:
        return streaming
    most = (streaming.together // part for part in ROWS_PARTS)
    fitting = (rows for rows in most if joined(replace(streaming, together=rows), works) <= available)
    found = replace(streaming, together=next(fitting, 0))
    return replace(found, recording=streaming.recording and recording(found, works) <= available)


def tokens_together(streaming: Streaming, flying: Sequence[Work], available: int) -> int:
    """How many tokens of prompts may be encoded together while pictures are in flight: one prompt always may."""
    waiting = sum(streaming.waiting(work) // 2 + streaming.belongings(work) for work in flying)
    bare = streaming.encode(flying, []).bytes + waiting
    bare += recording(streaming, flying) - needed(streaming, flying) if flying else 0
    room = (available - PAGES_BYTES) / (1 + PAGES_PART) - bare
    a_token = streaming.costs.prompt_bytes(streaming.shape, 1) - streaming.costs.prompt_bytes(streaming.shape, 0)
    return max(0, min(MOST_TOKENS, int(room / a_token)))


def fits(streaming: Streaming, work: Work, available: int) -> bool:
    """Whether a picture can be rendered at all: alone, with the fewest slots, and perhaps with luck."""
    return least(replace(streaming, slots=TURNING_SLOTS), [work]) <= available


def decide(
    streaming: Streaming,
    kinds: Sequence[Series],
    available: int | None,
    *,
    rates: Rates | None = None,
    from_disk: bool = False,
    slots: int | None = None,
    most_in_flight: int = MOST_IN_FLIGHT,
) -> Decision:
    """Slots and pictures in flight for a batch; `streaming`'s own slots do not matter.

    `available` are the bytes that torch's allocator may hold in all; None: as many as it likes. By the `rates` a slot
    less and a picture more in flight are weighed for the seconds of the whole batch; without them, each rides alone
    and slots get all there is. `slots` fixes them.
    """
    if available is None:
        return Decision(slots or streaming.shape.layers, {kind.work: 1 for kind in kinds}, frozenset(), None, 0)
    fitting = [kind for kind in kinds if fits(streaming, kind.work, available)]
    refused = frozenset((kind.work.width, kind.work.height) for kind in kinds if kind not in fitting)
    if not fitting:
        return Decision(slots or TURNING_SLOTS, {}, refused, available, 0)
    alone = {kind.work: 1 for kind in fitting}
    count = slots or slots_beside(streaming, [[work] for work in alone], available)
    riding: Mapping[Work, int] = alone
    if rates is not None:
        pictures = [kind.pictures for kind in fitting]
        most = min([most_in_flight, *([sum(filter(None, pictures))] if all(pictures) else [])])
        weighing = _Weighing(streaming, fitting, available, rates, from_disk, most)
        count, riding = weighing.best([slots] if slots else range(TURNING_SLOTS, streaming.shape.layers + 1))
    peak = max(needed(replace(streaming, slots=count), [work] * number) for work, number in riding.items())
    return Decision(count, riding, refused, available, peak)


class _Weighing:
    """What the steps of a batch take with so many slots, each kind in the company that is best beside them."""

    def __init__(
        self,
        streaming: Streaming,
        kinds: Sequence[Series],
        available: int,
        rates: Rates,
        from_disk: bool,  # noqa: FBT001  # one of what it weighs by
        most: int,
    ) -> None:
        self._streaming = streaming
        self._kinds = kinds
        self._available = available
        self._rates = rates
        self._from_disk = from_disk
        self._most = most
        self._bare = replace(streaming, slots=0)

    def best(self, counts: Iterable[int]) -> tuple[int, Mapping[Work, int]]:
        """Of the numbers of slots, the largest with which the batch takes as little time as with any; who rides then.

        With the fewest, each kind is tried whatever it needs: with luck it fits.
        """
        found = [weighed for count in counts if (weighed := self._weighed(count)) is not None]
        least_s = min((seconds for seconds, _, _ in found), default=0.0)
        _, count, riding = max(
            (each for each in found if each[0] <= least_s * _AS_GOOD),
            key=lambda each: each[1],
            default=(0.0, TURNING_SLOTS, {kind.work: 1 for kind in self._kinds}),
        )
        return count, riding

    def _weighed(self, count: int) -> tuple[float, int, Mapping[Work, int]] | None:
        """Seconds of all steps, with so many slots, and who rides; None where one picture does not fit beside them."""
        riding, seconds = {}, 0.0
        for kind in self._kinds:
            if count > TURNING_SLOTS and not self._fits(kind.work, 1, count):
                return None
            number = riding[kind.work] = self._company(kind.work, count)
            there = self._there(kind.work, number, count)
            sweep = duration.sweep(there, [kind.work] * number, self._rates, from_disk=self._from_disk)
            seconds += kind.steps * sweep.seconds / number
        return seconds, count, riding

    def _company(self, work: Work, count: int) -> int:
        """How many pictures of a kind ride together: one more as long as that pays, and fits beside the slots."""
        number = 1
        while number < self._most and self._fits(work, number + 1, count):
            now, then = (self._there(work, each, count) for each in (number, number + 1))
            if not duration.pays(now, then, [work] * number, work, self._rates, from_disk=self._from_disk):
                break
            number += 1
        return number

    def _fits(self, work: Work, number: int, count: int) -> bool:
        return needed(self._bare, [work] * number) <= self._beside(count)

    def _there(self, work: Work, number: int, count: int) -> Streaming:
        """How so many are rendered with so many slots."""
        return replace(with_room(self._bare, [work] * number, self._beside(count)), slots=count)

    def _beside(self, count: int) -> int:
        """Bytes beside so many slots."""
        return self._available - count * _slot_bytes(self._streaming)


def _slot_bytes(streaming: Streaming) -> int:
    """What one slot more needs, with its part of pages that are begun."""
    return round(streaming.weights.block * (1 + PAGES_PART))


def slots_beside(streaming: Streaming, companies: Sequence[Sequence[Work]], available: int) -> int:
    """How many slots fit beside each of the companies: with small pictures' launches recorded, or else without."""
    bare, block = replace(streaming, slots=0), _slot_bytes(streaming)
    for need in (recording, needed):
        count = (available - max(need(bare, works) for works in companies)) // block
        if count >= TURNING_SLOTS:
            return min(streaming.shape.layers, count)
    return TURNING_SLOTS


def nearest_fitting(streaming: Streaming, model: Model, work: Work, available: int) -> Size | None:
    """The largest picture of about the same ratio that does fit; None when no picture does."""
    low, high = 0.0, 1.0
    found: Size | None = None
    for _ in range(12):
        middle = (low + high) / 2
        size = Size(
            width=round(work.width * middle / SIZE_STEP) * SIZE_STEP,
            height=round(work.height * middle / SIZE_STEP) * SIZE_STEP,
        )
        smaller = replace(work, width=size.width, height=size.height)
        if not model.refusal(size) and fits(streaming, smaller, available):
            low, found = middle, size
        elif min(size.width, size.height) < model.min_side:
            low = middle
        else:
            high = middle
    return found
