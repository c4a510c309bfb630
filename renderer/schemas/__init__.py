"""The committed JSON Schemas, of manifests and of sidecars: made from the code, kept for editors and other readers.

`python -m renderer.schemas` writes them anew after a change; a test holds the files and the code together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from renderer.job import Sidecar
from renderer.manifest import manifest_schema

FOLDER = Path(__file__).parent


def sidecar_schema() -> dict[str, Any]:
    """The JSON Schema of sidecars."""
    schema = Sidecar.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


SCHEMAS = MappingProxyType({"manifest.schema.json": manifest_schema, "sidecar.schema.json": sidecar_schema})
"""Each committed file's name, and the function that makes what is in it."""


def write_text(schema: Mapping[str, Any]) -> str:
    """A schema as it stands in its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_all() -> None:
    """Write the committed schemas anew."""
    for name, make in SCHEMAS.items():
        (FOLDER / name).write_text(write_text(make()), encoding="utf-8")
