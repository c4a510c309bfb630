"""Opening DiffSynth's pipeline: every placement the CPU has, exact rotary embeddings, and each way it can fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffsynth.configs import MODEL_CONFIGS, VRAM_MANAGEMENT_MODULE_MAPS

from renderer.demo import members
from renderer.engine import device
from renderer.engine.device import computation_dtype
from renderer.engine.pipeline import open_pipeline
from renderer.errors import MachineError, ModelError
from renderer.job import Precision, Profile
from renderer.job.precisions import stored
from renderer.protocol import Setup
from tests.engine.conftest import OpenAt, no_report
from tests.engine.making import (
    DIT,
    ON_CPU,
    TEXT_ENCODER,
    VAE,
    alter,
    bare_picture,
    bare_pipeline,
    distance,
    flattened,
    make_job,
    make_setup,
)
from tests.hub import Hub, serve

PROMPT = "a red circle on a blue background, " * 4


def embeddings(opened: OpenAt, profile: Profile, precision: Precision) -> torch.Tensor:
    """What DiffSynth makes of a prompt: tokens x width."""
    pipe = opened(profile, precision).pipe
    unit = next(unit for unit in pipe.units if type(unit).__name__ == "QwenImageUnit_PromptEmbedder")
    with torch.no_grad():
        found: torch.Tensor = unit.process(pipe, PROMPT)["prompt_emb"][0].float()
    return found


class TestPlacements:
    @pytest.mark.parametrize(("profile", "precision"), ON_CPU)
    def test_opens_and_renders(self, open_at: OpenAt, profile: Profile, precision: Precision) -> None:
        """Each placement opens without a GPU, under VRAM management where it has one, and renders a picture twice."""
        opened = open_at(profile, precision)
        managed = device.on("cpu", device.find(profile, stored(precision))) is not None
        assert opened.device == "cpu" or torch.cuda.is_available()
        assert opened.pipe.vram_management_enabled is managed
        first = bare_picture(opened.pipe, make_job())
        assert bare_picture(opened.pipe, make_job()) == first
        assert len(set(first)) > 50

    def test_bf16_is_the_same_wherever_it_lies(self, open_at: OpenAt) -> None:
        """In bf16 a picture's bits do not depend on whether weights come from memory or from disk."""
        in_memory, on_disk = (bare_picture(open_at(profile, "bf16").pipe, make_job()) for profile in ("cpu", "disk"))
        assert in_memory == on_disk

    def test_fp8_is_near_bf16(self, open_at: OpenAt) -> None:
        """With FP8 weights the picture is nearly that of bf16, and not the same."""
        exact, rounded = (bare_picture(open_at("cpu", kind).pipe, make_job()) for kind in ("bf16", "fp8"))
        assert 0 < distance(exact, rounded) < 10

    def test_fp8_is_not_diffsynth_s_cast(self, open_at: OpenAt, demo_folder: Path) -> None:
        """Weights with scales are another precision than a cast to e4m3: nearer to bf16, by more than half here."""
        job = make_job(width=256, height=256, num_inference_steps=4, seed=3)
        states = {f"{state}_dtype": torch.float8_e4m3fn for state in ("offload", "onload", "preparing")}
        states |= {f"{state}_device": "cpu" for state in ("offload", "onload", "preparing")}
        cast = flattened(bare_pipeline(demo_folder, **states))
        cast.device_type = "cuda"  # torch.cpu has no empty_cache
        exact, scaled = (bare_picture(open_at("cpu", kind).pipe, job) for kind in ("bf16", "fp8"))
        assert 0 < 2 * distance(scaled, exact) < distance(bare_picture(cast, job), exact)

    def test_vae_stays_bf16(self, open_at: OpenAt) -> None:
        """At FP8 large weights are FP8 with float32 scales; biases and norms stay bf16, and so does all of the VAE."""
        pipe = open_at("cpu", "fp8").pipe
        pipe.load_models_to_device(["dit", "text_encoder", "vae"])
        formats = {
            name: {tensor.dtype for tensor in getattr(pipe, name).state_dict().values()}
            for name in ("dit", "text_encoder")
        } | {"vae": {layer.kernel.weight.dtype for layer in pipe.vae._stages_out[0][:2]}}
        pipe.load_models_to_device([])
        assert formats == {
            "dit": {torch.float8_e4m3fn, torch.float32, torch.bfloat16},
            "text_encoder": {torch.float8_e4m3fn, torch.float32, torch.bfloat16},
            "vae": {computation_dtype("cpu")},
        }


class TestRotaryEmbeddings:
    @pytest.mark.parametrize(("profile", "precision"), ON_CPU)
    def test_frequencies_are_never_rounded_to_fp8(
        self, open_at: OpenAt, profile: Profile, precision: Precision
    ) -> None:
        """The text encoder turns tokens by the same angles with FP8 weights as with bf16 ones."""
        positions = torch.arange(300).expand(3, 1, -1)
        values = torch.zeros(1, 300, 1, dtype=computation_dtype("cpu"))
        embeddings(open_at, profile, precision)
        rotary, plain = (
            open_at(*kind).pipe.text_encoder.model.language_model.rotary_emb
            for kind in ((profile, precision), ("cpu", "bf16"))
        )
        for ours, reference in zip(rotary(values, positions), plain(values, positions), strict=True):
            assert torch.equal(ours, reference)

    def test_embeddings_at_fp8_are_near_those_at_bf16(self, open_at: OpenAt) -> None:
        """Rounding weights alone turns no token's embedding far: without the repair the nearest is 0.993."""
        exact, rounded = (embeddings(open_at, "cpu", precision) for precision in ("bf16", "fp8"))
        assert torch.nn.functional.cosine_similarity(exact, rounded, dim=-1).min() > 0.9945


class TestMachine:
    @pytest.mark.parametrize("profile", ["resident", "fp8"])
    def test_gpu_profiles_need_a_gpu(self, profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a GPU the profiles that need one say so, and name one that does not."""
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        with pytest.raises(MachineError, match=f"the profile {profile} needs an NVIDIA GPU") as caught:
            open_pipeline(make_setup(profile=profile, precision="fp8"), no_report)
        assert "--profile cpu" in caught.value.hint

    def test_fp8_profile_refuses_bf16(self) -> None:
        """The profile that keeps weights in FP8 does not pretend to render bf16 jobs."""
        with pytest.raises(MachineError, match="cannot render bf16") as caught:
            open_pipeline(make_setup(profile="fp8", precision="bf16"), no_report)
        assert "disk" in caught.value.hint

    def test_renamed_class_in_transformers(self, monkeypatch: pytest.MonkeyPatch, demo_folder: Path) -> None:
        """Where DiffSynth's VRAM management names a class transformers lacks, both versions and the cure are told."""
        names = VRAM_MANAGEMENT_MODULE_MAPS["diffsynth.models.qwen_image_text_encoder.QwenImageTextEncoder"]
        monkeypatch.setitem(names, "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Renamed", "torch.nn.Module")
        with pytest.raises(MachineError, match=r"diffsynth \d.* and transformers \d.*Renamed") as caught:
            open_pipeline(make_setup(demo_folder, "disk", "fp8"), no_report)
        assert "transformers>=" in caught.value.hint

    def test_prints_stay_off_stdout(self, demo_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Nothing DiffSynth prints while it opens reaches stdout, and the parts are reported as they are loaded."""
        parts: list[str] = []
        open_pipeline(make_setup(demo_folder), parts.append)
        assert capfd.readouterr().out == ""
        assert parts == ["transformer", "text_encoder", "vae"]


class TestModel:
    @pytest.mark.parametrize("file", [DIT, TEXT_ENCODER, VAE])
    def test_missing_part(self, copied: Path, file: str) -> None:
        """A folder without one of the networks is refused with the name of the file that is not there."""
        (copied / file).unlink()
        with pytest.raises(ModelError, match=file.partition("/")[0]):
            open_pipeline(make_setup(copied), no_report)

    def test_missing_shard(self, copied: Path) -> None:
        """Of a network in several files each one that is missing is named."""
        whole = copied / DIT
        whole.rename(whole.with_name("diffusion_pytorch_model-00002-of-00003.safetensors"))
        with pytest.raises(ModelError, match=r"00001-of-00003.*00003-of-00003"):
            open_pipeline(make_setup(copied), no_report)

    def test_missing_tokenizer_file(self, copied: Path) -> None:
        """A tokenizer without its merges, which transformers would open without a word, is refused by name."""
        (copied / "tokenizer/merges.txt").unlink()
        with pytest.raises(ModelError, match=r"tokenizer/merges\.txt"):
            open_pipeline(make_setup(copied), no_report)

    @pytest.mark.parametrize(("profile", "precision"), [("cpu", "bf16"), ("disk", "fp8")])
    @pytest.mark.parametrize("file", [DIT, VAE])
    def test_truncated_file(self, copied: Path, file: str, profile: Profile, precision: Precision) -> None:
        """A weight file that ends early is named, with what is wrong; the whole ones are not."""
        path = copied / file
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ModelError, match=f"{file}: cut off") as caught:
            open_pipeline(make_setup(copied, profile, precision), no_report)
        assert TEXT_ENCODER not in caught.value.message

    @pytest.mark.parametrize("name", ["qwen_image_dit", "qwen_image_text_encoder", "qwen_image_vae"])
    def test_a_network_that_diffsynth_takes_for_another(
        self, demo_folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """DiffSynth opens without it, and says that this is no error; it is one."""
        members.register()
        for entry in (entry for entry in MODEL_CONFIGS if entry["model_name"] == name):
            monkeypatch.setitem(entry, "model_name", "another")
        with pytest.raises(ModelError, match="DiffSynth has not found the model's"):
            open_pipeline(make_setup(demo_folder), no_report)

    def test_unknown_weights(self, copied: Path) -> None:
        """Weights of a shape that no such network has are refused with their file's and their tensor's name."""
        alter(copied / DIT, "proj_out.bias", lambda bias: bias[:-1])
        with pytest.raises(ModelError, match=f'{DIT}: tensor "proj_out.bias" is'):
            open_pipeline(make_setup(copied), no_report)

    def test_another_parts_file(self, copied: Path) -> None:
        """A VAE under the transformer's name is refused."""
        shutil.copy(copied / VAE, copied / DIT)
        with pytest.raises(ModelError, match=f"{DIT}: a VAE, and not a transformer"):
            open_pipeline(make_setup(copied), no_report)

    def test_another_tokenizer(self, copied: Path) -> None:
        """A tokenizer that cuts the prompt template into other than 34 tokens is refused: DiffSynth drops 34."""
        (copied / "tokenizer/merges.txt").write_text("#version: 0.2\n")
        with pytest.raises(ModelError, match=r"takes \d+ tokens, and DiffSynth drops 34"):
            open_pipeline(make_setup(copied), no_report)

    def test_unknown_name(self) -> None:
        """A name that is neither in the catalogue nor a folder is refused."""
        with pytest.raises(ModelError, match="no model"):
            open_pipeline(make_setup("Qwen/Qwen-Imagine"), no_report)


class TestHub:
    def test_offline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Offline, a hub's model that is not here is refused at once: what is missing, and how to get it."""
        monkeypatch.setenv("DIFFSYNTH_MODEL_BASE_PATH", str(tmp_path))
        setup = Setup(model="Qwen/Qwen-Image", precision="bf16", profile="cpu", offline=True)
        with pytest.raises(ModelError, match=r"lacks transformer/.*text_encoder/.*vae/.*tokenizer/.*offline") as caught:
            open_pipeline(setup, no_report)
        assert "renderer models pull Qwen/Qwen-Image" in caught.value.hint

    def test_hub_that_says_no(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When no hub has the model, the error says what each of them said."""
        with serve(Hub({})) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.endpoint)
            monkeypatch.setenv("RENDERER_MODELS", str(tmp_path))
            setup = Setup(model="Qwen/Qwen-Image", precision="bf16", profile="cpu", offline=False)
            with pytest.raises(ModelError, match=r"cannot be fetched: Hugging Face's .*404.*ModelScope's .*404"):
                open_pipeline(setup, no_report)

    def test_present_files_ask_no_hub(self, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hub's model whose files are all here is opened without a network."""
        (tmp_path / "Qwen").mkdir()
        (tmp_path / "Qwen/Qwen-Image").symlink_to(demo_folder)
        monkeypatch.setenv("DIFFSYNTH_MODEL_BASE_PATH", str(tmp_path))
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
        opened = open_pipeline(Setup(model="Qwen/Qwen-Image", precision="bf16", profile="cpu"), no_report)
        assert opened.model.id == "Qwen/Qwen-Image"
