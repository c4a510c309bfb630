"""Packing: nothing lost, the same bits every time, killed anywhere and gone on with, and no damaged source let in."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from renderer.catalog import Role
from renderer.errors import DiskError, LockedError, ModelError, UsageError
from renderer.families.qwen_image import shapes
from renderer.job import ModelIdentity, Stored
from renderer.machine import hardware
from renderer.weights import pack as packing
from renderer.weights import unpacked as opening
from renderer.weights.codecs.rows.fp8 import dequantise, quantise
from renderer.weights.originals import discard_source
from renderer.weights.store import Store, load, open_store
from tests.engine.making import without_vision
from tests.weights import tiny
from tests.weights.tiny import Source, edit, restored, tensors_of


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The tiny checkpoint. Whoever changes it puts it back."""
    return tiny.make(tmp_path_factory.mktemp("tiny") / "source")


def unpacked(store: Store) -> dict[str, torch.Tensor]:
    """All tensors of a store by the checkpoint's names; those of the VAE behind a `vae.`."""
    found: dict[str, torch.Tensor] = {}
    for file in store.files:
        network, prefix = store.family.network(file.network), "vae." if file.network == "vae" else ""
        tensors = {network.own_name(file.kind, file.number, name): tensor for name, tensor in load(file).items()}
        assert found.keys().isdisjoint(prefix + name for name in tensors)
        found |= {prefix + name: tensor for name, tensor in tensors.items()}
    return found


def originals(source: Source) -> dict[str, torch.Tensor]:
    found = {
        ("vae." if network == "vae" else "") + name: tensor
        for network, paths in source.networks.items()
        for name, tensor in tensors_of(paths).items()
    }
    return {name: tensor for name, tensor in found.items() if name != "lm_head.weight"}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit."""
    return one.dtype == other.dtype and one.shape == other.shape and bytes_of(one) == bytes_of(other)


def bytes_of(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store but its index, which has the time in it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "index.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class TestPrecisions:
    def test_bf16_is_exact(self, source: Source, tmp_path: Path) -> None:
        """A bf16 store has every tensor of the checkpoint bit for bit, and lacks nothing but `lm_head`."""
        source.pack(tmp_path / "packed", "bf16")
        found, expected = unpacked(open_store(tmp_path / "packed")), originals(source)
        assert found.keys() == expected.keys()
        assert all(same(found[name], expected[name]) for name in expected)

    def test_the_demo_model(self, demo_folder: Path, tmp_path: Path) -> None:
        """The demo model packs like the real one: exactly at bf16, and with small errors at fp8."""
        demo = Source(demo_folder)
        demo.pack(tmp_path / "bf16", "bf16")
        found, expected = unpacked(open_store(tmp_path / "bf16")), originals(demo)
        assert found.keys() == expected.keys()
        assert all(same(found[name], expected[name]) for name in expected)
        index = demo.pack(tmp_path / "fp8", "fp8")
        assert index.worst_error is not None
        assert index.worst_error[1] < 0.035

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e5m2])
    def test_fp8(self, tmp_path: Path, dtype: torch.dtype) -> None:
        """An fp8 store has each large weight in e4m3 with its row's scale, and the rest as bf16, from any source."""
        source = tiny.make(tmp_path / "source", dtype)
        index = source.pack(tmp_path / "packed")
        found, expected = unpacked(open_store(tmp_path / "packed")), originals(source)
        quantised = {name.removesuffix(".scale") + ".weight" for name in found if name.endswith(".scale")}
        assert len(quantised) == 2 * (12 + 2 + 7)
        assert len(index.errors) == len(quantised)
        for name, original in expected.items():
            if name in quantised:
                wanted = quantise(original)
                assert same(found[name], wanted.values)
                assert same(found[name.removesuffix("weight") + "scale"], wanted.scale)
            else:
                assert same(found[name], original.to(torch.bfloat16))

    def test_e4m3_is_kept(self, tmp_path: Path) -> None:
        """What is e4m3 already keeps its bits, with scales of one and no error; what stays bf16 is widened."""
        source = tiny.make(tmp_path / "source", torch.float8_e4m3fn)
        index = source.pack(tmp_path / "packed")
        found, expected = unpacked(open_store(tmp_path / "packed")), originals(source)
        scales = {name for name in found if name.endswith(".scale")}
        assert len(scales) == len(index.errors) == 2 * (12 + 2 + 7)
        assert set(index.errors.values()) == {0.0}
        assert all(torch.equal(found[name], torch.ones_like(found[name])) for name in scales)
        for name, original in expected.items():
            kept = name.removesuffix("weight") + "scale" in scales
            assert same(found[name], original if kept else original.to(torch.bfloat16))

    @pytest.mark.parametrize("bits", [0x7F, 0xFF])
    def test_e4m3_that_is_no_number(self, tmp_path: Path, bits: int) -> None:
        """Refused with its name."""
        source = tiny.make(tmp_path / "source", torch.float8_e4m3fn)
        name, path = "transformer_blocks.1.attn.to_q.weight", source.files[1]
        tensors = load_file(path)
        tensors[name].view(torch.uint8)[3, 3] = bits
        save_file(tensors, path)
        with pytest.raises(ModelError, match=r"to_q\.weight.* not finite"):
            source.pack(tmp_path / "packed")

    def test_scales_of_another_tool(self, tmp_path: Path) -> None:
        """FP8 with scales beside it means nothing without them: refused, and not called damaged."""
        source = tiny.make(tmp_path / "source")
        path = source.folder / "vae" / "diffusion_pytorch_model.safetensors"
        save_file(load_file(path) | {"decoder.conv_in.scale_weight": torch.ones(1)}, path)
        with pytest.raises(ModelError, match="scale_weight") as caught:
            source.pack(tmp_path / "packed")
        assert "bf16 file" in caught.value.hint

    def test_recorded_errors(self, source: Source, tmp_path: Path) -> None:
        """The index tells each fp8 tensor's relative error, the worst and the median; a bf16 store tells none."""
        index = source.pack(tmp_path / "packed")
        found = unpacked(open_store(tmp_path / "packed"))
        name = "transformer_blocks.1.attn.to_out.0"
        restored_weight = dequantise(found[f"{name}.weight"], found[f"{name}.scale"])
        original = originals(source)[f"{name}.weight"].float()
        error = float((restored_weight - original).norm() / original.norm())
        assert index.errors["transformer/block-001/attn.to_out.0.weight"] == pytest.approx(error, abs=1e-5)
        assert index.worst_error == max(index.errors.items(), key=lambda item: item[1])
        assert index.median_error == pytest.approx(0.025, abs=0.003)
        assert not source.pack(tmp_path / "other", "bf16").errors

    def test_quantise(self) -> None:
        """Each value becomes the nearest e4m3 number of its row's scale; on Gaussian weights, 0.027 off at most."""
        weight = torch.randn(512, 768, generator=torch.Generator().manual_seed(1)) * 0.02
        weight[3], weight[4], weight[5] = 0, weight[4] * 1e-37, weight[5] * 1e37
        found = quantise(weight)
        values, scale = found.values, found.scale
        assert scale[3] == scale[4] == 1
        assert not dequantise(values, scale)[3:5].any()
        assert torch.equal(dequantise(values, scale), values.float() * scale[:, None])
        numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        steps = (weight[6:70] / scale[6:70, None]).abs()
        nearest = (steps[..., None] - numbers).abs().min(dim=-1).values
        assert torch.equal((values[6:70].float().abs() - steps).abs(), nearest)
        assert torch.equal(values[6:].float().sign() * weight[6:].sign(), values[6:].float().sign().abs())
        plain = weight[6:]
        assert float((dequantise(values, scale)[6:] - plain).norm() / plain.norm()) <= 0.027
        alone = quantise(plain)
        assert (alone.difference / alone.original) ** 0.5 <= 0.027

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_the_gpu_makes_the_same_bits(self, dtype: torch.dtype) -> None:
        """The GPU's values and scales are those of the CPU, for common weights and for very small and large ones."""
        generator = torch.Generator().manual_seed(2)
        weight = torch.randn(4096, 3072, generator=generator) * torch.logspace(-45, 37, 4096)[:, None]
        weight[::2] = torch.randn(2048, 3072, generator=generator) * 0.02
        weight = weight.to(dtype).nan_to_num(1.0, 1.0, -1.0)
        mine, other = quantise(weight), quantise(weight.to("cuda"))
        assert same(mine.values, other.values.cpu())
        assert same(mine.scale, other.scale.cpu())

    def test_same_bits_twice(self, source: Source, tmp_path: Path) -> None:
        """Packing again gives the same bytes in every file, whatever the pieces were; only the index has the time."""
        source.pack(tmp_path / "one")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("renderer.weights.convert._PIECE_BYTES", 100)
            source.pack(tmp_path / "other")
        assert contents(tmp_path / "one") == contents(tmp_path / "other")

    def test_a_number_that_is_none(self, tmp_path: Path) -> None:
        """A weight with a value that is not finite is refused by its name where it would spoil a whole row."""
        source = tiny.make(tmp_path / "source")
        path = source.networks["text_encoder"][0]
        tensors = load_file(path)
        tensors["model.layers.1.mlp.up_proj.weight"][2, 3] = float("inf")
        save_file(tensors, path)
        with pytest.raises(ModelError, match=r'model\.safetensors: tensor "model.layers.1.mlp.up_proj.weight" has val'):
            source.pack(tmp_path / "packed")
        assert not (tmp_path / "packed").exists()

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    @pytest.mark.parametrize(
        ("network", "name", "value", "dtype"),
        [
            ("transformer", "transformer_blocks.1.attn.norm_q.weight", float("nan"), torch.bfloat16),
            ("text_encoder", "model.layers.0.input_layernorm.weight", -float("inf"), torch.bfloat16),
            ("vae", "decoder.conv_in.bias", float("nan"), torch.float16),
            ("vae", "decoder.conv_in.weight", 3.4e38, torch.float32),  # more than bf16 has
        ],
    )
    def test_a_number_that_is_none_in_what_stays_bf16(
        self, precision: Stored, network: Role, name: str, value: float, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        """Norms, biases and the VAE are looked at as well: what is not finite in bf16 is refused by its name."""
        source = tiny.make(tmp_path / "source")
        for path in source.networks[network]:
            tensors = load_file(path)
            if name in tensors:
                tensors[name] = tensors[name].to(dtype)
                tensors[name].view(-1)[-1] = value
                save_file(tensors, path)
        with pytest.raises(ModelError, match=rf'tensor "{name}" has values that are not finite'):
            source.pack(tmp_path / "packed", precision)
        assert not (tmp_path / "packed").exists()


class TestPlan:
    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_bytes(self, source: Source, tmp_path: Path, precision: Stored) -> None:
        """What a store takes is known before, to the byte; the index comes besides."""
        planned = packing.plan_pack(source.networks, source.tokenizer, precision)
        index = source.pack(tmp_path / "packed", precision)
        assert planned == index.bytes == sum(map(len, contents(tmp_path / "packed").values()))

    def test_no_room(self, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that cannot hold the store is an error before anything is written."""
        monkeypatch.setattr(hardware, "free_disk_bytes", lambda _folder: 1000)
        with pytest.raises(DiskError, match="GB more"):
            source.pack(tmp_path / "packed")
        assert not list(tmp_path.rglob("*.safetensors"))

    def test_a_processor(self, source: Source, tmp_path: Path) -> None:
        """The files that prepare pictures for the vision tower come along where a model has them."""
        processor = tmp_path / "processor"
        processor.mkdir()
        (processor / "preprocessor_config.json").write_text("{}", encoding="utf-8")
        arguments = (source.networks, source.tokenizer, tmp_path / "packed", "bf16", tiny.IDENTITY)
        packing.pack(*arguments, device="cpu", processor=processor)  # type: ignore[arg-type]  # of a tuple
        store = open_store(tmp_path / "packed")
        store.verify()
        assert store.processor == tmp_path / "packed" / "processor"
        assert (store.processor / "preprocessor_config.json").read_text(encoding="utf-8") == "{}"

    def test_a_model_that_edits_needs_its_vision_tower(self, source: Source, tmp_path: Path) -> None:
        """Packing without it is refused by the file's name, and so is such a store; who edits nothing needs none."""
        (tmp_path / "processor").mkdir()
        with restored(source.folder):
            without_vision(source.folder)
            with pytest.raises(ModelError, match=r"model\.safetensors has no vision tower"):
                packing.plan_pack(source.networks, source.tokenizer, "fp8", tmp_path / "processor")
            index = source.pack(tmp_path / "packed")
        assert not any(file.kind == "vision" for file in index.files)
        open_store(tmp_path / "packed").verify()
        copied = index.copies[0].model_copy(update={"name": "processor/preprocessor_config.json"})
        edits = index.model_copy(update={"copies": (*index.copies, copied)}).sealed()
        (tmp_path / "packed/processor").mkdir()
        shutil.copy(tmp_path / "packed" / index.copies[0].name, tmp_path / "packed" / copied.name)
        (tmp_path / "packed/index.json").write_text(edits.model_dump_json(), encoding="utf-8")
        with pytest.raises(ModelError, match="does not list all parts"):
            open_store(tmp_path / "packed")

    def test_a_folder_without_a_tokenizer(self, source: Source, tmp_path: Path) -> None:
        """A tokenizer's folder that has none is refused by its name."""
        (tmp_path / "nothing").mkdir()
        with pytest.raises(ModelError, match="nothing: has neither"):
            packing.plan_pack(source.networks, tmp_path / "nothing", "fp8")

    def test_progress(self, source: Source, tmp_path: Path) -> None:
        """Progress is reported in bytes, from the first piece to the last, and then once more for the verification."""
        heard: list[tuple[int, int]] = []
        source.pack(tmp_path / "packed", report=lambda done, total, _name: heard.append((done, total)))
        turn = next(place for place in range(1, len(heard)) if heard[place][0] < heard[place - 1][0])
        for part in (heard[:turn], heard[turn:]):
            assert part == sorted(part)
            assert part[-1][0] == part[-1][1]


def killed(source: Source, target: Path, at_file: int) -> bool:
    """Pack in a process that is killed when it comes to its `at_file`-th file; False if it finished before."""
    names: dict[str, None] = {}

    def die(_done: int, _total: int, name: str) -> None:
        names.setdefault(name)
        if len(names) > at_file:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            source.pack(target, report=die)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


class TestInterruption:
    def test_killed_at_every_file(self, source: Source, tmp_path: Path) -> None:
        """Killed at any file, a pack leaves no store; the next keeps what was whole and makes the same bytes."""
        source.pack(tmp_path / "whole")
        expected = contents(tmp_path / "whole")
        at_file, kept_at_all = 0, 0
        while killed(source, target := tmp_path / f"packed-{at_file}", at_file):
            assert not target.exists()
            part = target.with_name(f"{target.name}.part")
            progress = part / "progress.json"
            done = json.loads(progress.read_bytes())["done"] if progress.exists() else []
            before = {each["file"]["name"]: (part / each["file"]["name"]).stat().st_mtime_ns for each in done}
            source.pack(target)
            assert contents(target) == expected
            assert {name: (target / name).stat().st_mtime_ns for name in before} == before
            assert not part.exists()
            kept_at_all += len(before)
            at_file += 1
        assert at_file > len(open_store(tmp_path / "whole").index.files)
        assert kept_at_all > 5 * at_file / 2

    def test_a_kept_file_that_is_damaged(self, source: Source, tmp_path: Path) -> None:
        """What an earlier attempt left is hashed before it is kept, and anything unknown there goes."""
        assert killed(source, tmp_path / "packed", 9)
        part = tmp_path / "packed.part"
        for path in part.rglob("*.safetensors"):
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        (part / "stray.safetensors").write_bytes(b"x")
        source.pack(tmp_path / "packed")
        open_store(tmp_path / "packed").verify()
        assert not (tmp_path / "packed" / "stray.safetensors").exists()

    def test_another_source(self, source: Source, tmp_path: Path) -> None:
        """What an attempt with another source, identity or precision left is not kept."""
        assert killed(source, tmp_path / "packed", 9)
        source.pack(tmp_path / "packed", "bf16")
        assert open_store(tmp_path / "packed").precision == "bf16"
        assert killed(source, tmp_path / "other", 9)
        before = (tmp_path / "other.part" / "progress.json").read_bytes()
        arguments = (source.networks, source.tokenizer, tmp_path / "other", "fp8", ModelIdentity(id="another"))
        index = packing.pack(*arguments, device="cpu")  # type: ignore[arg-type]  # of a tuple
        assert index.source.id == "another"
        assert json.loads(before)["plan"] not in (tmp_path / "other" / "index.json").read_text(encoding="utf-8")

    @pytest.mark.parametrize("limit", [100, 5000, 10_000, 50_000])
    def test_a_full_disk(self, source: Source, tmp_path: Path, limit: int) -> None:
        """When a file does not fit, the error names it and no store is there; with room, the same call goes on."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(DiskError, match="cannot write") as raised:
                source.pack(tmp_path / "packed")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(tmp_path / "packed.part") in raised.value.message
        assert not (tmp_path / "packed").exists()
        source.pack(tmp_path / "packed")
        open_store(tmp_path / "packed").verify()

    def test_a_store_is_replaced_whole(self, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A store that is there stays as it is until a new one is whole, and then makes way for it."""
        source.pack(tmp_path / "packed", "bf16")
        with monkeypatch.context() as patch:
            patch.setattr(packing, "verify", _fail)
            with pytest.raises(ModelError, match="no"):
                source.pack(tmp_path / "packed")
        assert open_store(tmp_path / "packed").precision == "bf16"
        source.pack(tmp_path / "packed")
        assert open_store(tmp_path / "packed").precision == "fp8"
        assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["packed"]

    def test_two_at_once(self, source: Source, tmp_path: Path) -> None:
        """While one process makes a store, another that would make it too is turned away."""
        with FileLock(tmp_path / ".packed.lock"), pytest.raises(LockedError, match="another process"):
            source.pack(tmp_path / "packed")


def _fail(*_arguments: object) -> None:
    raise ModelError("no")


# ---- damaged sources -------------------------------------------------------------------------------------------------


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
