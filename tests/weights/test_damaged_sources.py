"""Sources that are damaged are refused by name, and discarded only when all is well."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from renderer.errors import ModelError, UsageError
from renderer.families.qwen_image import shapes
from renderer.weights import pack as packing
from renderer.weights import unpacked as opening
from renderer.weights.originals import discard_source
from renderer.weights.store import open_store
from tests.weights import tiny
from tests.weights.test_pack import contents
from tests.weights.tiny import Source, edit, restored


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The tiny checkpoint. Whoever changes it puts it back."""
    return tiny.make(tmp_path_factory.mktemp("tiny") / "source")


def cut(path: Path, numbers: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: numbers.randrange(len(data))])


def lengthened(path: Path, numbers: random.Random) -> None:
    path.write_bytes(path.read_bytes() + bytes(numbers.randrange(1, 100)))


def a_tensor(path: Path, numbers: random.Random, matrix: bool = False) -> str:  # noqa: FBT001, FBT002
    """One of a file's tensors that count; `matrix` wants one whose shape can be turned."""
    names = [
        name
        for name, tensor in load_file(path).items()
        if name != "lm_head.weight" and (not matrix or (tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]))
    ]
    return numbers.choice(sorted(names) or ["quant_conv.weight"])


def renamed_tensor(path: Path, numbers: random.Random) -> None:
    name = a_tensor(path, numbers)
    edit(path, lambda header: header.update({f"{name}x": header.pop(name)}))


def turned_tensor(path: Path, numbers: random.Random) -> None:
    name = a_tensor(path, numbers, matrix=True)
    edit(path, lambda header: header[name]["shape"].reverse() or header[name]["shape"].append(1))


def turned_matrix(path: Path, numbers: random.Random) -> None:
    name = a_tensor(path, numbers, matrix=True)
    edit(path, lambda header: header[name].update(shape=header[name]["shape"][::-1] + [1] * (name[0] == "q")))


def retyped_tensor(path: Path, numbers: random.Random) -> None:
    name = a_tensor(path, numbers)
    edit(path, lambda header: header[name].update(dtype=numbers.choice(["F32", "I16", "F8_E4M3", "Q4", "bf16"])))


def moved_tensor(path: Path, numbers: random.Random) -> None:
    name = a_tensor(path, numbers)
    step = numbers.choice([-2, 2, 1000, -(10**9), 2**63])

    def move(header: dict[str, dict[str, list[int]]]) -> None:
        header[name]["data_offsets"] = [place + step for place in header[name]["data_offsets"]]

    edit(path, move)


def missing_tensor(path: Path, numbers: random.Random) -> None:
    tensors = load_file(path)
    del tensors[a_tensor(path, numbers)]
    save_file(tensors, path)


def added_tensor(path: Path, numbers: random.Random) -> None:
    save_file(load_file(path) | {f"extra.{numbers.randrange(99)}": torch.zeros(2, dtype=torch.bfloat16)}, path)


def doubled_tensor(path: Path, numbers: random.Random) -> None:
    """A tensor of a file under the older name of another, so that both mean the same."""
    name = a_tensor(path, numbers)
    edit(path, lambda header: header.update({"x": header.pop(name)}))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    other = next(each for each in json.loads(data[8 : 8 + length]) if each != "x" and "metadata" not in each)
    text = data[8 : 8 + length].replace(b'"x":', f'"{other}":'.encode())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def flipped_header(path: Path, numbers: random.Random) -> None:
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    place = numbers.randrange(8 + len(bytes(data[8 : 8 + length]).rstrip()))
    data[place] ^= 1 << numbers.randrange(8)
    path.write_bytes(data)


def pickled(path: Path, _numbers: random.Random) -> None:
    torch.save({"a": torch.zeros(3)}, path)


def emptied(path: Path, _numbers: random.Random) -> None:
    path.write_bytes(b"")


def lost(path: Path, _numbers: random.Random) -> None:
    path.unlink()


MUTATIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    *(cut, lengthened, renamed_tensor, turned_tensor, turned_matrix, retyped_tensor, moved_tensor, missing_tensor),
    *(added_tensor, doubled_tensor, flipped_header, pickled, emptied, lost),
)


class TestDamagedSources:
    def test_mutations(self, source: Source, tmp_path: Path) -> None:
        """Of 200 damaged checkpoints none is packed, and none opened; each is refused at once, by its file's name."""
        numbers = random.Random(5)  # noqa: S311  # the same mutations every time
        networks, files = source.networks, source.files
        for number in range(200):
            mutate, path = MUTATIONS[number % len(MUTATIONS)], files[number // len(MUTATIONS) % len(files)]
            with restored(source.folder):
                mutate(path, numbers)
                with pytest.raises(ModelError) as packed:
                    packing.pack(networks, source.tokenizer, tmp_path / "packed", "fp8", tiny.IDENTITY, device="cpu")
                with pytest.raises(ModelError) as opened:
                    opening.unpacked(networks, source.tokenizer, "fp8")
                for raised in (packed, opened):
                    assert str(path) in raised.value.message, f"{number} {mutate.__name__}: {raised.value.message}"
            assert not list(tmp_path.iterdir())

    def test_swapped_shards(self, source: Source, tmp_path: Path) -> None:
        """Two shards under each other's names are noticed by the hub's index."""
        first, second = source.networks["transformer"]
        with restored(source.folder):
            data = first.read_bytes()
            shutil.copy(second, first)
            second.write_bytes(data)
            with pytest.raises(ModelError, match=r"index\.json says diffusion_pytorch_model-0000"):
                source.pack(tmp_path / "packed")

    def test_a_missing_shard(self, source: Source, tmp_path: Path) -> None:
        """A shard that is not there is noticed by the others' names, even without the hub's index."""
        first, second = source.networks["transformer"]
        with restored(source.folder):
            second.unlink()
            next(first.parent.glob("*.index.json")).unlink()
            with pytest.raises(ModelError, match=r"00002-of-00002\.safetensors is missing"):
                source.pack(tmp_path / "packed")

    def test_swapped_networks(self, source: Source, tmp_path: Path) -> None:
        """A network's file in another's place is not taken for it."""
        networks = {**source.networks, "vae": source.networks["text_encoder"]}
        with pytest.raises(ModelError, match=r"model\.safetensors: a text encoder, and not a VAE"):
            packing.pack(networks, source.tokenizer, tmp_path / "packed", "fp8", tiny.IDENTITY)

    def test_fewer_layers_than_told(self, source: Source, tmp_path: Path) -> None:
        """Where the hub's config tells how many layers there are, a checkpoint with another number is refused."""
        config = source.folder / "text_encoder" / "config.json"
        with restored(source.folder):
            config.write_text('{"num_hidden_layers": 3}', encoding="utf-8")
            with pytest.raises(ModelError, match=r"model\.safetensors: has 2 layers, and config\.json says 3"):
                source.pack(tmp_path / "packed")

    def test_parts_that_do_not_fit(self, source: Source, tmp_path: Path) -> None:
        """A transformer and a VAE of different latents do not make a model."""
        with restored(source.folder):
            path = source.networks["vae"][0]
            other = shapes.vae(shapes.VaeWidths(base=4, latent=8))
            save_file({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in other.items()}, path)
            with pytest.raises(ModelError, match="wants a VAE of width 64, and this one has 32"):
                source.pack(tmp_path / "packed")

    def test_names_of_other_tools(self, source: Source, tmp_path: Path) -> None:
        """A text encoder with transformers' newer names is packed under the hub's."""
        source.pack(tmp_path / "expected")
        with restored(source.folder):
            path = source.networks["text_encoder"][0]
            newer = {
                "model." + name if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1): t
                for name, t in load_file(path).items()
            }
            save_file(newer, path)
            source.pack(tmp_path / "packed")
        assert contents(tmp_path / "packed") == contents(tmp_path / "expected")


class TestDiscard:
    def test_inside(self, tmp_path: Path) -> None:
        """The originals go once their store is verified, and the bytes they took are told; the rest stays."""
        source = tiny.make(tmp_path / "source")
        source.pack(tmp_path / "packed")
        size = sum(path.stat().st_size for path in source.files)
        assert discard_source(source.files, source.folder) == size
        assert not source.files
        assert (source.tokenizer / "vocab.json").exists()
        open_store(tmp_path / "packed").verify()

    def test_a_cache_of_links(self, tmp_path: Path) -> None:
        """Where the files are links into the same folder, as in a hub's cache, what they lead to goes as well."""
        (tmp_path / "blobs").mkdir()
        (tmp_path / "snapshot").mkdir()
        (tmp_path / "blobs" / "abc").write_bytes(b"12345")
        link = tmp_path / "snapshot" / "model.safetensors"
        link.symlink_to("../blobs/abc")
        assert discard_source([link], tmp_path) == 5
        assert not link.is_symlink()
        assert not list((tmp_path / "blobs").iterdir())

    def test_outside(self, tmp_path: Path) -> None:
        """Nothing is deleted when one of the files, or what a link leads to, lies outside the given folder."""
        inside, outside = tmp_path / "models", tmp_path / "elsewhere"
        inside.mkdir()
        outside.mkdir()
        (inside / "a.safetensors").write_bytes(b"1")
        (outside / "b.safetensors").write_bytes(b"2")
        (inside / "link.safetensors").symlink_to(outside / "b.safetensors")
        for other in (outside / "b.safetensors", inside / "link.safetensors", inside / ".." / "elsewhere" / "b"):
            with pytest.raises(UsageError, match="is not deleted"):
                discard_source([inside / "a.safetensors", other], inside)
        assert (inside / "a.safetensors").exists()
        assert (outside / "b.safetensors").exists()
