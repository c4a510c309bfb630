"""Single files that a manifest names: where they are found, and what they are for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from renderer import catalog
from renderer.catalog import Editing
from renderer.catalog.data import EDITING, EDITING_2509, EDITING_2511
from renderer.catalog.given import like_its_files
from renderer.errors import ModelError


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's folders with files of each part, and a working folder of their own."""
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    for name in (
        "unet/qwen-image-Q4_K_M.gguf",
        "diffusion_models/qwen/qwen_image_fp8_e4m3fn_scaled.safetensors",
        "clip/Qwen2.5-VL-7B-Instruct-Q8_0.gguf",
        "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "vae/qwen_image_vae.safetensors",
    ):
        path = tmp_path / "ComfyUI/models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "ComfyUI/models"


class TestFound:
    @pytest.mark.parametrize(
        ("reference", "place"),
        [
            ("transformer=qwen-image-Q4_K_M.gguf", "unet/qwen-image-Q4_K_M.gguf"),
            ("transformer=qwen_image_fp8_e4m3fn_scaled.safetensors", "diffusion_models/qwen/"),
            ("transformer=qwen/qwen_image_fp8_e4m3fn_scaled.safetensors", "diffusion_models/qwen/"),
            ("text_encoder=Qwen2.5-VL-7B-Instruct-Q8_0.gguf", "clip/"),
            ("text_encoder=qwen_2.5_vl_7b_fp8_scaled.safetensors", "text_encoders/"),
            ("vae=qwen_image_vae.safetensors", "vae/"),
        ],
    )
    def test_in_comfyui(self, comfyui: Path, reference: str, place: str) -> None:
        """By its name alone, or by its path in the folders of its part."""
        (path,) = catalog.find(reference).files.values()
        assert path.is_file()
        assert path.as_posix().startswith((comfyui / place).as_posix())

    def test_here_first(self, comfyui: Path) -> None:
        """A path from where the command is called is taken before ComfyUI's."""
        assert comfyui
        Path("qwen-image-Q4_K_M.gguf").touch()
        assert catalog.find("transformer=qwen-image-Q4_K_M.gguf").files["transformer"] == Path("qwen-image-Q4_K_M.gguf")

    def test_two_of_a_name(self, comfyui: Path) -> None:
        """Which one is meant has to be said; a link to the same file is no second one."""
        (comfyui / "diffusion_models/qwen-image-Q4_K_M.gguf").symlink_to(comfyui / "unet/qwen-image-Q4_K_M.gguf")
        assert catalog.find("transformer=qwen-image-Q4_K_M.gguf")
        (comfyui / "diffusion_models/qwen-image-Q4_K_M.gguf").unlink()
        (comfyui / "diffusion_models/qwen-image-Q4_K_M.gguf").touch()
        with pytest.raises(ModelError, match=r"is in .*diffusion_models.* and .*unet") as raised:
            catalog.find("transformer=qwen-image-Q4_K_M.gguf")
        assert raised.value.hint == "give the path of one"

    def test_none(self, comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The nearest that ComfyUI has of the part is told; without COMFYUI_PATH, that it would be looked for there."""
        assert comfyui
        with pytest.raises(ModelError, match="is not there") as raised:
            catalog.find("transformer=qwen-image-Q5_K_M.gguf")
        assert raised.value.hint == 'did you mean "qwen-image-Q4_K_M.gguf", which ComfyUI has?'
        with pytest.raises(ModelError, match="is not there"):
            catalog.find("vae=qwen-image-Q4_K_M.gguf")
        monkeypatch.delenv("COMFYUI_PATH")
        with pytest.raises(ModelError, match="is not there") as raised:
            catalog.find("transformer=qwen-image-Q4_K_M.gguf")
        assert "COMFYUI_PATH" in raised.value.hint


class TestKind:
    @pytest.mark.parametrize(
        ("name", "told", "ability"),
        [
            ("qwen_image_bf16", "", "picture"),
            ("credits", "", "picture"),
            ("mine", "", "picture"),
            ("mine", "edit", "edit"),
            ("qwen_image_edit_2509_fp8_e4m3fn", "", "edit"),
            ("Qwen-Image-Edit-2511-Q4_K_M", "", "edit"),
            ("qwen-image-edited-by-me", "", "picture"),
            ("qwen_image_edit_merged", "picture", "picture"),
        ],
    )
    def test_what_it_is_for(self, tmp_path: Path, name: str, told: str, ability: str) -> None:
        """By what the manifest says, else by the transformer's name: the tensors are the same."""
        (tmp_path / f"{name}.safetensors").touch()
        files = {"transformer": str(tmp_path / f"{name}.safetensors")} | ({"kind": told} if told else {})
        assert catalog.find(catalog.by_role(files)).ability == ability

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("qwen_image_2512_fp8_e4m3fn_scaled_lightning_comfyui_4steps", (4, 1.0, "lightning")),
            ("qwen_image_2512_fp8_e4m3fn_scaled_8steps_lightning", (8, 1.0, "lightning")),
            ("Qwen-Image-Lightning-8-step-Q4_K_M", (8, 1.0, "lightning")),
            ("qwen_image_fp8_e4m3fn_scaled", (40, 4.0, "qwen-image")),
            ("a_lightning_strike_14steps", (40, 4.0, "qwen-image")),
        ],
    )
    def test_lightning_inside(self, tmp_path: Path, name: str, expected: tuple[int, float, str]) -> None:
        """Weights with Lightning in them, by their name, have its steps, guidance and schedule if a job says none."""
        (tmp_path / f"{name}.safetensors").touch()
        model = catalog.find(f"transformer={tmp_path / name}.safetensors")
        assert (model.steps, model.cfg_scale, model.schedule) == expected

    @pytest.mark.parametrize(
        ("name", "told", "expected"),
        [
            ("qwen_image_edit_fp8_e4m3fn", "", (1, False, False)),
            ("Qwen-Image-Edit-2509-Q4_K_M", "", (8, True, False)),
            ("qwen_image_edit_2511_bf16", "", (8, True, True)),
            ("mine", "edit", (8, True, False)),
            ("mine", "edit-2511", (8, True, True)),
            ("qwen_image_edit_2511_bf16", "edit-2509", (8, True, False)),
        ],
    )
    def test_how_it_takes_pictures(
        self, tmp_path: Path, name: str, told: str, expected: tuple[int, bool, bool]
    ) -> None:
        """By the generation that it is told to be, else by its name; what prepares pictures is the hub's."""
        (tmp_path / f"{name}.safetensors").touch()
        files = {"transformer": str(tmp_path / f"{name}.safetensors")} | ({"kind": told} if told else {})
        model = catalog.find(catalog.by_role(files))
        assert model.editing is not None
        assert (model.editing.most_images, model.editing.numbered, model.editing.zero_cond_t) == expected
        assert [part.repository for part in model.parts if part.role == "processor"] == ["Qwen/Qwen-Image-Edit"]

    @pytest.mark.parametrize(
        ("name", "told", "alone"),
        [
            ("qwen_image_layered_bf16", "", False),
            ("qwen_image_layered_control_bf16", "", True),
            ("qwen_image_layered_control_bf16", "layered", False),
            ("mine", "layered-control", True),
        ],
    )
    def test_how_it_takes_pictures_apart(self, tmp_path: Path, name: str, told: str, *, alone: bool) -> None:
        """As it is told, else by its name; it has the VAE that knows transparency, and nothing that looks."""
        (tmp_path / f"{name}.safetensors").touch()
        files = {"transformer": str(tmp_path / f"{name}.safetensors")} | ({"kind": told} if told else {})
        model = catalog.find(catalog.by_role(files))
        assert model.layering is not None
        assert model.layering.alone is alone
        parts = [(part.role, part.repository) for part in model.parts]
        assert parts[1:] == [("vae", "Qwen/Qwen-Image-Layered"), ("tokenizer", "Qwen/Qwen-Image")]

    def test_a_kind_that_is_none(self, tmp_path: Path) -> None:
        """It is refused with those there are."""
        path = tmp_path / "qwen_image_edit.safetensors"
        path.touch()
        with pytest.raises(ModelError, match='no kind of models "edits"') as raised:
            catalog.find(f"transformer={path},kind=edits")
        assert raised.value.hint == "known: picture, edit, edit-2509, edit-2511, layered, layered-control"
        with pytest.raises(ModelError, match="must not be empty"):
            catalog.by_role({"kind": "edit"})


class TestFolder:
    """What a folder's model is for, by the hub's own files beside its weights."""

    @pytest.mark.parametrize(
        ("config", "pipeline", "editing"),
        [
            ("{}", "QwenImageEditPipeline", EDITING),
            ("{}", "QwenImageEditPlusPipeline", EDITING_2509),
            ('{"zero_cond_t": true}', "QwenImageEditPlusPipeline", EDITING_2511),
            ("[" * 100_000, "QwenImageEditPlusPipeline", EDITING_2509),
            ("no JSON", "", EDITING_2509),
        ],
    )
    def test_how_it_takes_pictures(self, tmp_path: Path, config: str, pipeline: str, editing: Editing) -> None:
        """By its pipeline, and by what its transformer is told of; files that say nothing say nothing."""
        (tmp_path / "transformer").mkdir()
        (tmp_path / "transformer/config.json").write_text(config)
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        assert like_its_files(catalog.QWEN_IMAGE, tmp_path).editing is None
        (tmp_path / "processor").mkdir()
        assert like_its_files(catalog.QWEN_IMAGE, tmp_path).editing == editing

    @pytest.mark.parametrize(("name", "alone"), [("layered", False), ("qwen_layered_control", True)])
    def test_how_it_takes_them_apart(self, tmp_path: Path, name: str, *, alone: bool) -> None:
        """One that takes a single layer out has a picture's sizes, others their own."""
        (tmp_path / name / "transformer").mkdir(parents=True)
        (tmp_path / name / "transformer/config.json").write_text('{"use_layer3d_rope": true}')
        found = like_its_files(catalog.QWEN_IMAGE, tmp_path / name)
        assert found.layering is not None
        assert found.layering.alone is alone
        assert (found.ratios == catalog.QWEN_IMAGE.ratios) is alone
