"""The text that names a model with LoRAs in it: what is written is what is read, to the last bit of a weight."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renderer import catalog
from renderer.catalog import Fused, name_derived
from renderer.catalog.derived import MOST_WEIGHT
from renderer.errors import ModelError
from renderer.manifest.refound import refind_derived
from renderer.text import decimal
from renderer.weights.identity import identify
from tests.loras import write_lora

WEIGHTS = st.floats(-MOST_WEIGHT, MOST_WEIGHT).filter(bool)


@pytest.fixture(autouse=True)
def _ink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_lora(tmp_path / "ink.safetensors")


@pytest.mark.parametrize(
    ("weight", "text"),
    [(1.0, "1"), (0.8, "0.8"), (-0.5, "-0.5"), (1e-05, "0.00001"), (0.12345678, "0.12345678"), (3, "3")],
)
def test_as_people_write_it(weight: float, text: str) -> None:
    """The shortest, and never with an exponent."""
    assert decimal(weight) == text
    assert name_derived("demo", [Fused("ink.safetensors", weight)]) == f"demo+lora=ink.safetensors:{text}"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.lists(WEIGHTS, min_size=1, max_size=3))
def test_there_and_back(weights: list[float]) -> None:
    """Every weight that can be fused is read as what it was."""
    fused = tuple(Fused("ink.safetensors", weight) for weight in weights)
    assert catalog.find(name_derived("demo", fused)).fused == fused


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weight=WEIGHTS)
def test_by_what_a_sidecar_calls_it(weight: float) -> None:
    """The name for people has the whole weight too: a picture's model is found again by it."""
    called = identify(catalog.find(name_derived("demo", [Fused("ink.safetensors", weight)]))).id
    assert [each.weight for each in catalog.find(refind_derived(called)).fused] == [weight]


FOUR_STEPS = "lightx2v/Qwen-Image-Lightning/4steps-V2.0"
UNION = "DiffSynth-Studio/Qwen-Image-In-Context-Control-Union"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("demo+lora=ink.safetensors:0", "cannot be fused"),
        ("demo+lora=ink.safetensors:4.5", "cannot be fused"),
        ("demo+lora=Qwen/Qwen-Image", "is a model, and not a LoRA"),
        ("demo+lora=nowhere.safetensors", "is not there"),
        ("Qwen/Qwen-Image@75e0b4b+lora=ink.safetensors", "catalogue's revision of Qwen/Qwen-Image alone"),
    ],
)
def test_what_cannot_be_fused(reference: str, message: str) -> None:
    """Without a weight it would be the model itself; and of another revision nobody knows what is in it."""
    with pytest.raises(ModelError, match=message):
        catalog.find(reference)


def test_a_distilled_one_brings_its_steps_and_others_bring_none() -> None:
    """Wherever it stands among them; the parts of all are fetched, the model's own from where they are."""
    usual, few = (catalog.find(f"Qwen/Qwen-Image+lora={each}") for each in (UNION, f"{UNION}+lora={FOUR_STEPS}"))
    told = [(each.steps, each.cfg_scale, each.schedule) for each in (usual, few)]
    assert told == [(40, 4.0, "qwen-image"), (4, 1.0, "lightning")]
    own = catalog.find("Qwen/Qwen-Image-Edit-2511")
    assert {part.repository for part in own.parts} > {None}  # some are another model's
    few = catalog.find(f"{own.id}+lora={UNION}+lora={FOUR_STEPS}")
    assert [(part.role, part.repository, part.revision) for part in few.parts] == [
        *((part.role, part.repository or own.id, part.revision or own.revision) for part in own.parts),
        *(("lora", each.repository, each.revision) for row in (UNION, FOUR_STEPS) for each in catalog.find(row).parts),
    ]


def test_what_is_made_of_the_demo_is_the_demo_s() -> None:
    """A CPU renders it in seconds as well, though it lies in no package."""
    assert catalog.find("demo+lora=ink.safetensors").is_the_demo
    assert not catalog.find("Qwen/Qwen-Image+lora=ink.safetensors").is_the_demo
