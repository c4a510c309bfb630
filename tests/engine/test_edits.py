"""Edits: the bits of DiffSynth's own call, alone and in company, through few slots; what it is told of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffsynth.pipelines.qwen_image import QwenImageUnit_EditImageEmbedder, QwenImageUnit_PromptEmbedder
from PIL import Image
from transformers import Qwen2VLProcessor

from renderer import catalog
from renderer.demo import looks, tokenizer
from renderer.engine import calling, inputs, prompts
from renderer.engine.encoding import AskedPrompt
from renderer.engine.inputs import Inputs
from renderer.engine.native import NativeEngine
from renderer.engine.streaming import StreamingEngine
from renderer.errors import ModelError, PictureError
from renderer.estimate.looking import looked_tokens, told_tokens
from renderer.estimate.work import BEHIND
from renderer.families.qwen_image import networks
from renderer.job import Edit, Job, Lora, Precision
from renderer.job.precisions import stored
from renderer.protocol import Render, Setup
from renderer.weights import pack
from renderer.weights.adapters.whereabouts import identity_of
from renderer.weights.identity import identify
from renderer.weights.store import open_store
from tests import loras
from tests.engine.edits import make_edit_model
from tests.engine.making import bare_picture, bare_pipeline, flattened, make_job
from tests.engine.test_damage import flipped
from tests.engine.test_inputs import drawn, known, masked
from tests.engine.test_streaming import Heard

SIDE = 64
ONE, OTHER = drawn(), Image.linear_gradient("L").resize((96, 48)).convert("RGB")
KNOWN, ANOTHER, MASK = known(ONE), known(OTHER), known(masked(), "mask")


@pytest.fixture(scope="module")
def folder(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small edit model of the newest kind."""
    return make_edit_model(demo_folder, tmp_path_factory.mktemp("edits") / "model", zero_cond_t=True)


def edit_of(*images: Any, numbered: bool = True, zero_cond_t: bool = True) -> Edit:
    """Of pictures that go in at 64x64 pixels or so: 1024x1024 would take minutes here."""
    return Edit(images=images, pixels=SIDE**2, numbered=numbered, zero_cond_t=zero_cond_t)


def jobs(folder: Path, precision: Precision = "bf16") -> list[Job]:
    """Of one picture and of two, guided and not, within a mask, as the older models take pictures; one from text."""
    small = {"model": folder, "precision": precision, "width": SIDE, "height": SIDE, "num_inference_steps": 2}
    one, other = KNOWN[0], ANOTHER[0]
    return [
        make_job(**small, edit=edit_of(one, other)),
        make_job(**small, edit=edit_of(other), cfg_scale=1.0, seed=3),
        make_job(**small, edit=edit_of(one), cfg_scale=1.0, input_image=one, inpaint_mask=MASK[0]),
        make_job(**small, edit=edit_of(one, zero_cond_t=False), cfg_scale=1.0),
        make_job(**small, edit=edit_of(one, numbered=False, zero_cond_t=False), cfg_scale=1.0),
        make_job(**small, seed=5),
    ]


def order(job: Job) -> tuple[Render, bytes]:
    """What a worker is sent."""
    by_pixels = dict((KNOWN, ANOTHER, MASK))
    data = [by_pixels[each] for each in job.inputs]
    return Render(key="k", job=job, files=tuple(map(len, data))), b"".join(data)


def given(job: Job) -> Inputs:
    return inputs.unpack(*order(job))


def bare_inputs(job: Job) -> dict[str, Any]:
    """What DiffSynth's call is given for a job by somebody who knows nothing of ours."""
    if job.edit is None:
        return {}
    originals = {KNOWN[0]: ONE, ANOTHER[0]: OTHER}
    sizes = {ONE.size: (64, 64), OTHER.size: (96, 32)}  # 64x64 pixels in their shape, of multiples of 32
    images = [originals[each].resize(sizes[originals[each].size]) for each in job.edit.images]
    found: dict[str, Any] = {"edit_image": images if job.edit.numbered else images[0], "edit_image_auto_resize": False}
    if job.edit.zero_cond_t:
        found["zero_cond_t"] = True
    if job.input_image:
        found |= {"input_image": ONE, "inpaint_mask": masked()}
    return found


def told(_encoder: Any, arguments: Any, named: dict[str, Any]) -> Any:
    """What transformers 4 found out by itself, and DiffSynth does not tell transformers 5."""
    if named.get("pixel_values") is not None:
        named["mm_token_type_ids"] = (named["input_ids"] == 501).int()
    return arguments, named


@pytest.fixture(scope="module")
def bare(folder: Path) -> list[bytes]:
    """Each by a bare call of DiffSynth's."""
    pipe = flattened(bare_pipeline(folder))
    pipe.processor = Qwen2VLProcessor.from_pretrained(str(folder / "processor"))
    pipe.text_encoder.register_forward_pre_hook(told, with_kwargs=True)
    return [bare_picture(pipe, job, **bare_inputs(job)) for job in jobs(folder)]


@pytest.fixture(scope="module")
def native(folder: Path) -> NativeEngine:
    setup = Setup(model=str(folder), precision="bf16", profile="cpu", offline=True)
    return NativeEngine.open(setup, lambda _: None)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


def packed(folder: Path, stores: Path, precision: Precision, **choices: Any) -> StreamingEngine:
    """The streaming engine on the model's packed store, which is made once."""
    model, store = catalog.find(str(folder)), stores / precision
    if not store.exists():
        files = {part.role: sorted(folder.glob(part.files)) for part in catalog.NETWORK_FILES}
        form = stored(precision)
        pack.pack(files, folder / "tokenizer", store, form, identify(model), processor=folder / "processor")
    setup = Setup(model=str(folder), precision=precision, profile="stream", store=str(store), **choices)
    return StreamingEngine.open(setup, lambda _: None)


def rendered(engine: StreamingEngine, jobs: list[Job]) -> list[bytes]:
    heard = Heard()
    for number, job in enumerate(jobs):
        engine.take(str(number), job, given(job))
    while engine.busy:
        engine.advance(heard)
    assert heard.failures == {}
    return [heard.pictures[str(number)].rgb for number in range(len(jobs))]


@pytest.fixture
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prompts, "cache_folder", lambda: tmp_path)


def test_natively(native: NativeEngine, folder: Path, bare: list[bytes]) -> None:
    assert [native.render(job, lambda *_: None, given(job)).rgb for job in jobs(folder)] == bare
    assert len(set(bare)) == len(bare)


@pytest.mark.usefixtures("_nothing_remembered")
@pytest.mark.parametrize(("slots", "in_flight"), [(2, 1), (3, 6)])
def test_streamed(folder: Path, stores: Path, bare: list[bytes], slots: int, in_flight: int) -> None:
    """In any company: the bits that each has alone."""
    assert rendered(packed(folder, stores, "bf16", slots=slots, in_flight=in_flight), jobs(folder)) == bare


@pytest.mark.usefixtures("_nothing_remembered")
@pytest.mark.parametrize("precision", ["fp8", "int8"])
def test_scaled_weights_do_not_depend_on_company(folder: Path, stores: Path, precision: Precision) -> None:
    wanted = jobs(folder, precision)[:3]
    alone = [rendered(packed(folder, stores, precision, slots=60, in_flight=1), [job])[0] for job in wanted]
    assert rendered(packed(folder, stores, precision, slots=2, in_flight=3), wanted) == alone


def test_what_fits_is_what_diffsynth_would_make_of_the_original() -> None:
    """A worker holds it at the size in which it goes in, and DiffSynth need not touch it again."""
    edit = Edit(images=(ANOTHER[0],), pixels=1024 * 1024)
    (held,) = inputs.edited(edit, given(make_job(edit=edit)))
    theirs = QwenImageUnit_EditImageEmbedder().edit_image_auto_resize(OTHER)
    assert held.size == theirs.size == (1440, 736)
    assert held.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("images", [(KNOWN[0],), (ANOTHER[0], KNOWN[0])])
@pytest.mark.parametrize("numbered", [True, False])
def test_tokens_are_as_many_as_are_forecast(native: NativeEngine, images: Any, *, numbered: bool) -> None:
    """The pictures' own to the last one, as their processor makes them; and about as many around them."""
    edit = edit_of(*images[: 2 if numbered else 1], numbered=numbered)
    asked = AskedPrompt("make it red", edit)
    seen: list[int] = []
    native._pipe.text_encoder.register_forward_pre_hook(
        lambda _, __, named: seen.append(int((named["input_ids"] == 501).sum())), with_kwargs=True
    )
    found = networks.encode(native._pipe, asked, given(make_job(edit=edit)))
    assert seen[-1] == looked_tokens(edit)
    words = len(native._pipe.tokenizer(asked.text).input_ids)
    spelt = 8 * len(edit.images)  # a small tokenizer spells "Picture", which is one of Qwen's tokens
    assert words + seen[-1] < found.embedding.shape[1] <= words + BEHIND + told_tokens(edit) + spelt


@pytest.mark.usefixtures("_nothing_remembered")
def test_prompts_are_remembered_by_their_pictures(folder: Path, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words about another picture are another prompt; about the same one, also in another job, the same."""
    asked: list[str] = []
    process = QwenImageUnit_PromptEmbedder.process

    def counted(self: Any, pipe: Any, prompt: str, edit_image: Any = None) -> Any:
        asked.append(prompt)
        return process(self, pipe, prompt, edit_image)

    monkeypatch.setattr(QwenImageUnit_PromptEmbedder, "process", counted)
    small = {"model": folder, "width": SIDE, "height": SIDE, "cfg_scale": 1.0, "prompt": "make it red"}
    of_one, of_other = (edit_of(each) for each in (KNOWN[0], ANOTHER[0]))
    jobs = [make_job(**small, edit=edit, seed=seed) for edit in (of_one, of_other) for seed in (1, 2)]
    first = rendered(packed(folder, stores, "bf16"), jobs)
    assert len(asked) == 2
    assert rendered(packed(folder, stores, "bf16"), jobs) == first
    assert len(asked) == 2
    assert len(set(first)) == 4


def test_places_of_patches_are_told(native: NativeEngine, folder: Path) -> None:
    """From transformers 5 on the text encoder numbers patches like words, unless it is told which tokens they are."""
    asked, pictures = AskedPrompt("make it red", edit_of(KNOWN[0])), given(jobs(folder)[3])
    encoder, hooks = native._pipe.text_encoder, dict(native._pipe.text_encoder._forward_pre_hooks)
    right = networks.encode(native._pipe, asked, pictures).embedding
    encoder._forward_pre_hooks.clear()
    try:
        wrong = networks.encode(native._pipe, asked, pictures).embedding
    finally:
        encoder._forward_pre_hooks.update(hooks)
    assert right.shape == wrong.shape
    assert not torch.equal(right, wrong)


def test_a_processor_that_is_none(tmp_path: Path) -> None:
    """It is refused by its folder: one that is damaged, and one that cuts the template otherwise."""
    broken = tmp_path / "processor"
    looks.write(broken)
    (broken / "preprocessor_config.json").write_text("{")
    with pytest.raises(ModelError, match="prepares no pictures"):
        networks.open_processor(broken)
    looks.write(broken)
    tokenizer.write(broken)  # of text to picture, which knows no words of edits
    with pytest.raises(ModelError, match="the template of edits takes"):
        networks.open_processor(broken)


def test_a_damaged_vision_tower_is_not_looked_with(folder: Path, stores: Path) -> None:
    """What is around its blocks is mapped as it is needed, and held against its sums where the model is opened."""
    packed(folder, stores, "bf16")
    file = open_store(stores / "bf16").vision()
    place = next(each for each in file.tensors if each.name.startswith("visual.merger"))
    with (
        flipped(file.path, file.data_offset + place.offset),
        pytest.raises(ModelError, match=str(file.path)),
    ):
        packed(folder, stores, "bf16")


def test_a_job_of_another_model_is_refused(native: NativeEngine, folder: Path) -> None:
    """Nobody is handed a picture of something else: no layers by a model that makes none, no edits by any other."""
    layers = make_job(model=folder, width=SIDE, height=SIDE, layer_input_image=KNOWN[0], layer_num=2)
    with pytest.raises(PictureError, match="makes no layers"):
        native.render(layers, lambda *_: None, {})
    setup = Setup(model="demo", precision="bf16", profile="cpu")
    with pytest.raises(PictureError, match="edits no pictures"):
        calling.refuse(make_job(edit=edit_of(KNOWN[0])), setup, catalog.DEMO)


@pytest.mark.usefixtures("_nothing_remembered")
def test_with_a_lora(
    native: NativeEngine, folder: Path, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on modulations too, which a picture and what it edits have apart: streamed as DiffSynth loads it hot."""
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
    path = loras.write_lora(tmp_path / "style.safetensors", loras.factors(seed=4))
    lora = Lora(source=str(path), identity=identity_of(path), weight=0.7)
    bare = jobs(folder)[0]
    one = bare.model_copy(update={"loras": (lora,)})
    expected = native.render(one, lambda *_: None, given(one)).rgb
    found = rendered(packed(folder, stores, "bf16", slots=2, in_flight=2), [one, bare])
    assert found[0] == expected
    assert found[1] != expected
