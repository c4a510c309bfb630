"""Damage in the data of a store or a checkpoint: refused by name before a picture is drawn, and it leaves no trace."""

from __future__ import annotations

import random
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from renderer import catalog
from renderer.engine import resolve, stores, tensor_map
from renderer.engine.pipeline import open_pipeline
from renderer.engine.slots import HostMemory, ReadAhead
from renderer.engine.streaming import StreamingEngine
from renderer.errors import ModelError
from renderer.families import QWEN_IMAGE_FAMILY
from renderer.job import Job, ModelIdentity, Profile
from renderer.protocol import Setup
from renderer.system.files import sha256_of
from renderer.weights import index as indexes
from renderer.weights import pack, places, prepare
from renderer.weights.record import Record, Verified, write_record
from renderer.weights.store import BlockFile, open_store
from tests.engine.conftest import no_report
from tests.engine.making import make_job
from tests.engine.test_streaming import Heard

QWEN = catalog.QWEN_IMAGE


@pytest.fixture(scope="module")
def spoilt(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model's store, which is damaged and put right again."""
    assert demo_folder
    whole = stores.find(Setup(model="demo", precision="fp8", profile="stream"), no_report).folder
    return shutil.copytree(whole, tmp_path_factory.mktemp("damaged") / "fp8")


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of embeddings that nobody has written to."""
    monkeypatch.setattr("renderer.engine.prompts.cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@contextmanager
def flipped(path: Path, offset: int, bit: int = 7) -> Iterator[None]:
    """One bit of a file is another for a while."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        before = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([before[0] ^ 1 << bit]))
    try:
        yield
    finally:
        with path.open("r+b") as stream:
            stream.seek(offset)
            stream.write(before)


def at(folder: Path, profile: Profile) -> Setup:
    return Setup(model="demo", precision="fp8", profile=profile, store=str(folder))


def render(setup: Setup, job: Job) -> Heard:
    engine, heard = StreamingEngine.open(setup, no_report), Heard()
    engine.take("it", job)
    while engine.busy:
        engine.advance(heard)
    return heard


def use() -> None:
    """Take the original files, as the native engine does."""
    resolve.find(QWEN, offline=True, report=no_report)


def make_store() -> None:
    prepare.prepare(QWEN, store="fp8", offline=True)


def packed(source: Path, target: Path) -> str:
    """Pack a folder, and say what its embeddings depend on."""
    originals = {part.role: sorted(source.glob(part.files)) for part in catalog.NETWORK_FILES}
    identity = ModelIdentity(id="demo", revision="1")
    return pack.pack(originals, source / "tokenizer", target, "bf16", identity, device="cpu").text_sha256


def places_in(file: BlockFile, count: int, numbers: random.Random) -> list[int]:
    """Offsets in the file of some of its data: the first byte, the last, and others."""
    others = [numbers.randrange(file.bytes) for _ in range(count - 2)]
    return [file.data_offset + place for place in (0, file.bytes - 1, *others)]


READ: Sequence[Callable[[BlockFile], object]] = (
    lambda file: file.read_into(torch.empty(file.bytes, dtype=torch.uint8)),
    lambda file: file.read_into(torch.empty(file.bytes, dtype=torch.uint8), direct=True),
    lambda file: list(file.pieces(memoryview(bytearray(5000)))),
    lambda file: file.tensors_of([file.tensors[0].name]),
)
"""Every way in which data is read."""


class TestReading:
    def test_every_file_by_every_way(self, spoilt: Path) -> None:
        """One bit anywhere in the data of any file: whoever reads it whole, in pieces or in part names the file."""
        numbers, mutations = random.Random(5), 0  # noqa: S311  # the same mutations every time
        for number in range(len(open_store(spoilt).files)):
            whole = open_store(spoilt).files[number]
            for offset in places_in(whole, 12, numbers):
                mutations += 1
                with flipped(whole.path, offset, numbers.randrange(8)):
                    read = READ[mutations % len(READ)]
                    with pytest.raises(ModelError, match=f"{whole.path}: damaged, its data is not what"):
                        read(open_store(spoilt).files[number])
        assert mutations >= 200

    def test_only_the_first_reading_is_checked(self, spoilt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What has been right once is not summed up again: sweeps from the disk cost what they did."""
        summed: list[int] = []

        def crc32(data: memoryview, value: int, sum_up: Callable[[memoryview, int], int] = zlib.crc32) -> int:
            summed.append(len(data))
            return sum_up(data, value)

        monkeypatch.setattr("zlib.crc32", crc32)
        file = open_store(spoilt).blocks("transformer")[0]
        for _sweep in range(3):
            file.read_into(torch.empty(file.bytes, dtype=torch.uint8))
            list(file.pieces(memoryview(bytearray(file.bytes))))
            file.check()
        assert sum(summed) == file.bytes

    def test_a_store_from_before_there_were_sums(self, spoilt: Path, tmp_path: Path) -> None:
        """It opens, for its index is what it was; and is held against the SHA-256 of its files."""
        old = shutil.copytree(spoilt, tmp_path / "old")
        entries = tuple(file.model_copy(update={"crc32": None}) for file in indexes.read_index(old).files)
        before = indexes.read_index(old).model_copy(update={"files": entries, "sources": ()}).sealed()
        text = before.model_dump_json(exclude={"sources": True, "files": {"__all__": {"crc32"}}})
        (old / "index.json").write_text(text)
        file = open_store(old).blocks("transformer")[1]
        file.check()
        with flipped(file.path, file.data_offset + 100), pytest.raises(ModelError, match="damaged, its data"):
            open_store(old).blocks("transformer")[1].check()


class TestStores:
    @pytest.mark.parametrize("profile", ["cpu", "disk"])
    def test_native(self, spoilt: Path, profile: Profile) -> None:
        """The native engine does not open with damaged data, wherever it keeps weights."""
        for file in [each for each in open_store(spoilt).files if each.kind != "vision"][::4]:
            with (
                flipped(file.path, file.data_offset + file.bytes // 2),
                pytest.raises(ModelError, match=str(file.path)),
            ):
                open_pipeline(at(spoilt, profile), no_report)

    def test_streaming_opens_with_what_it_holds(self, spoilt: Path) -> None:
        """What stands outside of blocks, the VAE and the embedding table are read to open."""
        for file in [each for each in open_store(spoilt).files if each.kind in ("outside", "whole")]:
            with (
                flipped(file.path, file.data_offset + file.bytes // 2),
                pytest.raises(ModelError, match=str(file.path)),
            ):
                StreamingEngine.open(at(spoilt, "stream"), no_report)

    def test_what_streams_is_checked_as_it_comes(self, spoilt: Path, memory: Path) -> None:
        """The text encoder's layers and the modulations: the model's error once, by the file's name."""
        assert memory
        whole = open_store(spoilt)
        job = make_job(precision="fp8", steps=1)
        for file in (*whole.blocks("text_encoder"), *whole.modulations()):
            engine, heard = StreamingEngine.open(at(spoilt, "stream"), no_report), Heard()
            for key in ("one", "two"):
                engine.take(key, job)
            spot = file.data_offset + file.bytes // 2
            with flipped(file.path, spot), pytest.raises(ModelError, match=str(file.path)) as caught:
                engine.advance(heard)
            assert "pack the model again" in caught.value.hint
            assert not heard.told
            assert not heard.failures

    @pytest.mark.parametrize("slots", [2, 60])
    def test_no_picture_rides_a_damaged_block(self, spoilt: Path, slots: int) -> None:
        """The transformer's blocks come while others are ridden: the model's error, once, by the file's name."""
        for file in open_store(spoilt).blocks("transformer")[1::2]:
            with flipped(file.path, file.data_offset + file.bytes // 2):
                setup = at(spoilt, "stream").model_copy(update={"slots": slots})
                with pytest.raises(ModelError, match=str(file.path)):
                    render(setup, make_job(precision="fp8", steps=1))

    def test_a_damaged_encoder_poisons_nothing(self, spoilt: Path, memory: Path) -> None:
        """Put right, the store draws what it always did: nothing that damage has made is remembered."""
        job = make_job(precision="fp8", steps=1)
        right = render(at(spoilt, "stream"), job).pictures["it"].rgb
        shutil.rmtree(memory)
        file = open_store(spoilt).blocks("text_encoder")[1]
        with flipped(file.path, file.data_offset + 1), pytest.raises(ModelError, match=str(file.path)):
            render(at(spoilt, "stream"), job)
        assert list(memory.rglob("*.safetensors")) == []
        assert render(at(spoilt, "stream"), job).pictures["it"].rgb == right

    def test_embeddings_are_those_of_a_content(self, demo_folder: Path, tmp_path: Path, memory: Path) -> None:
        """Two text encoders under one name share no embedding; one content under two names does."""
        assert memory
        texts = []
        for name, factor in (("one", 1.0), ("two", 1.0), ("three", 1.5)):
            source = shutil.copytree(demo_folder, tmp_path / name)
            path = source / "text_encoder/model.safetensors"
            tensors = load_file(path)
            save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] * factor}, path)
            texts.append(packed(source, tmp_path / f"{name}-packed"))
        assert texts[0] == texts[1] != texts[2]

    @pytest.mark.parametrize("source", [HostMemory, ReadAhead])
    def test_both_sources_of_blocks(self, spoilt: Path, source: type[HostMemory | ReadAhead]) -> None:
        """From host memory and from the disk."""
        file = open_store(spoilt).blocks("transformer")[1]
        with flipped(file.path, file.data_offset + 3), pytest.raises(ModelError, match=str(file.path)):
            source(open_store(spoilt).blocks("transformer"), "cpu").block(1)


class TestCheckpoints:
    @pytest.fixture
    def fetched(self, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Qwen/Qwen-Image, which is the demo model here, as a fetch has left it."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
        folder = tmp_path / "models" / QWEN.id
        shutil.copytree(demo_folder, folder)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        hashes = {
            path.relative_to(folder).as_posix(): Verified(path.stat().st_size, sha256_of(path), QWEN.revision)
            for path in paths
        }
        write_record(folder, Record("huggingface", QWEN.revision, hashes))
        return folder

    def test_mutations(self, fetched: Path) -> None:
        """One bit in the data of any file: the native engine does not open, and no store is packed."""
        numbers = random.Random(6)  # noqa: S311  # as above
        mutated = 0
        for path in sorted(fetched.rglob("*.safetensors")):
            for number in range(28):
                mutated += 1
                offset = path.stat().st_size - 1 - numbers.randrange(path.stat().st_size // 2)
                way = use if number % 9 else make_store
                with flipped(path, offset, numbers.randrange(8)), pytest.raises(ModelError, match=f"{path}: damaged"):
                    way()
                assert not places.has_store(QWEN, "fp8")
        assert mutated >= 80

    def test_what_a_store_was_made_of(self, fetched: Path) -> None:
        """Its index has the names and hashes of the originals."""
        folder = prepare.prepare(QWEN, store="bf16", offline=True).store
        assert folder is not None
        found = {each.name.split("/")[0]: each.sha256 for each in indexes.read_index(folder).sources}
        for role in ("transformer", "text_encoder", "vae"):
            (path,) = (fetched / role).glob("*.safetensors")
            assert found[role] == sha256_of(path)

    def test_a_damaged_tokenizer(self, fetched: Path) -> None:
        path = fetched / "tokenizer/merges.txt"
        with flipped(path, 100), pytest.raises(ModelError, match=r"merges\.txt: damaged"):
            prepare.prepare(QWEN, store="fp8", offline=True)


def test_a_network_that_is_read_in_part(spoilt: Path) -> None:
    """One tensor of a damaged file is refused, wherever in it the damage is."""
    file = open_store(spoilt).outside("transformer")
    with flipped(file.path, file.data_offset + file.bytes - 1):
        tensors = tensor_map.TensorMap(
            QWEN_IMAGE_FAMILY.network("transformer"), [open_store(spoilt).outside("transformer")]
        )
        with pytest.raises(ModelError, match=str(file.path)):
            tensors["img_in.weight"]
