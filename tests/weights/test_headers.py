"""Safetensors headers: ours and theirs, and everything that is wrong with a file is refused by its name."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from renderer.errors import DiskError, ModelError
from renderer.weights.headers import DATA_ALIGNMENT, PlannedTensor, read_header, write_file
from tests.weights.tiny import edit

PLANNED = (PlannedTensor("b", "F32", (2, 2)), PlannedTensor("a", "BF16", (3,)), PlannedTensor("c", "F8_E4M3", (4,)))
DATA = bytes(range(16 + 6 + 4))


def write(path: Path) -> Path:
    write_file(path, PLANNED, {"kind": "test"}, [memoryview(DATA[:10]), memoryview(DATA[10:])])
    return path


def with_header(path: Path, text: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


class TestReading:
    def test_theirs(self, tmp_path: Path) -> None:
        """What the safetensors library writes is read: each tensor's type, shape and place, and the metadata."""
        tensors = {"x": torch.ones(2, 3, dtype=torch.bfloat16), "y": torch.zeros(5), "empty": torch.zeros(0)}
        save_file(tensors, tmp_path / "m.safetensors", {"format": "pt"})
        header = read_header(tmp_path / "m.safetensors")
        assert {name: (each.dtype, each.shape) for name, each in header.tensors.items()} == {
            "x": ("BF16", (2, 3)),
            "y": ("F32", (5,)),
            "empty": ("F32", (0,)),
        }
        data = (tmp_path / "m.safetensors").read_bytes()[header.data_offset :]
        place = header.tensors["x"]
        assert data[place.begin : place.end] == b"\x80\x3f" * 6
        assert header.metadata == {"format": "pt"}

    def test_a_header_whose_length_looks_like_a_pickle(self, tmp_path: Path) -> None:
        """A header of 640 bytes begins as a pickle does, and is read all the same."""
        path = with_header(tmp_path / "m.safetensors", b"{}".ljust(0x280))
        assert path.read_bytes()[:2] == b"\x80\x02"
        assert not read_header(path).tensors

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "empty file"),
            (b"\x02\x00\x00\x00", "too short"),
            (b"\xff" * 8 + b"{", "more than the 100000000"),
            (struct.pack("<Q", 99) + b"{}", "beyond its end"),
            (struct.pack("<Q", 4) + b"[[]]", "not a safetensors file"),
            (struct.pack("<Q", 4) + b'{"a"', "not JSON"),
            (struct.pack("<Q", 4) + b'{"\xff"', "not JSON"),
            (struct.pack("<Q", 10**5 + 1) + b'{"a":' + b"[" * 99995 + b"}", "not JSON"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
            (b"<!DOCTYPE html>", "not a safetensors file"),
        ],
    )
    def test_no_header(self, tmp_path: Path, data: bytes, says: str) -> None:
        """A file without a whole, sane header is refused by its name, and the message says what is wrong with it."""
        path = tmp_path / "m.safetensors"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=says) as raised:
            read_header(path)
        assert str(path) in raised.value.message

    @pytest.mark.parametrize(
        ("entry", "says"),
        [
            (1, "has no dtype"),
            ({"dtype": "F32", "shape": [1]}, "has no dtype"),
            ({"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1}, "has no dtype"),
            ({"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}, 'unknown type "F33"'),
            ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "unknown type"),
            ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "no sensible shape"),
            ({"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}, "no sensible shape"),
            ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "no sensible shape"),
            ({"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}, "no sensible shape"),
            ({"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}, "no sensible place"),
            ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "no sensible place"),
            ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "no sensible place"),
            ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "takes 8 bytes, not 4"),
            ({"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}, "takes"),
            ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "leaves a gap"),
            ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "cut off: 4 of 8"),
            ({"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}, "2 bytes too many"),
        ],
    )
    def test_bad_entries(self, tmp_path: Path, entry: Any, says: str) -> None:
        """A tensor whose type, shape or place cannot be is refused with the file's name."""
        path = with_header(tmp_path / "m.safetensors", json.dumps({"w": entry}).encode(), b"1234")
        with pytest.raises(ModelError, match=says) as raised:
            read_header(path)
        assert str(path) in raised.value.message

    def test_overlap(self, tmp_path: Path) -> None:
        """Two tensors that share bytes are refused."""
        entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        path = with_header(tmp_path / "m.safetensors", json.dumps({"a": entry, "b": entry}).encode(), b"1234")
        with pytest.raises(ModelError, match='"b" overlaps'):
            read_header(path)

    def test_the_same_name_twice(self, tmp_path: Path) -> None:
        """A name that is there twice is refused, where JSON's own rule would let the last one win."""
        entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
        path = with_header(tmp_path / "m.safetensors", f'{{"a": {entry}, "a": {entry}}}'.encode(), b"1234")
        with pytest.raises(ModelError, match='has "a" twice'):
            read_header(path)

    def test_the_same_name_twice_among_many(self, tmp_path: Path) -> None:
        """It is found in one pass: in a fraction of a second of 60,000, where each among all took 24."""
        entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
        entries = ", ".join(f'"{name}": {entry}' for name in (*range(60_000), 59_999))
        path = with_header(tmp_path / "m.safetensors", f"{{{entries}}}".encode(), b"1234")
        before = time.process_time()
        with pytest.raises(ModelError, match='has "59999" twice'):
            read_header(path)
        assert time.process_time() - before < 5

    def test_metadata_that_is_no_text(self, tmp_path: Path) -> None:
        """Metadata must be texts by name."""
        with pytest.raises(ModelError, match="metadata"):
            read_header(with_header(tmp_path / "m.safetensors", b'{"__metadata__": {"a": 1}}'))

    @pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.pth", "m.ckpt", "m.safetensors"])
    def test_pickles(self, tmp_path: Path, name: str) -> None:
        """A pickled checkpoint is refused under any name, with the reason and the way to convert it."""
        torch.save({"a": torch.zeros(3)}, tmp_path / name)
        with pytest.raises(ModelError, match="can run any code") as raised:
            read_header(tmp_path / name)
        assert "save_file" in raised.value.hint

    def test_an_old_pickle_without_a_zip(self, tmp_path: Path) -> None:
        """So is one of the format before 2020."""
        path = tmp_path / "m.safetensors"
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
        with pytest.raises(ModelError, match="pickled"):
            read_header(path)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        """A file that is not there, or is a folder, is an error with its name."""
        (tmp_path / "folder.safetensors").mkdir()
        for name in ("none.safetensors", "folder.safetensors"):
            with pytest.raises(ModelError, match=name):
                read_header(tmp_path / name)

    def test_noise_in_the_header(self, tmp_path: Path) -> None:
        """Whatever a thousand changed bytes make of a header, it is read or refused; nothing else is raised."""
        path = write(tmp_path / "m.safetensors")
        good, numbers = path.read_bytes(), random.Random(3)  # noqa: S311  # the same noise every time
        messages = []
        for _ in range(1000):
            data = bytearray(good)
            for _ in range(numbers.randint(1, 3)):
                data[numbers.randrange(400)] = numbers.randrange(256)
            path.write_bytes(data)
            try:
                read_header(path)
            except ModelError as error:
                messages.append(error.message)
        assert len(messages) > 900
        assert all(str(path) in message for message in messages)


class TestWriting:
    def test_our_order_and_their_reader(self, tmp_path: Path) -> None:
        """Tensors lie in the order they were given, after a header of whole pages, and safetensors reads them."""
        path = write(tmp_path / "deep" / "m.safetensors")
        header = read_header(path)
        assert [(name, each.begin) for name, each in header.tensors.items()] == [("b", 0), ("a", 16), ("c", 22)]
        assert header.data_offset == DATA_ALIGNMENT
        assert path.read_bytes()[DATA_ALIGNMENT:] == DATA
        found = load_file(path)
        assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == {
            "b": (torch.float32, (2, 2)),
            "a": (torch.bfloat16, (3,)),
            "c": (torch.float8_e4m3fn, (4,)),
        }
        assert bytes(found["a"].view(torch.uint8).tolist()) == DATA[16:22]
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == {"kind": "test"}

    def test_hashes(self, tmp_path: Path) -> None:
        """The hashes that were made while writing are those of the file and of its header."""
        path = tmp_path / "m.safetensors"
        written = write_file(path, PLANNED, {}, [memoryview(DATA)])
        assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert written.bytes == path.stat().st_size
        assert written.header_sha256 == read_header(path).sha256

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """A file that does not fit is an error with its name, and nothing of it stays."""
        path = tmp_path / "m.safetensors"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4100, hard))
        try:
            with pytest.raises(DiskError, match=r"m\.safetensors"):
                write_file(path, PLANNED, {}, [memoryview(DATA)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not path.exists()

    def test_a_source_that_fails(self, tmp_path: Path) -> None:
        """When the data cannot be made, its error comes through and nothing stays."""
        path = tmp_path / "m.safetensors"
        with pytest.raises(ZeroDivisionError):
            write_file(path, PLANNED, {}, (memoryview(bytes(1 // number)) for number in (1, 0)))
        assert not path.exists()

    def test_edit(self, tmp_path: Path) -> None:
        """The tests' own way of changing a header changes it, and nothing else."""
        path = write(tmp_path / "m.safetensors")
        edit(path, lambda header: header.update(z=header.pop("a")))
        assert list(read_header(path).tensors) == ["b", "z", "c"]
