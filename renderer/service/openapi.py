"""`/openapi.json`: what is served, described from the same declarations that serve it. Knows no requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from renderer import __version__
from renderer.manifest.fields import EXCLUDING, JobFields
from renderer.service.answer_bodies import Anything, OpenAIError, OurError, WebuiError
from renderer.service.operations import FORM, JSON, Operation, Sent

_PLACE = re.compile(r"{(\w+)(?::\w+)?}")
_REF = "#/components/schemas/{model}"
_SECURITY: Mapping[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token, where the server has any"},
    "basic": {"type": "http", "scheme": "basic", "description": "The same as a browser's password"},
}


class DocumentRoutes:
    """The route of this module, of all routes and itself."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        own = Operation("GET", "/openapi.json", self.openapi, Anything)
        self.operations = [own]
        self._document = document([*operations, own])

    async def openapi(self, _request: Request) -> Response:
        """This description, as OpenAPI 3.1 has it."""
        return JSONResponse(self._document)


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The description of these."""
    kinds = _Kinds(operations)
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(_PLACE.sub(r"{\1}", each.path), {})[each.method.lower()] = _told(each, kinds)
    return {
        "openapi": "3.1.0",
        "info": {"title": "renderer", "version": __version__, "summary": "Requests in, pictures out"},
        "security": [{}, *({name: []} for name in _SECURITY)],
        "paths": paths,
        "components": {"schemas": kinds.schemas, "securitySchemes": _SECURITY},
    }


class _Kinds:
    """The schemas of all kinds, each once."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        taken: list[Any] = []
        given: list[Any] = [OpenAIError, OurError, WebuiError]
        for each in operations:
            taken += [*(each.takes.kinds if each.takes else ()), *([each.query] if each.query else ())]
            given += [kind for kind in (each.gives, *each.also.values()) if not isinstance(kind, str)]
        inputs: list[tuple[Any, JsonSchemaMode, TypeAdapter[Any]]] = []
        inputs += [(kind, "validation", TypeAdapter(kind)) for kind in _once(taken)]
        inputs += [(kind, "serialization", TypeAdapter(kind)) for kind in _once(given)]
        found, defined = TypeAdapter.json_schemas(inputs, ref_template=_REF)
        self.schemas: dict[str, Any] = defined["$defs"]
        self._found: Mapping[tuple[Any, str], Any] = found  # type: ignore[assignment]

    def given(self, kind: Any) -> Mapping[str, Any]:
        """The schema of an answer."""
        schema: Mapping[str, Any] = self._found[kind, "serialization"]
        return schema

    def fields(self, kind: Any) -> Mapping[str, Any]:
        """The schema of what is sent, with its own properties."""
        schema: Mapping[str, Any] = self._found[kind, "validation"]
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        return self.schemas[name] if name else schema


def _once(kinds: Iterable[Any]) -> Iterable[Any]:
    return {str(kind): kind for kind in kinds}.values()


def _told(operation: Operation, kinds: _Kinds) -> dict[str, Any]:
    places = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PLACE.findall(operation.path)
    ]
    asked = kinds.fields(operation.query)["properties"] if operation.query else {}
    places += [{"name": name, "in": "query", "schema": schema} for name, schema in asked.items()]
    answers = {200: operation.gives, **operation.also}
    told: dict[str, Any] = {
        "operationId": _name(operation),
        "summary": operation.summary,
        "responses": {
            **{str(status): _answer(kind, kinds, streams=operation.streams) for status, kind in answers.items()},
            "default": _answer(_error_of(operation.path), kinds, streams=False),
        },
    }
    if places:
        told["parameters"] = places
    if (sent := operation.takes) is not None:
        content = {media: {"schema": _sent(sent, kinds, media)} for media in sent.media}
        told["requestBody"] = {"required": True, "content": content}
    return told


def _answer(kind: Any, kinds: _Kinds, *, streams: bool) -> dict[str, Any]:
    if isinstance(kind, str):
        return {"description": kind, "content": {kind: {}}}
    described = (kind.__doc__ or "").strip().partition("\n")[0]
    content: dict[str, Any] = {JSON: {"schema": kinds.given(kind)}}
    return {"description": described, "content": {**content, "text/event-stream": {}} if streams else content}


def _sent(sent: Sent, kinds: _Kinds, media: str) -> dict[str, Any]:
    """The fields of all kinds of a body as one object."""
    described = [kinds.fields(kind) for kind in sent.kinds]
    properties: dict[str, Any] = {}
    for schema in reversed(described):
        properties |= schema["properties"]
    properties = {name: schema for name, schema in properties.items() if name not in sent.without}
    if sent.nulls:
        properties = {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in properties.items()}
    if media == FORM:
        properties |= {name: {"type": "string", "format": "binary"} for name in sent.files}
    needed = {name for schema in described for name in schema.get("required", ())} | set(sent.needs)
    told: dict[str, Any] = {"type": "object", "properties": properties}
    if needed:
        told["required"] = sorted(needed)
    if described and described[-1].get("additionalProperties") is False:
        told["additionalProperties"] = False
    if JobFields in sent.kinds:
        replaced = {*sent.without, *(name for schema in described[:-1] for name in schema["properties"])}
        pairs = [pair for pair in EXCLUDING if not replaced & set(pair)]
        told["allOf"] = [{"not": {"required": list(pair)}} for pair in pairs]
    return told


def _error_of(path: str) -> Any:
    """The form of what goes wrong at a path, as `answers.respond` chooses it."""
    if path.startswith("/v1/"):
        return OpenAIError
    return WebuiError if path.startswith("/sdapi/") else OurError


def _name(operation: Operation) -> str:
    words = re.findall(r"\w+", operation.path) + (["index"] if operation.path.endswith("/") else [])
    return "_".join([operation.method.lower(), *(word for word in words if word != "path")])
