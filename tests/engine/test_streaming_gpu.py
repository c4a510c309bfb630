"""The streaming engine on a real GPU with the demo model: DiffSynth's bits at bf16, company's at none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from renderer.engine import pinned
from renderer.engine.journeys import Journey
from renderer.engine.native import NativeEngine
from renderer.engine.recorded import CudaRecorder
from renderer.engine.sections import Passing
from renderer.engine.streaming import StreamingEngine
from renderer.job import Job, Precision
from renderer.job.precisions import stored
from renderer.protocol import Setup
from renderer.weights.codecs import CODECS
from tests.engine.test_streaming import open_engine, pixels, render, variants

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


def alone(precision: Precision) -> list[bytes]:
    """Each variant through the streaming engine by itself, with every block resident."""
    return [pixels(render(open_engine(precision, slots=60, in_flight=1), [job]))[0] for job in variants(precision)]


@pytest.mark.parametrize("slots", [2, 3, 60])
def test_bf16_is_diffsynth_bit_by_bit(slots: int) -> None:
    """At any number of slots and together, each picture has the bits of a bare call on this GPU."""
    native = NativeEngine.open(Setup(model="demo", precision="bf16", profile="resident"), lambda _: None)
    expected = [native.render(job, lambda *_: None).rgb for job in variants()]
    assert pixels(render(open_engine(slots=slots, in_flight=4), variants())) == expected


@pytest.mark.parametrize("precision", ["fp8", "int8", "int4"])
@pytest.mark.parametrize("slots", [2, 3, 60])
def test_pictures_do_not_depend_on_company_or_slots(slots: int, precision: Precision) -> None:
    """Products of what is stored: together through few slots or alone with all, the bits are the same."""
    engine = open_engine(precision, slots=slots, in_flight=4)
    assert engine._passage.arithmetic == CODECS[stored(precision)].arithmetic
    assert pixels(render(engine, variants(precision))) == alone(precision)


def test_small_pictures_are_recorded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Bits would be the same if nothing were: two slots and two lengths of text, each pair recorded once."""
    recorded: list[Any] = []
    record = CudaRecorder.record

    def counted(recorder: CudaRecorder, launch: Callable[[], None], pool: Any) -> Callable[[], None]:
        recorded.append(pool)
        return record(recorder, launch, pool)

    monkeypatch.setattr(CudaRecorder, "record", counted)
    lasting = variants("fp8")[0].model_copy(update={"num_inference_steps": 10})  # company is recorded when it lasts
    render(open_engine("fp8", slots=2, in_flight=2), [lasting] * 2)
    assert 0 < len(recorded) <= 2 * 2
    assert "cannot be recorded" not in caplog.text


@pytest.mark.parametrize("precision", ["fp8", "int8", "int4"])
@pytest.mark.parametrize("slots", [2, 60])
def test_nothing_waits_for_the_device_before_the_pixels(
    slots: int, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a picture's noise to its decode everything is asked for beforehand: torch would raise for a wait."""
    engine, job = open_engine(precision, slots=slots, in_flight=1), variants(precision)[0]
    expected = pixels(render(engine, [job]))

    def hasty(work: Callable[..., None]) -> Callable[..., None]:
        def worked(*args: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")
            try:
                work(*args)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return worked

    monkeypatch.setattr(Journey, "begin", hasty(Journey.begin))
    monkeypatch.setattr(engine, "_bring_past", hasty(engine._bring_past))
    assert pixels(render(engine, [job])) == expected


def test_fp8_weights_are_multiplied_in_bf16() -> None:
    """By choice also on a GPU that multiplies FP8: DiffSynth's own blocks, with weights scaled back."""
    engine = StreamingEngine.open(
        Setup(model="demo", precision="fp8-weights", profile="stream", slots=2), lambda _: None
    )
    assert engine._passage.arithmetic == "bf16"
    assert len(pixels(render(engine, variants("fp8-weights")))) == 4


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_memory_that_cannot_be_pinned(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, modulations and prompts come from pageable memory: the same bits, and no launch hears of the failure."""
    expected = alone(precision)
    monkeypatch.setattr(pinned, "_PIN_FLAGS", 0xFF00)  # CUDA refuses them
    assert pixels(render(open_engine(precision, slots=2, in_flight=4), variants(precision))) == expected
    assert "ulimit" in pinned.unpinned()


def test_twenty_times_out_of_memory_leaves_nothing_behind() -> None:
    """After twenty failures the device holds what it held before, within 1 %, and the next picture has its bits."""
    expected = alone("bf16")
    engine = open_engine(slots=2, in_flight=2)
    render(engine, variants()[:1])
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        _run_short(engine, variants()[:1])
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before * 1.01
    assert pixels(render(engine, variants()[:1])) == expected[:1]


def _run_short(engine: StreamingEngine, jobs: list[Job]) -> None:
    """Render with one real CUDA out-of-memory error at the fourth block of the first sweep."""
    ride, left = engine._ride, [1]

    def short(passing: Passing, flying: list[Journey]) -> None:
        def fails(**inputs: object) -> object:
            if left[0] and passing.index == 3:
                left[0] = 0
                return torch.empty(2**46, device="cuda")
            return passing.block(**inputs)

        ride(replace(passing, block=fails), flying)

    engine._ride = short  # type: ignore[method-assign]
    try:
        render(engine, jobs)
    finally:
        engine._ride = ride  # type: ignore[method-assign]
