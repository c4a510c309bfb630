"""Where models are looked for: every tool's folders, whole or not, at the right revision or not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from renderer import catalog
from renderer.catalog import QWEN_IMAGE, Model
from renderer.errors import ModelError
from renderer.system import folders
from renderer.weights import comfyui_has, places
from tests.engine.making import alter

PINNED = catalog.find("Qwen/Qwen-Image@abc123")
LATER = catalog.MODELS["Qwen/Qwen-Image-2512"]
NAMES = (
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
)


def fill(folder: Path, *without: str) -> Path:
    """A repository's folder with all files of a model but those named."""
    for name in NAMES:
        if name not in without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
    return folder


def kinds(model: Model) -> set[str]:
    return {found.kind for found in places.look(model).found}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: every tool's folder lies below this one, and none is there yet."""
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "ours"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestPlaces:
    def test_nothing_is_here(self) -> None:
        """A model that nobody has fetched lacks every part, by the names that it has in its repository."""
        assert places.look(QWEN_IMAGE).missing == [
            "transformer/diffusion_pytorch_model*.safetensors",
            "text_encoder/model*.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
        ]

    @pytest.mark.parametrize(
        ("folder", "kind"),
        [
            ("ours/Qwen/Qwen-Image", "models folder"),
            ("models/Qwen/Qwen-Image", "models folder"),
            (f"hub/models--Qwen--Qwen-Image/snapshots/{QWEN_IMAGE.revision}", "Hugging Face cache"),
            ("modelscope/models/Qwen--Qwen-Image/snapshots/master", "ModelScope cache"),
            ("modelscope/models/Qwen/Qwen-Image", "ModelScope cache"),
            ("modelscope/hub/models/Qwen/Qwen-Image", "ModelScope cache"),
        ],
    )
    def test_each_tool_s_folder(self, here: Path, folder: str, kind: str) -> None:
        """What another tool has fetched is used where it is."""
        fill(here / folder)
        files = places.collect(places.look(QWEN_IMAGE))
        assert kinds(QWEN_IMAGE) == {kind}
        assert [path.absolute() for path in files.weights] == [here / folder / name for name in NAMES[:4]]
        assert files.tokenizer.absolute() == here / folder / "tokenizer"

    def test_diffsynth_s_own_folder(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where DiffSynth is told to keep models, they are found; and kept, where ours is not said."""
        monkeypatch.setenv("DIFFSYNTH_MODEL_BASE_PATH", str(here / "theirs"))
        fill(here / "theirs/Qwen/Qwen-Image")
        assert not places.look(QWEN_IMAGE).lacking
        monkeypatch.delenv("RENDERER_MODELS")
        assert folders.models_folder() == here / "theirs"

    def test_parts_may_be_apart(self, here: Path) -> None:
        """Parts are found one by one: one tool may have what another lacks."""
        fill(here / "ours/Qwen/Qwen-Image", NAMES[3])
        fill(here / "modelscope/models/Qwen/Qwen-Image", *NAMES[:3])
        found = {each.part.role: each.kind for each in places.look(QWEN_IMAGE).found}
        assert found["vae"] == "ModelScope cache"
        assert found["transformer"] == "models folder"

    def test_parts_of_another_repository(self, here: Path) -> None:
        """2512's text encoder, VAE and tokenizer are those of Qwen/Qwen-Image, and said to be where they lack."""
        assert "Qwen/Qwen-Image/text_encoder/model*.safetensors" in places.look(LATER).missing
        fill(here / "ours/Qwen/Qwen-Image")
        assert places.look(LATER).missing == ["transformer/diffusion_pytorch_model*.safetensors"]

    @pytest.mark.parametrize("name", NAMES)
    def test_not_whole(self, here: Path, name: str) -> None:
        """A folder that lacks a file is not used, and the file that lacks is named."""
        fill(here / "ours/Qwen/Qwen-Image", name)
        missing = places.look(QWEN_IMAGE).missing
        assert len(missing) == 1
        assert missing[0].replace("*", "") == name
        with pytest.raises(ModelError, match=r"is not complete: .*lacks ") as caught:
            places.collect(places.look(QWEN_IMAGE))
        assert "renderer models pull Qwen/Qwen-Image" in caught.value.hint

    def test_a_broken_link(self, here: Path) -> None:
        """A name in a cache that leads nowhere is a missing file."""
        folder = fill(here / f"hub/models--Qwen--Qwen-Image/snapshots/{QWEN_IMAGE.revision}", NAMES[3])
        (folder / NAMES[3]).parent.mkdir()
        (folder / NAMES[3]).symlink_to(here / "nowhere")
        assert places.look(QWEN_IMAGE).missing == [NAMES[3]]


class TestRevisions:
    def test_a_pinned_one_is_not_just_any(self, here: Path) -> None:
        """Where a manifest pins a revision, folders that do not say which they have are not taken for it."""
        for folder in ("ours/Qwen/Qwen-Image", "modelscope/models/Qwen/Qwen-Image"):
            fill(here / folder)
        fill(here / f"hub/models--Qwen--Qwen-Image/snapshots/{QWEN_IMAGE.revision}")
        assert len(places.look(PINNED).lacking) == 4

    @pytest.mark.parametrize(
        "folder",
        [
            "ours/Qwen/Qwen-Image@abc123",
            "hub/models--Qwen--Qwen-Image/snapshots/abc123",
            "modelscope/models/Qwen--Qwen-Image/snapshots/abc123",
        ],
    )
    def test_a_pinned_one_is_found(self, here: Path, folder: str) -> None:
        """A folder that says it has the pinned revision is used."""
        fill(here / folder)
        assert not places.look(PINNED).lacking

    def test_another_commit_is_not_the_catalogue_s(self, here: Path) -> None:
        """What the Hugging Face cache has of another commit is not taken for the pinned one, but named."""
        root = here / "hub/models--Qwen--Qwen-Image"
        fill(root / "snapshots/0123456789abcdef")
        (root / "refs").mkdir()
        (root / "refs/main").write_text("0123456789abcdef")
        assert len(places.look(QWEN_IMAGE).lacking) == 4
        with pytest.raises(ModelError) as caught:
            places.collect(places.look(QWEN_IMAGE))
        assert "Qwen/Qwen-Image@0123456789abcdef" in caught.value.hint
        assert not places.look(catalog.find("Qwen/Qwen-Image@0123456789abcdef")).lacking

    def test_half_a_commit_is_not_named(self, here: Path) -> None:
        """A commit of which a part lacks helps nobody, and is not spoken of."""
        fill(here / "hub/models--Qwen--Qwen-Image/snapshots/0123456789abcdef", NAMES[1])
        with pytest.raises(ModelError) as caught:
            places.collect(places.look(QWEN_IMAGE))
        assert "@" not in caught.value.hint

    def test_a_tag(self, here: Path) -> None:
        """A tag is looked up among what the Hugging Face cache knows of it."""
        fill(here / "hub/models--Qwen--Qwen-Image/snapshots/0123456789")
        (here / "hub/models--Qwen--Qwen-Image/refs").mkdir()
        (here / "hub/models--Qwen--Qwen-Image/refs/v2").write_text("0123456789")
        assert not places.look(catalog.find("Qwen/Qwen-Image@v2")).lacking


class TestComfyUI:
    @pytest.fixture
    def comfyui(self, here: Path, demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """ComfyUI's folders with the demo model's networks under the names that Qwen-Image's have there."""
        monkeypatch.setenv("COMFYUI_PATH", str(here / "ComfyUI"))
        for part in QWEN_IMAGE.parts:
            if part.comfyui:
                target = here / "ComfyUI/models" / part.comfyui
                target.parent.mkdir(parents=True)
                shutil.copy(next(demo_folder.glob(part.files)), target)
        return here / "ComfyUI/models"

    def test_files_of_the_right_keys(self, comfyui: Path) -> None:
        """Files that hold what such a network must hold are used where they are; the tokenizer is not among them."""
        where = places.look(QWEN_IMAGE)
        assert kinds(QWEN_IMAGE) == {"ComfyUI"}
        assert where.missing == ["tokenizer/vocab.json", "tokenizer/merges.txt"]
        assert where.found[0].files == (comfyui / "diffusion_models/qwen_image_bf16.safetensors",)

    def test_other_models_of_the_same_shape(self, comfyui: Path) -> None:
        """A file is another model's by its name, though keys and shapes are the same."""
        assert comfyui
        assert "transformer/diffusion_pytorch_model*.safetensors" in places.look(LATER).missing

    def test_repackaged_files(self, comfyui: Path) -> None:
        """A file in FP8, as ComfyUI repackages them, is not taken for the model."""
        path = comfyui / "diffusion_models/qwen_image_bf16.safetensors"
        alter(path, "img_in.weight", lambda tensor: tensor.to(torch.float8_e4m3fn))
        assert "transformer/diffusion_pytorch_model*.safetensors" in places.look(QWEN_IMAGE).missing

    def test_other_forms_are_named(self, comfyui: Path) -> None:
        """Where a model is not here, what ComfyUI has of it in FP8 or in blocks is named, and no other model's."""
        folder = comfyui / "diffusion_models"
        (folder / "qwen_image_bf16.safetensors").unlink()
        (comfyui / "text_encoders/qwen_2.5_vl_7b.safetensors").unlink()
        for name in ("qwen_image_edit_fp8_e4m3fn.safetensors", "qwen-image-2512-Q8_0.gguf", "qwen_image_notes.txt"):
            (folder / name).touch()
        assert comfyui_has.other_forms(QWEN_IMAGE.parts) == {}
        (comfyui / "unet/qwen").mkdir(parents=True)
        (comfyui / "unet/qwen/Qwen-Image-Q4_K_M.gguf").touch()
        (comfyui / "text_encoders/Qwen2.5-VL-7B-Instruct-UD-Q4_K_XL.gguf").touch()
        with pytest.raises(ModelError) as caught:
            places.collect(places.look(QWEN_IMAGE))
        assert caught.value.hint.endswith(
            "in other forms: model: {transformer: Qwen-Image-Q4_K_M.gguf, "
            "text_encoder: Qwen2.5-VL-7B-Instruct-UD-Q4_K_XL.gguf}"
        )

    def test_a_truncated_file(self, comfyui: Path) -> None:
        """A file that ends too early is not taken either."""
        path = comfyui / "diffusion_models/qwen_image_bf16.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
        assert "transformer/diffusion_pytorch_model*.safetensors" in places.look(QWEN_IMAGE).missing


class TestStores:
    def test_names(self, here: Path, demo_folder: Path) -> None:
        """A store's folder tells models, revisions, contents and precisions apart."""
        packed = here / "ours/packed"
        assert places.packed_folder(QWEN_IMAGE, "fp8") == packed / "Qwen--Qwen-Image/fp8"
        assert places.packed_folder(PINNED, "bf16") == packed / "Qwen--Qwen-Image@abc123/bf16"
        local = places.packed_folder(catalog.find(str(demo_folder)), "fp8")
        assert local.parent.name.startswith(f"{demo_folder.name}-")
