"""What goes wrong, once as a value, and as each kind of client reads it: ours, OpenAI's, AUTOMATIC1111's.

Knows no requests and no queue.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.responses import JSONResponse, Response

from renderer.errors import DiskError, MachineError, ManifestError, RendererError
from renderer.job import Value
from renderer.service.intake import FieldError
from renderer.service.standing import BusyError, Standing, StoppingError

_STOPPING_RETRY_S = 10.0

_WEBUI_NAMES = {"image": "init_images", "images": "init_images", "num_inference_steps": "steps", "count": "batch_size"}
"""What AUTOMATIC1111's clients call a job's fields."""


class RequestError(RendererError):
    """A request that cannot be answered. `status` is HTTP's, `code` ours, `field` what of it is to blame."""

    def __init__(self, status: int, code: str, message: str, *, field: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.field = field


class LostPictureError(RendererError):
    """A picture that was accepted did not come."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.message, hint=standing.hint)
        self.how = standing.state
        self.refused = standing.refused


@dataclass(frozen=True, slots=True)
class Complication:
    """What goes wrong, for whoever asked. `problems` are all of a request's or a manifest's, as plain values."""

    status: int
    code: str
    message: str
    field: str = ""
    hint: str = ""
    problems: Sequence[Mapping[str, Any]] = ()
    retry_s: float | None = None


def trouble_of(error: Exception) -> Complication:
    """An error as it is told. One that nobody foresaw is told as no more than that."""
    match error:
        case RequestError():
            return Complication(error.status, error.code, error.message, error.field, error.hint)
        case FieldError():
            problems = [dict(zip(("field", "message", "hint"), each, strict=True)) for each in error.problems]
            field, message, hint = error.problems[0]
            return Complication(422, "invalid_request", message, field, hint, problems)
        case ManifestError():
            listed = [
                {
                    "line": each.line, "column": each.column, "field": each.path,
                    "message": each.message, "hint": each.hint,
                }
                for each in error.problems
            ]  # fmt: skip
            first = error.problems[0]
            message = f"line {first.line}: {first.message}"
            return Complication(422, "invalid_manifest", message, first.path, first.hint, listed)
        case LostPictureError(how="cancelled"):
            return Complication(409, "cancelled", error.message)
        case LostPictureError(refused=True):
            return Complication(503, "cannot_render", error.message, hint=error.hint)
        case LostPictureError():
            return Complication(500, "picture_failed", error.message, hint=error.hint)
        case BusyError(retry_s=retry_s):
            return Complication(429, "busy", error.message, hint=error.hint, retry_s=retry_s)
        case StoppingError():
            return Complication(503, "stopping", error.message, hint=error.hint, retry_s=_STOPPING_RETRY_S)
        case DiskError():
            return Complication(
                507, "disk", "the server's disk takes nothing more", hint="its operator has to see to it"
            )
        case MachineError():
            return Complication(503, "cannot_render", error.message, hint=error.hint)
        case RendererError():
            return Complication(500, "failed", error.message, hint=error.hint)
        case _:
            return Complication(500, "internal", "a fault of the server's own", hint="its log has more")


def tell(value: Value, status: int = 200, headers: Mapping[str, str] | None = None, *, nulls: bool = False) -> Response:
    """A value as an answer; what of it is null is left out, unless `nulls`."""
    return Response(value.model_dump_json(exclude_none=not nulls), status, headers, media_type="application/json")


def respond(trouble: Complication, path: str) -> JSONResponse:
    """The answer, in the form of whose path it is."""
    if path.startswith("/v1/"):
        body = openai_body(trouble)
        status = 400 if trouble.status == 422 else trouble.status  # noqa: PLR2004  (OpenAI's clients know no 422)
    elif path.startswith("/sdapi/"):
        said = _sentence(replace(trouble, field=_WEBUI_NAMES.get(trouble.field, trouble.field)))
        status, body = trouble.status, {"error": trouble.code, "detail": said, "errors": ""}
    else:
        status, body = trouble.status, _ours(trouble)
    headers = {}
    if trouble.retry_s is not None:
        headers["Retry-After"] = str(math.ceil(trouble.retry_s))
    if trouble.status == 401:  # noqa: PLR2004
        headers["WWW-Authenticate"] = 'Bearer, Basic realm="renderer", charset="UTF-8"'
    return JSONResponse(body, status, headers)


def _ours(trouble: Complication) -> dict[str, Any]:
    told: dict[str, Any] = {
        "code": trouble.code, "message": trouble.message, "field": trouble.field or None, "hint": trouble.hint or None,
    }  # fmt: skip
    if trouble.problems:
        told["problems"] = list(trouble.problems)
    return {"error": told}


def openai_body(trouble: Complication) -> dict[str, Any]:
    """What OpenAI's clients read of an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(trouble.status, "server_error" if trouble.status >= 500 else "invalid_request_error")  # noqa: PLR2004
    error = {
        "message": _sentence(trouble), "type": kind, "param": trouble.field or None, "code": trouble.code,
    }  # fmt: skip
    return {"error": error}


def _sentence(trouble: Complication) -> str:
    said = f"{trouble.field}: {trouble.message}" if trouble.field else trouble.message
    return f"{said} ({trouble.hint})" if trouble.hint else said
