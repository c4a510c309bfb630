"""Every registered reader, and one that is none of ours: eight bits with a scale beside them, as other tools write."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from renderer.errors import ModelError
from renderer.weights import readers
from renderer.weights.checkpoint import open_checkpoint
from renderer.weights.dtypes import TORCH_DTYPES
from renderer.weights.readers import READERS, SAFETENSORS, SCHEMES, START_BYTES, Contents, Reader, TensorAt
from renderer.weights.readers.values import VALUES
from renderer.weights.unpacked import unpacked
from tests.weights import foreign, tiny


def safetensors(folder: Path) -> Path:
    """A file with a tensor of each type that means what it is."""
    generator = torch.Generator().manual_seed(5)
    tensors = {
        f"layer.{dtype}": torch.randn(6, 8, generator=generator).to(TORCH_DTYPES[dtype]) for dtype in SAFETENSORS.dtypes
    }
    save_file(tensors, folder / "any.safetensors", metadata={"made": "here"})
    return folder / "any.safetensors"


def gguf(folder: Path) -> Path:
    """A file with six rows of each type that is read, as the library writes them."""
    floats = np.random.default_rng(5).standard_normal((6, 256), dtype=np.float32)
    tensors: dict[str, tuple[Any, str]] = {}
    for name in READERS["gguf"].dtypes:
        plain = {"F32": floats, "F16": floats.astype(np.float16)}
        tensors[f"layer.{name}"] = (plain[name] if name in plain else foreign.gguf_blocks(name, 6, 256), name)
    return foreign.write_gguf(folder / "any.gguf", tensors)


SAMPLES: dict[str, Callable[[Path], Path]] = {"safetensors": safetensors, "gguf": gguf}
"""A file of each reader's format, with every type that it reads."""

PADDED = {"safetensors": 1, "gguf": 32}
"""Each tensor begins at a multiple of so many bytes from the first."""

EVERY = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


def nothing(place: TensorAt) -> torch.Tensor:
    raise AssertionError(place)


class TestEvery:
    def test_the_tables(self) -> None:
        """Each reader and each scheme has its numbers, by the same name, and each reader a sample here."""
        assert [*READERS, *SCHEMES] == list(VALUES)
        assert list(READERS) == list(SAMPLES)
        assert all(scheme.name == name for name, scheme in SCHEMES.items())
        assert all(reader.name == name for name, reader in READERS.items())

    @EVERY
    def test_its_own_alone(self, reader: Reader, tmp_path: Path) -> None:
        """A file is one reader's, by its beginning."""
        start = SAMPLES[reader.name](tmp_path).read_bytes()[:START_BYTES]
        assert [each.name for each in READERS.values() if each.is_its(start)] == [reader.name]

    @EVERY
    def test_every_tensor_once(self, reader: Reader, tmp_path: Path) -> None:
        """No byte of the data is two tensors', none is nobody's, and each type is told."""
        path = SAMPLES[reader.name](tmp_path)
        found = readers.read(path)
        assert {place.dtype for place in found.tensors.values()} == set(reader.dtypes)
        places = [
            *found.tensors.values(),
            *(each for place in found.tensors.values() for each in place.besides.values()),
        ]
        reached = min(place.offset for place in places)
        for place in sorted(places, key=lambda place: place.offset):
            assert 0 <= place.offset - reached < PADDED[reader.name]
            assert place.path == path
            reached = place.offset + place.bytes
        assert 0 <= path.stat().st_size - reached < PADDED[reader.name]
        assert found.sha256 == hashlib.sha256(path.read_bytes()[: min(place.offset for place in places)]).hexdigest()

    @EVERY
    @pytest.mark.parametrize("rows", [1, 4, 6])
    def test_rows_at_a_time(self, reader: Reader, tmp_path: Path, rows: int) -> None:
        """Values are the same, however many rows come at a time, with the tensor's shape."""
        found = readers.read(SAMPLES[reader.name](tmp_path))
        for place in found.tensors.values():
            whole = _values(place, place.shape[0])
            assert whole.shape == place.shape
            assert whole.is_floating_point()
            assert torch.equal(_values(place, rows).double(), whole.double())


def _values(place: TensorAt, rows: int) -> torch.Tensor:
    """A tensor's values, so many rows at a time."""
    data = place.path.read_bytes()

    def read(other: TensorAt) -> torch.Tensor:
        return torch.frombuffer(bytearray(data[other.offset : other.offset + other.bytes]), dtype=torch.uint8)

    raw = read(place)
    pieces = []
    for first in range(0, place.shape[0], rows):
        part = raw[first * place.row_bytes : (first + rows) * place.row_bytes]
        found = VALUES[place.reader].values(place, first, part, read)
        assert isinstance(found, torch.Tensor)
        pieces.append(found)
    return torch.cat(pieces)


class TestSafetensors:
    def test_the_library_reads_the_same(self, tmp_path: Path) -> None:
        """Bit for bit, in the file's own memory."""
        path = safetensors(tmp_path)
        found, expected = readers.read(path), load_file(path)
        assert found.metadata == {"made": "here"}
        assert found.tensors.keys() == expected.keys()
        for name, place in found.tensors.items():
            assert place.is_plain
            assert torch.equal(_values(place, 6).view(torch.uint8), expected[name].view(torch.uint8))

    def test_nothing_is_copied(self, tmp_path: Path) -> None:
        """Values lie where the bytes were read to."""
        place = readers.read(safetensors(tmp_path)).tensors["layer.BF16"]
        raw = torch.empty(place.bytes, dtype=torch.uint8)
        found = VALUES["safetensors"].values(place, 0, raw, nothing)
        assert isinstance(found, torch.Tensor)
        assert found.data_ptr() == raw.data_ptr()

    def test_a_file_that_is_nobodys(self, tmp_path: Path) -> None:
        """Whoever reads none of it says what it is."""
        path = tmp_path / "model.safetensors"
        path.write_bytes(b"\x89HDF" + bytes(100))
        with pytest.raises(ModelError, match="an HDF5 file"):
            readers.read(path)
        with pytest.raises(ModelError, match="cannot be read"):
            readers.read(tmp_path / "none.safetensors")


# ---- a reader of scales that lie beside ------------------------------------------------------------------------------


class Other:
    """e4m3 with one float32 scale a tensor beside it, in a file that says so: `X.weight` and `X.own_scale`."""

    name: ClassVar[str] = "other"
    dtypes: ClassVar[tuple[str, ...]] = ("BF16", "F8_E4M3")
    suffix: ClassVar[str] = ".own_scale"

    def is_its(self, start: bytes) -> bool:
        return b"other" in start

    def read(self, path: Path) -> Contents:
        found = SAFETENSORS.read(path)
        scales = {name: place for name, place in found.tensors.items() if name.endswith(self.suffix)}
        tensors = {}
        for name, place in found.tensors.items():
            if name not in scales:
                scale = scales.get(name.removesuffix(".weight") + self.suffix)
                besides = {} if scale is None else {"scale": scale}
                tensors[name] = replace(place, reader=self.name, besides=besides)
        return replace(found, tensors=tensors)

    def values(
        self, place: TensorAt, first: int, raw: torch.Tensor, read: Callable[[TensorAt], torch.Tensor]
    ) -> torch.Tensor:
        rows = VALUES["safetensors"].values(place, first, raw, read)
        assert isinstance(rows, torch.Tensor)
        if "scale" not in place.besides:
            return rows
        return (rows.float() * read(place.besides["scale"]).view(torch.float32)).to(torch.bfloat16)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader in both tables, as a new one would stand there; whoever is asked first is the pickier."""
    reader: Any = Other()
    monkeypatch.setattr("renderer.weights.readers.READERS", {"other": reader, **READERS})
    monkeypatch.setattr("renderer.weights.convert.VALUES", {"other": reader, **VALUES})


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_another(precision: Any, tmp_path: Path) -> None:
    """A network in its format is packed as the bf16 network that it stands for: scales are nobody's tensors."""
    source = tiny.make(tmp_path / "source")
    shard = source.files[0]
    tensors, plain = {}, {}
    for name, tensor in load_file(shard).items():
        plain[name] = tensors[name] = tensor
        if tensor.dim() == 2:
            scale = tensor.float().abs().max() / 448
            tensors[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            tensors[name.removesuffix("weight") + "own_scale"] = scale
            plain[name] = (tensors[name].float() * scale).to(torch.bfloat16)
    index = shard.with_name("diffusion_pytorch_model.safetensors.index.json")
    index.unlink()
    save_file(plain, shard)
    expected = _bytes(source, precision)
    save_file(tensors, shard, metadata={"form": "other"})
    found = open_checkpoint("transformer", source.networks["transformer"])
    assert {place.reader for place in found.tensors.values()} == {"other", "safetensors"}
    assert _bytes(source, precision) == expected


def _bytes(source: tiny.Source, precision: Any) -> list[bytes]:
    """Every file that a store of it would have."""
    made = []
    for file in unpacked(source.networks, source.tokenizer, precision).files:
        flat = torch.empty(file.bytes, dtype=torch.uint8)
        file.read_into(flat)
        made.append(flat.numpy().tobytes())
    return made
