"""The native engine from a packed store: the same bits as from the originals, and refused when anything is spoilt."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from diffsynth.core.quant import check_backend_contract
from diffsynth.pipelines.qwen_image import QwenImagePipeline

from renderer import catalog
from renderer.demo import members
from renderer.engine import coded, configs, resolve, stores, tensor_map
from renderer.engine.native import NativeEngine
from renderer.engine.pipeline import open_pipeline
from renderer.engine.streaming import StreamingEngine
from renderer.engine.tensor_map import TensorMap
from renderer.errors import ModelError
from renderer.families import QWEN_IMAGE_FAMILY
from renderer.job import Job, ModelIdentity, Profile, Stored
from renderer.protocol import Setup
from renderer.weights import pack, prepare
from renderer.weights.codecs import CODECS, Codec
from renderer.weights.store import open_store
from renderer.weights.unpacked import unpacked
from tests.engine.conftest import OpenAt, no_report
from tests.engine.making import (
    DIT,
    ON_CPU,
    bare_picture,
    bare_pipeline,
    cast,
    flattened,
    make_job,
    make_setup,
    without_vision,
)
from tests.engine.test_streaming import Heard
from tests.weights.tiny import restored


def store_of(precision: Stored) -> Path:
    """The demo model's packed store."""
    return stores.find(Setup(model="demo", precision=precision, profile="stream"), no_report).folder


def from_store(profile: Profile, precision: Stored, folder: Path | None = None) -> Setup:
    """A setup that names a store."""
    return make_setup(profile=profile, precision=precision).model_copy(
        update={"store": str(folder or store_of(precision))}
    )


def unpacked_demo(demo_folder: Path, precision: Stored) -> tensor_map.OpenWeights:
    originals = {part.role: sorted(demo_folder.glob(part.files)) for part in catalog.NETWORK_FILES}
    return unpacked(originals, demo_folder / "tokenizer", precision)


class TestBits:
    @pytest.mark.parametrize(("profile", "precision"), ON_CPU)
    def test_the_store_s_are_the_checkpoint_s(self, open_at: OpenAt, profile: Profile, precision: Stored) -> None:
        """By each profile and precision a picture from the store has the bits of one from the original files."""
        opened = open_pipeline(from_store(profile, precision), no_report)
        assert bare_picture(opened.pipe, make_job()) == bare_picture(open_at(profile, precision).pipe, make_job())

    def test_fp8_is_what_is_streamed(self) -> None:
        """Where streaming scales FP8 weights back to bf16, the native engine draws the same picture, bit for bit."""
        job = make_job(precision="fp8")
        native = NativeEngine.open(from_store("cpu", "fp8"), no_report).render(job, lambda *_: None)
        assert streamed(from_store("stream", "fp8"), job) == native.rgb

    def test_a_second_picture(self) -> None:
        """From disk at FP8, layers that came and went hold the same weights when they come again."""
        engine = NativeEngine.open(from_store("disk", "fp8"), no_report)
        job: Job = make_job(precision="fp8")
        assert engine.render(job, lambda *_: None).rgb == engine.render(job, lambda *_: None).rgb

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_every_tensor(self, demo_folder: Path, precision: Stored) -> None:
        """A checkpoint reads like its store: the same files, tensors and bits, whole and one by one."""
        store, made = open_store(store_of(precision)), unpacked_demo(demo_folder, precision)
        for network in get_args(catalog.Role):
            one, other = (
                TensorMap(QWEN_IMAGE_FAMILY.network(network), [file for file in each.files if file.network == network])
                for each in (store, made)
            )
            there, here = one.read("cpu"), other.read("cpu")
            assert there.keys() == here.keys() == set(one) == set(other)
            for name, tensor in there.items():
                for found in (here[name], one[name], other[name]):
                    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
                    assert torch.equal(found.view(torch.uint8), tensor.view(torch.uint8)), name

    @pytest.mark.parametrize("staging", [1000, 4096, 2**25])
    def test_piece_by_piece(self, demo_folder: Path, staging: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Through a small buffer, as to a GPU, the same bytes arrive, from a store and from a checkpoint."""
        monkeypatch.setattr(tensor_map, "STAGING_BYTES", staging)
        for weights in (open_store(store_of("fp8")), unpacked_demo(demo_folder, "fp8")):
            for file in weights.files[:8]:
                whole, pieces = (torch.empty(file.bytes, dtype=torch.uint8) for _ in range(2))
                file.read_into(whole)
                tensor_map.DeviceReader("cpu").read_through(file, pieces)
                assert torch.equal(whole, pieces)


class TestBuilding:
    @pytest.mark.parametrize("setup", [make_setup(), make_setup(profile="disk"), make_setup(precision="fp8"), None])
    def test_what_is_not_needed_is_not_there(self, demo_folder: Path, setup: Setup | None) -> None:
        """The text encoder's output layer and, for a model that edits nothing, its vision tower take no memory."""
        assert demo_folder
        pipe = open_pipeline(setup or from_store("cpu", "bf16"), no_report).pipe
        assert pipe.text_encoder.lm_head is None
        assert pipe.text_encoder.model.visual is None
        assert (setup and setup.profile == "disk") or not any(each.is_meta for each in pipe.state_dict().values())

    @pytest.mark.parametrize("profile", ["cpu", "disk"])
    def test_coded_layers_never_lose_their_scales(self, profile: Profile) -> None:
        """DiffSynth's moves and casts leave a layer's FP8 weight and scales as they are in the store."""
        pipe = open_pipeline(from_store(profile, "fp8"), no_report).pipe
        there = open_store(store_of("fp8")).blocks("transformer")[0].tensors_of(["attn.to_q.weight", "attn.to_q.scale"])
        for _ in range(2):
            pipe.load_models_to_device(["dit"])
            layer = pipe.dit.transformer_blocks[0].attn.to_q
            layer.to(dtype=torch.float32)
            assert (layer.weight.dtype, layer.scale.dtype) == (torch.float8_e4m3fn, torch.float32)
            assert torch.equal(layer.weight.view(torch.uint8), there["attn.to_q.weight"].view(torch.uint8))
            assert torch.equal(layer.scale, there["attn.to_q.scale"])
            pipe.load_models_to_device([])

    @pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
    def test_coded_layers_are_what_diffsynth_asks_for(self, codec: Codec) -> None:
        """Its own check of what a layer that is quantised must be."""
        assert check_backend_contract(coded.CodedLayers(codec), compute_device="cpu")

    def test_a_layer_that_is_copied_to_be_moved_stays(self) -> None:
        """DiffSynth copies a layer that waits and moves the copy: no weight is copied where it waits."""
        layer = coded.CodedLinear(torch.nn.Linear(4, 4), CODECS["fp8"])
        layer.load_state_dict({name: torch.ones(each.shape) for name, each in layer.state_dict().items()}, assign=True)
        twin = copy.deepcopy(layer)
        assert twin.weight is layer.weight
        twin.to("meta")
        assert (twin.weight.device.type, layer.weight.device.type) == ("meta", "cpu")

    def test_an_editing_model_keeps_its_vision_tower(self, demo_folder: Path, tmp_path: Path) -> None:
        """With what prepares pictures comes the tower that looks at them."""
        (tmp_path / "processor").mkdir()
        (tmp_path / "processor/preprocessor_config.json").write_text("{}")
        originals = {part.role: sorted(demo_folder.glob(part.files)) for part in catalog.NETWORK_FILES}
        identity, target = ModelIdentity(id="demo", revision="2"), tmp_path / "packed"
        pack.pack(originals, demo_folder / "tokenizer", target, "bf16", identity, processor=tmp_path / "processor")
        members.register()
        config = configs.config(open_store(target), "text_encoder", None, "cpu", tmp_path)
        pool = QwenImagePipeline(device="cpu").download_and_load_models([config])
        encoder = pool.fetch_model("qwen_image_text_encoder")
        there = open_store(target).vision().tensors_of(["visual.merger.ln_q.weight"])["visual.merger.ln_q.weight"]
        assert torch.equal(encoder.model.visual.merger.ln_q.weight, there)


class TestWhichWeights:
    @pytest.fixture
    def own(self, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """A model of one's own, packed at fp8 into a models folder, whose originals cannot be opened any more."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        model = shutil.copytree(demo_folder, tmp_path / "own")
        prepare.prepare(catalog.find(str(model)), store="fp8", offline=True)
        return str(model)

    def test_a_store_that_is_here_is_preferred(self, own: str) -> None:
        """Without being told of it, the engine opens the store of the job's precision; of another, the originals."""
        found = {
            precision: resolve.weights_of(make_setup(own, precision=precision), catalog.find(own), no_report)
            for precision in ("bf16", "fp8")
        }
        assert type(found["fp8"]).__name__ == "Store"
        assert type(found["bf16"]).__name__ == "Unpacked"


class TestForeignTypes:
    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
    def test_streamed_like_diffsynth_s(
        self, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
    ) -> None:
        """A transformer in a type that DiffSynth casts is packed, and streamed with the bits of its bare call."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        cast(copied / DIT, dtype)
        bare = flattened(bare_pipeline(copied))
        store = prepare.prepare(catalog.find(str(copied)), store="bf16", offline=True).store
        job = make_job(model=copied)
        assert streamed(make_setup(copied, "stream").model_copy(update={"store": str(store)}), job) == bare_picture(
            bare, job
        )

    def test_e4m3_is_taken_over(self, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """At fp8 a file in e4m3 is not quantised again: natively and streamed, its own values are multiplied."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        cast(copied / DIT, torch.float8_e4m3fn)
        job = make_job(model=copied, precision="fp8")
        native = NativeEngine.open(make_setup(copied, precision="fp8"), no_report).render(job, lambda *_: None)
        store = prepare.prepare(catalog.find(str(copied)), store="fp8", offline=True).store
        setup = make_setup(copied, "stream", "fp8").model_copy(update={"store": str(store)})
        assert streamed(setup, job) == native.rgb


class TestWithoutVisionTower:
    """A text encoder without what only edits look with."""

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_draws_what_the_whole_one_does(
        self, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_at: OpenAt, precision: Stored
    ) -> None:
        """Natively from its own files, packed and streamed, and natively from the store."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        blind, job = make_setup(without_vision(copied), precision=precision), make_job(precision=precision)
        mine = job.model_copy(update={"model": str(copied)})
        whole = bare_picture(open_at("cpu", precision).pipe, job)
        assert bare_picture(open_pipeline(blind, no_report).pipe, mine) == whole
        store = str(prepare.prepare(catalog.find(str(copied)), store=precision, offline=True).store)
        packed = blind.model_copy(update={"store": store})
        assert bare_picture(open_pipeline(packed, no_report).pipe, mine) == whole
        assert streamed(packed.model_copy(update={"profile": "stream"}), mine) == whole


def streamed(setup: Setup, job: Job) -> bytes:
    """A picture by the streaming engine."""
    engine, heard = StreamingEngine.open(setup, no_report), Heard()
    engine.take("it", job)
    while engine.busy:
        engine.advance(heard)
    return heard.pictures["it"].rgb


def cut(path: Path, numbers: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: -numbers.randrange(1, path.stat().st_size)])


def flip(path: Path, numbers: random.Random) -> None:
    """A bit of the header, or of the index."""
    data = bytearray(path.read_bytes())
    data[numbers.randrange(min(len(data), 300))] ^= 1 << numbers.randrange(8)
    path.write_bytes(data)


def lose(path: Path, _numbers: random.Random) -> None:
    path.unlink()


def swap(path: Path, _numbers: random.Random) -> None:
    """With the next file of its folder, each under the other's name."""
    other = next(each for each in sorted(path.parent.glob("*.safetensors")) if each != path)
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


class TestSpoiltStores:
    @pytest.fixture(scope="class")
    def spoilt(self, demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A store that is spoilt, and put right again."""
        assert demo_folder
        return shutil.copytree(store_of("fp8"), tmp_path_factory.mktemp("spoilt") / "fp8")

    @pytest.mark.parametrize("mutate", [cut, flip, lose, swap])
    @pytest.mark.parametrize("profile", ["cpu", "disk", "stream"])
    def test_refused_by_name(
        self,
        spoilt: Path,
        profile: Profile,
        mutate: Callable[[Path, random.Random], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A cut, altered, lost or swapped file is named, whatever it is of, before a network is made."""
        monkeypatch.setattr("renderer.families.qwen_image.networks.empty", None)  # nobody gets so far
        monkeypatch.setattr("gc.collect", lambda: 0)  # a hundred times, of nothing
        numbers = random.Random(3)  # noqa: S311  # the same mutations every time
        paths = sorted(path for path in spoilt.rglob("*") if path.suffix == ".safetensors")
        paths = paths if mutate is swap else [*paths, spoilt / "index.json"]
        opener = StreamingEngine.open if profile == "stream" else NativeEngine.open
        for path in (path for path in paths if mutate is not swap or path.parent != spoilt):
            with restored(spoilt):
                mutate(path, numbers)
                with pytest.raises(ModelError) as caught:
                    opener(from_store(profile, "fp8", spoilt), no_report)
                named = path.parent if mutate is swap else path  # either of the two
                assert str(named) in caught.value.message, caught.value.message

    def test_another_precision(self) -> None:
        """A store of another precision than the job's is refused."""
        with pytest.raises(ModelError, match="holds fp8 weights, and the job asks for bf16"):
            open_pipeline(from_store("cpu", "bf16", store_of("fp8")), no_report)

    def test_cut_after_it_was_opened(self, spoilt: Path) -> None:
        """A file that is cut between its opening and its reading is named as well."""
        with restored(spoilt):
            store = open_store(spoilt)
            path = store.blocks("transformer")[2].path
            path.write_bytes(path.read_bytes()[:-100])
            with pytest.raises(ModelError, match=r"block-002\.safetensors: ends too early"):
                TensorMap(QWEN_IMAGE_FAMILY.network("transformer"), store.blocks("transformer")).read("cpu")
