"""Whether the files of a model are what whoever gave them said they are: by the record of a fetch, or a cache's names.

What nobody said anything of passes: files of one's own are known by their content. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from renderer.errors import ModelError
from renderer.weights.hashes import file_hashes
from renderer.weights.places import FoundPart, Whereabouts, files_below
from renderer.weights.record import read_record

_BLOB = re.compile(r"[0-9a-f]{64}")


def said_of(found: FoundPart, path: Path) -> str | None:
    """The SHA-256 that a file must have: from the record of a fetch; in the Hugging Face cache a blob's name is it."""
    root = found.root
    if root is not None and (known := read_record(root).files.get(path.relative_to(root).as_posix())):
        return known.sha256
    name = path.resolve().name
    return name if found.kind == "Hugging Face cache" and _BLOB.fullmatch(name) else None


def all_said(whereabouts: Whereabouts) -> dict[Path, str]:
    """Of which files of a model a hash is known, and the hash."""
    every = ((path, said_of(found, path)) for found in whereabouts.found for path in files_below(found))
    return {path: said for path, said in every if said is not None}


def check(whereabouts: Whereabouts, report: Callable[[int, int], None] | None = None) -> None:
    """Raise `ModelError`, which names the file, unless all are what was said of them.

    Those that did not change since they were last read are not read again.
    """
    said = all_said(whereabouts)
    for (path, expected), actual in zip(said.items(), file_hashes(list(said), report), strict=True):
        if actual != expected:
            raise damaged(path, actual, expected)


def damaged(path: Path, actual: str, expected: str) -> ModelError:
    """That a file is not what was said of it."""
    message = f"{path}: damaged, its SHA-256 is {actual}, and must be {expected}"
    return ModelError(message, hint="remove it, and fetch it again: renderer models pull")
