"""`extends`: what a manifest takes from another file, and that from a third: head and defaults, but no name and no job.

What comes of it is one document, in which every value still knows the file and the line that it was written in. Knows
nothing of what the fields mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from renderer.errors import Problem, UnreadableError
from renderer.manifest import source, yaml_reader
from renderer.manifest.document import Document, Mark, Route
from renderer.manifest.kinds import MAX_PATH_LENGTH
from renderer.manifest.recipe import left_of
from renderer.system.folders import expanded

EXTENDS = "extends"
MOST_EXTENDING = 16
"""Manifests that extend one another."""

_OWN = frozenset({"version", "name", "jobs", EXTENDS})
"""What nobody inherits."""

_MERGED = ("defaults", "vars")
"""Mappings that are inherited a field at a time."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Inherited:
    """A document with what it extends in it.

    `folders` are of the fields of `defaults` that come from another file: where their paths are from. `bases` are the
    files it comes from, the nearest first.
    """

    document: Document
    folders: Mapping[str, Path] = field(default_factory=dict)
    bases: tuple[Path, ...] = ()


def inherit(document: Document, path: Path | None, folder: Path) -> Inherited:
    """What a document says, and what it extends and does not say. `path` is its file; paths in it are from `folder`.

    What is wrong is among the problems of the document that comes back.
    """
    return _inherit(document, folder, (() if path is None else (path,)))


def _inherit(document: Document, folder: Path, chain: tuple[Path, ...]) -> Inherited:
    top = document.value
    if not isinstance(top, dict) or EXTENDS not in top or document.is_broken((EXTENDS,)):
        return Inherited(document)
    written = top[EXTENDS]
    if not isinstance(written, str) or not 0 < len(written) <= MAX_PATH_LENGTH:
        return _refuse(document, "must be a file", 'like "base.yaml"; paths are from the manifest\'s folder')
    path = folder.absolute() / expanded(written)
    if any(_same(path, each) for each in chain):
        names = [source.show(each) for each in (*chain, path)]
        return _refuse(document, f"a circle: {' extends '.join(names)}", "leave one of them out")
    if len(chain) >= MOST_EXTENDING:
        return _refuse(document, f"more than {MOST_EXTENDING} manifests extend one another", "leave some of them out")
    try:
        given = source.read(path)
    except UnreadableError as error:
        return _refuse(document, error.message, error.hint or "paths are from the manifest's folder", path)
    base = yaml_reader.read(given.data, given.file)
    if base.complete and not isinstance(base.value, dict):
        return _refuse(document, f"{base.file} is not a manifest", "it has defaults: and what else goes with them")
    above = _inherit(base, given.folder, (*chain, path))
    merged, taken = _merge(document, above.document)
    here = {name: above.folders.get(name, given.folder) for name in taken}
    return Inherited(merged, here, (path, *above.bases))


def _refuse(document: Document, message: str, hint: str, *bases: Path) -> Inherited:
    problem = document.problem((EXTENDS,), message, hint)
    return Inherited(replace(document, problems=[*document.problems, problem], value=None, complete=False), {}, bases)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.resolve() == other.resolve()
    except (OSError, RuntimeError):
        return False


def _merge(own: Document, base: Document) -> tuple[Document, list[str]]:
    """One document of both, and the fields of `defaults` that are the base's."""
    problems: list[Problem] = [*own.problems, *base.problems]
    if not isinstance(base.value, dict):
        return replace(own, problems=problems, value=None, complete=False), []
    value: dict[str, Any] = dict(own.value)
    taken: set[Route] = set()
    for key, theirs in base.value.items():
        ours = own.value.get(key)
        if key in _OWN:
            continue
        if key in _MERGED and isinstance(theirs, dict) and isinstance(ours, dict):
            left = left_of(theirs, ours)
            taken.update((key, name) for name in left)
            value[key] = {**{name: theirs[name] for name in left}, **ours}
        elif key not in own.value:
            taken.add((key,))
            value[key] = theirs
    document = Document(
        file=own.file,
        problems=problems,
        value=value,
        complete=True,
        keys={**own.keys, **_marks(base, base.keys, taken)},
        values={**own.values, **_marks(base, base.values, taken)},
        sources={**own.sources, **_under(base.sources, taken)},
        cuts={**own.cuts, **_marks(base, base.cuts, taken)},
        broken=own.broken | {route for route in base.broken if _is_under(route, taken)},
    )
    fields = value.get("defaults")
    theirs = [name for name in fields if _is_under(("defaults", name), taken)] if isinstance(fields, dict) else []
    return document, theirs


def _is_under(route: Route, taken: set[Route]) -> bool:
    return route[:1] in taken or route[:2] in taken


def _under(found: Mapping[Route, _T], taken: set[Route]) -> dict[Route, _T]:
    return {route: each for route, each in found.items() if _is_under(route, taken)}


def _marks(base: Document, found: Mapping[Route, Mark], taken: set[Route]) -> dict[Route, Mark]:
    """Those of what was taken, which say whose lines they are of."""
    return {route: replace(mark, file=mark.file or base.file) for route, mark in _under(found, taken).items()}
