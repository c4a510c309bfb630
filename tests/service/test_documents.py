"""The requests that the documents show are sent, and are answered as shown."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.docs import reading
from tests.docs.reading import Block
from tests.service.running import Server, serving

SHOWN = reading.blocks("http", "json answer")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), fake="") as served:
        yield served


def exchanges() -> list[tuple[Block, Block | None]]:
    """Each request, and the answer that is shown behind it."""
    followers: list[Block | None] = [*SHOWN[1:], None]
    return [
        (block, after if after is not None and after.kind == "json answer" else None)
        for block, after in zip(SHOWN, followers, strict=True)
        if block.kind == "http"
    ]


@pytest.mark.parametrize(("asked", "shown"), exchanges(), ids=str)
def test_a_request_is_answered_as_shown(asked: Block, shown: Block | None, server: Server) -> None:
    """It succeeds; the answer has the names that are shown, in their order."""
    head, _, body = asked.text.partition("{")
    first, *others = head.splitlines()
    method, path = first.split()
    headers = {"Content-Type": "application/json", **dict(line.split(": ", 1) for line in others)}
    answer = server.client.request(method, path, content="{" + body if body else None, headers=headers)
    assert answer.is_success, answer.text
    if shown is not None:
        assert list(json.loads(shown.text)) == list(answer.json())


def test_requests_are_shown() -> None:
    """The test above tries something."""
    assert len(exchanges()) >= 2
