from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from renderer.report.gallery import Gallery
from renderer.report.server import Server
from tests.report.live import Night


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def night(tmp_path: Path, held: ExitStack) -> Night:
    return Night(tmp_path, held)


@pytest.fixture
def server(night: Night, held: ExitStack) -> Server:
    return held.enter_context(Server([Gallery(night.manifest, night.outputs)]))
