"""What a manifest may name that somebody else sent: a server's models, the catalogue's LoRAs, and no file.

No path that it names is looked at, so nobody learns which files there are. Knows nothing of YAML and lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from renderer.manifest.complaints import Complaint
from renderer.manifest.recipe import Recipe

FILE_FIELDS = ("rows", "image", "images", "mask", "controlnets", "regions", "context_image")
"""A job's fields that name files."""

FILE_REFUSED = "names a file, and no file of this machine is read"


@dataclass(frozen=True, slots=True)
class Shelf:
    """The only models that jobs may name, and what each name stands for; the first is for jobs that name none.

    `files` are paths that a server wrote itself, and that its own jobs may name.
    """

    models: Mapping[str, str]
    files: frozenset[str] = frozenset()

    @property
    def first(self) -> str:
        """The name of the usual model."""
        return next(iter(self.models))

    def refuse(self, recipe: Recipe) -> list[Complaint]:
        """What is wrong with a job that names files."""
        return [
            Complaint(recipe.origin(name), FILE_REFUSED, at_key=True)
            for name in FILE_FIELDS
            if name in recipe.fields and not self._has(recipe.fields.get(name))
        ]

    def _has(self, written: object) -> bool:
        """Whether every file that a field names is the server's own."""
        listed = written if isinstance(written, list) else [written]
        files = [each.get(key) for each in listed if isinstance(each, Mapping) for key in ("file", "image", "mask")]
        files += [each for each in listed if not isinstance(each, Mapping)]
        return all(str(each) in self.files for each in files if each is not None)
