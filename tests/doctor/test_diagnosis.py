"""What is said of a machine's models."""

from __future__ import annotations

from renderer.catalog import MODELS
from renderer.doctor import diagnosis


def test_a_model_whose_files_are_named_is_here() -> None:
    """In no folder that has a name for people."""
    assert diagnosis._whereabouts(MODELS["demo/4steps"]) == "here"
