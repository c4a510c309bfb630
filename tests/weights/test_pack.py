"""Packing: nothing lost, the same bits every time, killed anywhere and gone on with, and no damaged source let in."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from renderer.catalog import Role
from renderer.errors import DiskError, LockedError, ModelError
from renderer.job import ModelIdentity, Stored
from renderer.machine import hardware
from renderer.weights import pack as packing
from renderer.weights.codecs.rows.fp8 import dequantise, quantise
from renderer.weights.store import Store, load, open_store
from tests.engine.making import without_vision
from tests.weights import tiny
from tests.weights.tiny import Source, restored, tensors_of


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
    """What a store has of a model that edits nothing."""
    found = {
        ("vae." if network == "vae" else "") + name: tensor
        for network, paths in source.networks.items()
        for name, tensor in tensors_of(paths).items()
    }
    return {name: tensor for name, tensor in found.items() if not name.startswith(("lm_head.", "visual."))}


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
        """A bf16 store has every tensor of the checkpoint bit for bit, but for `lm_head` and the vision tower."""
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
        """A matrix with a scale that nothing is said of means nothing: refused, and not called damaged."""
        source = tiny.make(tmp_path / "source")
        path = source.folder / "vae" / "diffusion_pytorch_model.safetensors"
        save_file(load_file(path) | {"decoder.conv_in.scale_weight": torch.ones(1)}, path)
        with pytest.raises(ModelError, match=r'"decoder\.conv_in\.weight" is BF16 with a scale beside it') as caught:
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
        """The vision tower and what prepares pictures for it come along where a model has that, and nowhere else."""
        processor = tmp_path / "processor"
        processor.mkdir()
        (processor / "preprocessor_config.json").write_text("{}", encoding="utf-8")
        arguments = (source.networks, source.tokenizer, tmp_path / "packed", "bf16", tiny.IDENTITY)
        packing.pack(*arguments, device="cpu", processor=processor)  # type: ignore[arg-type]  # of a tuple
        store = open_store(tmp_path / "packed")
        store.verify()
        assert any(file.kind == "vision" for file in store.files)
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
