from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from renderer import catalog
from renderer.catalog import QWEN_IMAGE
from renderer.errors import MachineError
from renderer.estimate import Work, decide
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.job import Input, Job, Precision, Region
from renderer.machine import hardware
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.planning.fitting import allocator_bytes, available_bytes, refusals, streaming_of
from renderer.planning.placement import OFFLOAD_MARGIN_BYTES, choose_profile, setup_for
from renderer.text import GIB
from tests.engine.making import copy_model, without_vision
from tests.making import make_job

MASK = Input(sha256="a" * 64, width=512, height=512)


def a_machine(vram_gib: int = 0, ram_gib: int = 64) -> Machine:
    gpu = LocalGpu(0, "a card", "GPU-1", vram_gib * GIB, vram_gib * GIB, "580.1", (8, 9))
    return Machine((gpu,) if vram_gib else (), 8, ram_gib * GIB, ram_gib * GIB)


class TestChooseProfile:
    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    @pytest.mark.parametrize(("ram_gib", "place"), [(128, "host memory"), (16, "the disk")])
    def test_auto_streams_on_every_card(self, precision: Precision, ram_gib: int, place: str) -> None:
        """Whatever the card, blocks come to the pictures: from host memory where they fit there, or from the disk."""
        for vram_gib in (6, 10, 24, 80):
            choice = choose_profile(QWEN_IMAGE, precision, a_machine(vram_gib, ram_gib))
            assert (choice.profile, choice.vram_bytes) == ("stream", None)
            assert place in choice.reason

    def test_the_weights_leave_room_for_the_work(self) -> None:
        """Weights that DiffSynth keeps on a 24 GiB card may not take all of it."""
        choice = choose_profile(QWEN_IMAGE, "fp8", a_machine(24), "fp8")
        assert choice.vram_bytes is not None
        assert 20 * GIB < choice.vram_bytes < 23 * GIB
        least = choose_profile(QWEN_IMAGE, "fp8", a_machine(24), "fp8", GIB)
        assert least.vram_bytes == GIB  # some are taken up, however little there is

    def test_what_they_leave_is_there_for_the_work(self) -> None:
        """Of a limit, all counts: the weights' part of it, and the rest."""
        here = a_machine(24)
        job = make_job().model_copy(update={"model": QWEN_IMAGE.id, "precision": "fp8"})
        setup = setup_for([job], here, "fp8", 10 * GIB)
        assert setup.vram_bytes == 10 * GIB - OFFLOAD_MARGIN_BYTES
        assert available_bytes(setup, here) == allocator_bytes(here, 10 * GIB) == 10 * GIB - CONTEXT_BYTES

    def test_a_streamed_model_needs_its_store(self) -> None:
        """What a worker opens names the packed store; the demo model makes its own."""
        job = make_job().model_copy(update={"model": QWEN_IMAGE.id})
        setup = setup_for([job], a_machine(10), None, 8 * GIB)
        assert setup.store is not None
        assert setup.store.endswith("bf16")
        assert setup.vram_bytes == 8 * GIB
        assert setup_for([make_job()], a_machine(), None).store is None

    def test_the_gpu_that_was_looked_at(self) -> None:
        """Where there are others, the worker is told which; where its memory is the host's, how much of it is its."""
        here = a_machine(24)
        assert setup_for([make_job()], here, None).gpu is None
        assert setup_for([make_job()], replace(here, chosen=True), None).gpu == "GPU-1"
        shared = replace(here, gpus=(replace(here.gpus[0], memory="host"),))
        assert setup_for([make_job()], shared, None).vram_bytes == 24 * GIB
        assert setup_for([make_job()], shared, None, 8 * GIB).vram_bytes == 8 * GIB

    def test_no_gpu_means_the_demo_model_alone(self) -> None:
        """Without a GPU the demo model renders on the CPU, and Qwen-Image is refused with what is missing."""
        assert choose_profile(catalog.DEMO, "fp8", a_machine()).profile == "stream"
        with pytest.raises(MachineError, match="needs an NVIDIA GPU"):
            choose_profile(QWEN_IMAGE, "fp8", a_machine())

    def test_the_cpu_can_be_asked_for(self) -> None:
        """Whoever asks for the CPU gets it, at their own patience."""
        assert choose_profile(QWEN_IMAGE, "fp8", a_machine(), "cpu").profile == "cpu"

    def test_fp8_storage_cannot_serve_bf16(self) -> None:
        """The profile that keeps FP8 refuses a job that asks for bf16, because its bits would be others."""
        with pytest.raises(MachineError, match="asks for bf16"):
            choose_profile(QWEN_IMAGE, "bf16", a_machine(24), "fp8")


def test_a_model_without_its_vision_tower(demo_folder: Path, tmp_path: Path) -> None:
    """It is streamed like any other: pictures from text do not need the tower."""
    blind = str(without_vision(copy_model(demo_folder, tmp_path / "blind")))
    setup = setup_for([make_job().model_copy(update={"model": blind})], a_machine(10), None)
    assert (setup.profile, setup.store is not None) == ("stream", True)


class TestRefusals:
    def real(self, side: int) -> Job:
        return make_job(side=side).model_copy(update={"model": QWEN_IMAGE.id, "precision": "fp8"})

    def test_a_card_that_is_large_enough_refuses_nothing(self) -> None:
        """Streamed, 6 GiB take all sizes of the model."""
        jobs = [self.real(side) for side in (512, 1328, 2048)]
        here = a_machine(6)
        setup = setup_for(jobs, here, None)
        assert refusals(jobs, setup, here) == {}
        assert {(each.width, each.height) for each in setup.demands} == {(side, side) for side in (512, 1328, 2048)}
        kinds = list(map(decide.Series.of, setup.demands))
        assert not decide.decide(streaming_of(setup, here), kinds, available_bytes(setup, here)).refused

    def test_kinds_say_how_many_there_are(self) -> None:
        """Of each size, guided or not, its pictures and all their steps: slots are shared out by what they weigh."""
        jobs = [self.real(512).model_copy(update={"num_inference_steps": steps}) for steps in (4, 8)]
        jobs += [self.real(512).model_copy(update={"num_inference_steps": 4, "cfg_scale": 1.0})]
        demands = setup_for(jobs, a_machine(6), None).demands
        assert [(each.guided, each.pictures, each.steps) for each in demands] == [(True, 2, 12), (False, 1, 4)]

    def test_a_kind_has_the_longest_prompts_of_its_pictures(self) -> None:
        """Whichever comes first: room is kept for each of them."""
        short, long = (
            self.real(512).model_copy(
                update={
                    "prompt": f"a cat {words}", "negative_prompt": f"a dog {words}",
                    "regions": (Region(prompt=f"a hat {words}", mask=MASK),),
                }
            )
            for words in ("", "in the rain " * 20)
        )  # fmt: skip
        for jobs in ([short, long], [long, short]):
            (demand,) = setup_for(jobs, a_machine(6), None).demands
            longest = Work.of(long)
            assert demand.prompt_tokens == longest.prompt_tokens
            assert demand.negative_tokens == longest.negative_tokens
            assert demand.region_tokens == longest.region_tokens

    def test_on_the_cpu_nothing_is_refused(self) -> None:
        """However small the card that is there too."""
        here, jobs = a_machine(2), [self.real(2048)]
        assert refusals(jobs, setup_for(jobs, here, None), here)
        assert refusals(jobs, setup_for(jobs, here, "cpu"), here) == {}

    def test_only_what_cannot_fit_is_refused(self) -> None:
        """With numbers, and a size that does fit."""
        jobs = [self.real(512), self.real(2048)]
        here = a_machine(4)
        least = decide.least(streaming_of(setup_for(jobs, here, None), here), [Work(2048, 2048, prompt_tokens=0)])
        setup = setup_for(jobs, here, None, least + CONTEXT_BYTES - 1)
        found = refusals(jobs, setup, here)
        assert list(found) == [jobs[1]]
        refusal = found[jobs[1]]
        assert refusal.needed_bytes > refusal.available_bytes
        assert refusal.nearest is not None
        smaller = jobs[1].model_copy(update={"width": refusal.nearest.width, "height": refusal.nearest.height})
        assert refusals([smaller], setup, here) == {}

    def test_a_limit_on_weights_refuses_nothing_by_itself(self) -> None:
        """DiffSynth's fp8 profile takes up weights below a limit, and needs none of them on the GPU."""
        jobs = [self.real(1328)]
        for vram_gib, refused in ((10, False), (2, True)):
            here = a_machine(vram_gib)
            assert bool(refusals(jobs, setup_for(jobs, here, "fp8"), here)) == refused

    def test_all_weights_in_bf16_need_a_large_card(self) -> None:
        """52 GiB and more; a card of 48 refuses, one of 80 does not."""
        job = self.real(1328).model_copy(update={"precision": "bf16"})
        for vram_gib, refused in ((48, True), (80, False)):
            here = a_machine(vram_gib)
            assert bool(refusals([job], setup_for([job], here, "resident"), here)) == refused

    def test_a_busy_card_has_less(self) -> None:
        """What another process holds is not there."""
        here = a_machine(24)
        assert here.gpu is not None
        busy = Machine((replace(here.gpu, free_bytes=2 * GIB),), 8, here.ram_bytes, here.ram_free_bytes)
        job = self.real(512)
        assert refusals([job], setup_for([job], busy, None), busy)


class TestMachine:
    def test_this_machine_has_memory_and_cores(self) -> None:
        """The figures are those of a machine that can run this test."""
        here = hardware.look()
        assert here.cpus >= 1
        assert 0 < here.ram_free_bytes <= here.ram_bytes

    def test_free_disk_of_a_folder_that_is_not_there_yet(self, tmp_path: Path) -> None:
        """It is its parent's disk."""
        assert hardware.free_disk_bytes(tmp_path / "a" / "b") > 0
