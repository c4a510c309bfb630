"""The catalogue: what its models say of themselves, the four ways to name one, and what a manifest may not choose."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from renderer import catalog
from renderer.catalog import MODELS, Density, Model
from renderer.errors import ManifestError, ModelError, UsageError
from renderer.families.qwen_image.shapes import TextEncoderWidths, TransformerWidths, VaeWidths
from renderer.job import Size, fingerprint
from renderer.manifest.manifest import Overrides, load
from renderer.weights.identity import identify
from tests.making import make_job

FROM_A_HUB = [model for model in MODELS.values() if model.parts]
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


def manifest_of(tmp_path: Path, model: str) -> Path:
    """A manifest of one job that names a model in its third line."""
    path = tmp_path / "m.yaml"
    path.write_text(f"jobs:\n  - prompt: a cat\n    model: {model}\n    size: 512x512\n")
    return path


class TestModels:
    @pytest.mark.parametrize("model", FROM_A_HUB, ids=lambda model: model.id)
    def test_each_is_complete(self, model: Model) -> None:
        """A model of a hub has parts with known sizes, a licence, and its own name as its reference."""
        assert catalog.find(model.reference) is model
        assert model.licence == "Apache-2.0"
        assert all(part.bytes for part in model.parts)

    @pytest.mark.parametrize("model", FROM_A_HUB, ids=lambda model: model.id)
    def test_each_is_pinned(self, model: Model) -> None:
        """To whole commits, its own and those of what it takes from others: else its identity would name no weights."""
        commits = [model.revision, *(part.revision for part in model.parts if part.repository)]
        assert all(re.fullmatch("[0-9a-f]{40}", commit or "") for commit in commits)

    @pytest.mark.parametrize("model", [each for each in FROM_A_HUB if not each.is_extra], ids=lambda each: each.id)
    def test_each_has_what_diffsynth_opens(self, model: Model) -> None:
        """A whole model has the three networks and a tokenizer; those that edit have a processor too."""
        roles = [part.role for part in model.parts]
        assert roles[:4] == ["transformer", "text_encoder", "vae", "tokenizer"]
        assert ("processor" in roles) is (model.ability == "edit")

    def test_the_shape_is_that_of_the_weights(self) -> None:
        """The catalogue's numbers are those from which the packed store's shapes are made."""
        shape = catalog.QWEN_IMAGE.shape
        assert shape is not None
        dit, text, vae = TransformerWidths(), TextEncoderWidths(), VaeWidths()
        assert (shape.layers, shape.width, shape.head_width) == (dit.layers, dit.width, dit.head)
        assert (shape.text_layers, shape.text_width, shape.vocabulary) == (text.layers, text.width, text.vocabulary)
        assert (shape.text_width * shape.text_key_heads // shape.text_heads, shape.text_mlp_width) == (
            text.keys,
            text.mlp,
        )
        assert shape.vae_width == vae.base

    def test_2511_is_called_its_own_way(self) -> None:
        """Edit-2511 is called with `zero_cond_t`, and the edit models before it are not; the demo's has learned so."""
        assert {each.id for each in MODELS.values() if each.editing and each.editing.zero_cond_t} == {
            "Qwen/Qwen-Image-Edit-2511",
            "demo-edit",
        }

    @pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.id)
    def test_ratios_are_sizes_it_renders(self, model: Model) -> None:
        """Every ratio's size is one that the model itself does not refuse."""
        assert [model.refusal(size) for size in model.ratios.values()] == [""] * len(model.ratios)
        assert model.refusal(Size(width=100, height=100))


class TestControlNets:
    def test_each_says_what_it_looks_at(self) -> None:
        """DiffSynth's three, one of which looks at a mask; no manifest takes one for a model."""
        found = [model for model in MODELS.values() if model.ability == "controlnet"]
        assert [model.id.rpartition("-")[2] for model in found if not model.masked] == ["Canny", "Depth"]
        assert [model.id.rpartition("-")[2] for model in found if model.masked] == ["Inpaint"]
        assert {model.base for model in found} == {"Qwen/Qwen-Image"}
        assert all("under controlnets" in model.unfit for model in found)


class TestLoras:
    def test_each_says_what_it_was_made_for(self) -> None:
        """The name has the steps; the base is a model of the catalogue; without guidance, by Lightning's schedule."""
        loras = [model for model in MODELS.values() if model.is_distilled]
        assert len(loras) == 13
        for lora in loras:
            assert MODELS[lora.base].ability != "lora"
            assert lora.cfg_scale == 1.0
            assert lora.schedule == "lightning"
            assert f"{lora.steps}steps" in lora.id
            assert f"{lora.steps}steps" in lora.file_name
        others = [model for model in MODELS.values() if model.ability == "lora" and not model.is_distilled]
        assert [(each.id, each.steps, each.base) for each in others] == [
            ("DiffSynth-Studio/Qwen-Image-In-Context-Control-Union", 40, "Qwen/Qwen-Image")
        ]
        bases = {(lora.base, lora.steps) for lora in loras}
        edits = ("Edit", "Edit-2509", "Edit-2511")
        assert {(f"Qwen/Qwen-Image-{name}", steps) for name in ("2512", *edits) for steps in (4, 8)} <= bases

    @pytest.mark.parametrize(
        ("licence", "forbids"),
        [
            ("Apache-2.0", False),
            ("", False),
            ("MIT", False),
            ("CC-BY-NC-SA-4.0", True),
            ("flux-1-dev-non-commercial-license", True),
            ("Qwen Research License", True),
        ],
    )
    def test_licences_that_forbid_commerce(self, licence: str, forbids: bool) -> None:  # noqa: FBT001
        assert catalog.forbids_commerce(licence) is forbids


class TestRevisions:
    def test_another_revision(self) -> None:
        """`ID@REVISION` is the catalogue's model at that revision, which enters the identity and so the fingerprint."""
        model = catalog.find("Qwen/Qwen-Image@abc123")
        assert (model.id, model.revision, model.reference) == ("Qwen/Qwen-Image", "abc123", "Qwen/Qwen-Image@abc123")
        assert catalog.find(model.reference) == model
        usual = catalog.find("Qwen/Qwen-Image")
        assert identify(model).revision == "abc123"
        assert fingerprint(make_job(), identify(model)) != fingerprint(make_job(), identify(usual))

    def test_the_catalogue_s_own_revision(self) -> None:
        """To name the revision that the catalogue pins anyway changes nothing."""
        assert catalog.find(f"Qwen/Qwen-Image@{catalog.QWEN_IMAGE.revision}") is catalog.QWEN_IMAGE

    @pytest.mark.parametrize("reference", ["Qwen/Qwen-Image@", "Qwen/Qwen-Image@../x", "demo@1", "Qwen/Nothing@abc"])
    def test_refused(self, reference: str) -> None:
        """No revision, one that is a path, one of the demo model or of an unknown one are refused."""
        with pytest.raises(ModelError):
            catalog.find(reference)

    def test_in_a_manifest(self, tmp_path: Path) -> None:
        """A manifest may pin a revision; its jobs keep it, so that a worker opens that very one."""
        (picture,) = load(manifest_of(tmp_path, "Qwen/Qwen-Image@abc123")).pictures
        assert picture.job.model == "Qwen/Qwen-Image@abc123"


class TestSizes:
    MODEL = catalog.QWEN_IMAGE

    @pytest.mark.parametrize(
        ("size", "why"),
        [
            ((1328, 1320), "multiple of 16"),
            ((1320, 1328), "multiple of 16"),
            ((MODEL.min_side - 16, 1024), "smallest side"),
            ((1024, MODEL.max_side + 16), "largest side"),
        ],
    )
    def test_what_is_refused(self, size: tuple[int, int], why: str) -> None:
        assert why in self.MODEL.refusal(Size(width=size[0], height=size[1]))

    def test_the_most_pixels_are_not_too_many(self) -> None:
        """A row of patches more is."""
        side = self.MODEL.min_side
        exact = replace(self.MODEL, max_pixels=side * 1024)
        assert exact.refusal(Size(width=side, height=1024)) == ""
        assert "more than" in exact.refusal(Size(width=side, height=1040))

    def test_the_nearest_to_one_that_is_too_large_is_nearly_as_large_as_may_be(self) -> None:
        """In pixels."""
        asked = Size(width=4 * self.MODEL.max_side, height=2 * self.MODEL.max_side)
        for near in self.MODEL.nearest(asked):
            assert self.MODEL.refusal(near) == ""
            assert near.width * near.height > 0.9 * min(self.MODEL.max_pixels, self.MODEL.max_side**2 / 2)

    def test_a_small_picture_s_pixels_have_no_more_than_the_figure(self) -> None:
        """Only larger ones have less each."""
        density = Density(1.5, pixels=1000, fall=0.5)
        assert [density.bytes_of(pixels) for pixels in (10, 1000, 4000)] == [15, 1500, 3000]


class TestFiles:
    def test_a_folder(self, demo_folder: Path) -> None:
        """A folder in Qwen-Image's layout stands wherever an id can."""
        assert catalog.find(str(demo_folder)).folder == demo_folder

    def test_a_folder_without_a_tokenizer(self, tmp_path: Path) -> None:
        """It is named with all else that lacks."""
        for part in catalog.NETWORK_FILES[:2]:
            path = tmp_path / part.files.replace("*", "model")
            path.parent.mkdir(parents=True)
            path.touch()
        with pytest.raises(ModelError, match=r"lacks vae/.*, tokenizer/$"):
            catalog.find(str(tmp_path))

    def test_a_folder_of_pickles(self, tmp_path: Path) -> None:
        """A folder whose weights are pickled is refused, with the reason."""
        (tmp_path / "transformer").mkdir()
        (tmp_path / "transformer/diffusion_pytorch_model.bin").touch()
        with pytest.raises(ModelError, match="lacks transformer/") as caught:
            catalog.find(str(tmp_path))
        assert "pickled" in caught.value.hint

    def test_single_files(self, demo_folder: Path, tmp_path: Path) -> None:
        """A manifest gives files by the part they are; the parts it does not give are Qwen/Qwen-Image's."""
        mapping = (
            f"{{vae: {demo_folder}/vae/diffusion_pytorch_model.safetensors, transformer: {demo_folder}/{TRANSFORMER}}}"
        )
        (picture,) = load(manifest_of(tmp_path, mapping)).pictures
        model = catalog.find(picture.job.model)
        assert list(model.files) == ["transformer", "vae"]
        assert [(part.role, part.repository) for part in model.parts] == [
            ("text_encoder", "Qwen/Qwen-Image"),
            ("tokenizer", "Qwen/Qwen-Image"),
        ]

    def test_their_content_is_what_counts(self, demo_folder: Path, tmp_path: Path) -> None:
        """Moving a single file changes no fingerprint, changing it does, and no path is in the identity."""
        marks = []
        for folder, tail in (("here", b""), ("there", b""), ("changed", b"x")):
            (tmp_path / folder).mkdir()
            path = tmp_path / folder / "mine.safetensors"
            shutil.copy(demo_folder / TRANSFORMER, path)
            with path.open("ab") as stream:
                stream.write(tail)
            identity = identify(catalog.find(f"transformer={path}"))
            assert identity.id == "mine"
            marks.append(fingerprint(make_job(), identity))
        assert marks[0] == marks[1] != marks[2]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("transformer=model.ckpt", "pickled checkpoint"),
            ("transformer=missing.safetensors", "is not there"),
            ("tokenizer=missing", "is not a folder"),
            ("vae=a.safetensors,decoder=b.safetensors", "is not there"),
        ],
    )
    def test_refused(self, text: str, message: str) -> None:
        """Pickles, missing files and missing folders are refused by name."""
        with pytest.raises(ModelError, match=message):
            catalog.find(text)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"unet": "a"}, 'no part "unet"'),
            ({}, "empty"),
            ({"vae": "a,b"}, "cannot be a file"),
            ({"vae": " "}, "cannot"),
        ],
    )
    def test_refused_mappings(self, files: dict[str, str], message: str) -> None:
        """A part that does not exist, no part at all, and paths that cannot be written down are refused."""
        with pytest.raises(ModelError, match=message):
            catalog.by_role(files)

    def test_a_wrong_part_in_a_manifest(self, tmp_path: Path) -> None:
        """An unknown part is a problem of its manifest, with its line and the parts there are."""
        with pytest.raises(
            ManifestError, match=r"m\.yaml:3:12 jobs\[0\]\.model: .*no part \"unet\" \(known: transformer"
        ):
            load(manifest_of(tmp_path, "{unet: a.safetensors}"))


class TestUnfit:
    @pytest.mark.parametrize("model", [each for each in MODELS.values() if each.unfit], ids=lambda each: each.id)
    def test_in_a_manifest(self, tmp_path: Path, model: Model) -> None:
        """LoRAs are refused at the line that names them, with those that render."""
        with pytest.raises(ManifestError) as caught:
            load(manifest_of(tmp_path, model.id))
        (problem,) = caught.value.problems
        assert (problem.line, problem.path) == (3, "jobs[0].model")
        assert model.id in problem.message
        assert problem.hint == (
            "these render: Qwen/Qwen-Image, Qwen/Qwen-Image-2512, Qwen/Qwen-Image-Edit, Qwen/Qwen-Image-Edit-2509, "
            "Qwen/Qwen-Image-Edit-2511, Qwen/Qwen-Image-Layered, demo, demo-edit"
        )

    def test_on_the_command_line(self, tmp_path: Path) -> None:
        """`--model` cannot name them either."""
        with pytest.raises(UsageError, match="is a LoRA"):
            load(manifest_of(tmp_path, "demo"), Overrides(model="lightx2v/Qwen-Image-Lightning/4steps-V2.0"))
