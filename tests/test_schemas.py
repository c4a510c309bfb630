"""The committed JSON Schemas: they are what the code says, and take what is rendered here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from renderer import schemas
from renderer.manifest import yaml_reader
from renderer.manifest.manifest import manifest_schema
from tests.reading import problems_of

JOBS = Path(__file__).parent.parent / "jobs"


def accepts(document: Any) -> bool:
    validator = jsonschema.Draft202012Validator(manifest_schema())
    return bool(validator.is_valid(document))


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_committed(name: str) -> None:
    """The committed schema is the code's; `python -m renderer.schemas` writes it anew."""
    committed = (schemas.FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
    assert committed == schemas.write_text(schemas.SCHEMAS[name]())


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_is_a_schema(name: str) -> None:
    """Each of them is a valid JSON Schema, and names its dialect."""
    schema = schemas.SCHEMAS[name]()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_takes_our_manifests(path: Path) -> None:
    """The manifests in jobs/ say where their schema is, and are valid by it."""
    data = path.read_bytes()
    assert data.startswith(b"# yaml-language-server: $schema=../renderer/schemas/manifest.schema.json\n")
    document = yaml_reader.read(data, path.name)
    assert document.problems == []
    assert accepts(document.value)


@pytest.mark.parametrize(
    "document",
    [
        "{}",
        "{jobs: []}",
        "{jobs: [3]}",
        "{jobs: ['']}",
        "{jobs: [a], version: 2}",
        "{jobs: [a], nam: x}",
        "{jobs: [{prompt: a, stpes: 3}]}",
        "{jobs: [{prompt: a, steps: 0}]}",
        "{jobs: [{prompt: a, size: 1328}]}",
        "{jobs: [{prompt: a, size: big}]}",
        "{jobs: [{prompt: a, size: 1:1, sizes: [1:1]}]}",
        "{jobs: [{prompt: a, precision: int3}]}",
        "{jobs: [{prompt: a, cfg_scale: 0}]}",
        "{jobs: [{prompt: a, matrix: {seed: [1]}}]}",
        "{jobs: [{prompt: a, matrix: {a: []}}]}",
        "{jobs: [{prompt: a, expect: {vram: lots}}]}",
        "{jobs: [{prompt: a, seed: null}]}",
        "{jobs: [a], defaults: {seed: -1}}",
    ],
)
def test_refuses_what_we_refuse(document: str) -> None:
    """An editor with the schema sees the usual slips before the renderer does."""
    assert problems_of(document)
    assert not accepts(yaml_reader.read(document.encode(), "f").value)


def test_says_what_fields_mean() -> None:
    """Every field of a job is described, for an editor to show."""
    for name, field in manifest_schema()["$defs"]["JobFields"]["properties"].items():
        assert "description" in field or name == "expect"


def test_can_be_read_as_json() -> None:
    """The files are JSON."""
    for name in schemas.SCHEMAS:
        assert json.loads((schemas.FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))["type"] == "object"
