"""The description of all routes, and whatever is made of it: the server has an answer that is no fault of its own.

RENDERER_CASES says how many requests a route is sent, a few by default:

    RENDERER_CASES=400 python -m pytest -q -s tests/service/test_anything.py
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as some
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import response_schema_conformance

from renderer.manifest.fields import JobFields
from tests.service.running import SMALL, Server, serving
from tests.waiting import until

CASES = int(os.environ.get("RENDERER_CASES", "6"))
QUICK = settings(
    max_examples=CASES, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
PATHS = ("/api/v1/images/generate", "/api/v1/batches", "/sdapi/v1/img2img", "/v1/images/edits", "/v1/files")
HEADERS = {"Prefer": "respond-async"}
"""Pictures are accepted, and not waited for."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), "--most-waiting", "100000", fake="--capacity 8") as served:
        served.generate("one that is there", seed=1)
        yield served


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    told: dict[str, Any] = server.client.get("/openapi.json").json()
    return told


def operations(document: dict[str, Any]) -> dict[str, APIOperation[Any, Any, Any, Any]]:
    """What can be asked for, by method and path, as it is in the document and as it is not."""
    generation = GenerationConfig(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    config = SchemathesisConfig()
    config.projects.default.generation = generation
    schema = schemathesis.openapi.from_dict(document, config=config)
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    return {each.label: each for each in found}


def test_all_routes_are_described(document: dict[str, Any]) -> None:
    """Each with its sentence, what it takes and what it gives; by the rules of OpenAPI."""
    found = operations(document)
    for label in (
        "POST /api/v1/images/generate", "POST /v1/images/generations", "POST /v1/images/edits", "POST /v1/batches",
        "POST /api/v1/batches", "POST /sdapi/v1/img2img", "GET /health", "GET /pictures/{name}", "GET /openapi.json",
    ):  # fmt: skip
        assert label in found
    told = [each for path in document["paths"].values() for each in path.values()]
    assert all(each["summary"] and "default" in each["responses"] for each in told)
    assert len({each["operationId"] for each in told}) == len(told)
    for reference in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)):
        assert reference in document["components"]["schemas"]


def test_a_job_is_described_as_manifests_have_it(document: dict[str, Any]) -> None:
    """The fields are those that are read, but for files of the server's machine."""
    content = document["paths"]["/api/v1/images/generate"]["post"]["requestBody"]["content"]
    fields = content["application/json"]["schema"]["properties"]
    assert fields.keys() == JobFields.__annotations__.keys() - {"rows"}
    assert fields["image"]["pattern"].startswith("^data:image/")
    others = document["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]
    assert {"n", "partial_images", "seed"} <= others["application/json"]["schema"]["properties"].keys()


@pytest.fixture(scope="module")
def known(server: Server) -> list[str]:
    """What there is: a picture, an upload, a batch and its answers; and what there is not."""
    picture = server.generate("one that is there", seed=1).json()["id"]
    line = {"custom_id": "one", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "x", **SMALL}}
    sent = {"file": ("batch.jsonl", json.dumps(line).encode())}
    upload = server.client.post("/v1/files", files=sent, data={"purpose": "batch"}).json()["id"]
    asked = {"input_file_id": upload, "endpoint": "/v1/images/generations"}
    batch = server.client.post("/v1/batches", json=asked).json()["id"]
    until(lambda: server.client.get(f"/v1/batches/{batch}").json()["status"] == "completed")
    return [picture, upload, batch, f"{batch}-output", "demo", "none"]


def test_whatever_is_asked_is_answered(server: Server, document: dict[str, Any], known: list[str]) -> None:
    """Requests as they are described and as they are not: never a 5xx, and answers are as they are described."""
    checks = [not_a_server_error, response_schema_conformance]
    for operation in operations(document).values():

        @seed(20261126)
        @QUICK
        @given(case=operation.as_strategy(), there=some.none() | some.sampled_from(known))
        def ask(case: schemathesis.Case[Any], there: str | None) -> None:
            if there is not None:
                case.path_parameters = dict.fromkeys(re.findall(r"{(\w+)}", case.path), there)
            case.call_and_validate(base_url=server.url, headers=HEADERS, checks=checks)

        ask()
    statuses = Counter(told["status"] for told in server.log if told["event"] == "request")
    sys.stdout.write(f"{statuses.total()} requests: {dict(sorted(statuses.items()))}\n")  # seen with -s
    assert {200, 202, 400, 422, 404} <= statuses.keys()


@QUICK
@given(path=some.sampled_from(PATHS), data=some.binary(max_size=200))
def test_any_bytes_are_answered(server: Server, path: str, data: bytes) -> None:
    """Also where they are no JSON, no form and no text."""
    answer = server.client.post(path, content=data, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500
