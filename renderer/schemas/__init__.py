"""The committed JSON Schemas of what people write and of what a run writes: made from the code, for other readers.

`python -m renderer.schemas` writes them anew after a change; a test holds the files and the code together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from renderer.job import Sidecar, Value
from renderer.manifest.manifest import manifest_schema
from renderer.outputs.summary import Summary

FOLDER = Path(__file__).parent


def sidecar_schema() -> dict[str, Any]:
    """The JSON Schema of sidecars."""
    return _written(Sidecar)


def summary_schema() -> dict[str, Any]:
    """The JSON Schema of `summary.json`."""
    return _written(Summary)


def _written(kind: type[Value]) -> dict[str, Any]:
    schema = kind.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = MappingProxyType(
    {"manifest": manifest_schema, "sidecar": sidecar_schema, "summary": summary_schema}
)
"""What there are schemas of, and the function that makes each. It is committed as `<name>.schema.json`."""


def write_text(schema: Mapping[str, Any]) -> str:
    """A schema as it stands in its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_all() -> None:
    """Write the committed schemas anew."""
    for name, make in SCHEMAS.items():
        (FOLDER / f"{name}.schema.json").write_text(write_text(make()), encoding="utf-8")
