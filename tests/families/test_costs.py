"""What a family says of its networks is what the forecasts reckon with, and nobody else's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from renderer import catalog, families
from renderer.estimate import Streaming, Work, duration, family_costs, shape_of, weight_bytes
from renderer.families.qwen_image import costs as qwen_image
from renderer.families.qwen_image import shapes
from renderer.machine.rates import SOME_GPU
from renderer.weights import layout
from tests.families import toy, toy_costs


@pytest.fixture(autouse=True)
def toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", {**families.FAMILIES, "toy": toy.TOY})


def test_every_family_has_its_terms() -> None:
    found = family_costs.modules()
    assert found.keys() == families.FAMILIES.keys()
    assert (found["toy"], found["qwen-image"]) == (toy_costs, qwen_image)


def test_a_second_familys_forecast_is_its_own() -> None:
    """Memory and seconds come from its own terms; a slot holds the larger of its two kinds of blocks."""
    streaming, work = Streaming(toy.ARCHITECTURE, "bf16", 2), Work(64, 64, prompt_tokens=3, guided=False)
    names = {term.name for stage in streaming.estimate([work]).stages for term in stage.terms}
    assert {"toy rows", "toy layer", "toy decode"} <= names
    assert not {"queries keys values", "VAE strip", "MLP hidden"} & names
    files = layout.plan_files(toy.TOY, toy.SHAPES, "bf16")
    sizes = {kind: max(sum(each.bytes for each in file.tensors) for file in files if file.kind == kind)
             for kind in ("double", "single", "gate")}  # fmt: skip
    weights = weight_bytes(toy.ARCHITECTURE, "bf16")
    assert (weights.block, weights.modulation) == (max(sizes["double"], sizes["single"]), sizes["gate"])
    assert duration.block_flops(toy.ARCHITECTURE, work) == sum(toy_costs.block_flops(toy.ARCHITECTURE, 16, 8))
    assert duration.decode_seconds(toy.ARCHITECTURE, work, SOME_GPU) > 0


def test_weights_that_no_row_knows_are_reckoned_as_their_familys() -> None:
    unknown = catalog.find(catalog.DEMO.id)
    assert shape_of(unknown) == catalog.DEMO_ARCHITECTURE
    assert shape_of(replace(unknown, shape=None)) == catalog.QWEN_IMAGE_ARCHITECTURE
    assert shape_of(replace(unknown, shape=None, family="toy")) == toy.ARCHITECTURE


def test_a_family_that_is_not_there() -> None:
    with pytest.raises(LookupError):
        family_costs.of(replace(toy.ARCHITECTURE, family="none"))


def test_what_stays_of_the_vision_tower_has_no_blocks_in_it() -> None:
    """However many blocks there are: they come past, as the text encoder's layers do."""
    kept = [
        qwen_image.looking_kept(shapes.text_encoder(shapes.TextEncoderWidths(layers=1, vision_layers=count)))
        for count in (1, 3)
    ]
    assert kept[0] == kept[1] > 0
