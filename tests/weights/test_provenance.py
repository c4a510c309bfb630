"""Where a picture's weights come from, as its sidecar tells it."""

from __future__ import annotations

from pathlib import Path

from renderer import catalog
from renderer.catalog import IN_CONTEXT, MODELS, QWEN_IMAGE
from renderer.job import ControlNet, Input, Lora, ModelIdentity, Provenance
from renderer.weights.adapters.whereabouts import identity_of_row
from renderer.weights.identity import identify
from renderer.weights.provenance import provenance
from tests.engine.making import make_job

CANNY = MODELS["DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Canny"]
LOOKED_AT = Input(sha256="0" * 64, width=64, height=64)


def test_each_part_has_its_own_repository_and_commit() -> None:
    """A ControlNet is told by the repository that its file is fetched from, whatever it is called after."""
    job = make_job(
        model=QWEN_IMAGE.id,
        loras=(
            Lora(source="loras/eligen.safetensors", identity="e" * 64),
            Lora(source=IN_CONTEXT.id, identity=identity_of_row(IN_CONTEXT)),
            Lora(source="loras/silent.safetensors", identity="a" * 64, weight=0.0),
        ),
        controlnets=(
            ControlNet(source=CANNY.id, identity=identity_of_row(CANNY), image=LOOKED_AT),
            ControlNet(source="/home/somebody/own.safetensors", identity="c" * 64, image=LOOKED_AT),
        ),
    )
    found = provenance(QWEN_IMAGE, identify(QWEN_IMAGE), job)
    own, beside = found[: len(QWEN_IMAGE.parts)], found[len(QWEN_IMAGE.parts) :]
    assert {(each.name, each.repository, each.revision) for each in own} == {
        (QWEN_IMAGE.id, QWEN_IMAGE.id, QWEN_IMAGE.revision)
    }
    eligen, in_context, canny, mine = beside
    assert eligen == Provenance(name="eligen.safetensors", part="lora", content_sha256="e" * 64)
    assert mine == Provenance(name="own.safetensors", part="controlnet", content_sha256="c" * 64)
    repository = "Comfy-Org/Qwen-Image-DiffSynth-ControlNets"
    assert {(each.repository, each.revision) for each in (in_context, canny)} == {(repository, CANNY.revision)}
    assert (canny.name, canny.files) == (CANNY.id, CANNY.parts[0].files)


def test_parts_of_other_models_are_theirs() -> None:
    """Most edit models have the text encoder and the VAE of Qwen-Image, at its commit."""
    model = catalog.find("Qwen/Qwen-Image-Edit-2511@main")
    found = {each.part: each for each in provenance(model, identify(model), make_job(model=model.id))}
    assert (found["transformer"].repository, found["transformer"].revision) == (model.id, "main")
    assert (found["vae"].repository, found["vae"].revision) == (QWEN_IMAGE.id, QWEN_IMAGE.revision)


def test_models_that_no_hub_has() -> None:
    """The demo by its revision; files of one's own by what they hold."""
    assert provenance(catalog.DEMO, identify(catalog.DEMO), make_job()) == (Provenance(name="demo", revision="2"),)
    mine = ModelIdentity(id="mine", content_sha256="b" * 64)
    assert provenance(catalog.DEMO, mine, make_job()) == (Provenance(name="mine", content_sha256="b" * 64),)


def test_other_parts_of_a_file_of_ones_own(demo_folder: Path) -> None:
    """They are the hub's; where the file lies is told to nobody."""
    model = catalog.find(f"transformer={next(demo_folder.glob('transformer/*.safetensors'))}")
    found = provenance(model, ModelIdentity(id="mine", content_sha256="b" * 64), make_job())
    assert [(each.part, each.repository) for each in found] == [
        *((part, QWEN_IMAGE.id) for part in ("text_encoder", "vae", "tokenizer")),
        (None, None),
    ]
    assert str(demo_folder) not in repr(found)
