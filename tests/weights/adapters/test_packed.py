"""A LoRA made ready: once, whole or not at all, block by block, and what it holds is what was written."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from renderer import catalog
from renderer.errors import ModelError
from renderer.job import Lora
from renderer.system.files import sha256_of
from renderer.weights.adapters import packed
from renderer.weights.adapters.factors import factors_of
from renderer.weights.adapters.landing import land
from renderer.weights.adapters.packed import PackedAdapter, open_adapter, prepare_adapter
from renderer.weights.adapters.targets import targets_of
from renderer.weights.adapters.whereabouts import find_lora, identity_of
from renderer.weights.record import Record, Verified, write_record
from tests.loras import SHAPES, TO_Q, factors, write_lora

OUTSIDE = "img_in"
FOUR = "lightx2v/Qwen-Image-Lightning/4steps-V2.0"


@pytest.fixture(autouse=True)
def _models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A LoRA of five layers in blocks, and one outside of them."""
    tensors = factors() | {
        f"{OUTSIDE}.lora_A.weight": np.full((2, 64), 0.5, np.float32),
        f"{OUTSIDE}.lora_B.weight": np.full((160, 2), 0.25, np.float32),
    }
    return write_lora(tmp_path / "ink.safetensors", tensors)


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    """A small LoRA in the place of a catalogue's, as a fetch leaves it."""
    (part,) = catalog.MODELS[FOUR].parts
    folder = tmp_path / "models" / (part.repository or "")
    path = write_lora(folder / part.files, factors())
    known = Verified(path.stat().st_size, sha256_of(path), part.revision)
    write_record(folder, Record("huggingface", part.revision, {part.files: known}))
    return path


def find_row() -> Lora:
    """The catalogue's LoRA, as a manifest has it."""
    return Lora(source=FOUR, identity=find_lora(FOUR, Path()).identity)


def lora_of(path: Path) -> Lora:
    found = find_lora(path.name, path.parent)
    return Lora(source=found.source, identity=found.identity)


def prepare(path: Path) -> PackedAdapter:
    return prepare_adapter(lora_of(path), catalog.DEMO)


class TestBlocks:
    def test_each_layer_is_in_its_own(self, path: Path) -> None:
        """By the name within its block; what stands outside by its whole name; nothing lost, nothing twice."""
        adapter = prepare(path)
        found = {
            f"transformer_blocks.{number}.{name}": pair
            for number in range(5)
            for name, pair in adapter.block("transformer", number).items()
        }
        assert found.keys() == SHAPES.keys()
        layers = land(path, targets_of(catalog.DEMO)).layers
        for module, pair in [*found.items(), *adapter.outside().items()]:
            assert all(map(torch.equal, pair, factors_of(layers[module], None)))
        assert adapter.outside().keys() == {OUTSIDE}

    def test_rank_and_bytes(self, path: Path) -> None:
        """What a block takes is known without reading it; one without layers takes nothing."""
        adapter = prepare(path)
        rows, columns = SHAPES[TO_Q]
        assert (adapter.rank("transformer", 0), adapter.bytes("transformer", 0)) == (4, 4 * (rows + columns) * 2)
        assert (adapter.rank("transformer", 3), adapter.bytes("transformer", 3)) == (0, 0)
        assert adapter.block("transformer", 3) == {}
        assert adapter.all_bytes == sum(4 * (rows + columns) * 2 for rows, columns in SHAPES.values()) + 2 * 224 * 2

    def test_is_called_by_what_it_holds(self, path: Path, tmp_path: Path) -> None:
        """The same LoRA from another place and under another name is the same folder."""
        moved = shutil.copy(path, tmp_path / "moved.safetensors")
        assert prepare(path).folder == prepare(Path(moved)).folder
        assert prepare(path).identity == identity_of(path)


class TestOnce:
    def test_it_is_not_made_again(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = prepare(path)
        monkeypatch.setattr(packed, "pack_adapter", None)
        assert prepare(path).index == first.index

    def test_several_at_once(self, path: Path) -> None:
        """Workers that want the same LoRA wait for the first."""
        lora = lora_of(path)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: prepare_adapter(lora, catalog.DEMO).index, range(4)))
        assert len({index.model_dump_json() for index in found}) == 1

    def test_what_a_crash_left_is_made_anew(self, path: Path) -> None:
        """A half-made one, and one whose index is damaged."""
        folder = prepare(path).folder
        part = folder.with_name(f"{folder.name}.part")
        folder.rename(part)
        (part / "index.json").unlink()
        assert prepare(path).folder == folder
        (folder / "index.json").write_text("{}")
        assert prepare(path).block("transformer", 0)
        assert not part.exists()


class TestRefusals:
    def test_a_damaged_file(self, path: Path) -> None:
        """Its data is held against its hash when it is first read."""
        adapter = prepare(path)
        file = adapter.folder / "transformer-000.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with pytest.raises(ModelError, match="not what was written there"):
            open_adapter(adapter.folder).block("transformer", 0)
        assert open_adapter(adapter.folder).block("transformer", 1)

    def test_another_file_than_the_job_s(self, path: Path) -> None:
        """One that was trained further since the manifest was read is not rendered under the old one's name."""
        lora = lora_of(path)
        write_lora(path, factors(seed=9))
        with pytest.raises(ModelError, match="has changed since the manifest was read"):
            prepare_adapter(lora, catalog.DEMO)

    def test_one_that_is_gone(self, path: Path) -> None:
        lora = lora_of(path)
        path.unlink()
        with pytest.raises(ModelError, match="is not there any more"):
            prepare_adapter(lora, catalog.DEMO)

    def test_one_that_was_not_fetched(self) -> None:
        """The catalogue's are fetched as models are, and the message says how."""
        lora = Lora(source=FOUR, identity="x")
        with pytest.raises(ModelError) as caught:
            prepare_adapter(lora, catalog.QWEN_IMAGE)
        assert f"renderer models pull {FOUR}" in caught.value.hint

    def test_a_fetched_one_that_is_not_what_the_hub_said(self, fetched: Path) -> None:
        """Changed on the disk, with its header as it was: it is not rendered with under its commit's name."""
        assert prepare_adapter(find_row(), catalog.DEMO).block("transformer", 0)
        data = bytearray(fetched.read_bytes())
        data[-1] ^= 1
        fetched.write_bytes(data)
        with pytest.raises(ModelError, match=f"{fetched.name}: damaged") as caught:
            prepare_adapter(find_row(), catalog.DEMO)
        assert "renderer models pull" in caught.value.hint

    def test_one_of_another_commit(self, fetched: Path) -> None:
        """The job was planned with a catalogue that had another: what is here is not what it names."""
        lora = find_row().model_copy(update={"identity": f"{FOUR}@{'f' * 40}"})
        with pytest.raises(ModelError, match=f"{fetched.name}: has changed since the manifest was read"):
            prepare_adapter(lora, catalog.DEMO)

    def test_one_that_does_nothing(self, tmp_path: Path) -> None:
        """As training begins, with factors of zeros: it would render the model's own pictures."""
        tensors = {name: tensor * (0 if "lora_B" in name else 1) for name, tensor in factors().items()}
        path = write_lora(tmp_path / "untrained.safetensors", tensors)
        with pytest.raises(ModelError, match="adds nothing"):
            prepare(path)
        assert not list((tmp_path / "models").rglob("*.safetensors"))
