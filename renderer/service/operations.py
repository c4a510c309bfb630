"""One route, as it is served and as it is described: both are made of this one value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

JSON = "application/json"
FORM = "multipart/form-data"
YAML = "application/yaml"


@dataclass(frozen=True, slots=True)
class Sent:
    """A body: the fields of its kinds, of which the first ones count where several have the same.

    `without` are fields that are not taken here; `nulls` says that a field that is null is one that is not there;
    `files` are a form's fields that are files.
    """

    kinds: Sequence[Any]
    media: Sequence[str] = (JSON,)
    without: Sequence[str] = ()
    nulls: bool = False
    files: Sequence[str] = ()
    needs: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """A method at a path, and what answers. `gives` is the kind of the answer, or its media type where it is no JSON.

    `also` are answers with another status than 200; errors have their form from the path.
    """

    method: str
    path: str
    answer: Callable[[Request], Awaitable[Response]]
    gives: Any
    takes: Sent | None = None
    query: Any = None
    also: Mapping[int, Any] = field(default_factory=dict)
    streams: bool = False

    @property
    def route(self) -> Route:
        """As it is served."""
        return Route(self.path, self.answer, methods=[self.method])

    @property
    def summary(self) -> str:
        """As it is told in a line."""
        return (self.answer.__doc__ or "").strip().partition("\n")[0]
