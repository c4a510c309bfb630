"""Pictures that are taken apart: the bits of DiffSynth's own call, alone and in company, and through few slots."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffsynth.models.qwen_image_dit import QwenEmbedLayer3DRope
from PIL import Image, ImageDraw

from renderer import catalog
from renderer.engine import inputs, prompts
from renderer.engine.calling import Rendering
from renderer.engine.inputs import Inputs
from renderer.engine.native import NativeEngine
from renderer.engine.streaming import StreamingEngine
from renderer.families.qwen_image import networks
from renderer.job import Job, Precision
from renderer.job.precisions import stored
from renderer.protocol import Render, Setup
from renderer.weights import pack
from renderer.weights.identity import identify
from tests.engine.layered import bare_layered_pipeline, make_layered_model
from tests.engine.making import make_job
from tests.engine.test_inputs import known
from tests.engine.test_streaming import Heard

WIDTH, HEIGHT = 96, 64


def seen_through() -> Image.Image:
    """A picture of which a part is transparent, half as large again as what is asked for."""
    image = Image.new("RGBA", (WIDTH * 3 // 2, HEIGHT * 3 // 2), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse([10, 10, 70, 70], fill=(255, 160, 0, 200))
    return image


KNOWN = known(seen_through(), "layers")
Layers = tuple[bytes, ...]


@pytest.fixture(scope="module")
def folder(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_layered_model(demo_folder, tmp_path_factory.mktemp("layered") / "model")


def jobs(folder: Path, precision: Precision = "bf16") -> list[Job]:
    """Of three layers and of one, guided and not; and one that takes a layer out alone."""
    small = {"model": folder, "precision": precision, "width": WIDTH, "height": HEIGHT, "num_inference_steps": 2}
    return [
        make_job(**small, layer_input_image=KNOWN[0], layer_num=3),
        make_job(**small, layer_input_image=KNOWN[0], layer_num=1, cfg_scale=1.0),
        make_job(**small, layer_input_image=KNOWN[0], layer_num=0, cfg_scale=1.0, seed=3),
    ]


def given(job: Job) -> Inputs:
    return inputs.unpack(Render(key="k", job=job, files=(len(KNOWN[1]),)), KNOWN[1])


@pytest.fixture(scope="module")
def bare(demo_folder: Path, folder: Path) -> list[Layers]:
    """The pictures of each by a bare call of DiffSynth's, the whole first."""
    pipe = bare_layered_pipeline(demo_folder, folder)
    theirs = seen_through().resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    found = []
    for job in jobs(folder):
        images = pipe(
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            cfg_scale=job.cfg_scale,
            height=HEIGHT,
            width=WIDTH,
            seed=job.seed,
            num_inference_steps=2,
            layer_input_image=theirs,
            layer_num=job.layer_num,
            progress_bar_cmd=lambda timesteps: timesteps,
        )
        found.append(tuple(image.tobytes() for image in images))
    return found


def on_white(rgba: bytes) -> bytes:
    image = Image.frombytes("RGBA", (WIDTH, HEIGHT), rgba)
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").tobytes()


def check(found: list[Rendering], bare: list[Layers]) -> None:
    assert [each.layers for each in found] == [bare[0][1:], bare[1][1:], bare[2]]
    assert [each.rgb for each in found] == [on_white(each[0]) for each in bare]


def test_natively(folder: Path, bare: list[Layers]) -> None:
    engine = NativeEngine.open(Setup(model=str(folder), precision="bf16", profile="cpu", offline=True), lambda _: None)
    check([engine.render(job, lambda *_: None, given(job)) for job in jobs(folder)], bare)
    assert len({each for images in bare for each in images}) == 4 + 2 + 1


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prompts, "cache_folder", lambda: tmp_path)


def rendered(folder: Path, stores: Path, jobs: list[Job], slots: int, in_flight: int) -> list[Rendering]:
    model, precision = catalog.find(str(folder)), jobs[0].precision
    store = stores / precision
    if not store.exists():
        files = {part.role: sorted(folder.glob(part.files)) for part in catalog.NETWORK_FILES}
        pack.pack(files, folder / "tokenizer", store, stored(precision), identify(model))
    choices = {"slots": slots, "in_flight": in_flight}
    setup = Setup(model=str(folder), precision=precision, profile="stream", store=str(store), **choices)
    engine, heard = StreamingEngine.open(setup, lambda _: None), Heard()
    for number, job in enumerate(jobs):
        engine.take(str(number), job, given(job), previews=number)
    while engine.busy:
        engine.advance(heard)
    assert heard.failures == {}
    return [heard.pictures[str(number)] for number in range(len(jobs))]


@pytest.mark.usefixtures("_nothing_remembered")
@pytest.mark.parametrize(("slots", "in_flight"), [(2, 1), (3, 3)])
def test_streamed(folder: Path, stores: Path, bare: list[Layers], slots: int, in_flight: int) -> None:
    """In any company, and with somebody watching: the bits that each has alone."""
    check(rendered(folder, stores, jobs(folder), slots, in_flight), bare)


@pytest.mark.usefixtures("_nothing_remembered")
def test_scaled_weights_do_not_depend_on_company(folder: Path, stores: Path) -> None:
    wanted = jobs(folder, "fp8")[:2]
    alone = [each.layers for each in rendered(folder, stores, wanted, 60, 1)]
    assert [each.layers for each in rendered(folder, stores, wanted, 2, 2)] == alone


def test_sizes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """DiffSynth keeps the rotary frequencies of every size it has met, for good; a batch of many sizes does not."""
    monkeypatch.setattr(networks, "MOST_SIZES", 2)
    places = QwenEmbedLayer3DRope(theta=10000, axes_dim=[8, 12, 12], scale_rope=True)
    for side in range(2, 8):
        places([(1, side, side), (1, side, side)], [3], torch.device("cpu"))
        networks._tidy_places(places)
        kept = QwenEmbedLayer3DRope._compute_video_freqs, QwenEmbedLayer3DRope._compute_condition_freqs
        assert all(each.cache_info().currsize <= 2 for each in kept)
