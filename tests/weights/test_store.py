"""A store on disk: opened when whole, read without a copy, refused by name when anything in it is not what it was."""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path

import pytest
import torch

from renderer.errors import ModelError
from renderer.weights.headers import read_header
from renderer.weights.index import read_index
from renderer.weights.store import load, open_store, views
from tests.weights import tiny
from tests.weights.tiny import edit, restored, tensors_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed store of the tiny model."""
    root = tmp_path_factory.mktemp("store")
    tiny.make(root / "source").pack(root / "packed")
    return root / "packed"


def complaint(folder: Path) -> str:
    """What is said of a store that must be refused: when it is opened, or at the latest when it is verified."""
    with pytest.raises(ModelError) as raised:
        open_store(folder).verify()
    return raised.value.message


class TestReading:
    def test_blocks(self, folder: Path) -> None:
        """Blocks come in order, all with one layout, and hold what the safetensors library reads from their files."""
        store = open_store(folder)
        for network in ("transformer", "text_encoder"):
            blocks = store.blocks(network)
            assert [block.number for block in blocks] == [0, 1]
            assert blocks[0].tensors == blocks[1].tensors
            for block in blocks:
                flat = torch.empty(block.bytes, dtype=torch.uint8)
                block.read_into(flat)
                found, expected = views(flat, block.tensors), tensors_of([block.path])
                assert found.keys() == expected.keys()
                for name, tensor in found.items():
                    assert tensor.dtype == expected[name].dtype
                    assert torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))

    def test_views_copy_nothing(self, folder: Path) -> None:
        """Views lie in the buffer they are of, and begin at multiples of 16 bytes there."""
        block = open_store(folder).blocks("transformer")[0]
        flat = torch.zeros(block.bytes, dtype=torch.uint8)
        for place in block.tensors:
            assert views(flat, [place])[place.name].data_ptr() == flat.data_ptr() + place.offset
            assert place.offset % 16 == 0

    def test_queries_keys_and_values_are_one(self, folder: Path) -> None:
        """Queries, keys and values lie side by side, so that one view has all three; so do their scales and biases."""
        store = open_store(folder)
        for network, names in (
            ("transformer", ("attn.to_q", "attn.to_k", "attn.to_v")),
            ("transformer", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
            ("text_encoder", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("text_encoder", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            block = store.blocks(network)[1]  # type: ignore[arg-type]  # both are networks
            flat = torch.empty(block.bytes, dtype=torch.uint8)
            block.read_into(flat)
            found, places = views(flat, block.tensors), {place.name: place for place in block.tensors}
            for kind in ("weight", "scale", "bias"):
                if f"{names[0]}.{kind}" not in places:
                    continue
                parts = [found[f"{name}.{kind}"] for name in names]
                begin = places[f"{names[0]}.{kind}"].offset
                size = sum(places[f"{name}.{kind}"].bytes for name in names)
                fused = flat[begin : begin + size].view(parts[0].dtype).view(-1, *parts[0].shape[1:])
                assert torch.equal(fused.float(), torch.cat([part.float() for part in parts]))

    def test_buffers(self, folder: Path) -> None:
        """A block is read into plain memory as well, and into the beginning of a larger buffer."""
        block = open_store(folder).modulation(1)
        data = block.path.read_bytes()[block.data_offset :]
        larger = torch.full((block.bytes + 7,), 9, dtype=torch.uint8)
        block.read_into(larger)
        assert bytes(larger.tolist()) == data + b"\x09" * 7
        memory = bytearray(block.bytes)
        block.read_into(memoryview(memory))
        assert memory == data

    def test_past_the_page_cache(self, folder: Path) -> None:
        """Read directly, into an aligned buffer or another, the same bytes arrive; so they do where that cannot be."""
        for file in (open_store(folder).vae(), open_store(folder).blocks("transformer")[0]):
            expected = file.path.read_bytes()[file.data_offset :]
            aligned = memoryview(mmap(-1, file.bytes + 1))
            for buffer in (aligned[: file.bytes], aligned[1:]):
                file.read_into(buffer, direct=True)
                assert bytes(buffer) == expected

    def test_a_short_file_read_directly(self, folder: Path) -> None:
        """A file that lost its end is noticed when it is read directly too."""
        vae = open_store(folder).vae()
        with restored(folder):
            vae.path.write_bytes(vae.path.read_bytes()[:-5000])
            with pytest.raises(ModelError, match=r"vae\.safetensors: ends too early"):
                vae.read_into(memoryview(mmap(-1, vae.bytes)), direct=True)

    def test_several_threads(self, folder: Path) -> None:
        """Several threads read at once, the same file and others, and get the same bytes."""
        store = open_store(folder)
        started = threading.Barrier(4)

        def read(number: int) -> bytes:
            started.wait(timeout=10)
            block, memory = store.blocks("transformer")[number % 2], bytearray(store.blocks("transformer")[0].bytes)
            block.read_into(memoryview(memory))
            return bytes(memory)

        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(read, range(4)))
        assert found[0] == found[2] != found[1] == found[3]

    def test_a_file_that_was_cut_after_it_was_opened(self, folder: Path) -> None:
        """A file that lost its end, or is gone, since the store was opened is named when it is read."""
        block = open_store(folder).blocks("transformer")[1]
        with restored(folder):
            block.path.write_bytes(block.path.read_bytes()[:-1])
            with pytest.raises(ModelError, match=r"transformer/block-001\.safetensors: ends too early"):
                block.read_into(memoryview(bytearray(block.bytes)))
            block.path.unlink()
            with pytest.raises(ModelError, match=r"transformer/block-001\.safetensors: cannot be read"):
                block.read_into(memoryview(bytearray(block.bytes)))

    def test_load(self, folder: Path) -> None:
        """A whole file is loaded by the hub's names, every tensor aligned, even where the file's own sizes are odd."""
        store = open_store(folder)
        for file in (store.vae(), store.outside("transformer"), store.outside("text_encoder")):
            found, expected = load(file), tensors_of([file.path])
            assert all(torch.equal(found[name], expected[name]) for name in expected)
            assert found.keys() == expected.keys()
            assert all(tensor.data_ptr() % 16 == 0 for tensor in found.values())
        assert any(place.bytes % 16 for place in store.vae().tensors)

    def test_tokenizer(self, folder: Path) -> None:
        """The tokenizer's files are in the store as the hub has them; there is a processor only where there was one."""
        store = open_store(folder)
        assert sorted(path.name for path in store.tokenizer.iterdir()) == ["merges.txt", "vocab.json"]
        assert store.processor is None


def flip_index(folder: Path) -> Path:
    """Another model's name in the index."""
    path = folder / "index.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"tiny"', '"tinz"'), encoding="utf-8")
    return path


def empty_index(folder: Path) -> Path:
    (folder / "index.json").write_bytes(b"")
    return folder / "index.json"


def listed_index(folder: Path) -> Path:
    (folder / "index.json").write_text("[1]", encoding="utf-8")
    return folder / "index.json"


def later_index(folder: Path) -> Path:
    """A store that a later version made."""
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format_version": 2}), encoding="utf-8")
    return path


def outside_index(folder: Path) -> Path:
    """An index that names a file elsewhere."""
    path = folder / "index.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("tokenizer/vocab.json", "../../../vocab.json"), encoding="utf-8")
    return path


def shorter_index(folder: Path) -> Path:
    """An index that lists one block less, sealed again."""
    index = open_store(folder).index
    files = tuple(file for file in index.files if file.name != "transformer/block-001.safetensors")
    text = index.model_copy(update={"files": files}).sealed().model_dump_json()
    (folder / "index.json").write_text(text, encoding="utf-8")
    return folder / "index.json"


def swapped(folder: Path) -> Path:
    first, second = (folder / "transformer" / f"block-00{number}.safetensors" for number in (0, 1))
    data = first.read_bytes()
    shutil.move(second, first)
    second.write_bytes(data)
    return first


def retyped(folder: Path) -> Path:
    path = folder / "text_encoder" / "outside.safetensors"
    edit(path, lambda header: header["model.norm.weight"].update(dtype="F16"))
    return path


def pickled(folder: Path) -> Path:
    torch.save({"a": torch.zeros(3)}, folder / "vae.safetensors")
    return folder / "vae.safetensors"


def lost(folder: Path) -> Path:
    (folder / "tokenizer" / "vocab.json").unlink()
    return folder / "tokenizer" / "vocab.json"


def renamed(folder: Path) -> Path:
    (folder / "vae.safetensors").rename(folder / "wae.safetensors")
    return folder / "vae.safetensors"


class TestRefusing:
    @pytest.mark.parametrize(
        "spoil",
        [
            *(flip_index, empty_index, listed_index, later_index, outside_index, shorter_index),
            *(swapped, retyped, pickled, lost, renamed),
        ],
    )
    def test_spoilt(self, folder: Path, spoil: Callable[[Path], Path]) -> None:
        """A store with a swapped, renamed, lost, retyped or pickled file, or another index, is refused by that name."""
        with restored(folder):
            assert str(spoil(folder)) in complaint(folder)

    def test_no_store(self, tmp_path: Path) -> None:
        """A folder that holds no store is refused by its index's name."""
        assert str(tmp_path / "index.json") in complaint(tmp_path)

    def test_a_hundred_mutations(self, folder: Path) -> None:
        """A cut or a flipped bit anywhere in any file is refused, and the message names the file; none is let in."""
        numbers = random.Random(11)  # noqa: S311  # the same mutations every time
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        for number in range(100):
            path = paths[number % len(paths)]
            good = path.read_bytes()
            data = bytearray(good)
            if number % 3 == 0:
                del data[numbers.randrange(len(data)) :]
            else:
                # Every other one in the first 400 bytes, where headers have their text.
                place = numbers.randrange(len(data) if number % 2 else min(400, len(data)))
                data[place] ^= 1 << numbers.randrange(8)
            path.write_bytes(data)
            assert str(path) in complaint(folder), f"mutation {number} of {path.name}"
            path.write_bytes(good)
        open_store(folder).verify()

    def test_all_that_is_wrong(self, folder: Path) -> None:
        """Verifying names every file that is not what it was, and reports as it goes on."""
        heard: list[tuple[int, int]] = []
        with restored(folder):
            for name in ("vae.safetensors", "transformer/block-001.safetensors"):
                data = bytearray((folder / name).read_bytes())
                data[-1] ^= 1
                (folder / name).write_bytes(data)
            store = open_store(folder)
            with pytest.raises(ModelError) as raised:
                store.verify(lambda done, total, _name: heard.append((done, total)))
        assert {line.split(":")[0] for line in raised.value.message.splitlines()} == {
            str(folder / "vae.safetensors"),
            str(folder / "transformer" / "block-001.safetensors"),
        }
        assert heard[-1] == (store.index.bytes, store.index.bytes)
        assert heard == sorted(heard)

    def test_unlike_blocks(self, folder: Path) -> None:
        """Blocks of different layouts are refused even where the index agrees with them."""
        with restored(folder):
            path = folder / "transformer" / "block-001.safetensors"

            def turn(header: dict[str, dict[str, object]]) -> None:
                header["attn.to_q.scale"]["shape"] = [4, 4]

            edit(path, turn)
            resealed(folder, path)
            assert f"{path}: its layout" in complaint(folder)


def resealed(folder: Path, path: Path) -> None:
    """Make the index agree with what a file has become."""
    index = read_index(folder)
    name = path.relative_to(folder).as_posix()
    update = {"bytes": path.stat().st_size, "header_sha256": read_header(path).sha256}
    files = tuple(file.model_copy(update=update) if file.name == name else file for file in index.files)
    text = index.model_copy(update={"files": files}).sealed().model_dump_json()
    (folder / "index.json").write_text(text, encoding="utf-8")
