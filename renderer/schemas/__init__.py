"""The JSON Schemas of what people write and of what a run writes; the committed files beside this one are these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from renderer.job import Sidecar, Summary
from renderer.manifest import manifest_schema

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def sidecar_schema() -> dict[str, Any]:
    """The schema of `<output>.json`, as it is written."""
    return {"$schema": _DIALECT, **Sidecar.model_json_schema(mode="serialization")}


def summary_schema() -> dict[str, Any]:
    """The schema of `summary.json`, as it is written."""
    return {"$schema": _DIALECT, **Summary.model_json_schema(mode="serialization")}


SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = MappingProxyType(
    {"manifest": manifest_schema, "sidecar": sidecar_schema, "summary": summary_schema}
)
