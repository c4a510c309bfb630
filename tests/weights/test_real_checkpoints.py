"""Real checkpoints will open: what we say of each model has the hash by which DiffSynth knows its files.

DiffSynth knows a network by an MD5 over the names and shapes of its tensors. No weights are read here, and none are
needed: its tables were made from the real files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from diffsynth.configs import MODEL_CONFIGS
from diffsynth.core.loader.file import convert_keys_dict_to_single_str

from renderer import catalog
from renderer.catalog import MODELS, Model, Role
from renderer.demo import members
from renderer.families import QWEN_IMAGE_FAMILY, Shapes
from renderer.families.qwen_image import shapes
from renderer.weights import synthetic

NAMES: Mapping[Role, str] = {
    "transformer": "qwen_image_dit",
    "text_encoder": "qwen_image_text_encoder",
    "vae": "qwen_image_vae",
}
"""DiffSynth's names of the networks."""

FAMILY = [model for model in MODELS.values() if model.shape is not None]
BF16_BYTES = 2
DEMO_TEXT = shapes.TextEncoderWidths(vision_layers=1, vision=members.VISION_WIDTH, vision_mlp=2 * members.VISION_WIDTH)
"""The vision tower, of which a row says nothing; all others have Qwen2.5-VL's."""


def known_as(found: Mapping[str, Sequence[int]]) -> list[str]:
    """DiffSynth's names of the networks with these tensors, but for those that want other classes."""
    text = convert_keys_dict_to_single_str(found)
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    entries = [entry for entry in MODEL_CONFIGS if entry["model_hash"] == digest]
    return [entry["model_name"] for entry in entries if model_free(entry)]


def model_free(entry: Mapping[str, object]) -> bool:
    """Whether an entry asks for no other architecture than the class has by itself; the demo's VAE has its width."""
    return entry.get("extra_kwargs", {}) in ({}, {"base_dim": members.VAE_BASE_WIDTH})


def tensors(model: Model) -> dict[Role, Shapes]:
    """The tensors of a catalogue's model, by its row and `shapes`, with the text encoder's output layer."""
    shape = model.shape
    assert shape is not None
    text = replace(
        DEMO_TEXT if model.is_embedded else shapes.TextEncoderWidths(),
        layers=shape.text_layers,
        width=shape.text_width,
        queries=shape.text_width,
        keys=shape.text_width // shape.text_heads * shape.text_key_heads,
        mlp=shape.text_mlp_width,
        vocabulary=shape.vocabulary,
    )
    (output,) = QWEN_IMAGE_FAMILY.network("text_encoder").left_out
    transformer = shapes.TransformerWidths(
        layers=shape.layers, width=shape.width, head=shape.head_width, mlp=shape.mlp_width, text=shape.text_width
    )
    return {
        "transformer": shapes.transformer(transformer),
        "text_encoder": shapes.text_encoder(text) | {output: (shape.vocabulary, shape.text_width)},
        "vae": shapes.vae(shapes.VaeWidths(base=shape.vae_width)),
    }


@pytest.mark.parametrize("model", FAMILY, ids=lambda model: model.id)
def test_the_catalogue_s_models_are_those_that_diffsynth_knows(model: Model) -> None:
    """Transformer, text encoder with output layer and vision tower, and VAE of each row have DiffSynth's hashes."""
    members.register()
    assert {role: known_as(found) for role, found in tensors(model).items()} == {
        role: [name] for role, name in NAMES.items()
    }


def test_every_row_that_draws_is_held() -> None:
    """A model that is added to the catalogue is among those above; LoRAs and ControlNets are no models of their own."""
    draws = {model.id for model in MODELS.values() if model.ability not in ("lora", "controlnet")}
    assert draws == {model.id for model in FAMILY}


def test_a_shape_that_is_another_s_is_not_known() -> None:
    """A tensor of another shape, or one that lacks, and the hash is none of DiffSynth's."""
    found = tensors(catalog.find("Qwen/Qwen-Image"))["transformer"]
    assert known_as(found | {"img_in.bias": (3073,)}) == []
    assert known_as({name: shape for name, shape in found.items() if name != "img_in.bias"}) == []


def test_synthetic_checkpoints_are_real_ones_in_all_but_their_values() -> None:
    """What benchmarks run on has the real files' hashes."""
    found = synthetic.checkpoint()
    assert [known_as(each) for each in found.values()] == [[name] for name in NAMES.values()]


@pytest.mark.parametrize("model", [model for model in FAMILY if not model.is_embedded], ids=lambda model: model.id)
def test_the_catalogue_s_bytes_are_those_of_its_tensors(model: Model) -> None:
    """The sizes that the hub's pages show, within what they round and what headers take."""
    expected = tensors(model)
    told = {part.role: part.bytes for part in model.parts}
    for role, found in expected.items():
        count = sum(math.prod(shape) for shape in found.values())
        assert told[role] == pytest.approx(BF16_BYTES * count, rel=0.003), role
