"""The demo model, open: once a session for each way the CPU can hold it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from renderer.engine.native import NativeEngine
from renderer.engine.pipeline import OpenPipeline, open_pipeline
from renderer.job import Precision, Profile
from tests.engine.making import copy_model, make_setup

OpenAt = Callable[[Profile, Precision], OpenPipeline]


def no_report(_what: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="session")
def open_at(demo_folder: Path) -> OpenAt:
    """Open the demo model with a profile and precision; each pair once."""
    assert demo_folder

    @cache
    def opened(profile: Profile, precision: Precision) -> OpenPipeline:
        return open_pipeline(make_setup(profile=profile, precision=precision), no_report)

    return opened


@pytest.fixture(scope="session")
def engine(demo_folder: Path) -> NativeEngine:
    """The native engine on the CPU in bf16."""
    assert demo_folder
    return NativeEngine.open(make_setup(), no_report)


@pytest.fixture
def copied(demo_folder: Path, tmp_path: Path) -> Path:
    """A copy of the demo model that a test may spoil."""
    return copy_model(demo_folder, tmp_path / "model")
