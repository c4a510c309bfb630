"""What LoRAs take, foretold: bytes to the byte of what is made, once however many ride; time and disk."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from renderer import catalog
from renderer.cli import plan as plan_cli
from renderer.engine import budget
from renderer.engine.budget import Budget
from renderer.job import ControlNet, Input, Lora
from renderer.machine.rates import Rates
from renderer.manifest.manifest import Manifest
from renderer.planning import forecast, placement, riding, space
from renderer.planning.forecast import Assumptions
from renderer.planning.group_forecast import GroupForecast
from renderer.planning.plan import make_plan
from renderer.weights.adapters.packed import prepare_adapter
from renderer.weights.adapters.weighing import LoraWeight, Passed, weigh
from renderer.weights.adapters.whereabouts import find_lora
from tests.loras import factors, write_lora
from tests.making import make_job, make_manifest
from tests.planning.test_forecast import HERE, RATES, real

FOUR = "lightx2v/Qwen-Image-Lightning/4steps-V2.0"
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)
RIDES = Lora(source=FOUR, identity=FOUR)
CANNY = "DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Canny"


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))


def _rows(name: str) -> dict[str, dict[str, Any]]:
    lines = (BENCHMARKS / name).read_text(encoding="utf-8").splitlines()
    return {row.pop("case"): row for row in map(json.loads, lines)}


H200_RATES = Rates.model_validate(_rows("edits-h200.jsonl")["rates"])


def control_took() -> float:
    """Seconds that a step of 1024x1024 took longer with a ControlNet on that card, all blocks on it."""
    rows = _rows("control-h200.jsonl")
    step_s: float = rows["one-net-resident"]["step_s"] - rows["plain-resident"]["step_s"]
    return step_s


def lora(path: Path, weight: float = 1.0) -> Lora:
    found = find_lora(path.name, path.parent)
    return Lora(source=found.source, identity=found.identity, weight=weight)


def with_loras(manifest: Manifest, *sets: tuple[Lora, ...]) -> Manifest:
    pictures = tuple(
        picture.model_copy(update={"job": picture.job.model_copy(update={"loras": loras})})
        for picture, loras in zip(manifest.pictures, sets, strict=True)
    )
    return dataclasses.replace(manifest, pictures=pictures)


def with_controlnets(manifest: Manifest, nets: tuple[ControlNet, ...]) -> Manifest:
    jobs = [picture.job.model_copy(update={"controlnets": nets}) for picture in manifest.pictures]
    pictures = (picture.model_copy(update={"job": job}) for picture, job in zip(manifest.pictures, jobs, strict=True))
    return dataclasses.replace(manifest, pictures=tuple(pictures))


def no_scale(net: ControlNet) -> ControlNet:
    return net.model_copy(update={"scale": 0.0})


def group_of(manifest: Manifest, outputs: Path, terms: Assumptions) -> GroupForecast:
    (group,) = forecast.forecast([make_plan(manifest, outputs)], terms, NOW).groups
    return group


class TestWeight:
    def test_is_that_of_what_is_made(self, tmp_path: Path) -> None:
        """From the header alone, to the byte; once it is ready, it writes nothing more."""
        path = write_lora(tmp_path / "ink.safetensors", factors())
        before = weigh(str(path), catalog.DEMO)
        made = prepare_adapter(lora(path), catalog.DEMO)
        assert before.bytes == before.ready_bytes == made.all_bytes
        assert before.block_bytes == max(made.bytes("transformer", number) for number in range(5))
        assert weigh(str(path), catalog.DEMO) == dataclasses.replace(before, ready_bytes=0)

    def test_whose_tokens_it_multiplies(self, tmp_path: Path) -> None:
        """A picture's, a prompt's, or nobody's in a step: modulation is computed beforehand."""
        found = weigh(str(write_lora(tmp_path / "ink.safetensors", factors())), catalog.DEMO)
        assert found.picture.multiplied == 4 * (2 * (160 + 160) + 640 + 160)
        assert found.picture.added == 160 + 160 + 640
        assert (found.text.multiplied, found.text.added) == (4 * (160 + 640), 160)

    def test_of_one_that_is_not_here(self) -> None:
        """About what the catalogue says, and it has to be fetched and made ready."""
        found = weigh(FOUR, catalog.QWEN_IMAGE)
        assert found.bytes == pytest.approx(849_608_296, rel=0.001)  # the file's, whose header is the rest
        assert found.block_bytes == found.bytes / 60
        assert (found.download_bytes, found.ready_bytes) == (849_608_296, found.bytes)


class TestForecast:
    def test_each_counts_once(self, tmp_path: Path) -> None:
        """However many pictures ride with it, and not at weight 0."""
        ink = write_lora(tmp_path / "ink.safetensors", factors())
        pen = write_lora(tmp_path / "pen.safetensors", factors(seed=1))
        jobs = [
            make_job().model_copy(update={"loras": loras})
            for loras in ((lora(ink),), (lora(ink, 0.5), lora(pen)), (), (lora(pen, 0.0),))
        ]
        found = riding.riding(jobs, catalog.DEMO)
        assert len(found.weights) == 2
        assert found.bytes == 2 * weigh(str(ink), catalog.DEMO).bytes

    def test_on_the_gpu_all_or_two_blocks(self, tmp_path: Path) -> None:
        """Resident where there is room beside all else, else two blocks at a time; the host has all of it."""
        manifest = with_loras(real(make_manifest(["a"]), 1024, steps=4), (RIDES,))
        bare = real(make_manifest(["a"]), 1024, steps=4)
        all_bytes = weigh(FOUR, catalog.QWEN_IMAGE).bytes
        roomy = Assumptions(HERE, rates=RATES, ready=True)
        with_it, without = (group_of(each, tmp_path, roomy) for each in (manifest, bare))
        assert with_it.estimate.allocated - without.estimate.allocated == all_bytes
        assert with_it.host.bytes - without.host.bytes == all_bytes
        tight = group_of(manifest, tmp_path, dataclasses.replace(roomy, vram_bytes=4 * 2**30))
        terms = {term.name: term.bytes for term in tight.estimate.peak.terms}
        assert terms["LoRAs"] == 2 * weigh(FOUR, catalog.QWEN_IMAGE).block_bytes
        assert tight.estimate.allocated <= (tight.available_bytes or 0)

    def test_controlnets(self, tmp_path: Path) -> None:
        """Their blocks are there beside LoRAs, and each step takes as much longer as it did on a GPU."""
        net = ControlNet(source=CANNY, identity=CANNY, image=Input(sha256="ab" * 32, width=1024, height=1024))
        plain = real(make_manifest(["a"]), 1024, steps=4)
        manifest = with_controlnets(plain, (net,))
        roomy = Assumptions(HERE, rates=RATES, ready=True)
        with_it, without = (group_of(each, tmp_path, roomy) for each in (manifest, plain))
        size = with_it.controlnet_bytes
        assert (with_it.controlnets, size) == (1, 60 * (2 * 3072**2 + 4 * 3072) * 2)
        assert with_it.host.bytes - without.host.bytes > size
        assert with_it.estimate.allocated - without.estimate.allocated >= size
        job, half = manifest.pictures[0].job, net.model_copy(update={"end": 0.5})
        found = riding.riding([job], catalog.QWEN_IMAGE)
        whole = found.step_seconds(job, RATES)
        assert found.step_seconds(job.model_copy(update={"controlnets": (half,)}), RATES) == pytest.approx(whole / 2)
        assert found.step_seconds(job, H200_RATES) == pytest.approx(control_took(), rel=0.1)
        assert "  beside 1 ControlNet, of 2.3 GB" in list(plan_cli._group_lines(with_it))
        plans = [make_plan(each, tmp_path) for each in (manifest, with_controlnets(plain, (no_scale(net),)))]
        assert [space.look([plan], plan.items, ()).download_bytes for plan in plans] == [2_270_000_000, 0]

    def test_on_the_disk(self, tmp_path: Path) -> None:
        """One that has to be fetched and made ready takes room for both, and at weight 0 for neither."""
        plain = make_manifest(["a"])
        weightless = RIDES.model_copy(update={"weight": 0.0})
        plans = [make_plan(with_loras(plain, (each,)), tmp_path) for each in (RIDES, weightless)]
        rides, without = (space.look([plan], plan.items, ()) for plan in plans)
        assert rides.download_bytes == 849_608_296
        assert rides.store_bytes > 0
        assert (without.download_bytes, without.store_bytes) == (0, 0)

    def test_one_of_a_single_block_takes_no_room_for_two(self) -> None:
        small, large = (LoraWeight(blocks * 10, 10, Passed(0, 0), Passed(0, 0), 0, 0) for blocks in (1, 60))
        assert riding.Riding({"small": small, "large": large}).least_bytes == 10 + 2 * 10

    def test_each_pass_multiplies_its_own_tokens(self) -> None:
        """What is of text goes with the prompts, and what is of pictures with their size."""
        job = real(make_manifest(["a"]), 512).pictures[0].job.model_copy(update={"loras": (RIDES,)})
        larger = job.model_copy(update={"width": 1024})
        longer = job.model_copy(update={"prompt": "a cat in the rain " * 40})
        of_text, of_picture = (
            riding.Riding({FOUR: LoraWeight(10, 10, *each, 0, 0)})
            for each in ((Passed(0, 0), Passed(10**6, 10**3)), (Passed(10**6, 10**3), Passed(0, 0)))
        )
        for those, more, alike in ((of_text, longer, larger), (of_picture, larger, longer)):
            assert those.step_seconds(more, RATES) > 1.5 * those.step_seconds(job, RATES) > 0
            assert those.step_seconds(alike, RATES) == those.step_seconds(job, RATES)

    def test_a_step_takes_a_little_longer(self) -> None:
        """By arithmetic: products of rank 64 beside those of 3072."""
        job = real(make_manifest(["a"]), 1328, steps=4).pictures[0].job.model_copy(update={"loras": (RIDES,)})
        found = riding.riding([job], catalog.QWEN_IMAGE)
        assert 0.002 < found.step_seconds(job, RATES) < 0.05
        assert found.seconds([job, job], RATES) == pytest.approx(8 * found.step_seconds(job, RATES))
        assert found.seconds([job.model_copy(update={"loras": ()})], RATES) == 0

    @pytest.mark.parametrize(
        ("side", "guidance", "measured_s"), [(1328, 4.0, 0.0562), (1024, 4.0, 0.0409), (512, 1.0, 0.00528)]
    )
    def test_as_on_an_h100(self, side: int, guidance: float, measured_s: float) -> None:
        """What it added to a picture's step in `tests/benchmarks/loras-h100.jsonl`, at that card's measured rates."""
        known = Rates.model_validate(json.loads((BENCHMARKS / "engine-h100.json").read_text(encoding="utf-8"))["rates"])
        size = {"width": side, "height": side, "cfg_scale": guidance, "loras": (RIDES,), "model": "Qwen/Qwen-Image"}
        job = make_job().model_copy(update=size)
        assert riding.riding([job], catalog.QWEN_IMAGE).step_seconds(job, known) == pytest.approx(measured_s, rel=0.15)

    def test_the_disk_takes_the_file_and_what_is_made_of_it(self, tmp_path: Path) -> None:
        manifest = with_loras(make_manifest(["a"]), (RIDES,))
        model = real(manifest, 1024)
        terms = Assumptions(HERE, rates=RATES)
        bare = real(make_manifest(["a"]), 1024)
        one, other = (forecast.forecast([make_plan(each, tmp_path)], terms, NOW).disk for each in (model, bare))
        assert one.download_bytes - other.download_bytes == 849_608_296
        assert one.store_bytes - other.store_bytes == weigh(FOUR, catalog.QWEN_IMAGE).ready_bytes

    def test_what_is_said(self, tmp_path: Path) -> None:
        """How many, how large, and under which licences all of it is."""
        manifest = with_loras(real(make_manifest(["a"]), 1024), (RIDES,))
        group = group_of(manifest, tmp_path, Assumptions(HERE, rates=RATES, ready=True))
        assert (group.loras, group.licences) == (1, {"Qwen/Qwen-Image": "Apache-2.0", "4steps-V2.0": "Apache-2.0"})
        fused = catalog.find(f"Qwen/Qwen-Image+lora={FOUR}:0.5")
        assert riding.licences(fused, []) == {fused.id: "Apache-2.0", FOUR: "Apache-2.0"}
        said = list(plan_cli._group_lines(group))
        assert "  LoRAs  1, of 0.8 GB" in said
        assert "  under  Apache-2.0 (Qwen/Qwen-Image, 4steps-V2.0)" in said

    @pytest.mark.parametrize("gib", [3.5, 4.0, 6.0])
    def test_the_engine_decides_alike(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
        """Beside several large ones too: slots are those of the plan, and fewer than without them."""
        ten = tuple(Lora(source=FOUR, identity=f"{FOUR} {number}") for number in range(10))
        manifest = with_loras(real(make_manifest(["a"]), 1024, steps=4), ten)
        terms = Assumptions(HERE, rates=RATES, ready=True, vram_bytes=round(gib * 2**30))
        planned = group_of(manifest, tmp_path, terms)
        setup = placement.setup_for([each.job for each in manifest.pictures], HERE, None, terms.vram_bytes)
        assert setup.extra_bytes == 20 * weigh(FOUR, catalog.QWEN_IMAGE).block_bytes
        monkeypatch.setattr(budget, "_available", lambda *_: planned.available_bytes)
        shape = catalog.QWEN_IMAGE_ARCHITECTURE
        assert Budget(shape, setup, "cpu", known=RATES).slots == planned.slots
        bare = setup.model_copy(update={"extra_bytes": 0})
        assert Budget(shape, bare, "cpu", known=RATES).slots > (planned.slots or 0) or planned.slots == 2

    def test_one_that_cannot_be_had_fails_its_pictures_alone(self, tmp_path: Path) -> None:
        """The others of its model are foretold, with what is fetched for them; what is wrong with it is said."""
        damaged = tmp_path / "ink.safetensors"
        ink = lora(write_lora(damaged, factors()))
        damaged.write_bytes(b"no tensors")
        manifest = with_loras(real(make_manifest(["a", "b", "c"]), *[1024] * 3), (ink,), (RIDES,), ())
        terms = Assumptions(HERE, rates=RATES)
        found = forecast.forecast([make_plan(manifest, tmp_path)], terms, NOW)
        without = real(make_manifest(["b", "c"]), *[1024] * 2)
        two = forecast.forecast([make_plan(with_loras(without, (RIDES,), ()), tmp_path)], terms, NOW)
        assert [(group.pictures, group.loras) for group in found.groups] == [(2, 1)]
        assert found.seconds == two.seconds
        assert found.disk.download_bytes == two.disk.download_bytes > 10**10
        (told,) = found.troubles
        assert "ink.safetensors" in told
