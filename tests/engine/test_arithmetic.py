"""What a CPU computes in, by both engines: DiffSynth's own bits in that type, and weights that stay what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from renderer.engine import device
from renderer.engine.device import FROM_HOST
from renderer.engine.native import NativeEngine
from renderer.job import Stored
from renderer.machine import processor
from tests.engine.conftest import no_report
from tests.engine.making import ON_CPU, bare_picture, bare_pipeline, flattened, latents_decoded, make_job, make_setup
from tests.engine.test_streaming import open_engine, render

JOBS = (make_job(), make_job(cfg_scale=1.0, negative_prompt="", width=64, height=128, num_inference_steps=3, seed=1))


@pytest.fixture(scope="module", params=["float32", "bf16"], autouse=True)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Computing in either type; bf16 only where that takes seconds."""
    if request.param == "bf16" and processor.arithmetic() != "bf16":
        pytest.skip("this processor has no bf16 units: it would take minutes")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "float32":
            patch.setenv("ATEN_CPU_CAPABILITY", "avx2")
        yield request.param


@pytest.fixture(scope="module")
def bare(demo_folder: Path, kind: str) -> Any:
    """DiffSynth's pipeline as anyone would open it in that type."""
    pipe = bare_pipeline(demo_folder)
    assert pipe.torch_dtype == getattr(torch, {"bf16": "bfloat16"}.get(kind, kind))
    return pipe


class TestLatents:
    def test_native_ones_are_diffsynth_s(self, bare: Any) -> None:
        """What is decoded has the bits of an unmodified call."""
        engine = NativeEngine.open(make_setup(), no_report)
        for job in JOBS:
            expected = latents_decoded(bare.vae, lambda job=job: bare_picture(bare, job))  # type: ignore[misc]
            found = latents_decoded(engine._pipe.vae, lambda job=job: engine.render(job, lambda *_: None))  # type: ignore[misc]
            assert torch.equal(found, expected)

    @pytest.mark.parametrize("slots", [2, 60])
    def test_streamed_ones_are_diffsynth_s(self, bare: Any, slots: int) -> None:
        """The same of blocks that come past."""
        engine = open_engine(slots=slots)
        for job in JOBS:
            expected = latents_decoded(bare.vae, lambda job=job: bare_picture(bare, job))  # type: ignore[misc]
            found = latents_decoded(engine._skeleton.parts["vae"], lambda job=job: render(engine, [job]))  # type: ignore[misc]
            assert torch.equal(found, expected)


class TestPixels:
    def test_both_engines_have_a_bare_call_s(self, demo_folder: Path) -> None:
        """With the VAE of one frame in it, a bare call gives the pixels of either engine."""
        bare = flattened(bare_pipeline(demo_folder))
        native = NativeEngine.open(make_setup(), no_report)
        streamed = render(open_engine(in_flight=2), JOBS)
        for number, job in enumerate(JOBS):
            expected = bare_picture(bare, job)
            assert native.render(job, lambda *_: None).rgb == expected
            assert streamed.pictures[str(number)].rgb == expected

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_a_store_means_the_same_wherever_it_lies(self, precision: Stored) -> None:
        """From memory, from the disk and streamed, a precision has the same bits."""
        job = make_job(precision=precision)
        places = [profile for profile, kind in ON_CPU if kind == precision]
        found = [
            NativeEngine.open(make_setup(profile=each, precision=precision), no_report).render(job, lambda *_: None).rgb
            for each in places
        ]
        found.append(render(open_engine(precision), [job]).pictures["0"].rgb)
        assert len(set(found)) == 1


class TestWeightsStayAsTheyAre:
    def test_native_layers_wait_in_bf16(self) -> None:
        """Whatever is computed in, the large weights take what they take in the store."""
        engine = NativeEngine.open(make_setup(), no_report)
        engine.render(make_job(), lambda *_: None)
        kinds = {parameter.dtype for parameter in engine._pipe.dit.transformer_blocks.parameters()}
        assert kinds == {torch.bfloat16}

    def test_slots_hold_what_the_store_holds(self) -> None:
        """A block in its slot is the store's bytes; one block's worth beside the slots is widened."""
        engine = open_engine(slots=60)
        render(engine, [JOBS[0]])
        assert all(slot.numel() == engine._source.block_bytes for slot in engine._slots._kept.values())


class TestTelling:
    def test_the_sidecar_s_sharing_names_it(self, kind: str) -> None:
        """A streamed picture says what its large products were computed in."""
        sharing = render(open_engine(), [JOBS[0]]).pictures["0"].sharing
        assert sharing is not None
        assert sharing.arithmetic == kind

    def test_embeddings_are_remembered_by_type(self, kind: str) -> None:
        """What was encoded in the other type, by the same model on the same machine, is not handed out."""
        engine = open_engine()
        engine._prompts.prepare([JOBS[0]])
        assert {each.embedding.dtype for each in engine._prompts.of(JOBS[0]).values()} == {engine._place.dtype}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processor, "arithmetic", lambda: {"bf16": "float32", "float32": "bf16"}[kind])
            other = open_engine()
            assert other._prompts.prepare([JOBS[0].model_copy(update={"prompt": f"in {kind} first"})]) >= 1
        again = open_engine()
        job = JOBS[0].model_copy(update={"prompt": f"in {kind} first"})
        assert again._prompts.prepare([job]) == 1
        assert {each.embedding.dtype for each in again._prompts.of(job).values()} == {engine._place.dtype}


def test_a_gpu_computes_in_bf16(kind: str) -> None:
    """Whatever the processor has."""
    assert kind
    assert device.computation_dtype("cuda") == torch.bfloat16
    assert device.on("cuda", None) is None


def test_layers_are_widened_one_by_one(kind: str) -> None:
    """In float32, bf16 weights are under DiffSynth's management, which keeps them as they are."""
    assert device.on("cpu", device.find("cpu", "bf16")) == (FROM_HOST if kind == "float32" else None)
