"""A machine that has nothing yet, and a hub of our own: its Qwen/Qwen-Image is the demo model, of the same layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from renderer import catalog
from tests.hub import Hub, serve


@pytest.fixture(scope="module")
def model_files(demo_folder: Path) -> dict[str, bytes]:
    """All files of the demo model by their names."""
    patterns = [*(part.files for part in catalog.NETWORK_FILES), "tokenizer/*"]
    found = [path for pattern in patterns for path in demo_folder.glob(pattern)]
    return {path.relative_to(demo_folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def hub(model_files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub that has Qwen/Qwen-Image."""
    with serve(Hub({catalog.QWEN_IMAGE.id: dict(model_files)})) as shop:
        yield shop


@pytest.fixture
def machine(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The environment of a machine that has nothing yet, and knows only this hub; it is this process's own too."""
    environment = hub.environment(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment
