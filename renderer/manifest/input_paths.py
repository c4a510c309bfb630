"""Where what goes in lies: every path that a job names, and the files that it stands for.

A path is from the manifest's folder; a pattern stands for every file that it fits, in the order of their names, and
`{stem}` for a file's name without its ending. Opens no file. Knows nothing of YAML and lines.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from renderer.catalog import Model
from renderer.errors import shorten
from renderer.manifest.complaints import Complaint
from renderer.manifest.control_kinds import RegionFields
from renderer.manifest.document import Route
from renderer.manifest.looked_at import WantedFile
from renderer.manifest.naming import Template
from renderer.manifest.reading import Combination, Reading
from renderer.manifest.recipe import STEM, takes_in
from renderer.system import patterns
from renderer.system.folders import expanded
from renderer.text import counted

if TYPE_CHECKING:
    from renderer.outputs.taken_in import InputRecord

MOST_FILES = 100_000
"""Files that one pattern may stand for."""

_LIKE = 0.8
_MOST_NAMES = 10_000
"""Of a folder's files, for the one that is nearest."""

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

    def route(self, reading: Reading) -> Route:
        """Where it is written."""
        field, *rest = self.place
        return (*reading.recipe.origin(str(field)), *rest)


@dataclass(frozen=True, slots=True)
class Chosen:
    """One combination of a job with one file of its pattern: every path that is written, filled in."""

    named: Combination
    paths: Mapping[PathPlace, str]


class InputPaths:
    """The files that paths stand for. `folder` is the manifest's; `record` knows what had stood there that has gone.

    Of those `of_server`, which wrote them itself, nobody is told where they lie.
    """

    def __init__(self, folder: Path, record: InputRecord | None, *, of_server: bool) -> None:
        self.patterns: dict[str, tuple[str, ...]] = {}
        """The files that each pattern stands for, once it has been asked for; as it is from the manifest's folder."""
        self.doubts: list[Complaint] = []
        """Patterns that leave files out which were hardly meant to be."""
        self._folder = folder
        self._record = record
        self._of_server = of_server

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
        read_as = READ_AS[written.purpose]
        called = f"the {'mask' if read_as == 'mask' else 'picture'}" if self._of_server else shorten(path)
        return WantedFile(written.folder / expanded(path), read_as, called, self._at(written.folder, path))

    def _at(self, folder: Path, path: str) -> str:
        """A path from the manifest's folder: one of a manifest that it extends is from another."""
        return path if folder == self._folder else os.path.join(_way(self._folder, folder), path)  # noqa: PTH118  # text

    def is_pattern(self, written: WrittenPath, path: str) -> bool:
        """Whether it stands for several files. A mask never does; one with brackets in it may be a file's own."""
        if written.purpose == "mask" or not glob.has_magic(path):
            return False
        where = self.where(written, path)
        if os.path.isfile(where.path):  # noqa: PTH113  # also if too long
            return False
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
            fitting = tuple(_fitting(written.folder, path))
            self.patterns[at] = fitting or (self._record.files(at) if self._record is not None else ())
            self._doubt(reading, written, path, fitting)
        files = self.patterns[at]
        if not files:
            others = _fitting(written.folder, _of_any_case(path))
            hint = f"{_shown(others[0])} has its ending in another case" if others else hint_of(written, path)
            written.complain(reading, f"{shorten(path)} fits no file", hint, of_all=True)
        if len(files) > MOST_FILES:
            message = f"{shorten(path)} fits {len(files):,} files"
            written.complain(reading, message, f"at most {MOST_FILES:,}", of_all=True)
            return []
        if odd := next((each for each in files if not _is_text(each)), ""):
            said = f"a file that it fits has a name that is no text: {_shown(odd)}"
            written.complain(reading, said, "rename it: names are UTF-8", of_all=True)
            return []
        return files

    def _doubt(self, reading: Reading, written: WrittenPath, path: str, fitting: Sequence[str]) -> None:
        """Doubt a pattern that leaves files out by the case of their ending alone."""
        any_case = _of_any_case(path)
        if not fitting or any_case == path:
            return
        if others := sorted({*_fitting(written.folder, any_case)} - {*fitting}):
            said = f"{shorten(path)} leaves out {named_with_others(others)}, for the case of the ending"
            self.doubts.append(Complaint(written.route(reading), said, f"write {any_case}"))


def hint_of(written: WrittenPath, path: str) -> str:
    """What helps where a path leads to no file."""
    if "://" in path or path.startswith("data:"):
        return "nothing is fetched: name a file on this machine"
    if "\\" in path:
        return "write / between folders"
    if written.purpose == "mask" and glob.has_magic(path):
        return "a mask is one file; {stem} in it stands for the image's name"
    if near := _near(written.folder / expanded(path)):
        return f'did you mean "{shorten(os.path.join(os.path.dirname(path), near))}"?'  # noqa: PTH118, PTH120  # text
    return HINT


def _near(path: Path) -> str:
    """The name in its folder that is nearest to a file's that is not there: alike but for case, or for a slip."""
    try:
        names = [name for name in os.listdir(path.parent) if _is_text(name)][:_MOST_NAMES]  # noqa: PTH208  # names
    except (OSError, ValueError):
        return ""
    same = [name for name in names if name.casefold() == path.name.casefold()]
    return next(iter(same or difflib.get_close_matches(path.name, names, n=1, cutoff=_LIKE)), "")


def named_with_others(paths: Sequence[str]) -> str:
    """The first, and how many more there are."""
    return _shown(paths[0]) + (f" and {counted(len(paths) - 1, 'other file')}" if len(paths) > 1 else "")


def _fitting(folder: Path, pattern: str) -> list[str]:
    found = patterns.fitting(str(expanded(pattern)) if pattern.startswith("~") else pattern, folder)
    return [each for each in found if os.path.isfile(folder / each)]  # noqa: PTH113  # a folder may be closed to us


def _of_any_case(pattern: str) -> str:
    """The pattern with its ending in any case."""
    name, dot, ending = pattern.rpartition(".")
    if not dot or not ending.isalpha():
        return pattern
    return name + dot + "".join(f"[{letter.lower()}{letter.upper()}]" for letter in ending)


def _shown(path: str) -> str:
    return shorten(path.encode(errors="replace").decode())


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
