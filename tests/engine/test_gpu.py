"""What only a GPU can show: each of its placements, its figures, and memory that runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from renderer.engine import facts
from renderer.engine.native import NativeEngine
from renderer.errors import OutOfMemoryError
from renderer.job import Precision, Profile
from tests.engine.conftest import no_report
from tests.engine.making import bare_picture, bare_pipeline, distance, flattened, make_job, make_setup

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

ON_GPU: list[tuple[Profile, Precision]] = [
    ("resident", "bf16"),
    ("resident", "fp8"),
    ("fp8", "fp8"),
    ("disk", "bf16"),
    ("disk", "fp8"),
]


def ignore(_step: int, _steps: int) -> None:
    """Nobody counts."""


def open_engine(profile: Profile, precision: Precision, vram_bytes: int | None = None) -> NativeEngine:
    """The native engine, open."""
    setup = make_setup(profile=profile, precision=precision).model_copy(update={"vram_bytes": vram_bytes})
    return NativeEngine.open(setup, no_report)


@pytest.fixture(scope="module")
def bare(demo_folder: Path) -> Any:
    """DiffSynth's pipeline on the GPU as anyone would open it, but for a VAE of one frame."""
    return flattened(bare_pipeline(demo_folder, "cuda"))


@pytest.mark.parametrize(("profile", "precision"), ON_GPU)
def test_every_placement_renders(bare: Any, profile: Profile, precision: Precision) -> None:
    """In bf16 every placement gives the bare call's bits; with FP8 weights nearly its picture, twice the same."""
    engine = open_engine(profile, precision)
    job = make_job(precision=precision)
    found = engine.render(job, ignore)
    assert engine.device == "cuda"
    assert engine.render(job, ignore).rgb == found.rgb
    if precision == "bf16":
        assert found.rgb == bare_picture(bare, job)
    else:
        assert 0 < distance(found.rgb, bare_picture(bare, job)) < 10


def test_nothing_is_taken_up_under_a_small_limit() -> None:
    """Under a limit that the driver alone exceeds, weights are brought for each use, and the bits are the same."""
    free, bounded = open_engine("fp8", "fp8"), open_engine("fp8", "fp8", vram_bytes=1)
    job = make_job(precision="fp8")
    assert bounded.render(job, ignore).rgb == free.render(job, ignore).rgb


def test_figures_of_the_gpu() -> None:
    """Peaks are counted anew for each picture, NVML sees at least what torch reserved, and the card has a name."""
    engine = open_engine("resident", "bf16")
    large = engine.render(make_job(width=1024, height=1024), ignore).memory
    small = engine.render(make_job(), ignore).memory
    assert 0 < (small.peak_allocated_bytes or 0) < (large.peak_allocated_bytes or 0)
    assert (large.peak_allocated_bytes or 0) <= (large.peak_reserved_bytes or 0) <= (large.peak_device_bytes or 0)
    card = facts.gpu("cuda")
    assert card is not None
    assert card.driver
    assert (large.peak_device_bytes or 0) < card.total_bytes
    assert facts.software("cuda").cuda


def test_memory_that_runs_out() -> None:
    """A picture that does not fit fails as that, its memory is given back, and the next has the bits it had."""
    engine = open_engine("resident", "bf16")
    before = engine.render(make_job(), ignore).rgb
    torch.cuda.empty_cache()
    allocated = torch.cuda.memory_allocated()
    bound = torch.cuda.memory_reserved() + 2**26
    torch.cuda.set_per_process_memory_fraction(bound / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(OutOfMemoryError):
            engine.render(make_job(width=1024, height=1024), ignore)
        assert torch.cuda.memory_allocated() <= allocated + 2**24
        assert engine.render(make_job(), ignore).rgb == before
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
