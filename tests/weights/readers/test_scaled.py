"""ComfyUI's forms: what they are packed to, and what is refused of them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffsynth.core.vram.initialization import skip_model_initialization
from diffsynth.models.wan_video_vae import VideoVAE_
from safetensors.torch import load_file, save_file

from renderer import catalog
from renderer.errors import ModelError
from renderer.families import QWEN_IMAGE_FAMILY
from renderer.weights import readers
from renderer.weights.checkpoint import Checkpoint, open_checkpoint
from renderer.weights.codecs.rows import ROW_CODERS
from renderer.weights.identity import identify
from renderer.weights.readers import TensorAt
from renderer.weights.readers.values import VALUES
from renderer.weights.unpacked import UnpackedFile, unpacked
from tests.weights import foreign, tiny
from tests.weights.foreign import Foreign, Tensors
from tests.weights.tiny import Source, restored

PREFIX = "model.diffusion_model."
LAYER = "transformer_blocks.0.attn.to_q"
WIDE = "transformer_blocks.0.img_mlp.net.2"
TEXT_LAYER = "model.layers.0.self_attn.q_proj"

FORMS: dict[str, Callable[[Tensors], Foreign]] = {
    "2025": foreign.comfyui_2025,
    "2025, with a prefix": lambda tensors: foreign.comfyui_2025(tensors, PREFIX),
    "2026": foreign.comfyui_2026,
    "2026, with a prefix": lambda tensors: foreign.comfyui_2026(tensors, prefix=PREFIX),
    "2026, e5m2": lambda tensors: foreign.comfyui_2026(tensors, "float8_e5m2"),
    "int8": lambda tensors: foreign.comfyui_2026(tensors, "int8_tensorwise"),
    "int8, turned": lambda tensors: foreign.convrot(tensors, 4),
    "MXFP8": lambda tensors: foreign.in_blocks(tensors, "mxfp8"),
    "NVFP4": lambda tensors: foreign.in_blocks(tensors, "nvfp4"),
    "no mark, (out, 1)": foreign.unmarked,
    "no mark, (out,)": lambda tensors: foreign.unmarked(tensors, (-1,)),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The tiny checkpoint, its transformer in one file. Whoever changes it puts it back."""
    found = tiny.make(tmp_path_factory.mktemp("tiny") / "source")
    shards = found.networks["transformer"]
    whole = tiny.tensors_of(shards)
    for path in (*shards, *(found.folder / "transformer").glob("*.json")):
        path.unlink()
    save_file(whole, found.folder / "transformer/diffusion_pytorch_model.safetensors")
    return found


def store(source: Source, precision: Any) -> list[bytes]:
    """Every file that a store of it would have."""
    made = []
    for file in unpacked(source.networks, source.tokenizer, precision).files:
        flat = torch.empty(file.bytes, dtype=torch.uint8)
        file.read_into(flat)
        made.append(flat.numpy().tobytes())
    return made


def transformer(source: Source) -> Path:
    return source.networks["transformer"][0]


def first_block(source: Source) -> UnpackedFile:
    """The transformer's, as a store at fp8 would have it."""
    files = unpacked(source.networks, source.tokenizer, "fp8").files
    return next(file for file in files if (file.network, file.kind, file.number) == ("transformer", "block", 0))


def opened(path: Path) -> Checkpoint:
    return open_checkpoint("transformer", [path])


class TestRead:
    @pytest.mark.parametrize("form", FORMS)
    def test_packed_as_what_it_stands_for(self, source: Source, form: str) -> None:
        """At bf16, a network in each form makes the store of the bf16 network that its scales make of it."""
        path = transformer(source)
        made = FORMS[form](load_file(path))
        with restored(source.folder):
            save_file(made.plain, path)
            expected = store(source, "bf16")
            save_file(made.tensors, path, metadata=made.metadata)
            found = opened(path)
            assert found.tensors["transformer_blocks.0.img_mlp.net.2.weight"].reader == "scaled"
            assert found.tensors[f"{LAYER}.bias"].is_plain
            assert found.tensors.keys() == made.plain.keys()
            assert store(source, "bf16") == expected

    @pytest.mark.parametrize("form", ["2025", "2026", "no mark, (out, 1)"])
    def test_fp8_is_not_rounded_again(self, source: Source, form: str) -> None:
        """At fp8, e4m3 keeps its bits and its scales, and is read back as the bf16 network that they stand for."""
        path = transformer(source)
        made = FORMS[form](load_file(path))
        with restored(source.folder):
            save_file(made.tensors, path, metadata=made.metadata)
            file = first_block(source)
            for layer in ("attn.to_q", "img_mlp.net.2", "txt_mlp.net.0.proj"):
                parts = file.tensors_of([f"{layer}.weight", f"{layer}.scale"])
                kept = {name.rpartition(".")[2]: tensor for name, tensor in parts.items()}
                name = f"transformer_blocks.0.{layer}.weight"
                assert torch.equal(kept["weight"].view(torch.uint8), made.tensors[name].view(torch.uint8))
                assert torch.equal(ROW_CODERS["fp8"].decode(kept), made.plain[name])

    @pytest.mark.parametrize("form", ["2026, e5m2", "int8", "int8, turned", "MXFP8"])
    def test_other_forms_are_rounded_to_fp8(self, source: Source, form: str) -> None:
        """As the bf16 network that they stand for is."""
        path = transformer(source)
        made = FORMS[form](load_file(path))
        with restored(source.folder):
            save_file(made.plain, path)
            expected = store(source, "fp8")
            save_file(made.tensors, path, metadata=made.metadata)
            assert store(source, "fp8") == expected

    @pytest.mark.parametrize("form", ["mxfp8", "nvfp4"])
    def test_words_that_change_nothing(self, source: Source, form: str) -> None:
        """What ComfyUI and convert_to_quant write into marks beside the form, where nothing was turned."""
        path = transformer(source)
        made = foreign.in_blocks(load_file(path), form)
        words = {"group_size": 16, "orig_dtype": "torch.bfloat16", "orig_shape": [16, 32], "convrot": False}
        mark = foreign.mark({"format": form, "full_precision_matrix_mult": True, **words})
        made.tensors[f"{WIDE}.comfy_quant"] = mark
        with restored(source.folder):
            save_file(made.tensors, path)
            assert opened(path).tensors[f"{WIDE}.weight"].dtype == form

    def test_the_text_encoder(self, source: Source) -> None:
        """With its vision tower, as ComfyUI's own file has it."""
        path = source.networks["text_encoder"][0]
        made = foreign.comfyui_2025(load_file(path))
        with restored(source.folder):
            save_file(made.plain, path)
            expected = store(source, "bf16")
            save_file(made.tensors, path)
            assert open_checkpoint("text_encoder", [path]).tensors[f"{TEXT_LAYER}.weight"].reader == "scaled"
            assert store(source, "bf16") == expected

    def test_what_is_no_layer(self, source: Source) -> None:
        """Tables and convolutions in FP8 mean what they are, beside layers with scales; the mark may have a prefix."""
        path = source.networks["text_encoder"][0]
        made = foreign.comfyui_2025(load_file(path))
        for name in ("model.embed_tokens.weight", "visual.patch_embed.proj.weight"):
            made.tensors[name] = made.tensors[name].to(torch.float8_e4m3fn)
            made.plain[name] = made.tensors[name].to(torch.bfloat16)
        made.tensors["model.scaled_fp8"] = made.tensors.pop("scaled_fp8")
        with restored(source.folder):
            save_file(made.plain, path)
            expected = store(source, "bf16")
            save_file(made.tensors, path)
            assert store(source, "bf16") == expected

    def test_scales_in_another_shard(self, source: Source) -> None:
        """A scale is its matrix's, whichever file of the network it is in."""
        path = transformer(source)
        made = foreign.comfyui_2025(load_file(path))
        with restored(source.folder):
            save_file(made.plain, path)
            expected = store(source, "bf16")
            path.unlink()
            scales = {name: tensor for name, tensor in made.tensors.items() if "scale" in name}
            weights = {name: tensor for name, tensor in made.tensors.items() if "scale" not in name}
            save_file(weights, path.with_name(tiny.SHARDS[0]))
            save_file(scales, path.with_name(tiny.SHARDS[1]))
            assert store(source, "bf16") == expected

    def test_the_vae_under_wan_s_names(self, source: Source) -> None:
        """ComfyUI's VAE is packed as the hub's, and is not handed to DiffSynth, which would take it for Wan's."""
        path = source.networks["vae"][0]
        hub_name = QWEN_IMAGE_FAMILY.network("vae").hub_name
        with skip_model_initialization():
            names = {hub_name(name): name for name in VideoVAE_(dim=4, z_dim=16).state_dict()}
        expected = store(source, "bf16")
        with restored(source.folder):
            save_file({names[name]: tensor for name, tensor in load_file(path).items()}, path)
            assert store(source, "bf16") == expected
            found = unpacked(source.networks, source.tokenizer, "bf16").files
            assert {file.network: file.is_as_it_was for file in found}["vae"] is False


class TestBlocks:
    @pytest.mark.parametrize("form", ["mxfp8", "nvfp4"])
    def test_tiles_of_scales(self, tmp_path: Path, form: str) -> None:
        """Where a matrix has more rows and blocks than a tile, each block still has its own scale."""
        weight = torch.randn(200, 320) * torch.logspace(-3, 3, 200)[:, None]
        made = foreign.in_blocks({"a.weight": weight.to(torch.bfloat16)}, form)
        save_file(made.tensors, tmp_path / "m.safetensors")
        file = readers.read(tmp_path / "m.safetensors")
        place = readers.put_together(file.tensors, [file], str)["a.weight"]
        assert place.shape == (200, 320)
        data = place.path.read_bytes()

        def read(other: TensorAt) -> torch.Tensor:
            return torch.frombuffer(bytearray(data[other.offset : other.offset + other.bytes]), dtype=torch.uint8)

        raw = read(place)
        for first, rows in ((0, 200), (0, 1), (31, 40), (127, 73)):
            part = raw[first * place.row_bytes : (first + rows) * place.row_bytes]
            found = VALUES["scaled"].values(place, first, part, read)
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found, made.plain["a.weight"][first : first + rows])


class TestIdentity:
    def test_covers_what_is_read(self, source: Source) -> None:
        """Another scale is another model, and so is the same file that says of its columns that they were turned."""
        path = transformer(source)
        model = catalog.find(f"transformer={path}")
        made = foreign.convrot(load_file(path))
        plain = made.metadata["_quantization_metadata"].replace("true", "false")
        found = []
        with restored(source.folder):
            for metadata in (made.metadata, {"_quantization_metadata": plain}, made.metadata | {"made": "here"}):
                save_file(made.tensors, path, metadata=metadata)
                found.append(identify(model).content_sha256)
            made.tensors[f"{LAYER}.weight_scale"][0] *= 2
            save_file(made.tensors, path, metadata=made.metadata)
            found.append(identify(model).content_sha256)
        assert found[0] == found[2]
        assert len(set(found)) == 3


# ---- what is refused -------------------------------------------------------------------------------------------------

Change = Callable[[Tensors, dict[str, str]], object]


def without(name: str) -> Change:
    return lambda tensors, _: tensors.pop(name)


def beside(suffix: str, tensor: torch.Tensor) -> Change:
    return lambda tensors, _: tensors.update({f"{LAYER}.{suffix}": tensor})


def marked(layer: str, **words: object) -> Change:
    return lambda tensors, _: tensors.update({f"{layer}.comfy_quant": foreign.mark(words)})


def told(layers: object) -> Change:
    return lambda _, metadata: metadata.update({"_quantization_metadata": json.dumps({"layers": layers})})


def reworded(old: str, new: str) -> Change:
    return lambda _, metadata: metadata.update({key: text.replace(old, new) for key, text in metadata.items()})


FP8 = {"format": "float8_e4m3fn"}
TURNED = {"convrot": True, "convrot_groupsize": 16}
UNREAD = {
    *("another form", "int8 without a word", "int8 with a word of its own", "FP8 with a word of its own"),
    *("MXFP8 with a word of its own", "MXFP8, turned", "NVFP4, turned", "FP8, turned"),
}
REFUSALS: dict[str, tuple[Callable[[Tensors], Foreign], Change, str]] = {
    "no scale": (foreign.comfyui_2025, without(f"{LAYER}.scale_weight"), "has no scale, and others here have one"),
    "no scale, marked": (foreign.comfyui_2026, without(f"{LAYER}.weight_scale"), "its scale is not there"),
    "no weight": (foreign.comfyui_2025, without(f"{LAYER}.weight"), "is of a weight that is not there"),
    "two scales": (foreign.comfyui_2025, beside("weight_scale", torch.ones(())), "has two scales"),
    "a scale of another shape": (foreign.comfyui_2025, beside("scale_weight", torch.ones(3)), r"a scale of F32 \[3\]"),
    "a scale a block": (foreign.comfyui_2025, beside("scale_weight", torch.ones(16, 2, 1)), "neither one for all"),
    "a scale of bytes": (foreign.comfyui_2025, beside("scale_weight", torch.ones((), dtype=torch.int8)), "scale of I8"),
    "a mark that is none": (foreign.comfyui_2026, beside("comfy_quant", torch.ones(5, dtype=torch.uint8)), "JSON"),
    "a mark without a form": (foreign.comfyui_2026, beside("comfy_quant", foreign.mark({})), "tells no form"),
    "a mark of floats": (foreign.comfyui_2026, beside("comfy_quant", torch.ones(5)), "is no mark"),
    "two forms": (foreign.comfyui_2026, told({LAYER: {"format": "float8_e5m2"}}), "two forms"),
    "another type": (foreign.comfyui_2025, told({LAYER: {"format": "int8_tensorwise"}}), "is F8_E4M3, and said to be"),
    "a layer that is not there": (foreign.unmarked, told({"x": FP8}), 'the layer "x", which is not there'),
    "a table that is none": (foreign.unmarked, told([]), "no table of layers"),
    "another form": (foreign.comfyui_2025, told({LAYER: {"format": "asym_w4a8_int8"}}), "by ComfyUI .asym_w4a8_int8"),
    "groups that do not go": (
        lambda tensors: foreign.convrot(tensors, 4),
        reworded(": 4", ": 64"),
        "of 16 columns is said to be turned in groups of 64",
    ),
    "int8 with a word of its own": (
        lambda tensors: foreign.convrot(tensors, 4),
        lambda _, metadata: metadata.update(
            {key: text.replace('convrot"', 'turned"') for key, text in metadata.items()}
        ),
        'marked with "turned", of which nothing is known',
    ),
    "FP8 with a word of its own": (
        foreign.comfyui_2026,
        marked(LAYER, **FP8, params={"convrot": True}),
        'marked with "params", of which nothing is known',
    ),
    "MXFP8 with a word of its own": (
        lambda tensors: foreign.in_blocks(tensors, "mxfp8"),
        marked(WIDE, format="mxfp8", hadamard=16),
        'marked with "hadamard", of which nothing is known',
    ),
    "MXFP8, turned": (
        lambda tensors: foreign.in_blocks(tensors, "mxfp8"),
        marked(WIDE, format="mxfp8", **TURNED),
        r"by ComfyUI \(mxfp8, turned\), in a form that is not read",
    ),
    "NVFP4, turned": (
        lambda tensors: foreign.in_blocks(tensors, "nvfp4"),
        marked(LAYER, format="nvfp4", **TURNED),
        r"by ComfyUI \(nvfp4, turned\), in a form that is not read",
    ),
    "FP8, turned": (
        lambda tensors: foreign.comfyui_2026(tensors)._replace(metadata={}),
        marked(LAYER, **FP8, **TURNED),
        r"by ComfyUI \(float8_e4m3fn, turned\), in a form that is not read",
    ),
    "int8 without a word": (
        lambda tensors: foreign.convrot(tensors)._replace(metadata={}),
        told({}),
        "nothing says how it is meant",
    ),
    "a scale that is none of its form": (
        lambda tensors: foreign.in_blocks(tensors, "mxfp8"),
        lambda tensors, _: tensors.update({f"{WIDE}.weight_scale": torch.ones(16)}),
        r"of 16 rows and 32 columns has scales of F32 \[16\]",
    ),
    "no second scale": (
        lambda tensors: foreign.in_blocks(tensors, "nvfp4"),
        without(f"{LAYER}.weight_scale_2"),
        "does not have the scales of it",
    ),
    "a second scale too many": (foreign.comfyui_2026, beside("weight_scale_2", torch.ones(())), "does not have the"),
    "a second scale of rows": (
        lambda tensors: foreign.in_blocks(tensors, "nvfp4"),
        beside("weight_scale_2", torch.ones(16)),
        r"a second scale of F32 \[16\]",
    ),
    "a scale of nothing": (foreign.unmarked, beside("x.weight_scale", torch.ones(())), "a weight that is not there"),
}


class TestRefused:
    @pytest.mark.parametrize("case", REFUSALS)
    def test_by_name(self, source: Source, case: str) -> None:
        """What is not whole is refused, with its file, its layer and what to do."""
        form, change, says = REFUSALS[case]
        path = transformer(source)
        made = form(load_file(path))
        change(made.tensors, made.metadata)
        with restored(source.folder):
            save_file(made.tensors, path, metadata=made.metadata)
            with pytest.raises(ModelError, match=says) as raised:
                opened(path)
        assert str(path) in raised.value.message
        assert raised.value.hint
        assert ("bf16 file: transformer/" in raised.value.hint) == (case in UNREAD)

    def test_a_scale_that_is_no_number(self, source: Source) -> None:
        """It is told while the matrix is packed."""
        path = transformer(source)
        made = foreign.comfyui_2025(load_file(path))
        for scale in (float("inf"), float("nan"), 3e38):
            made.tensors[f"{LAYER}.scale_weight"] = torch.tensor(scale)
            with restored(source.folder):
                save_file(made.tensors, path)
                for precision in ("fp8", "bf16"):
                    with pytest.raises(ModelError, match=f'"{LAYER}.weight" has values that are not finite'):
                        store(source, precision)

    def test_a_scale_of_next_to_nothing(self, source: Source) -> None:
        """What processors take for zero is zero, at any precision."""
        path = transformer(source)
        made = foreign.comfyui_2025(load_file(path))
        made.tensors[f"{LAYER}.scale_weight"] = torch.tensor(1e-39)
        with restored(source.folder):
            save_file(made.tensors, path)
            file = first_block(source)
            assert not file.tensors_of(["attn.to_q.scale"])["attn.to_q.scale"].any()

    def test_mutations(self, source: Source) -> None:
        """Of 100 files with a tensor lost, renamed, retyped, reshaped or doubled, none is opened."""
        path = transformer(source)
        numbers = random.Random(3)  # noqa: S311  # the same every time
        forms: tuple[Callable[[Tensors], Foreign], ...] = (
            *(foreign.comfyui_2025, foreign.comfyui_2026, foreign.convrot, foreign.unmarked),
        )
        whole = [form(load_file(path)) for form in forms]
        with restored(source.folder):
            for number in range(100):
                made = whole[number % len(forms)]
                made = made._replace(tensors=dict(made.tensors))
                name = foreign.spoiled(made, numbers, number)
                save_file(made.tensors, path, metadata=made.metadata)
                with pytest.raises(ModelError) as raised:
                    opened(path)
                assert str(path) in raised.value.message, name
