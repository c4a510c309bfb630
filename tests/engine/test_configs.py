"""What DiffSynth's `from_pretrained` is given: `ModelConfig`s of the profile's states, and files it does not know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from diffsynth.configs import MODEL_CONFIGS
from diffsynth.core.loader import hash_model_file
from safetensors.torch import load_file, save_file

from renderer import catalog
from renderer.catalog import Role
from renderer.demo import members
from renderer.engine import configs, device
from renderer.engine.device import FROM_DISK, FROM_HOST, Placement
from renderer.engine.native import NativeEngine
from renderer.engine.pipeline import open_pipeline
from renderer.engine.tensor_map import OpenWeights
from renderer.job import Stored
from renderer.weights import synthetic
from renderer.weights.store import open_store
from renderer.weights.unpacked import unpacked
from tests.engine.conftest import no_report
from tests.engine.making import DIT, TEXT_ENCODER, VAE, make_job, make_setup
from tests.engine.test_tensor_map import from_store, store_of

NOWHERE = Path("nowhere")
FILES: dict[Role, str] = {"transformer": DIT, "text_encoder": TEXT_ENCODER, "vae": VAE}


@pytest.fixture(autouse=True)
def _own_tables() -> Iterator[None]:
    """DiffSynth's tables as they were."""
    members.register()
    before = list(MODEL_CONFIGS)
    yield
    MODEL_CONFIGS[:] = before


def originals(folder: Path, precision: Stored) -> OpenWeights:
    """The demo model's own files."""
    files = {part.role: sorted(folder.glob(part.files)) for part in catalog.NETWORK_FILES}
    return unpacked(files, folder / "tokenizer", precision)


class TestStates:
    @pytest.mark.parametrize("place", [None, FROM_HOST, FROM_DISK])
    @pytest.mark.parametrize("role", ["transformer", "text_encoder"])
    def test_a_model_s_own_files_are_diffsynth_s_to_read(
        self, demo_folder: Path, role: Role, place: Placement | None
    ) -> None:
        """At bf16 it is given files and states, and nothing of ours; it downloads nothing."""
        config = configs.config(originals(demo_folder, "bf16"), role, place, "cpu", NOWHERE)
        assert config.path == [str(demo_folder / FILES[role])]
        assert (config.state_dict, config.quantize, config.skip_download) == (None, None, True)
        states = {name: value for name, value in config.vram_config().items() if value is not None}
        assert states == (device.vram_config(place, "cpu") if place else {})

    def test_packed_weights_have_the_same_states(self, demo_folder: Path, tmp_path: Path) -> None:
        """From a store, and scaled as files are read, at both precisions."""
        for weights in (open_store(store_of("fp8")), open_store(store_of("bf16")), originals(demo_folder, "fp8")):
            config = configs.config(weights, "transformer", FROM_DISK, "cpu", tmp_path)
            assert config.vram_config() == device.vram_config(FROM_DISK, "cpu")
            assert isinstance(config.quantize, configs.Packed)

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_the_vae_never_waits_elsewhere(self, demo_folder: Path, precision: Stored) -> None:
        """It is small; at every precision it is bf16, and so DiffSynth's to read."""
        config = configs.config(originals(demo_folder, precision), "vae", FROM_DISK, "cpu", NOWHERE)
        assert set(config.vram_config().values()) == {None}
        assert config.quantize is None


class TestUnknownFiles:
    def test_another_tool_s_names(self, copied: Path, engine: NativeEngine) -> None:
        """A transformer whose tensors ComfyUI has named draws the same picture: DiffSynth does not know its hash."""
        tensors = load_file(copied / DIT)
        save_file({f"model.diffusion_model.{name}": each for name, each in tensors.items()}, copied / DIT)
        opened = NativeEngine(make_setup(copied), open_pipeline(make_setup(copied), no_report))
        job = make_job(model=copied)
        assert opened.render(job, lambda *_: None).rgb == engine.render(make_job(), lambda *_: None).rgb

    def test_opening_again_leaves_no_more_behind(self) -> None:
        """A network is told to DiffSynth's tables once, however often it is opened."""
        open_pipeline(from_store("cpu", "fp8"), no_report)
        before = len(MODEL_CONFIGS)
        open_pipeline(from_store("cpu", "fp8"), no_report)
        assert len(MODEL_CONFIGS) == before


class TestFullSize:
    """Files with real headers at full size, and holes for data."""

    def test_a_real_checkpoint_is_known(self, tmp_path: Path) -> None:
        """Headers like the hub's open, and DiffSynth reads the files itself, as those that its tables name."""
        weights = full_size(tmp_path, layers=60)
        found = {role: configs.config(weights, role, None, "cpu", NOWHERE) for role in FILES}
        assert {role: len(config.path) for role, config in found.items()} == {
            "transformer": 9, "text_encoder": 4, "vae": 1
        }  # fmt: skip
        assert {config.quantize for config in found.values()} == {None}

    def test_depth(self, tmp_path: Path) -> None:
        """Of a shallow model, which benchmarks run on, DiffSynth builds as many layers as there are."""
        for layers in (2, 3):
            folder = tmp_path / str(layers)
            config = configs.config(full_size(folder, layers), "transformer", None, "cpu", folder)
            (entry,) = (entry for entry in MODEL_CONFIGS if entry["model_hash"] == hash_model_file(config.path))
            assert entry["model_class"].endswith(".QwenImageDiT")
            assert entry["extra_kwargs"] == {"num_layers": layers}

    def test_a_file_that_cannot_be_mapped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where memory is short of one large file, which DiffSynth would map, we read it, some of it at a time."""
        weights, hashed = full_size(tmp_path, layers=2), hash_model_file

        def refuse(paths: str | list[str]) -> str:
            if VAE in str(paths):
                raise RuntimeError("unable to mmap 253806278 bytes: Cannot allocate memory (12)")
            return str(hashed(paths))

        assert configs.config(weights, "vae", None, "cpu", tmp_path).quantize is None
        monkeypatch.setattr(configs, "hash_model_file", refuse)
        assert configs.config(weights, "vae", None, "cpu", tmp_path).quantize is not None


def full_size(folder: Path, layers: int) -> OpenWeights:
    """A checkpoint with Qwen-Image's files and tensors, which takes no place on the disk."""
    paths: dict[Role, list[Path]] = {role: [] for role in FILES}
    for name, tensors in synthetic.files(layers=layers):
        header, end = {}, 0
        for tensor, shape in tensors.items():
            begin, end = end, end + 2 * shape.numel()
            header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        next(found for role, found in paths.items() if name.startswith(role)).append(path)
    return unpacked(paths, folder, "bf16")
