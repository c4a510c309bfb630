"""Where what goes in lies: every path that a job names, and the files that it stands for.

A path is from the manifest's folder; a pattern stands for every file that it fits, in the order of their names, and
`{stem}` for a file's name without its ending. Opens no file. Knows nothing of YAML and lines.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from renderer.catalog import Model
from renderer.errors import shorten
from renderer.manifest.control_kinds import RegionFields
from renderer.manifest.looked_at import WantedFile
from renderer.manifest.naming import Template
from renderer.manifest.reading import Combination, Reading
from renderer.manifest.recipe import STEM, takes_in

if TYPE_CHECKING:
    from renderer.outputs.taken_in import InputRecord

MOST_FILES = 100_000
"""Files that one pattern may stand for."""

HINT = "paths are from the manifest's folder"

PathPlace = tuple[str | int, ...]
"""Where a path is written in a job: a field, and what of it."""

GoesInFor = Literal["drawn over", "edited", "taken apart", "looked at", "mask"]
"""What a picture goes in for."""

READ_AS: Mapping[GoesInFor, Literal["picture", "mask", "layers"]] = {
    "drawn over": "picture",
    "edited": "picture",
    "taken apart": "layers",
    "looked at": "picture",
    "mask": "mask",
}


@dataclass(frozen=True, slots=True)
class WrittenPath:
    """A path as it is written, where it is from, and what its file goes in for."""

    place: PathPlace
    text: str
    purpose: GoesInFor
    folder: Path
    template: Template

    @property
    def plain(self) -> str:
        """It without what is written for braces."""
        return self.text.replace("{{", "{").replace("}}", "}")

    def complain(self, reading: Reading, message: str, hint: str = "", *, of_all: bool = False) -> None:
        """Complain where it is written, or, of an only picture, at its field."""
        field, *rest = self.place
        reading.complain(str(field), message, hint, *(() if of_all and field == "images" else rest))


@dataclass(frozen=True, slots=True)
class Chosen:
    """One combination of a job with one file of its pattern: every path that is written, filled in."""

    named: Combination
    paths: Mapping[PathPlace, str]


class InputPaths:
    """The files that paths stand for. `folder` is the manifest's; `record` knows what had stood there that has gone."""

    def __init__(self, folder: Path, record: InputRecord | None) -> None:
        self.patterns: dict[str, tuple[str, ...]] = {}
        """The files that each pattern stands for, once it has been asked for; as it is from the manifest's folder."""
        self._folder = folder
        self._record = record

    def chosen(
        self, reading: Reading, combinations: Sequence[Combination], written: Sequence[WrittenPath]
    ) -> Iterator[Chosen]:
        """Each combination with each file of the one pattern that there may be."""
        patterns = [each for each in written if self.is_pattern(each, each.plain)]
        varied, names = (patterns or written)[0], takes_in(reading.fields)
        for combination in combinations:
            for path in self._files(reading, varied, varied.template.fill({STEM: f"{{{STEM}}}", **combination})):
                named = {**combination, STEM: Path(path).stem} if names else combination
                paths = {each.place: each.template.fill(named) for each in written} | {varied.place: path}
                yield Chosen(named, paths)

    def where(self, written: WrittenPath, path: str) -> WantedFile:
        """The file that a filled-in path is."""
        return WantedFile(written.folder / path, READ_AS[written.purpose], path, self._at(written.folder, path))

    def _at(self, folder: Path, path: str) -> str:
        """A path from the manifest's folder: one of a manifest that it extends is from another."""
        return path if folder == self._folder else os.path.join(_way(self._folder, folder), path)  # noqa: PTH118  # text

    def is_pattern(self, written: WrittenPath, path: str) -> bool:
        """Whether it stands for several files. A mask never does; one with brackets in it may be a file's own."""
        if written.purpose == "mask" or not glob.has_magic(path):
            return False
        if os.path.isfile(written.folder / path):  # noqa: PTH113  # also if too long
            return False
        where = self.where(written, path)
        was_a_file = self._record is not None and "[" in path and self._record.file(*where.key, where.at)
        return not was_a_file

    def _files(self, reading: Reading, written: WrittenPath, path: str) -> Sequence[str]:
        """The files that a path or a pattern stands for, from the folder that it is from: the same in all of its jobs.

        Where a pattern fits none, they are those that it stood for before they had gone.
        """
        if not self.is_pattern(written, path):
            return [path]
        at = self._at(written.folder, path)
        if at not in self.patterns:
            found = sorted(glob.iglob(path, root_dir=written.folder, recursive=True))  # noqa: PTH207  # as shells do
            fitting = tuple(each for each in found if (written.folder / each).is_file())
            self.patterns[at] = fitting or (self._record.files(at) if self._record is not None else ())
        files = self.patterns[at]
        if not files:
            written.complain(reading, f"{shorten(path)} fits no file", HINT, of_all=True)
        if len(files) > MOST_FILES:
            message = f"{shorten(path)} fits {len(files):,} files"
            written.complain(reading, message, f"at most {MOST_FILES:,}", of_all=True)
            return []
        return files


@lru_cache(maxsize=64)
def _way(start: Path, end: Path) -> str:
    return os.path.relpath(end, start)


def written_paths(reading: Reading, model: Model | None) -> Iterator[WrittenPath]:
    """Every path that a job names, what it draws over, edits or takes apart first."""

    def at(purpose: GoesInFor, text: str, *place: str | int) -> WrittenPath:
        field, *rest = place
        folder = reading.recipe.folder_of(str(field))
        return WrittenPath(place, text, purpose, folder, reading.template(str(field), text, *rest))

    fields = reading.fields
    apart = model is not None and model.layering is not None
    if "images" in fields:
        for number, text in enumerate(fields["images"]):
            yield at("taken apart" if apart else "edited", text, "images", number)
    elif "image" in fields:
        yield at("taken apart" if apart else "drawn over", fields["image"], "image")
    if "mask" in fields:
        yield at("mask", fields["mask"], "mask")
    if "context_image" in fields:
        yield at("looked at", fields["context_image"], "context_image")
    for number, net in enumerate(fields.get("controlnets", ())):
        yield at("looked at", net["image"], "controlnets", number, "image")
        if "mask" in net:
            yield at("mask", net["mask"], "controlnets", number, "mask")
    yield from (at("mask", each["mask"], "regions", number, "mask") for number, each in enumerate(regions_of(reading)))


def regions_of(reading: Reading) -> Sequence[RegionFields]:
    return reading.fields.get("regions", ())
