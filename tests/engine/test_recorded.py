"""Recorded launches: what is kept of which block and size, whose tensors are where, and what is let go when.

The recorder here plays by calling again, which is what a CUDA graph comes to; those are tried in `test_streaming_gpu`.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from renderer.engine import recorded
from renderer.engine.modulation import ReadyModulation
from renderer.engine.recorded import LONGEST_PAUSE, RecordedBlocks
from renderer.estimate.companies import MOST_RECORDED_ROWS

WIDTH, HALF_HEAD = 8, 2


class Again:
    """Plays by calling again, and counts. As torch 2.11, it takes no pool again whose last recording has died."""

    def __init__(self) -> None:
        self.recorded = self.pools = self.waited = self.cleared = 0
        self.error: Exception | None = None
        self.error_until = 0
        self._alive: Counter[int] = Counter()
        self._dead: set[int] = set()

    def record(self, launch: Callable[[], None], pool: Any) -> Callable[[], None]:
        assert pool <= self.pools
        assert pool not in self._dead, "use_count > 0"

        def play() -> None:
            launch()

        self._alive[pool] += 1
        weakref.finalize(play, self._die, pool).atexit = False
        if self.error:
            raise self.error
        self.recorded += 1
        return play

    def _die(self, pool: int) -> None:
        self._alive[pool] -= 1
        if self._alive[pool] == 0:
            self._dead.add(pool)

    def pool(self) -> Any:
        self.pools += 1
        return self.pools

    def wait(self) -> None:
        self.waited += 1

    def clear(self) -> None:
        self.cleared += 1
        if self.cleared == self.error_until:
            self.error = None


class Weighted:
    """Blocks that compute something with everything they are given; the slot's first byte is their weight."""

    arithmetic: Literal["bf16", "fp8"] = "fp8"

    def __init__(self) -> None:
        self.bound: dict[int, Any] = {}
        self.called = self.forgotten = 0

    def arrive(self, number: int, slot: torch.Tensor) -> Any:
        del number

        def block(**inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
            self.called += 1
            image, text, ready = inputs["image"], inputs["text"], inputs["temb"]
            for_image, for_text = (torch.view_as_real(turns).sum() for turns in inputs["image_rotary_emb"])
            more = 0.0 if inputs.get("entity") is None else 100.0
            weight = slot[0].float()
            return (
                text * weight + ready.text.sum() + for_text + image.mean(),
                image * weight + ready.image.sum() + for_image + text.mean() + more,
            )

        return self.bound.setdefault(slot.data_ptr(), block)

    def forget(self) -> None:
        self.forgotten += 1
        self.bound.clear()


def rider(image: int = 6, text: int = 3, seed: int = 1, **more: Any) -> dict[str, Any]:
    dice = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=dice)

    return {
        "image": random(1, image, WIDTH),
        "text": random(1, text, WIDTH),
        "temb": ReadyModulation(random(2, 6 * WIDTH)),
        "image_rotary_emb": tuple(torch.view_as_complex(random(rows, HALF_HEAD, 2)) for rows in (image, text)),
        "attention_mask": None,
        "enable_fp8_attention": False,
        **more,
    }


def slots(count: int = 2) -> list[torch.Tensor]:
    return [torch.full((1,), number + 2, dtype=torch.uint8) for number in range(count)]


def sweep(blocks: Any, places: list[torch.Tensor], riders: list[dict[str, Any]], count: int = 6) -> list[Any]:
    """Bring `count` blocks past, in turns through `places`; what each rider has in the end."""
    flying = [dict(inputs) for inputs in riders]
    for number in range(count):
        block = blocks.arrive(number, places[number % len(places)])
        for inputs in flying:
            inputs["text"], inputs["image"] = block(**inputs)
    return [(inputs["text"], inputs["image"]) for inputs in flying]


def same(found: list[Any], expected: list[Any]) -> bool:
    return all(
        torch.equal(a, b) for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_riders_of_several_sizes_have_what_plain_blocks_give() -> None:
    """Two of one size, others of others, several sweeps: nobody's tensors are anybody else's."""
    riders = [rider(seed=1), rider(seed=2), rider(image=6, text=4, seed=3), rider(image=9, seed=4)]
    blocks = RecordedBlocks(Weighted(), Again())
    for _ in range(3):
        assert same(sweep(blocks, slots(), riders), sweep(Weighted(), slots(), riders))


def test_a_slot_is_recorded_once_a_size() -> None:
    """However many blocks come through it, and however many riders it has; a size's first call is a plain one."""
    recorder, places = Again(), slots(2)
    blocks = RecordedBlocks(Weighted(), recorder)
    for _ in range(3):
        sweep(blocks, places, [rider(seed=1), rider(seed=2), rider(text=5)])
    assert recorder.recorded == 2 * 2
    assert recorder.pools == 1  # both sizes have as many tokens of the image


def test_a_result_stays_what_it_is() -> None:
    """What one rider was given is not overwritten when the next one rides."""
    blocks = RecordedBlocks(Weighted(), Again())
    block = blocks.arrive(0, slots()[0])
    block(**rider())
    text, image = block(**rider(seed=1))
    before = text.clone(), image.clone()
    block(**rider(seed=2))
    assert torch.equal(text, before[0])
    assert torch.equal(image, before[1])


@pytest.mark.parametrize("inputs", [rider(image=MOST_RECORDED_ROWS), rider(entity=torch.ones(1))])
def test_large_pictures_and_rare_wishes_are_called_plainly(inputs: dict[str, Any]) -> None:
    """Nothing is recorded, and nothing is left out."""
    recorder = Again()
    blocks = RecordedBlocks(Weighted(), recorder)
    assert same(sweep(blocks, slots(), [inputs]), sweep(Weighted(), slots(), [inputs]))
    assert recorder.recorded == 0


def test_what_a_sweep_did_not_use_is_let_go_after_the_next() -> None:
    """Sizes come and go with their pictures; those that stay are not recorded again."""
    recorder, places, plain = Again(), slots(2), Weighted()
    blocks = RecordedBlocks(plain, recorder)
    small, large = rider(), rider(image=9)
    sweep(blocks, places, [small, large])
    sweep(blocks, places, [small])
    assert set(blocks._pools) == {6, 9}
    sweep(blocks, places, [small])
    assert recorder.recorded == 4
    assert set(blocks._pools) == {6}
    assert recorder.waited == 1  # nothing is let go that may still be playing
    called = plain.called
    blocks.arrive(0, places[0])(**large)  # its kernels are known by now
    assert recorder.recorded == 5
    assert plain.called == called + 1


def test_with_the_last_small_picture_all_room_goes() -> None:
    """Larger ones get all of it."""
    recorder, places = Again(), slots()
    blocks = RecordedBlocks(Weighted(), recorder)
    sweep(blocks, places, [rider()])
    for _ in range(4):
        sweep(blocks, places, [rider(image=MOST_RECORDED_ROWS)], count=2)
    assert blocks._place is None
    assert not blocks._pools


def test_forgotten_slots_are_recorded_anew() -> None:
    """After memory ran out there are other slots, maybe at the same addresses."""
    recorder, places, plain = Again(), slots(2), Weighted()
    blocks = RecordedBlocks(plain, recorder)
    sweep(blocks, places, [rider()])
    blocks.forget()
    assert plain.forgotten == 1
    assert not blocks._pools
    places = slots(3)[1:]
    assert same(sweep(blocks, places, [rider()]), sweep(Weighted(), places, [rider()]))
    assert recorder.recorded == 4


def test_where_nothing_can_be_recorded_blocks_are_called_plainly(caplog: pytest.LogCaptureFixture) -> None:
    """It is tried once, and said once."""
    recorder = Again()
    recorder.error = RuntimeError("operation not permitted when stream is capturing")
    blocks = RecordedBlocks(Weighted(), recorder)
    assert same(sweep(blocks, slots(), [rider()]), sweep(Weighted(), slots(), [rider()]))
    assert [record.message for record in caplog.records if "cannot be recorded" in record.message] != []
    assert len(caplog.records) == 1


def test_room_is_made_for_a_recording() -> None:
    """What a larger picture's decode left unused is given back, and the next sweep's launches are recorded."""
    recorder, places = Again(), slots()
    recorder.error, recorder.error_until = torch.OutOfMemoryError("CUDA out of memory"), 1
    blocks = RecordedBlocks(Weighted(), recorder)
    for count in (0, 2):
        assert same(sweep(blocks, places, [rider()]), sweep(Weighted(), places, [rider()]))
        assert (recorder.cleared, recorder.recorded) == (1, count)


def test_where_recording_failed_it_is_not_tried_every_sweep() -> None:
    """The pauses double, to a bound; a sweep that went well ends them."""
    recorder, places = Again(), slots()
    recorder.error = torch.OutOfMemoryError("CUDA out of memory")
    blocks = RecordedBlocks(Weighted(), recorder)
    tried = []
    for number in range(300):
        before = recorder.cleared
        assert same(sweep(blocks, places, [rider()]), sweep(Weighted(), places, [rider()]))
        assert recorder.cleared - before <= 1
        assert not blocks._pools
        tried += [number] * (recorder.cleared - before)
    assert tried == [0, 1, 4, 11, 26, 57, 120, 184, 248]
    assert LONGEST_PAUSE == 64
    recorder.error = None
    for _ in range(LONGEST_PAUSE):
        sweep(blocks, places, [rider()])
    assert recorder.recorded == 2
    recorder.error = torch.OutOfMemoryError("CUDA out of memory")
    before = recorder.cleared
    for _ in range(2):
        sweep(blocks, places, [rider(), rider(image=9)])
    assert recorder.cleared - before == 2  # the pauses begin small again


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.mark.parametrize("where", ["__init__", "play"])
def test_a_recording_s_own_room_costs_no_picture_its_life(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Where it cannot be had, or a rider's tensors find none beside it, blocks are called plainly."""
    recorder, places = Again(), slots()

    def full(*_: Any) -> None:
        raise FULL

    monkeypatch.setattr(recorded._Place, where, full)
    blocks = RecordedBlocks(Weighted(), recorder)
    for _ in range(3):
        assert same(sweep(blocks, places, [rider()]), sweep(Weighted(), places, [rider()]))
    assert recorder.cleared == 2
    assert blocks._place is None


class Tight(Weighted):
    """Blocks for which there is no room beside recordings."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: RecordedBlocks | None = None
        self.refused = 0
        self.always = False

    def arrive(self, number: int, slot: torch.Tensor) -> Any:
        block = super().arrive(number, slot)

        def tight(**inputs: Any) -> Any:
            beside = self.always or (self.recorded is not None and self.recorded._place is not None)
            if beside and inputs["image"].shape[1] > MOST_RECORDED_ROWS:
                self.refused += 1
                raise FULL
            return block(**inputs)

        return self.bound.setdefault(-slot.data_ptr(), tight)


def test_recordings_go_before_a_large_picture_fails() -> None:
    """Its block is called again without them; where none are held, its failure is its own."""
    plain, recorder, places = Tight(), Again(), slots()
    plain.recorded = blocks = RecordedBlocks(plain, recorder)
    riders = [rider(), rider(image=MOST_RECORDED_ROWS + 1)]
    for _ in range(3):
        assert same(sweep(blocks, places, riders), sweep(Weighted(), places, riders))
    assert plain.refused == 2
    plain.always = True
    with pytest.raises(torch.OutOfMemoryError):
        sweep(blocks, places, riders)


def test_recordings_go_where_their_room_is_wanted() -> None:
    """With too much in flight nothing is recorded, and what was is let go; the numbers stay."""
    recorder, room, places = Again(), [True], slots()
    blocks = RecordedBlocks(Weighted(), recorder, lambda: room[0])
    sweep(blocks, places, [rider()])
    assert blocks._pools
    room[0] = False
    assert same(sweep(blocks, places, [rider()]), sweep(Weighted(), places, [rider()]))
    assert recorder.recorded == 2
    assert not blocks._pools


def test_a_size_s_first_call_is_plain() -> None:
    """It loads kernels, which may not be recorded; the next call of that size is."""
    recorder, plain = Again(), Weighted()
    block = RecordedBlocks(plain, recorder).arrive(0, slots()[0])
    block(**rider())
    assert (recorder.recorded, plain.called) == (0, 1)
    block(**rider())
    assert recorder.recorded == 1
    block(**rider(text=4))
    assert recorder.recorded == 1


class Playing(Again):
    """Recordings that play on until somebody waits, as a card's do; those let go of meanwhile are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.playing: set[int] = set()
        self.gone: list[int] = []
        self.too_early: list[int] = []

    def record(self, launch: Callable[[], None], pool: Any) -> Callable[[], None]:
        play, number = super().record(launch, pool), self.recorded

        def replay() -> None:
            self.playing.add(number)
            play()

        def let_go() -> None:
            self.gone.append(number)
            if number in self.playing:
                self.too_early.append(number)

        weakref.finalize(replay, let_go).atexit = False
        return replay

    def wait(self) -> None:
        super().wait()
        self.playing.clear()


@pytest.mark.parametrize("why", ["forgotten", "no room", "another size", "large pictures", "a failure"])
def test_nothing_that_plays_is_let_go(why: str) -> None:
    """Whatever recordings go for, they have ended before."""
    recorder, places, room = Playing(), slots(), [True]
    blocks = RecordedBlocks(Weighted(), recorder, lambda: room[0])
    sweep(blocks, places, [rider()])
    assert recorder.playing == {1, 2}
    match why:
        case "forgotten":
            blocks.forget()
        case "no room":
            room[0] = False
            sweep(blocks, places, [rider()])
        case "another size":
            for _ in range(2):
                sweep(blocks, places, [rider(image=9)], count=2)
        case "large pictures":
            for _ in range(2):
                sweep(blocks, places, [rider(image=MOST_RECORDED_ROWS)], count=2)
        case _:
            recorder.error = RuntimeError("not here")
            sweep(blocks, places, [rider(image=9)])
    gc.collect()
    assert {1, 2} <= set(recorder.gone)
    assert recorder.too_early == []
