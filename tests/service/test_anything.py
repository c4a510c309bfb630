"""Whatever is sent, the server has an answer that is no fault of its own. RENDERER_CASES says how much is sent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from renderer.manifest.fields import JobFields
from tests.service.running import Server, serving

CASES = int(os.environ.get("RENDERER_CASES", "80"))
PATHS = (
    *("/api/v1/images/generate", "/api/v1/images/x", "/api/v1/batches", "/sdapi/v1/txt2img", "/sdapi/v1/options"),
    *("/v1/images/generations", "/v1/images/edits", "/v1/models/x", "/v1/batches", "/v1/files", "/v1/batches/x/cancel"),
)
NAMES = [
    *JobFields.__annotations__,
    *(
        "n",
        "size",
        "stream",
        "response_format",
        "output_format",
        "lora",
        "guidance_scale",
        "batch_size",
        "n_iter",
        "endpoint",
        "input_file_id",
    ),
]

plain = (
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats()
    | some.text(max_size=20)
    | some.sampled_from(["64x64", "16:9", "demo", "bf16", "png", "../../etc/passwd", "1" * 400, 64, 2, 1.0])
)
values = some.recursive(
    plain, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3)
)
small = some.fixed_dictionaries({"prompt": some.text(max_size=30), "width": some.just(64), "height": some.just(64)})
bodies = some.one_of(
    some.dictionaries(some.sampled_from(NAMES) | some.text(max_size=8), values, max_size=5),
    some.builds(
        lambda one, other: {**one, **other}, small, some.dictionaries(some.sampled_from(NAMES), values, max_size=2)
    ),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), "--most-waiting", "100000", fake="--capacity 8") as served:
        yield served


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=some.sampled_from(PATHS),
    method=some.sampled_from(["POST", "POST", "POST", "GET", "DELETE", "PUT"]),
    body=bodies,
)
def test_any_object_is_answered(server: Server, path: str, method: str, body: dict[str, Any]) -> None:
    """With a picture, or with what is wrong; a picture that failed would be a 500 too."""
    headers = {"Content-Type": "application/json", "Prefer": "respond-async"}
    answer = server.client.request(method, path, content=json.dumps(body), headers=headers)
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code >= 400:
        told = answer.json()
        assert told["detail"] if path.startswith("/sdapi/") else told["error"]["message"]


@settings(max_examples=CASES // 3, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=some.sampled_from(PATHS), data=some.binary(max_size=200))
def test_any_bytes_are_answered(server: Server, path: str, data: bytes) -> None:
    answer = server.client.post(path, content=data, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500
