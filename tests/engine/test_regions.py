"""Regions: the bits of DiffSynth's own call, alone and in company, through few slots, with the mask in attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageOps

from renderer.engine import inputs, prompts
from renderer.engine.blocks import ModuleBlocks
from renderer.engine.inputs import Inputs
from renderer.engine.native import NativeEngine
from renderer.engine.scaled_blocks import ScaledBlocks
from renderer.engine.streaming import StreamingEngine
from renderer.job import Job, Precision, Region
from renderer.protocol import Render
from renderer.weights.store import Store
from tests.engine import test_fp8
from tests.engine.making import bare_picture, bare_pipeline, distance, flattened, make_job
from tests.engine.test_inputs import drawn, known, masked
from tests.engine.test_streaming import Heard, open_engine

SIDE = 64
LEFT, RIGHT = masked(), ImageOps.invert(masked())
PICTURE, ONE, OTHER = known(drawn()), known(LEFT, "mask"), known(RIGHT, "mask")
FILES = dict((PICTURE, ONE, OTHER))
store, slot, plain, fp8 = test_fp8.store, test_fp8.slot, test_fp8.plain, test_fp8.fp8
"""Fixtures: a block with scaled products, and the one that it stands for."""

MASKS = {ONE[0]: LEFT, OTHER[0]: RIGHT}


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prompts, "cache_folder", lambda: tmp_path)


def jobs() -> list[Job]:
    """One region; two with guidance, one of which has the picture's own prompt; over a picture; none."""
    small = {"width": SIDE, "height": SIDE, "num_inference_steps": 2}
    ball, sky = Region(prompt="a red ball", mask=ONE[0]), Region(prompt="a blue sky", mask=OTHER[0])
    same = Region(prompt=make_job().prompt, mask=OTHER[0])
    return [
        make_job(**small, cfg_scale=1.0, regions=(ball,)),
        make_job(**small, regions=(ball, same), seed=3),
        make_job(**small, input_image=PICTURE[0], denoising_strength=0.7, regions=(sky, ball)),
        make_job(**small),
    ]


def given(job: Job) -> Inputs:
    data = [FILES[each] for each in job.inputs]
    return inputs.unpack(Render(key="k", job=job, files=tuple(map(len, data))), b"".join(data))


def bare_inputs(job: Job) -> dict[str, Any]:
    """What DiffSynth's call is given for a job by somebody who knows nothing of ours."""
    found: dict[str, Any] = {}
    if job.regions:
        found["eligen_entity_prompts"] = [region.prompt for region in job.regions]
        found["eligen_entity_masks"] = [MASKS[region.mask].convert("RGB") for region in job.regions]
    if job.input_image:
        found |= {"input_image": drawn(), "denoising_strength": job.denoising_strength}
    return found


@pytest.fixture(scope="module")
def bare(demo_folder: Path) -> list[bytes]:
    """Each by a bare call of DiffSynth's."""
    pipe = flattened(bare_pipeline(demo_folder))
    return [bare_picture(pipe, job, **bare_inputs(job)) for job in jobs()]


def rendered(engine: StreamingEngine, jobs: list[Job]) -> list[bytes]:
    heard = Heard()
    for number, job in enumerate(jobs):
        engine.take(str(number), job, given(job))
    while engine.busy:
        engine.advance(heard)
    assert heard.failures == {}
    return [heard.pictures[str(number)].rgb for number in range(len(jobs))]


def test_a_long_prompt_of_a_region_is_cut_off_where_diffsynth_does(engine: NativeEngine) -> None:
    """At 1024 tokens, and the picture's own at 4096."""
    long = make_job(width=SIDE, height=SIDE, cfg_scale=1.0, regions=(Region(prompt="red " * 1100, mask=ONE[0]),))
    pipe, seen = engine._pipe, []
    process = pipe.dit.process_entity_masks

    def noted(*given: Any) -> Any:
        seen.append(given[3][0].shape[1])
        return process(*given)

    pipe.dit.process_entity_masks = noted
    try:
        expected = engine.render(long, lambda *_: None, given(long)).rgb
    finally:
        del pipe.dit.process_entity_masks
    assert set(seen) == {1024}
    assert distance(rendered(open_engine(), [long])[0], expected) < 0.1  # as long a prompt has other sums


def test_natively(engine: NativeEngine, bare: list[bytes]) -> None:
    assert [engine.render(job, lambda *_: None, given(job)).rgb for job in jobs()] == bare
    assert len(set(bare)) == len(bare)


@pytest.mark.parametrize(("slots", "in_flight"), [(2, 1), (3, 4)])
def test_streamed(bare: list[bytes], slots: int, in_flight: int) -> None:
    """In any company: the bits that each has alone."""
    assert rendered(open_engine(slots=slots, in_flight=in_flight), jobs()) == bare


@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_scaled_products_have_the_mask_too(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is scaled back for it, company changes no bit, and each region is looked at where it is."""

    def otherwise(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(ScaledBlocks, "otherwise", otherwise)
    wanted = [job.model_copy(update={"precision": precision}) for job in jobs()]
    alone = [rendered(open_engine(precision, slots=60, in_flight=1), [job])[0] for job in wanted]
    assert rendered(open_engine(precision, slots=2, in_flight=4), wanted) == alone
    assert len(set(alone)) == len(alone)


def test_a_mask_is_in_the_attention(store: Store, slot: torch.Tensor, plain: ModuleBlocks, fp8: ScaledBlocks) -> None:
    """Prompts before the image, as DiffSynth's block has it: what is masked is seen by nobody."""
    given = test_fp8.inputs(store)
    text, rows = given["text"].shape[1], given["text"].shape[1] + given["image"].shape[1]
    mask = torch.zeros((1, 1, rows, rows), dtype=torch.bfloat16)
    mask[..., text // 2 : text + 20] = float("-inf")
    masked = {**given, "attention_mask": mask}
    expected, found = plain.arrive(1, slot)(**masked), fp8.arrive(1, slot)(**masked)
    bare = fp8.arrive(1, slot)(**given)
    for one, other, without in zip(found, expected, bare, strict=True):
        assert test_fp8.error(one, other) < 0.05
        assert test_fp8.error(without, other) > 2 * test_fp8.error(one, other)
