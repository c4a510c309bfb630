"""Files as people have them: what each is, in words, and what to do; damage only where there is some."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from renderer import catalog
from renderer.catalog import Role
from renderer.errors import ModelError
from renderer.families.qwen_image import shapes
from renderer.families.qwen_image.transformer import EDIT_2511_MARK
from renderer.weights import soundness
from renderer.weights.checkpoint import open_checkpoint
from renderer.weights.headers import PlannedTensor, read_header, tensor_bytes, write_file
from tests.weights import tiny

TRANSFORMER = dict.fromkeys(tiny.SHAPES["transformer"], "BF16")
LAYER = "transformer_blocks.0.attn.to_q"


def write(path: Path, network: Role, more: dict[str, str], metadata: dict[str, str] | None = None) -> Path:
    """A tiny network's file with more tensors, of some type and one element; without the network where it is given."""
    own = tiny.SHAPES[network] if path.stem != "alone" else {}
    planned = [PlannedTensor(name, "BF16", shape) for name, shape in own.items()]
    planned += [PlannedTensor(name, dtype, (4, 2)) for name, dtype in more.items()]
    size = sum(tensor_bytes(each.dtype, each.shape) for each in planned)
    write_file(path, planned, metadata or {}, [memoryview(bytes(size))])
    return path


def refused(path: Path, network: Role = "transformer") -> ModelError:
    with pytest.raises(ModelError) as raised:
        open_checkpoint(network, [path])
    assert raised.value.message.startswith(str(path))
    return raised.value


class TestKinds:
    @pytest.mark.parametrize(
        ("more", "metadata", "says"),
        [
            (
                {f"{LAYER}.weight_scale": "F32"},
                {"_quantization_metadata": json.dumps({"layers": {LAYER: {"format": "awq_w4a16"}}})},
                "by ComfyUI (awq_w4a16)",
            ),
            ({f"{LAYER}.weight_scale": "F8_E8M0"}, {}, "BF16 with a scale beside it"),
            ({f"{LAYER}.weight_scale_2": "F32", f"{LAYER}.weight_scale": "F8_E4M3"}, {}, "BF16 with a scale beside it"),
            ({f"{LAYER}.qweight": "I8", f"{LAYER}.wscales": "BF16"}, {}, "by Nunchaku (SVDQuant)"),
            ({f"{LAYER}.weight._data": "I8", f"{LAYER}.weight._scale": "F32"}, {}, "by Quanto"),
            ({f"{LAYER}.scale": "F32", f"{LAYER}.zero_point": "F32"}, {}, "by SDNQ"),
            ({f"{LAYER}.qzeros": "I32"}, {}, "by GPTQ or AWQ"),
            ({f"{LAYER}._weight_qdata": "I8"}, {}, "by torchao"),
            ({}, {"tensor_names": "[]"}, "by torchao"),
            ({f"{LAYER}.weight_scale_inv": "F32"}, {}, "to FP8 in blocks"),
        ],
    )
    def test_quantised(self, tmp_path: Path, more: dict[str, str], metadata: dict[str, str], says: str) -> None:
        """Another tool's quantisation is named, is not called damaged, and the hint names the bf16 file."""
        error = refused(write(tmp_path / "m.safetensors", "transformer", more, metadata))
        assert says in error.message
        assert "damaged" not in error.hint
        assert "bf16 file: transformer/diffusion_pytorch_model*.safetensors of Qwen/Qwen-Image" in error.hint

    @pytest.mark.parametrize(
        "name",
        [
            "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
            "transformer_blocks.0.attn.to_q.lora_A.default.weight",
            "diffusion_model.transformer_blocks.0.attn.to_q.lora_down.weight",
            "lora_unet_transformer_blocks_0_attn_to_q.lora_down.weight",
            "transformer_blocks.0.attn.to_q.lora.down.weight",
        ],
    )
    def test_a_lora(self, tmp_path: Path, name: str) -> None:
        """In any of its dialects, with its rank."""
        error = refused(write(tmp_path / "alone.safetensors", "transformer", {name: "BF16"}))
        assert "a LoRA of rank 4, an addition to a model, and not a transformer" in error.message
        assert error.hint == "name it under loras, or make a model with it once: renderer models pack ID --lora FILE"

    @pytest.mark.parametrize("name", ["lycoris_transformer_blocks_0_attn_to_q.lokr_w1", "x.hada_w1_a"])
    def test_its_relatives(self, tmp_path: Path, name: str) -> None:
        """LyCORIS's forms have no rank to tell."""
        assert (
            "a LoRA, an addition" in refused(write(tmp_path / "alone.safetensors", "vae", {name: "BF16"}, {})).message
        )

    def test_all_in_one(self, tmp_path: Path) -> None:
        """A checkpoint with all parts is no transformer, and is well."""
        more = {"model.diffusion_model.img_in.weight": "BF16", "first_stage_model.decoder.conv_in.weight": "BF16"}
        assert (
            "all parts of a model in one file"
            in refused(write(tmp_path / "alone.safetensors", "transformer", more)).message
        )

    @pytest.mark.parametrize(
        ("network", "given", "hint"),
        [
            ("text_encoder", "transformer", "give it as text_encoder="),
            ("vae", "transformer", "give it as vae="),
            ("transformer", "vae", "give it as transformer="),
            ("transformer", "text_encoder", "give it as transformer="),
        ],
    )
    def test_another_part(self, tmp_path: Path, network: Role, given: Role, hint: str) -> None:
        """A part that was given as another is told which it is."""
        assert refused(write(tmp_path / "m.safetensors", network, {}), given).hint == hint

    @pytest.mark.parametrize(
        ("name", "network", "says"),
        [
            ("double_blocks.0.img_attn.qkv.weight", "transformer", "FLUX or HunyuanVideo"),
            ("model.diffusion_model.input_blocks.0.0.weight", "transformer", "Stable Diffusion"),
            ("txt_in.text_norm.weight", "transformer", "Qwen-Image-2.1"),
            ("model.layers.0.self_attn.q_norm.weight", "text_encoder", "Qwen3"),
        ],
    )
    def test_another_model(self, tmp_path: Path, name: str, network: Role, says: str) -> None:
        """A model of another family is named."""
        assert says in refused(write(tmp_path / "alone.safetensors", network, {name: "BF16"}), network).message

    def test_damage_is_still_damage(self, tmp_path: Path) -> None:
        """A network that lacks a tensor, or has one that nobody knows, is called so."""
        error = refused(write(tmp_path / "m.safetensors", "transformer", {"surplus": "BF16"}))
        assert 'has unknown "surplus"' in error.message
        assert "fetch it again" in error.hint


class TestStrangers:
    @pytest.mark.parametrize(
        ("start", "says"),
        [
            (b"<!DOCTYPE html><html><head><title>Just a moment...</title>", 'but a web page ("Just a moment...")'),
            (b'\xef\xbb\xbf\n<?xml version="1.0"?><Error><Code>AccessDenied', "but a web page"),
            (b"GGUF\x03\0\0\0{", "but a GGUF file"),
            (b"Entry not found", 'but a text: "Entry not found"'),
            (b'{"error":"Invalid username or password."}', "but a text"),
            (b'{"detai{l":"x"}', "but a text"),
            (b"\x1f\x8b\x08" + bytes(9), "but an archive (gzip)"),
            (b"\x89PNG\r\n\x1a\n" + bytes(9), "but a picture"),
            (bytes(5000), "nothing but zeros"),
            (b"", "an empty file"),
            (b"\x01\x02\x03\xff\xfe\x00\x00\x00\x00\x01", "not a safetensors file"),
        ],
    )
    def test_what_it_is(self, tmp_path: Path, start: bytes, says: str) -> None:
        """By its first bytes, in words, with what to do."""
        path = tmp_path / "m.safetensors"
        path.write_bytes(start)
        with pytest.raises(ModelError) as raised:
            read_header(path)
        assert says in raised.value.message
        assert raised.value.hint

    def test_what_a_page_says_cannot_harm(self, tmp_path: Path) -> None:
        """A title is shortened and without what would move a terminal's cursor."""
        path = tmp_path / "m.safetensors"
        path.write_bytes(b"<html><title>\x1b[2J" + b"x" * 190 + b"</title>")
        with pytest.raises(ModelError) as raised:
            read_header(path)
        assert "\x1b" not in raised.value.message
        assert len(raised.value.message) < len(str(path)) + 150

    def test_types_of_newer_tools(self, tmp_path: Path) -> None:
        """Types of less than a byte have their sizes; one that nobody knows is not called damage."""
        assert tensor_bytes("F4", (3, 4)) == 6
        path = tmp_path / "m.safetensors"
        text = json.dumps({"w": {"dtype": "F9", "shape": [1], "data_offsets": [0, 1]}}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + b"1")
        with pytest.raises(ModelError, match='unknown type "F9"') as raised:
            read_header(path)
        assert "newer tool" in raised.value.hint


class TestSoundness:
    def test_a_file_that_a_manifest_names(self, tmp_path: Path) -> None:
        """It is looked at although the other parts are not here yet."""
        path = tmp_path / "mine.safetensors"
        path.write_bytes(b"<html>log in</html>")
        (error,) = soundness.problems(catalog.find(f"transformer={path}"))
        assert error.message.startswith(f"{path}: not a safetensors file, but a web page")
        with pytest.raises(ModelError, match="a web page"):
            soundness.check(catalog.find(f"transformer={path}"))

    def test_an_edit_model_by_another_name(self, tmp_path: Path) -> None:
        """Qwen-Image-Edit-2511's mark is no weight; where the file is taken for another model, that is said."""
        path = write(tmp_path / "mine.safetensors", "transformer", {EDIT_2511_MARK: "BF16"})
        (error,) = soundness.problems(catalog.find(f"transformer={path}"))
        assert error.message == f"{path} is of Qwen-Image-Edit-2511, by a mark in it"
        assert error.hint == "give it kind: edit-2511"
        assert soundness.problems(catalog.find(f"transformer={path},kind=edit-2511")) == ()

    def test_a_layered_model_by_another_name(self, tmp_path: Path) -> None:
        """It has one tensor more than others; where a file is taken for what it is not, that is said, both ways."""
        found = tiny.SHAPES["transformer"] | {shapes.LAYERED: (2, tiny.SHAPES["transformer"]["img_in.weight"][0])}
        planned = [PlannedTensor(name, "BF16", shape) for name, shape in found.items()]
        path = tmp_path / "mine.safetensors"
        write_file(path, planned, {}, [memoryview(bytes(sum(tensor_bytes("BF16", each.shape) for each in planned)))])
        (error,) = soundness.problems(catalog.find(f"transformer={path}"))
        assert "takes pictures apart into layers, by its tensors" in error.message
        assert error.hint == "give it kind: layered"
        assert soundness.problems(catalog.find(f"transformer={path},kind=layered")) == ()
        plain = write(tmp_path / "layered.safetensors", "transformer", {})
        (error,) = soundness.problems(catalog.find(f"transformer={plain}"))
        assert "makes no layers" in error.message
        assert error.hint == "give it kind: picture, or edit"

    def test_a_layered_folder(self, tmp_path: Path) -> None:
        """Its VAE has to know transparency, and its transformer's config says what it is for."""
        source = tiny.make(tmp_path / "model")
        (tmp_path / "model/transformer/config.json").write_text('{"use_layer3d_rope": true}')
        model = catalog.find(str(source.folder))
        assert model.layering is not None
        (error,) = soundness.problems(model)
        assert error.hint == 'say "use_layer3d_rope": false in its transformer/config.json'

    def test_all_that_is_wrong_of_a_folder(self, tmp_path: Path) -> None:
        """Each file, and whether whole ones go together."""
        source = tiny.make(tmp_path / "model")
        assert soundness.problems(catalog.find(str(source.folder))) == ()
        for path in (*source.networks["vae"], *source.networks["text_encoder"]):
            path.write_bytes(b"")
        assert len(soundness.problems(catalog.find(str(source.folder)))) == 2

    def test_parts_that_do_not_go_together(self, tmp_path: Path) -> None:
        """The transformer takes latents of another VAE."""
        source = tiny.make(tmp_path / "model")
        other = shapes.vae(shapes.VaeWidths(base=4, latent=8))
        (path,) = source.networks["vae"]
        planned = [PlannedTensor(name, "BF16", shape) for name, shape in other.items()]
        write_file(path, planned, {}, [memoryview(bytes(sum(tensor_bytes("BF16", each.shape) for each in planned)))])
        (error,) = soundness.problems(catalog.find(str(source.folder)))
        assert "wants a VAE of width 64" in error.message

    def test_what_is_not_here_is_no_problem(self) -> None:
        """It will be fetched; and the demo comes with the package."""
        assert soundness.problems(catalog.find("demo")) == ()
        assert soundness.problems(catalog.find("Qwen/Qwen-Image")) == ()

    def test_fetched_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model that is here whole is looked at; half a one is not, for the rest will be fetched with what is bad."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path))
        source = tiny.make(tmp_path / "Qwen/Qwen-Image")
        model = catalog.find("Qwen/Qwen-Image")
        assert soundness.problems(model) == ()
        source.networks["vae"][0].write_bytes(b"Not Found")
        assert [error.message.partition(": ")[2] for error in soundness.problems(model)] == [
            'not a safetensors file, but a text: "Not Found"'
        ]
        source.networks["text_encoder"][0].unlink()
        assert soundness.problems(model) == ()
