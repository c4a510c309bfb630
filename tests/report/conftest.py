from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from renderer.report.gallery import Gallery
from renderer.service.watching import WatchServer
from tests.report.live import Night


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def night(tmp_path: Path, held: ExitStack) -> Night:
    return Night(tmp_path, held)


@pytest.fixture
def server(night: Night, held: ExitStack) -> WatchServer:
    return held.enter_context(WatchServer([Gallery(night.manifest, night.outputs)]))
