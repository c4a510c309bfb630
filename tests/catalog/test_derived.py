"""The text that names a model with LoRAs in it: what is written is what is read, to the last bit of a weight."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renderer import catalog
from renderer.catalog import Fused, name_derived
from renderer.catalog.derived import MOST_WEIGHT
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
