"""The native engine against DiffSynth's bare call, and what it refuses, warns of and finds bad."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from renderer.engine import calling
from renderer.engine.native import NativeEngine
from renderer.errors import BadPictureError, PictureError
from renderer.job import Job
from tests.engine.conftest import no_report
from tests.engine.making import DIT, VAE, alter, bare_picture, bare_pipeline, flattened, make_job, make_setup


def ignore(_step: int, _steps: int) -> None:
    """Nobody counts."""


@pytest.fixture(scope="module")
def bare(demo_folder: Path) -> Any:
    """DiffSynth's pipeline as anyone would open it, but for a VAE of one frame."""
    return flattened(bare_pipeline(demo_folder))


class TestBits:
    @pytest.mark.parametrize(
        "job",
        [
            make_job(),
            make_job(cfg_scale=1.0, negative_prompt=""),
            make_job(width=256, height=192, num_inference_steps=5, seed=2**63 - 1),
            make_job(prompt="你好" * 40, width=64, height=64, num_inference_steps=2, seed=0),
        ],
    )
    def test_same_as_a_bare_call(self, engine: NativeEngine, bare: Any, job: Job) -> None:
        """A picture is bit for bit that of an unmodified `pipe(...)` whose VAE is of one frame."""
        found = engine.render(job, ignore)
        assert found.rgb == bare_picture(bare, job)
        assert (found.width, found.height) == (job.width, job.height)

    def test_same_after_others(self, engine: NativeEngine) -> None:
        """What was rendered before, or failed before, does not change a picture."""
        first = engine.render(make_job(), ignore).rgb
        engine.render(make_job(width=128, height=128, num_inference_steps=4), ignore)
        with pytest.raises(PictureError):
            engine.render(make_job(width=100), ignore)
        assert engine.render(make_job(), ignore).rgb == first

    @pytest.mark.parametrize(
        "change", [{"seed": 8}, {"prompt": "a green star"}, {"negative_prompt": "red"}, {"cfg_scale": 2.0}]
    )
    def test_every_value_counts(self, engine: NativeEngine, change: dict[str, Any]) -> None:
        """Another seed, prompt, negative prompt or guidance gives another picture."""
        assert engine.render(make_job(**change), ignore).rgb != engine.render(make_job(), ignore).rgb


class TestTelling:
    def test_each_step_is_told(self, engine: NativeEngine) -> None:
        """After every denoising step its number and the number of all is told."""
        told: list[tuple[int, int]] = []
        engine.render(make_job(num_inference_steps=3), lambda step, steps: told.append((step, steps)))
        assert told == [(1, 3), (2, 3), (3, 3)]

    def test_time_and_memory(self, engine: NativeEngine) -> None:
        """Every part of a picture has its seconds; on the CPU the GPU's figures are null, and the process's is not."""
        found = engine.render(make_job(num_inference_steps=3), ignore)
        timing, memory = found.timing, found.memory
        parts_s = [timing.encode_s or 0, timing.denoise_s or 0, timing.decode_s or 0]
        assert min(parts_s) > 0
        assert 0 < (timing.step_median_s or 0) < parts_s[1]
        assert sum(parts_s) <= (timing.ended_at - timing.began_at).total_seconds() + 0.01
        assert (timing.load_s, timing.save_s, timing.total_s) == (None, None, None)
        assert (memory.peak_rss_bytes or 0) > 2**27
        assert (memory.peak_allocated_bytes, memory.peak_reserved_bytes, memory.peak_device_bytes) == (None, None, None)

    def test_long_prompts_are_warned_of(self, engine: NativeEngine, capfd: pytest.CaptureFixture[str]) -> None:
        """A prompt over the 512 tokens of training renders with a warning; one of 512 renders without."""
        small = {"width": 64, "height": 64, "num_inference_steps": 2, "cfg_scale": 1.0}
        assert engine.render(make_job(prompt="x" * 512, **small), ignore).warnings == ()
        (warning,) = engine.render(make_job(prompt="x" * 1100, **small), ignore).warnings
        assert "the prompt has 1100 tokens" in warning
        (warning,) = engine.render(make_job(negative_prompt="x" * 513, **small | {"cfg_scale": 2.0}), ignore).warnings
        assert "the negative prompt has 513 tokens" in warning
        assert capfd.readouterr().out == ""  # DiffSynth prints over 1024


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"width": 100}, "100x64 is not a multiple of 16"),
            ({"height": 48}, "smallest side"),
            ({"width": 1040}, "largest side"),
            ({"num_inference_steps": 0}, "0 steps"),
            ({"num_inference_steps": 1}, "1 step: .* at least 2"),
            ({"precision": "fp8"}, "wants demo at fp8, and demo at bf16 is open"),
            ({"model": "Qwen/Qwen-Image"}, "wants Qwen/Qwen-Image"),
        ],
    )
    def test_refused_before_the_call(self, engine: NativeEngine, change: dict[str, Any], reason: str) -> None:
        """A job that DiffSynth would round, or that is another engine's, is refused before its first step."""
        told: list[int] = []
        with pytest.raises(PictureError, match=reason):
            engine.render(make_job(**change), lambda step, _steps: told.append(step))
        assert told == []


class TestBadPictures:
    def render(self, model: Path) -> None:
        """Render one picture with a spoiled model."""
        engine = NativeEngine.open(make_setup(model), no_report)
        engine.render(make_job(model=model), ignore)

    def test_latents_that_are_not_finite(self, copied: Path) -> None:
        """A NaN in the DiT fails the picture at its first step."""
        alter(copied / DIT, "proj_out.weight", lambda weight: weight.index_fill(0, torch.tensor([0]), torch.nan))
        with pytest.raises(BadPictureError, match="latents are not finite after the last step"):
            self.render(copied)

    def test_decoded_values_that_are_not_finite(self, copied: Path) -> None:
        """An infinity in the VAE fails the picture after its last step, where DiffSynth would give black pixels."""
        alter(copied / VAE, "decoder.conv_out.bias", lambda bias: torch.full_like(bias, torch.inf))
        with pytest.raises(BadPictureError, match="decoded values are not finite"):
            self.render(copied)

    def test_one_flat_colour(self, copied: Path) -> None:
        """A picture of a single colour is a failure that names the colour."""
        alter(copied / VAE, "decoder.conv_out.weight", torch.zeros_like)
        with pytest.raises(BadPictureError, match=r"one flat colour, \(\d+, \d+, \d+\)"):
            self.render(copied)


def test_latents_are_looked_at_after_the_last_step() -> None:
    """What overflows there alone is seen, and by name: its decode may be anything."""

    class Pipe:
        def step(self, _scheduler: Any, *, progress_id: int, latents: torch.Tensor) -> torch.Tensor:
            assert progress_id < 3
            return latents

        def vae_output_to_image(self, vae_output: torch.Tensor) -> str:
            assert vae_output.ndim
            return "a picture"

    scheduler, good, bad = SimpleNamespace(timesteps=range(3)), torch.zeros(4), torch.full((4,), torch.inf)
    for at in range(3):
        pipe: Any = Pipe()
        calling.check_values_of(pipe)
        for step in range(3):
            pipe.step(scheduler, progress_id=step, latents=bad if step == at else good)
        if at < 2:
            assert pipe.vae_output_to_image(good) == "a picture"
        else:
            with pytest.raises(BadPictureError, match="latents are not finite after the last step"):
                pipe.vae_output_to_image(good)
