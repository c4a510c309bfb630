"""GGUF files, held against the library that writes and reads them; and what is refused of damaged ones."""

from __future__ import annotations

import random
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import _type_traits

from renderer import catalog
from renderer.errors import ModelError
from renderer.families.qwen_image import shapes
from renderer.weights import readers
from renderer.weights.checkpoint import open_checkpoint
from renderer.weights.identity import identify
from renderer.weights.readers import READERS, TensorAt
from renderer.weights.readers.values import VALUES
from tests.weights import foreign, tiny
from tests.weights.readers import test_readers

WIDTHS = shapes.TextEncoderWidths(
    layers=2, width=64, queries=64, keys=32, mlp=96, vocabulary=32, vision_layers=1, vision=8, vision_mlp=12
)


def values_of(place: TensorAt) -> torch.Tensor:
    data = place.path.read_bytes()[place.offset : place.offset + place.bytes]
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    found = VALUES[place.reader].values(place, 0, raw, test_readers.nothing)
    assert isinstance(found, torch.Tensor)
    return found


class TestRead:
    def test_every_type_that_the_library_knows(self) -> None:
        """What it can make numbers of is read, and nothing else."""
        known = {kind.name for kind in _type_traits} | {"F32", "F16"}
        assert set(READERS["gguf"].dtypes) == known

    def test_as_the_library_reads(self, tmp_path: Path) -> None:
        """Names, shapes and numbers of every type, rounded to bf16 where they were blocks."""
        path = test_readers.gguf(tmp_path)
        found = readers.read(path)
        assert found.metadata["general.architecture"] == "qwen_image"
        expected = gguf.GGUFReader(path).tensors
        assert list(found.tensors) == [tensor.name for tensor in expected]
        for tensor in expected:
            place = found.tensors[tensor.name]
            numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert place.shape == tuple(reversed(tensor.shape.tolist())) == numbers.shape
            whole = torch.from_numpy(np.array(numbers))
            assert torch.equal(values_of(place).float(), whole.to(values_of(place).dtype).float())

    def test_shapes_that_are_written_as_others(self, tmp_path: Path) -> None:
        """What has more dimensions than GGUF takes has its own shape again, and its numbers."""
        array = np.arange(2 * 3 * 2 * 4 * 4, dtype=np.float16)
        key = "comfy.gguf.orig_shape.patch.weight"
        tensors = {"patch.weight": (array.reshape(12, 16), "F16")}
        path = foreign.write_gguf(tmp_path / "m.gguf", tensors, more={key: [2, 3, 2, 4, 4]})
        place = readers.read(path).tensors["patch.weight"]
        assert place.shape == (2, 3, 2, 4, 4)
        assert torch.equal(values_of(place), torch.from_numpy(array).view(2, 3, 2, 4, 4))

    @pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
    def test_a_transformer(self, tmp_path: Path, prefix: str) -> None:
        """Of the family's names, bare or as ComfyUI has them, some of it in blocks, with nothing left over."""
        widths = shapes.TransformerWidths(layers=2, width=64, head=32, mlp=96, text=32, latent=64, timestep=32)
        tensors = {name: torch.randn(shape) for name, shape in shapes.transformer(widths).items()}
        made, plain = foreign.city96(tensors, "Q4_0")
        path = foreign.write_gguf(tmp_path / "m.gguf", {prefix + name: each for name, each in made.items()})
        found = open_checkpoint("transformer", [path])
        assert {place.dtype for place in found.tensors.values()} == {"F32", "Q4_0"}
        assert found.tensors.keys() == plain.keys()
        for name, place in found.tensors.items():
            assert torch.equal(values_of(place).to(torch.bfloat16), plain[name])

    def test_a_text_encoder(self, tmp_path: Path) -> None:
        """Under llama.cpp's names, with its output layer, which no picture needs, and without its vision tower."""
        expected = shapes.text_encoder(WIDTHS)
        tensors = {name: torch.randn(shape) for name, shape in expected.items()}
        tensors["lm_head.weight"] = torch.ones(WIDTHS.vocabulary, WIDTHS.width)
        made, _ = foreign.city96(foreign.llama_cpp(tensors, WIDTHS.layers))
        path = foreign.write_gguf(tmp_path / "m.gguf", made, "qwen2vl")
        found = open_checkpoint("text_encoder", [path])
        assert found.shapes == {name: shape for name, shape in expected.items() if not name.startswith("visual.")}
        assert [outside.kind for outside in found.lacking] == ["vision"]


class TestIdentity:
    def test_by_tensors(self, tmp_path: Path) -> None:
        """What a file says of itself is not what it holds; another block is another model."""
        source = tiny.make(tmp_path / "source")
        made, _ = foreign.city96(tiny.tensors_of(source.networks["transformer"]), "F16")
        model = catalog.find(f"transformer={foreign.write_gguf(tmp_path / 'm.gguf', made)}")
        first = identify(model).content_sha256
        foreign.write_gguf(tmp_path / "m.gguf", made, "pig", {"any.key": [1, 2, 3]})
        assert identify(model).content_sha256 == first
        made["img_in.weight"][0][0, 0] += 1
        foreign.write_gguf(tmp_path / "m.gguf", made)
        assert identify(model).content_sha256 != first


# ---- what is refused -------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def file_of(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int = 2,
    keys: int = 1,
    key: bytes = text("general.architecture") + struct.pack("<I", 8) + text("qwen_image"),
    name: bytes = text("b.weight"),
    dims: bytes = struct.pack("<IQQ", 2, 32, 4),
    kind: int = 8,
    offset: int = 64,
    data: int = 64 + 4 * 34 + 24,
) -> bytes:
    """A file of a vector of sixteen numbers and a matrix of four rows of Q8_0, any of it otherwise."""
    entries = text("a.weight") + struct.pack("<IQIQ", 1, 16, 0, 0) + name + dims + struct.pack("<IQ", kind, offset)
    head = magic + struct.pack("<IQQ", version, tensors, keys) + key + entries
    return head + bytes(-len(head) % 32) + bytes(data)


LONG = struct.pack("<Q", 2**62)
KEY = text("a.key")
DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "old": ({"version": 1}, "of version 1, and 2 and 3 are read"),
    "big-endian": ({"version": 3 << 24}, "for big-endian machines"),
    "many tensors": ({"tensors": 2**40}, "it has 1099511627776 tensors"),
    "more tensors": ({"tensors": 2**19}, "cut off within its header"),
    "many keys": ({"keys": 2**63}, "it has 9223372036854775808 keys"),
    "a long name": ({"name": LONG}, "letters in a name"),
    "a name that is none": ({"name": struct.pack("<Q", 2) + b"\xff\xfe"}, "not UTF-8"),
    "a name twice": ({"name": text("a.weight")}, 'has "a.weight" twice'),
    "a key twice": ({"keys": 2, "key": 2 * (KEY + struct.pack("<Ib", 1, 5))}, 'has "a.key" twice'),
    "an unknown value": ({"key": KEY + struct.pack("<I", 13)}, "of the unknown type 13"),
    "a long text": ({"key": KEY + struct.pack("<I", 8) + LONG}, "letters in a text"),
    "a long list of numbers": ({"key": KEY + struct.pack("<II", 9, 0) + LONG}, "values in a list"),
    "a list beyond the end": ({"key": KEY + struct.pack("<IIQ", 9, 4, 2**24)}, "cut off within its header"),
    "a long list of texts": ({"key": KEY + struct.pack("<IIQ", 9, 8, 2**26)}, "cut off within its header|letters in"),
    "lists in lists": ({"key": KEY + struct.pack("<I", 9) + 9 * struct.pack("<IQ", 9, 1)}, "unknown type 9"),
    "no alignment": ({"key": text("general.alignment") + struct.pack("<II", 4, 0)}, "its alignment is 0"),
    "an odd alignment": ({"key": text("general.alignment") + struct.pack("<II", 4, 33)}, "its alignment is 33"),
    "many dimensions": ({"dims": struct.pack("<I", 2**31)}, "has 2147483648 dimensions"),
    "nothing": ({"dims": struct.pack("<IQQ", 2, 0, 4)}, r"has the shape \[4, 0\]"),
    "too much": ({"dims": struct.pack("<IQQ", 2, 2**40, 2**40)}, "has the shape"),
    "half a block": ({"dims": struct.pack("<IQQ", 2, 16, 8)}, "no whole blocks of 32"),
    "an unknown type": ({"kind": 999}, "of the unknown type 999"),
    "an odd place": ({"offset": 65}, "a multiple of 32"),
    "one over the other": ({"offset": 32}, "overlaps the one before it"),
    "a gap": ({"offset": 96}, "leaves a gap before it"),
    "cut": ({"data": 100}, "cut off: 100 of 200 bytes of data are there"),
    "too long": ({"data": 232}, "32 bytes too many"),
    "another shape": (
        {"key": text("comfy.gguf.orig_shape.b.weight") + struct.pack("<IIQii", 9, 5, 2, 5, 32)},
        r"of \[4, 32\] is said to be \(5, 32\)",
    ),
    "a shape that is none": (
        {"key": text("comfy.gguf.orig_shape.b.weight") + struct.pack("<IIQii", 9, 5, 2, -4, -32)},
        "is said to be",
    ),
    "rows of half a block": (
        {"key": text("comfy.gguf.orig_shape.b.weight") + struct.pack("<IIQii", 9, 5, 2, 8, 16)},
        "no whole blocks of 32",
    ),
}


class TestRefused:
    def test_what_is_whole(self, tmp_path: Path) -> None:
        """The file that the others are spoiled ones of."""
        path = tmp_path / "m.gguf"
        path.write_bytes(file_of())
        found = readers.read(path).tensors
        assert {name: (place.dtype, place.shape) for name, place in found.items()} == {
            "a.weight": ("F32", (16,)),
            "b.weight": ("Q8_0", (4, 32)),
        }

    @pytest.mark.parametrize("case", DAMAGED)
    def test_by_name(self, tmp_path: Path, case: str) -> None:
        """No count is followed beyond what is there: each is refused at once, with what to do."""
        changes, says = DAMAGED[case]
        path = tmp_path / "m.gguf"
        path.write_bytes(file_of(**changes))
        with pytest.raises(ModelError, match=says) as raised:
            readers.read(path)
        assert raised.value.message.startswith(str(path))
        assert raised.value.hint

    def test_a_name_twice_among_many(self, tmp_path: Path) -> None:
        """It is found in one pass: each among all would take a hundred times as long."""
        entry = struct.pack("<IQIQ", 1, 16, 0, 0)
        names = b"".join(text(str(number)) + entry for number in range(60_000)) + text("59999")
        path = tmp_path / "m.gguf"
        path.write_bytes(file_of(name=names, tensors=60_002))
        before = time.process_time()
        with pytest.raises(ModelError, match='has "59999" twice'):
            readers.read(path)
        assert time.process_time() - before < 8

    def test_mutations(self, tmp_path: Path) -> None:
        """Of 200 files cut anywhere, or with a bit of what is said of a tensor turned, none is opened."""
        source = tiny.make(tmp_path / "source")
        made, _ = foreign.city96(tiny.tensors_of(source.networks["transformer"]), "F16")
        path = foreign.write_gguf(tmp_path / "m.gguf", made)
        data, begin = path.read_bytes(), readers.read(path)
        first = min(place.offset for place in begin.tensors.values())
        entries = data.index(b"img_in.weight") - 8
        numbers = random.Random(11)  # noqa: S311  # the same every time
        spoil: list[Callable[[], bytes]] = [
            lambda: data[: numbers.randrange(len(data) - 32)],
            lambda: turned(data, numbers.randrange(entries, first - 32), numbers.randrange(8)),
        ]
        for number in range(200):
            path.write_bytes(spoil[number % 2]())
            with pytest.raises(ModelError) as raised:
                open_checkpoint("transformer", [path])
            assert str(path) in raised.value.message, number

    def test_without_the_library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the extra is not installed, the line that installs it is told."""
        monkeypatch.setitem(sys.modules, "gguf", None)
        path = tmp_path / "m.gguf"
        path.write_bytes(file_of())
        with pytest.raises(ModelError, match="the library that reads it is not here") as raised:
            readers.read(path)
        assert ".[gguf]" in raised.value.hint

    def test_a_scale_that_is_no_number(self, tmp_path: Path) -> None:
        """Its rows are not finite, without a word of the library's; whoever packs refuses them."""
        blocks = foreign.gguf_blocks("Q4_K", 2, 256)
        blocks[1, :2] = 255
        path = foreign.write_gguf(tmp_path / "m.gguf", {"a.weight": (blocks, "Q4_K")})
        found = values_of(readers.read(path).tensors["a.weight"])
        assert found[0].isfinite().all()
        assert not found[1].isfinite().all()


def turned(data: bytes, place: int, bit: int) -> bytes:
    found = bytearray(data)
    found[place] ^= 1 << bit
    return bytes(found)
