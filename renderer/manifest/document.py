"""A file that was read: plain values, where each of them was written, and what is wrong with it.

Knows nothing of YAML, JSON or manifests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from renderer.errors import Problem, shorten

MAX_PROBLEMS = 200
"""After so many, reading stops: whoever has to mend them is served by the first ones."""

TOO_MANY = f"after {MAX_PROBLEMS} problems, reading stopped here"

Route = tuple[str | int, ...]
"""The way from the top to a value: `("jobs", 0, "steps")`."""


def spell(route: Route) -> str:
    """A route as people write it: `jobs[0].steps`."""
    text = ""
    for step in route:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{shorten(step)}" if text else shorten(step)
    return text


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file; both count from 1, and columns count characters. `file` is another one's, where it is."""

    line: int
    column: int
    file: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML document as plain values, with a mark for each.

    `complete` is false when the text could not be read to its end; then `value` is None. `keys` and `values` say where
    the key and the value at a route begin. `sources` holds the text of scalars that are not text (`1.50`, `0x1F`).
    `cuts` are texts without quotes that a comment cuts off, and where it begins: ` #` with a letter behind it.
    `broken` are routes whose value was refused and replaced by None: what is said about them was said already.
    """

    file: str
    problems: list[Problem]
    value: Any = None
    complete: bool = False
    keys: Mapping[Route, Mark] = field(default_factory=dict)
    values: Mapping[Route, Mark] = field(default_factory=dict)
    sources: Mapping[Route, str] = field(default_factory=dict)
    cuts: Mapping[Route, Mark] = field(default_factory=dict)
    broken: frozenset[Route] = frozenset()

    def mark(self, route: Route, *, at_key: bool = False) -> Mark:
        """Where `route` begins, or the nearest value around it that was written."""
        marks = self.keys if at_key else self.values
        for length in range(len(route), -1, -1):
            found = marks.get(route[:length]) or self.values.get(route[:length])
            if found:
                return found
        return Mark(1, 1)

    def is_broken(self, route: Route) -> bool:
        """Whether the value at `route`, or one around it, was refused before."""
        return any(route[:length] in self.broken for length in range(len(route) + 1))

    def problem(self, route: Route, message: str, hint: str = "", *, at_key: bool = False) -> Problem:
        """Something wrong at `route`, with its place."""
        mark = self.mark(route, at_key=at_key)
        return Problem(mark.file or self.file, mark.line, mark.column, spell(route), message, hint)
