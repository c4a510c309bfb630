"""The streaming engine on the CPU with the demo model: the same bits as a bare call, in any company, after anything."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffsynth.pipelines.qwen_image import QwenImageUnit_PromptEmbedder

from renderer.engine import encoding
from renderer.engine.block_source import BlockSource
from renderer.engine.calling import Rendering
from renderer.engine.modulation import Modulations, timesteps
from renderer.engine.native import NativeEngine
from renderer.engine.previews import Preview
from renderer.engine.riders import Rider
from renderer.engine.sections import Passage, Passing
from renderer.engine.streaming import StreamingEngine
from renderer.errors import ModelError, OutOfMemoryError, RendererError
from renderer.job import Job, Precision
from renderer.protocol import Setup
from tests.making import make_job

LONG = "a blue star in the upper left corner of a yellow and white striped background, with the text HELLO below it"


def modulations(engine: StreamingEngine) -> Modulations:
    assert isinstance(engine._beforehand, Modulations)
    return engine._beforehand


def variants(precision: Precision = "bf16") -> list[Job]:
    """Jobs that differ in every way: size, steps, guidance, prompt."""
    jobs = [
        make_job("a red circle", seed=1, side=128, steps=3),
        make_job(LONG, seed=2, side=64, steps=5).model_copy(update={"width": 192}),
        make_job("x", seed=3, side=96, steps=4).model_copy(update={"cfg_scale": 1.0}),
        make_job("绿色的三角形", seed=4, side=64, steps=2).model_copy(update={"negative_prompt": "blurry"}),
    ]
    return [job.model_copy(update={"precision": precision}) for job in jobs]


class Heard:
    """Remembers what an engine told."""

    def __init__(self) -> None:
        self.pictures: dict[str, Rendering] = {}
        self.failures: dict[str, RendererError] = {}
        self.told: list[tuple[Any, ...]] = []

    def started(self, key: str) -> None:
        self.told.append(("started", key))

    def stepped(self, key: str, step: int, steps: int) -> None:
        self.told.append(("stepped", key, step, steps))

    def previewed(self, key: str, preview: Preview) -> None:
        self.told.append(("previewed", key, preview))

    def rendered(self, key: str, rendering: Rendering) -> None:
        self.pictures[key] = rendering
        self.told.append(("rendered", key))

    def failed(self, key: str, error: RendererError) -> None:
        self.failures[key] = error


def open_engine(
    precision: Precision = "bf16", slots: int | None = None, in_flight: int | None = None
) -> StreamingEngine:
    setup = Setup(model="demo", precision=precision, profile="stream", slots=slots, in_flight=in_flight)
    return StreamingEngine.open(setup, lambda _: None)


def render(engine: StreamingEngine, jobs: Sequence[Job]) -> Heard:
    heard = Heard()
    for number, job in enumerate(jobs):
        engine.take(str(number), job)
    while engine.busy:
        engine.advance(heard)
    return heard


def pixels(heard: Heard) -> list[bytes]:
    return [heard.pictures[key].rgb for key in sorted(heard.pictures)]


@pytest.fixture(scope="module")
def alone() -> list[bytes]:
    """Each variant by a bare call of DiffSynth's, one after the other."""
    engine = NativeEngine.open(Setup(model="demo", precision="bf16", profile="cpu"), lambda _: None)
    return [engine.render(job, lambda *_: None).rgb for job in variants()]


class TestBits:
    @pytest.mark.parametrize("slots", [2, 3, 60])
    @pytest.mark.parametrize("in_flight", [1, 2, 4])
    def test_bf16_is_diffsynth_bit_by_bit(self, alone: list[bytes], slots: int, in_flight: int) -> None:
        """At any number of slots and in any company, each picture has the bits of a bare call."""
        assert pixels(render(open_engine(slots=slots, in_flight=in_flight), variants())) == alone

    def test_the_order_does_not_matter(self, alone: list[bytes]) -> None:
        """In every order of the four, each picture is the same."""
        engine = open_engine(slots=2, in_flight=3)
        for order in itertools.islice(itertools.permutations(range(4)), 0, 24, 5):
            heard = render(engine, [variants()[place] for place in order])
            assert pixels(heard) == [alone[place] for place in order]

    def test_fp8_does_not_depend_on_company_or_slots(self) -> None:
        """FP8 weights: alone with all blocks resident, or together through two slots, the bits are the same."""
        first = [pixels(render(open_engine("fp8", slots=60, in_flight=1), [job]))[0] for job in variants("fp8")]
        assert pixels(render(open_engine("fp8", slots=2, in_flight=4), variants("fp8"))) == first

    def test_fp8_weights_may_be_multiplied_in_bf16_by_choice(self) -> None:
        """`fp8-weights` reads fp8's store, and computes as fp8 does where no FP8 products are; it is its own job."""
        setup = Setup(model="demo", precision="fp8-weights", profile="stream", slots=2)
        engine = StreamingEngine.open(setup, lambda _: None)
        job = variants("fp8-weights")[0]
        assert pixels(render(engine, [job])) == pixels(render(open_engine("fp8"), variants("fp8")[:1]))
        refused = render(engine, variants("fp8")[:1]).failures["0"]
        assert "wants demo at fp8, and demo at fp8-weights is open" in refused.message

    def test_fp8_is_close_to_bf16(self, alone: list[bytes]) -> None:
        """Quantised weights draw the same picture within some noise: far closer than another prompt's."""
        (found,) = pixels(render(open_engine("fp8"), variants("fp8")[:1]))
        another = variants()[0].model_copy(update={"prompt": "a blue square on a black background"})
        (other,) = pixels(render(open_engine(), [another]))
        assert _distance(found, alone[0]) < 0.5 * _distance(other, alone[0])


def _distance(one: bytes, other: bytes) -> float:
    first, second = (torch.frombuffer(bytearray(data), dtype=torch.uint8).float() for data in (one, other))
    return float((first - second).square().mean().sqrt())


def _tensor_bytes() -> int:
    """Bytes of all tensors that anybody holds."""
    gc.collect()
    found = [each.untyped_storage() for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())


class TestRiding:
    def test_pictures_in_flight_share_their_blocks(self) -> None:
        """Four pictures that ride together need the sweeps of the longest, not of all."""
        together, apart = open_engine(slots=2, in_flight=4), open_engine(slots=2, in_flight=1)
        render(together, variants())
        render(apart, variants())
        sweeps = max(job.num_inference_steps for job in variants())
        assert together._slots.moved_bytes <= (sweeps + 1) * 5 * together._source.block_bytes
        assert apart._slots.moved_bytes > 2 * together._slots.moved_bytes

    def test_who_is_done_makes_room(self) -> None:
        """With room for two, the third begins when the first of them is done, and steps come in turns."""
        heard = render(open_engine(in_flight=2), variants())
        started = [place for place, told in enumerate(heard.told) if told[0] == "started"]
        assert ("stepped", "0", 3, 3) in heard.told[: started[2]]
        assert [told[1] for told in heard.told if told[0] == "started"] == ["0", "1", "2", "3"]
        assert len([told for told in heard.told if told[0] == "stepped"]) == 3 + 5 + 4 + 2

    def test_room_is_filled_at_the_very_next_sweep(self) -> None:
        """Six pictures of two steps, two at a time, are six sweeps: no place is empty while somebody waits."""
        engine = open_engine(slots=2, in_flight=2)
        heard = render(engine, [make_job(seed=seed, side=64, steps=2) for seed in range(6)])
        assert engine._slots.moved_bytes == 6 * 5 * engine._source.block_bytes
        assert {each.sharing.mean_in_flight for each in heard.pictures.values() if each.sharing} == {2.0}

    def test_the_sidecar_tells_of_sharing(self) -> None:
        """Each picture's share of the time is less than its wall time when others ride with it."""
        heard = render(open_engine(slots=2, in_flight=4), variants())
        for rendering in heard.pictures.values():
            assert rendering.sharing is not None
            assert rendering.sharing.share_s < (rendering.timing.denoise_s or 0.0) + (rendering.timing.decode_s or 0.0)
            assert rendering.sharing.streamed_bytes > 0
            assert (rendering.sharing.slots, rendering.sharing.blocks) == (2, 5)

    def test_decoded_values_become_pixels_beside_the_next_sweep(self) -> None:
        """The next picture's first step is under way before the last picture's pixels are taken off the device."""
        heard = render(open_engine(in_flight=1), variants()[:2])
        told = heard.told
        assert told.index(("started", "1")) < told.index(("rendered", "0"))
        assert told[-1] == ("rendered", "1")

    def test_all_that_wait_are_made_ready_together(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Six pictures of six prompts, one at a time: one sweep over the text encoder, one over the modulations."""
        monkeypatch.setattr("renderer.engine.prompts.cache_folder", lambda: tmp_path)
        engine = open_engine(in_flight=1)
        swept: list[str] = []
        encode, compute = engine._prompts._sweep, modulations(engine)._compute

        def encode_noted(passage: Passage, source: BlockSource, riders: Sequence[Rider]) -> None:
            swept.append("prompts")
            encode(passage, source, riders)

        def compute_noted(missing: Any) -> None:
            swept.append("steps")
            compute(missing)

        monkeypatch.setattr(engine._prompts, "_sweep", encode_noted)
        monkeypatch.setattr(engine._beforehand, "_compute", compute_noted)
        heard = render(engine, [make_job(f"prompt {number}", side=64, steps=2) for number in range(6)])
        assert len(heard.pictures) == 6
        assert swept == ["prompts", "steps"]
        assert engine._prompts._known == {}

    def test_long_prompts_are_encoded_in_groups(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: list[bytes]
    ) -> None:
        """With room for few tokens at once there are several sweeps over the text encoder, and not a bit differs."""
        monkeypatch.setattr("renderer.engine.prompts.cache_folder", lambda: tmp_path)
        monkeypatch.setattr("renderer.engine.prompts.MOST_TOKENS", 60)
        engine = open_engine(in_flight=4)
        swept: list[int] = []
        encode = engine._prompts._sweep

        def noted(passage: Passage, source: BlockSource, riders: Sequence[Rider]) -> None:
            swept.append(len(riders))
            encode(passage, source, riders)

        monkeypatch.setattr(engine._prompts, "_sweep", noted)
        assert pixels(render(engine, variants())) == alone
        assert len(swept) > 2
        assert sum(swept) == 6

    def test_schedules_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many schedules a batch has, a bounded number of their vectors is kept."""
        monkeypatch.setattr("renderer.engine.modulation.MOST_TABLES", 6)
        engine = open_engine(in_flight=2)
        heard = render(engine, [make_job(side=64, steps=steps) for steps in range(2, 9)])
        assert len(heard.pictures) == 7
        assert len(modulations(engine)._tables) <= 8

    def test_sizes_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """DiffSynth keeps the rotary frequencies of every size it has met; a batch of many sizes does not."""
        monkeypatch.setattr("renderer.families.qwen_image.networks.MOST_SIZES", 2)
        engine = open_engine(in_flight=1)
        render(engine, [make_job(side=side, steps=2) for side in range(64, 160, 16)])
        assert len(engine._skeleton.parts["dit"].pos_embed.rope_cache) <= 3

    def test_equal_prompts_are_encoded_once_and_remembered(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Four jobs of two prompts and one negative: three encodings; a new engine finds them on the disk."""
        asked: list[str] = []
        process = QwenImageUnit_PromptEmbedder.process

        def counted(self: Any, pipe: Any, prompt: str, edit_image: Any = None) -> Any:
            asked.append(prompt)
            return process(self, pipe, prompt, edit_image)

        monkeypatch.setattr(QwenImageUnit_PromptEmbedder, "process", counted)
        monkeypatch.setattr("renderer.engine.prompts.cache_folder", lambda: tmp_path)
        jobs = [make_job(prompt, seed=seed, side=64) for prompt in ("one", "two") for seed in (1, 2)]
        first = render(open_engine(), jobs)
        assert sorted(asked) == ["", "one", "two"]
        second = render(open_engine(), jobs)
        assert len(asked) == 3
        assert pixels(first) == pixels(second)

    def test_the_cache_is_bounded_and_survives_damage(self, tmp_path: Path) -> None:
        """The oldest embeddings go first; a damaged one is as good as none."""
        cache = encoding.EmbeddingCache(tmp_path, ["model"])
        one = encoding.Encoded(torch.ones(1, 10, 100), torch.ones(1, 10))
        for prompt in "abc":
            cache.keep(encoding.AskedPrompt(prompt), one)
        assert cache.find(encoding.AskedPrompt("a")) is not None
        cache.trim(most_bytes=2 * next(tmp_path.glob("*.safetensors")).stat().st_size)
        assert len(list(tmp_path.glob("*.safetensors"))) == 2
        for path in tmp_path.glob("*.safetensors"):
            path.write_bytes(b"damaged")
        assert [cache.find(encoding.AskedPrompt(prompt)) for prompt in "abc"] == [None] * 3


class TestFailures:
    def test_a_bad_job_among_good_ones(self, alone: list[bytes]) -> None:
        """A size the model does not render is refused; the others have their bits."""
        bad = make_job(side=8)
        heard = render(open_engine(in_flight=3), [variants()[0], bad, variants()[1]])
        assert list(heard.failures) == ["1"]
        assert pixels(heard) == [alone[0], alone[1]]

    def test_values_that_are_not_finite_are_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """NaN in one picture's latents fails that picture alone."""
        engine = open_engine(in_flight=2)
        ride = engine._ride

        def poisoned(passing: Passing, flying: Any) -> None:
            def bad(**inputs: Any) -> Any:
                text, image = passing.block(**inputs)
                return text, image * float("nan") if inputs["image"].shape[1] == 64 else image

            ride(replace(passing, block=bad), flying)

        monkeypatch.setattr(engine, "_ride", poisoned)
        heard = render(engine, [variants()[0], variants()[1]])
        assert list(heard.failures) == ["0"]
        assert "not finite" in heard.failures["0"].message
        assert list(heard.pictures) == ["1"]

    def test_running_out_of_memory_is_not_the_end(self, alone: list[bytes]) -> None:
        """Twenty times out of memory: fewer ride, every picture comes with its bits, and says what was changed."""
        engine = open_engine(slots=4, in_flight=4)
        ride, left = engine._ride, [20]

        def short(passing: Passing, flying: Any) -> None:
            def fails(**inputs: Any) -> Any:
                if len(flying) > 1 and left[0] and passing.index == 3:
                    left[0] -= 1
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return passing.block(**inputs)

            ride(replace(passing, block=fails), flying)

        engine._ride = short  # type: ignore[method-assign]
        heard = render(engine, variants())
        assert heard.failures == {}
        assert pixels(heard) == alone
        assert any(rendering.sharing and rendering.sharing.adjustments for rendering in heard.pictures.values())

    def test_running_out_of_memory_while_prompts_are_encoded(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: list[bytes]
    ) -> None:
        """Where all prompts are too much at once, each is encoded alone; one that never fits fails alone."""
        monkeypatch.setattr("renderer.engine.prompts.cache_folder", lambda: tmp_path)
        engine = open_engine(slots=4, in_flight=2)
        prepare = engine._prompts.prepare

        def short(jobs: Sequence[Job], *room: Any) -> int:
            if len(jobs) > 1 or jobs[0].prompt == LONG:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return prepare(jobs, *room)

        engine._prompts.prepare = short  # type: ignore[method-assign, assignment]
        heard = render(engine, variants())
        assert list(heard.failures) == ["1"]
        assert isinstance(heard.failures["1"], OutOfMemoryError)
        assert pixels(heard) == [alone[0], alone[2], alone[3]]

    def test_a_sweep_over_prompts_that_breaks_off_holds_nothing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Out of memory at the third layer: what the waiting prompts had of the first two is given back."""
        monkeypatch.setattr("renderer.engine.prompts.cache_folder", lambda: tmp_path)
        engine = open_engine(in_flight=1)
        render(engine, [make_job("one", side=64, steps=2)])
        before = _tensor_bytes()
        arrive, layers = engine._prompts._plain._sections[0].blocks.arrive, itertools.count(1)

        def short(number: int, slot: torch.Tensor) -> torch.nn.Module:
            if next(layers) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return arrive(number, slot)

        monkeypatch.setattr(engine._prompts._plain._sections[0].blocks, "arrive", short)
        heard = render(engine, [make_job(f"{LONG} {number}", side=64, steps=2) for number in range(3)])
        assert len(heard.pictures) == 3
        del heard
        assert _tensor_bytes() == before

    def test_when_nothing_is_left_to_give_up_it_is_a_failure(self) -> None:
        """A picture that never fits: fewer in flight, fewer slots, and then the truth."""
        engine = open_engine(slots=5, in_flight=2)

        def never(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        engine._passage._sections[0].blocks.arrive = lambda *_: never  # type: ignore[method-assign]
        heard = render(engine, variants()[:2])
        assert set(heard.failures) == {"0", "1"}
        assert all(isinstance(error, OutOfMemoryError) for error in heard.failures.values())
        assert engine._slots.count == 2

    def test_a_store_of_another_precision_is_refused(self, tmp_path: Path) -> None:
        """A folder that is no store, or another's, is refused by name before anything is opened."""
        setup = Setup(model="demo", precision="bf16", profile="stream", store=str(tmp_path))
        with pytest.raises(ModelError, match=r"index\.json"):
            StreamingEngine.open(setup, lambda _: None)


def test_the_sweeps_use_diffsynth_s_own_schedule() -> None:
    """The timesteps whose modulation is made ready are those DiffSynth hands to the model, one by one."""
    engine = open_engine()
    seen: list[float] = []
    at = engine._beforehand.at

    def noted(job: Job, step: int) -> Any:
        seen.append(timesteps(job, engine._place.dtype)[step])
        return at(job, step)

    engine._beforehand.at = noted  # type: ignore[method-assign]
    job = variants()[1]
    render(engine, [job])
    assert tuple(seen) == timesteps(job, engine._place.dtype)
