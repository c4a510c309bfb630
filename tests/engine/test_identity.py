"""What is opened is what was asked for: model, revision, content and tokenizer, by both engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from safetensors.torch import load_file, save_file

from renderer import catalog
from renderer.benchmarks import running, streamed
from renderer.engine import resolve, stores
from renderer.engine.pipeline import open_pipeline
from renderer.engine.streaming import StreamingEngine
from renderer.errors import ModelError
from renderer.job import ModelIdentity, Profile
from renderer.protocol import Setup
from renderer.weights import pack, places, prepare
from renderer.weights.identity import identify
from renderer.weights.index import read_index
from tests.engine.conftest import no_report
from tests.engine.making import DIT, make_setup

QWEN = catalog.QWEN_IMAGE
DEMO = ModelIdentity(id=catalog.DEMO.id, revision=catalog.DEMO.revision)
Opener = Callable[[Setup], object]


def packed(source: Path, target: Path, identity: ModelIdentity = DEMO) -> Path:
    """A store of a folder in Qwen-Image's layout, which says that it is of `identity`."""
    originals = {part.role: sorted(source.glob(part.files)) for part in catalog.NETWORK_FILES}
    pack.pack(originals, source / "tokenizer", target, "bf16", identity, device="cpu")
    return target


def opened(folder: Path, profile: Profile, identity: ModelIdentity | None = None) -> object:
    setup = Setup(model="demo", identity=identity, precision="bf16", profile=profile, store=str(folder))
    return StreamingEngine.open(setup, no_report) if profile == "stream" else open_pipeline(setup, no_report)


@pytest.mark.parametrize("profile", ["stream", "cpu"])
class TestStores:
    def test_another_model_s(self, demo_folder: Path, tmp_path: Path, profile: Profile) -> None:
        """A store that was made of another model is refused with both names, and what makes the right one."""
        folder = packed(demo_folder, tmp_path / "store", ModelIdentity(id="somebody/else", revision="other"))
        with pytest.raises(ModelError, match=rf"is a store of somebody/else@other, and {DEMO} is asked for") as caught:
            opened(folder, profile)
        assert caught.value.hint == "renderer models pack demo"

    def test_another_revision_s(self, demo_folder: Path, tmp_path: Path, profile: Profile) -> None:
        """So is one of another revision; whoever asks for that one has it."""
        old = ModelIdentity(id="demo", revision="old")
        folder = packed(demo_folder, tmp_path / "store", old)
        with pytest.raises(ModelError, match="is a store of demo@old"):
            opened(folder, profile)
        assert opened(folder, profile, identity=old)

    def test_a_tokenizer_that_cuts_wrongly(self, demo_folder: Path, tmp_path: Path, profile: Profile) -> None:
        """By both engines prompts are only cut as DiffSynth takes them to be."""
        source = shutil.copytree(demo_folder, tmp_path / "source")
        (source / "tokenizer/merges.txt").write_text("#version: 0.2\n")
        with pytest.raises(ModelError, match=r"store/tokenizer: the prompt template takes 149 tokens, and DiffSynth"):
            opened(packed(source, tmp_path / "store"), profile)

    def test_a_tokenizer_of_the_same_size(self, demo_folder: Path, tmp_path: Path, profile: Profile) -> None:
        """A vocabulary in which two words changed places is not what the index says."""
        folder = packed(demo_folder, tmp_path / "store")
        path = folder / "tokenizer/vocab.json"
        words = json.loads(path.read_text("utf-8"))
        one, other = list(words)[40:42]
        words[one], words[other] = words[other], words[one]
        size = path.stat().st_size
        path.write_text(json.dumps(words, ensure_ascii=False), "utf-8")
        assert path.stat().st_size == size
        with pytest.raises(ModelError, match=r"vocab\.json: damaged"):
            opened(folder, profile)


def test_files_that_changed_since_they_were_planned_with(copied: Path) -> None:
    """What is read from original files is what the plan has reckoned with."""
    setup = make_setup(copied).model_copy(update={"identity": identify(catalog.find(str(copied)))})
    resolve.weights_of(setup, catalog.find(str(copied)), no_report)
    tensors = load_file(copied / DIT)
    save_file({**tensors, "proj_out.weight": tensors["proj_out.weight"] * 0.5}, copied / DIT)
    with pytest.raises(ModelError, match="are others than when this was planned"):
        resolve.weights_of(setup, catalog.find(str(copied)), no_report)


class TestCatalogue:
    @pytest.fixture
    def later(self, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> catalog.Model:
        """Qwen/Qwen-Image is packed here; and then the catalogue's revision goes up. The model as it is then."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        shutil.copytree(demo_folder, tmp_path / "models" / QWEN.id)
        prepare.prepare(QWEN, store="bf16", offline=True)
        assert places.has_store(QWEN, "bf16")
        later = replace(QWEN, revision="f" * 40)
        monkeypatch.setattr("renderer.weights.places.MODELS", MappingProxyType({**catalog.MODELS, QWEN.id: later}))
        return later

    def test_the_old_store_is_another_model_s(self, later: catalog.Model) -> None:
        """It is not taken for the new one's, and makes way when that is packed; the bill says so."""
        assert not places.has_store(later, "bf16")
        assert places.stranger(later, "bf16") == identify(QWEN)
        bill, _ = prepare.price(later, "bf16", [])
        assert bill.note == f"the packed store that is here is of {identify(QWEN)}, and is replaced"
        prepare.prepare(later, store="bf16", offline=True)
        assert places.has_store(later, "bf16")

    def test_it_is_not_opened_either(self, later: catalog.Model) -> None:
        """Where somebody names its folder all the same."""
        setup = Setup(
            model=QWEN.id,
            identity=identify(later),
            precision="bf16",
            profile="stream",
            store=str(places.packed_folder(later, "bf16")),
        )
        with pytest.raises(ModelError, match=f"is a store of {identify(QWEN)}"):
            stores.find(setup, no_report)

    def test_an_index_that_cannot_be_read(self, later: catalog.Model) -> None:
        """It counts as a store, so that it is named when it is opened, and not fetched again without a word."""
        (places.packed_folder(later, "bf16") / "index.json").write_bytes(b"{")
        assert places.has_store(later, "bf16")


class TestBenchmarks:
    def test_a_synthetic_store_is_what_it_says(self, demo_folder: Path, tmp_path: Path) -> None:
        """A benchmark opens its own store by its own identity."""
        folder = packed(demo_folder, tmp_path / "store", ModelIdentity(id="synthetic", revision="1"))
        setup = streamed.setup_of(folder)
        assert setup.model == QWEN.id
        assert stores.find(setup, no_report).index.source == setup.identity

    def test_a_synthetic_store_in_qwen_image_s_place(
        self, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For the commands it stands for Qwen-Image's in a folder of the benchmark's own, and stays what it is."""
        folder = packed(demo_folder, tmp_path / "fp8", ModelIdentity(id="synthetic", revision="1"))
        for _again in range(2):
            environment = running.environment(tmp_path / "bench", folder)
        monkeypatch.setenv("RENDERER_MODELS", environment["RENDERER_MODELS"])
        assert places.has_store(QWEN, "fp8")
        setup = Setup(model=QWEN.id, precision="bf16", profile="stream", store=str(places.packed_folder(QWEN, "fp8")))
        assert stores.find(setup, no_report)
        assert read_index(folder).source.id == "synthetic"


class TestWords:
    def test_content_stands_for_itself(self) -> None:
        """Weights of a known content are the same under any name; others by name and revision."""
        one, other = (ModelIdentity(id=name, content_sha256="ab" * 32) for name in ("mine", "moved"))
        assert one.is_of(other)
        assert not one.is_of(ModelIdentity(id="mine", revision="1"))
        assert not one.is_of(ModelIdentity(id="mine", content_sha256="cd" * 32))
        assert str(one) == "mine@abababababab"
