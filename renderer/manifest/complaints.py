"""What is wrong at a place of a manifest: said where it is found, and written down with its line in one place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from renderer.errors import ManifestError, Problem, shorten
from renderer.manifest.document import MAX_PROBLEMS, TOO_MANY, Document, Route

MAX_WORD_LENGTH = 100
"""Longer keys, ids and names are a mistake, and comparing them is work."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something wrong at a route of the document. `at_key` points at the key rather than at its value."""

    route: Route
    message: str
    hint: str = ""
    at_key: bool = False


class Problems:
    """What is wrong with one document, each with its line, and once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._found: list[Problem] = list(document.problems)
        self._said: set[tuple[Route, str]] = set()
        self._plain: set[Route] = set()

    def take_as_prompt(self, route: Route) -> None:
        """From now on what is wrong in a job is wrong with the job: it is written as a prompt, and has no fields."""
        self._plain.add(route)

    def add(self, *complaints: Complaint) -> None:
        """Write complaints down, unless they are about what was refused already. Raises `ManifestError` at too many."""
        for complaint in complaints:
            route = complaint.route[:2] if complaint.route[:2] in self._plain else complaint.route
            if (route, complaint.message) in self._said or self.document.is_broken(route):
                continue
            self._said.add((route, complaint.message))
            self._found.append(self.document.problem(route, complaint.message, complaint.hint, at_key=complaint.at_key))
            if len(self._found) >= MAX_PROBLEMS:
                self._found.append(self.document.problem(route, TOO_MANY))
                self.fail()

    def note(self, *problems: Problem) -> None:
        """Write down what is wrong in another file, with its place there. Raises `ManifestError` at too many."""
        for problem in problems:
            self._found.append(problem)
            if len(self._found) >= MAX_PROBLEMS:
                self.fail()

    def check(self) -> None:
        """Raise `ManifestError` if there are any."""
        if self._found:
            self.fail()

    def fail(self) -> NoReturn:
        """Raise `ManifestError` with all of them."""
        raise ManifestError(self._found)

    def line(self, route: Route) -> int:
        """The line that a route begins in."""
        return self.document.mark(route).line


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `word`, or all of them when none is near."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5) if len(word) <= MAX_WORD_LENGTH else []
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {shorten(', '.join(words), 300)}" if words else ""


def name_kind(value: Any) -> str:
    """What a value of a document is, in its writer's words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else "text"
