"""The requests that the documents show are sent, and are answered as shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from renderer.service import batch_runs
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
    first, *others = asked.text.splitlines()
    method, path = first.split()
    headers = {"Content-Type": "application/json"}
    while others and (header := re.fullmatch(r"([A-Z][A-Za-z-]+): (.*)", others[0])):
        headers[header[1]] = header[2]
        others.pop(0)
    answer = server.client.request(method, path, content="\n".join(others) or None, headers=headers)
    assert answer.is_success, answer.text
    if shown is not None:
        assert list(json.loads(shown.text)) == list(answer.json())


@pytest.mark.parametrize("block", reading.blocks("json batch"), ids=str)
def test_a_line_of_a_batch_is_one(block: Block, server: Server) -> None:
    """It is taken as part of a batch, and its body by itself where it says."""
    (line,) = block.text.splitlines()
    assert batch_runs.wrong(line.encode(), batch_runs.GENERATIONS, set()) is None
    told = json.loads(line)
    assert server.client.request(told["method"], told["url"], json=told["body"]).is_success


def test_requests_are_shown() -> None:
    """The test above tries something."""
    assert len(exchanges()) >= 2
