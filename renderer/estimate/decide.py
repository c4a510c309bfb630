"""What a batch is rendered with on so many bytes: slots, pictures in flight, what is refused.

One pure function for both: the plan asks it of a machine that may be another one, the engine's budget of the bytes it
really finds free. Knows nothing of jobs' order or of engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from renderer.catalog import MOST_TOKENS, SIZE_STEP, Model
from renderer.estimate.fitted import PAGES_BYTES, PAGES_PART
from renderer.estimate.memory import BEHIND, TURNING_SLOTS, Streaming, Work
from renderer.estimate.terms import total
from renderer.job import Size

MOST_IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class Decision:
    """How a batch is rendered. `in_flight` is how many pictures at most; `refused` are sizes.

    `bytes` is what torch's allocator may hold, and `needed` what it has to, before small pictures' launches are
    recorded.
    """

    slots: int
    in_flight: int
    refused: frozenset[tuple[int, int]]
    bytes: int | None
    needed: int


def needed(streaming: Streaming, works: Sequence[Work]) -> int:
    """Bytes that pictures in flight need of the allocator: their peak, and pages begun. Nothing is recorded.

    The last of them may have to be prepared while the others fly: its prompts are then encoded one by one.
    """
    streaming = replace(streaming, recording=False)
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
    scant = replace(streaming, recording=False)
    longest = max(text for work in works for text in work.texts)
    stages = scant.encode(works, [longest - BEHIND]), scant.modulate(works), scant.denoise(works), scant.decode(works)
    return max(stage.bytes for stage in stages)


def recording(streaming: Streaming, works: Sequence[Work]) -> int:
    """Bytes that pictures in flight need whose launches are recorded, where they are small enough for that."""
    streaming = replace(streaming, recording=True)
    return needed(streaming, works) + total(streaming.recorded(works)) + streaming.pools(works)


def tokens_together(streaming: Streaming, flying: Sequence[Work], available: int) -> int:
    """How many tokens of prompts may be encoded together while pictures are in flight: one prompt always may."""
    waiting = sum(streaming.waiting(work) // 2 + streaming.belongings(work) for work in flying)
    bare = streaming.encode(flying, []).bytes + waiting
    bare += recording(streaming, flying) - needed(streaming, flying) if flying else 0
    room = (available - PAGES_BYTES) / (1 + PAGES_PART) - bare
    a_token = streaming.prompt_bytes(1) - streaming.prompt_bytes(0)
    return max(0, min(MOST_TOKENS, int(room / a_token)))


def fits(streaming: Streaming, work: Work, available: int) -> bool:
    """Whether a picture can be rendered at all: alone, with the fewest slots, and perhaps with luck."""
    return least(replace(streaming, slots=TURNING_SLOTS), [work]) <= available


def decide(
    streaming: Streaming,
    works: Sequence[Work],
    available: int | None,
    *,
    hiding: Callable[[Work, int], int] | None = None,
    slots: int | None = None,
    most_in_flight: int = MOST_IN_FLIGHT,
) -> Decision:
    """Slots and pictures in flight for a batch; `streaming`'s own slots do not matter.

    `available` are the bytes that torch's allocator may hold in all; None: as many as it likes. `hiding` tells how many
    pictures of a kind in flight, with so many slots, compute as long as a sweep's copies take. `slots` fixes them.
    """
    if available is None:
        return Decision(slots or streaming.shape.layers, 1, frozenset(), None, 0)
    fitting: list[Work] = []
    refused: set[tuple[int, int]] = set()
    for work in dict.fromkeys(works):
        if fits(streaming, work, available):
            fitting.append(work)
        else:
            refused.add((work.width, work.height))
    if not fitting:
        return Decision(slots or TURNING_SLOTS, 1, frozenset(refused), available, 0)
    count, company = slots or TURNING_SLOTS, 1
    for _ in range(3):  # more slots leave less to hide, and less to hide leaves room for slots
        most = {each: _company(streaming, each, count, available, hiding, most_in_flight) for each in fitting}
        company = max(most.values())
        if slots is not None:
            break
        companies = [[each] * number for each, number in most.items()]
        found = slots_beside(streaming, companies, available)
        if found == count:
            break
        count = found
    peak = max(needed(replace(streaming, slots=count), [each] * number) for each, number in most.items())
    return Decision(count, company, frozenset(refused), available, peak)


def slots_beside(streaming: Streaming, companies: Sequence[Sequence[Work]], available: int) -> int:
    """How many slots fit beside each of the companies: with small pictures' launches recorded, or else without."""
    bare, block = replace(streaming, slots=0), round(streaming.weights.block * (1 + PAGES_PART))
    for need in (recording, needed):
        count = (available - max(need(bare, works) for works in companies)) // block
        if count >= TURNING_SLOTS:
            return min(streaming.shape.layers, count)
    return TURNING_SLOTS


def _company(
    streaming: Streaming,
    work: Work,
    slots: int,
    available: int,
    hiding: Callable[[Work, int], int] | None,
    most: int,
) -> int:
    """How many pictures of a kind ride together: as many as hide the transfer and fit beside the slots."""
    wanted = min(most, max(1, hiding(work, slots))) if hiding else 1
    here = replace(streaming, slots=slots)
    while wanted > 1 and needed(here, [work] * wanted) > available:
        wanted -= 1
    return wanted


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
