"""Which file stood where when a manifest was rendered last: what is read of it where that file has gone since.

A manifest names pictures that go in by paths, and its jobs are known by their pixels. A photo that has moved since, or
whose disk is not there, would leave nothing of the job, and so of no picture of it. What its paths stood for lies in
the output folder, beside the kept files themselves. Knows no manifests.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from renderer.job import Input, InputFile, Value
from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder, Own

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileSeen(Value):
    """What a file was: the SHA-256 over its pixels and over its bytes, and its size in pixels."""

    sha256: _Sha256
    file_sha256: _Sha256
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]


class TakenIn(Value):
    """What the paths of a manifest stood for; each is as it is written, from the manifest's folder.

    `name` is the manifest's, also where a part of it is rendered elsewhere. `files` are by what each went in for and
    its path, like "mask masks/a.png"; `patterns` are the files that each fitted.
    """

    name: str = ""
    files: Mapping[str, FileSeen] = {}
    patterns: Mapping[str, tuple[str, ...]] = {}


NOTHING_TAKEN_IN = TakenIn()


def key_of(purpose: str, path: str) -> str:
    """What a file is found by among those of a manifest."""
    return f"{purpose} {path}"


def write(folder: OutputFolder, taken: TakenIn) -> None:
    """Write down what a manifest's paths stand for now. Call it with the folder's lock held. Raises `DiskError`."""
    if not taken.files:
        folder.remove(folder.taken_in)
        return
    data = taken.model_dump_json().encode() + b"\n"
    with contextlib.suppress(OSError):
        if folder.taken_in.read_bytes() == data:
            return
    folder.write(folder.taken_in, data)


class InputRecord:
    """What is known of files that have gone, in the folders of a manifest: its own first, then those beside it.

    Those are of its parts, its rehearsal, its comparison. Nothing is read before something has gone.
    """

    def __init__(self, outputs: Path, name: str) -> None:
        self._outputs = outputs
        self._name = name

    def file(self, path: Path, purpose: input_files.Purpose, at: str) -> tuple[Input, InputFile] | None:
        """What a job has of a file that was at `path`, written as `at`, and where a copy of it is, or would be."""
        key = key_of(purpose, at)
        seen = next((taken.files[key] for _, taken in self._known if key in taken.files), None)
        if seen is None:
            return None
        source = InputFile(sha256=seen.sha256, path=str(path), file_sha256=seen.file_sha256)
        name = input_files.kept_name(source)
        there = self._kept.get(name, self._outputs / self._name / name)
        return Input(sha256=seen.sha256, width=seen.width, height=seen.height), source.kept_at(str(there))

    def files(self, pattern: str) -> tuple[str, ...]:
        """The files that a pattern fitted."""
        return next((taken.patterns[pattern] for _, taken in self._known if pattern in taken.patterns), ())

    @cached_property
    def _known(self) -> list[tuple[OutputFolder, TakenIn]]:
        found = ((folder, _read(folder)) for folder in self._folders())
        return [(folder, taken) for folder, taken in found if taken is not None and taken.name == self._name]

    @cached_property
    def _kept(self) -> Mapping[str, Path]:
        """The copies that there are, by their names in an output folder."""
        found: dict[str, Path] = {}
        for folder, _ in self._known:
            with contextlib.suppress(OSError):
                for path in folder.inputs.iterdir():
                    found.setdefault(f"{Own.INPUTS}/{path.name}", path)
        return found

    def _folders(self) -> Iterator[OutputFolder]:
        yield OutputFolder(self._outputs / self._name)
        beside = sorted(self._outputs.glob(f"{glob.escape(self._name)}-*/{Own.TAKEN_IN}"))
        yield from (OutputFolder(path.parent) for path in beside)


def _read(folder: OutputFolder) -> TakenIn | None:
    """What is written down, or None: a file that is none is as if it were not there."""
    try:
        return TakenIn.model_validate_json(folder.taken_in.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None
