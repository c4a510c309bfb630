"""What all tests share: a cache of their own, and few threads, set before torch is imported."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from renderer.system.folders import disk_of
from tests import tools

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The same number in this process and in workers, so that both give the same bits; and small pictures gain nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not Path("/dev/nvidiactl").exists():  # before anything imports Triton: without a GPU, its kernels are interpreted
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure() -> None:
    """Run nothing where a tool is missing that has to be tried."""
    tools.check_required()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The demo model is made once a session, in a folder of the tests' own; nobody's models are looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RENDERER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        nothing = tmp_path_factory.mktemp("no-models")
        patch.setenv("RENDERER_MODELS", str(nothing / "models"))
        patch.setenv("MODELSCOPE_CACHE", str(nothing / "modelscope"))
        patch.setenv("HF_HUB_CACHE", str(nothing / "hugging-face"))
        patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(nothing / "hugging-face"))
        for variable in ("RENDERER_SOURCE", "DIFFSYNTH_MODEL_BASE_PATH", "DIFFSYNTH_DOWNLOAD_SOURCE", "COMFYUI_PATH"):
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="session")
def demo_folder(_own_cache: None) -> Path:
    """The demo model's folder. To be read only."""
    from renderer.demo import cache  # noqa: PLC0415  # torch, only where a test wants it

    return cache.folder()


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than the tests'."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or disk_of(memory) == disk_of(tmp_path):
        pytest.skip("there is one disk here")
    folder = memory / f"renderer-{tmp_path.name}-{id(tmp_path)}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clocks are changed twice a year: forward on 29 March 2026 at 2:00, back on 25 October at 3:00."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. A module's own: while it is open, its thread has an event loop."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=tools.CHROMIUM, args=arguments)
        yield chromium
        chromium.close()
