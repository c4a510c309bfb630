"""Pictures and sidecars on disk: written whole or not at all, verified, swept up after dead runs.

The sidecar comes last, and is the mark that the picture is done. Knows jobs and sidecars; nothing of manifests, plans
or workers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from PIL import Image, ImageStat
from pydantic import ValidationError

from renderer.errors import DiskError
from renderer.job import FileFacts, Format, Keep, LayerFacts, Sidecar, Value
from renderer.outputs.encode import NO_LABELS, Labels, LayerPixels, Pixels, encode, encode_layer
from renderer.outputs.folder import MAX_SIDECAR_BYTES, SIDECAR_SUFFIX, OutputFolder, Own
from renderer.system.files import PART_PREFIX, REMOVING_PREFIX, disk_error, put_back, sync_folder

_KEPT = "kept"
"""What a picture is called aside, in a folder of its own, that is kept another way."""

_CHANGE_PREFIX = f"{PART_PREFIX}change-"


def sweep(folder: OutputFolder) -> int:
    """Put a folder in order after runs that died: temporary files go, and pictures on the way to another format.

    So does what was begun aside and did not become whole. What was about to be removed is there again.

    What those runs renamed and did not come to syncing is made to last. Links are not followed, and what cannot be
    looked into or removed is left. Says how many temporary files there were. Call it with the lock held.
    """
    parts = 0
    for place, _, names in os.walk(folder.path):
        for name in names:
            if name.startswith(PART_PREFIX):
                parts += 1
                _sweep_one(folder, Path(place, name))
        with contextlib.suppress(OSError):
            sync_folder(Path(place))
    for begun in folder.aside.glob("*/") if not folder.aside.is_symlink() else ():
        if not begun.is_symlink() and not (begun / f"{_KEPT}{SIDECAR_SUFFIX}").exists():
            _abandon(folder, begun)
    return parts


def _sweep_one(folder: OutputFolder, part: Path) -> None:
    with contextlib.suppress(DiskError, OSError, ValueError):  # ValueError: it has no name to go back to
        if part.name.startswith(REMOVING_PREFIX):
            put_back(part)
            return
        if part.name.startswith(_CHANGE_PREFIX):
            _finish_change(folder, part)
        folder.remove(part)


# ---- what is finished ------------------------------------------------------------------------------------------------


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar at `path`; None when there is none, or when it is no sidecar of this version."""
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            return None
        return Sidecar.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None


def write_sidecar(folder: OutputFolder, output: str, sidecar: Sidecar) -> None:
    """Write down what is known of the picture in its place, whole or not at all. Raises `DiskError`."""
    folder.write(folder.sidecar(output), sidecar.model_dump_json(indent=2).encode() + b"\n")


# ---- writing ---------------------------------------------------------------------------------------------------------


def save(
    folder: OutputFolder,
    output: str,
    pixels: Pixels,
    describe: Callable[[FileFacts, float], Sidecar],
    *,
    file_format: Format = "png",
    labels: Labels = NO_LABELS,
    layers: Sequence[LayerPixels] = (),
    layer_labels: Labels = NO_LABELS,
) -> Sidecar:
    """Write a picture, after its layers if it has some, then its sidecar, each whole or not at all.

    `describe` makes the sidecar from the file's facts and the seconds that encoding and writing took. Old files of the
    same name stay until the new ones are whole; what is of another format, or a layer too many, goes then. Raises
    `DiskError`.
    """
    began = time.monotonic()
    path = folder.picture(output, file_format)
    _stay_inside(folder.path, path)
    try:
        data = encode(pixels, file_format, labels)
    except (OSError, ValueError) as error:  # a side that the format has no number for
        hint = "" if file_format == "png" else "say format: png in the manifest"
        raise DiskError(f"cannot keep {path.name} as {file_format}: {error}", hint=hint) from error
    before = read_sidecar(folder.sidecar(output))
    changing = _begin_change(folder, output, before, file_format)
    written = tuple(_write_layers(folder, output, layers, layer_labels))
    folder.write(path, data)
    facts = FileFacts(
        name=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        width=pixels.width,
        height=pixels.height,
    )
    sidecar = describe(facts, time.monotonic() - began)
    sidecar = sidecar.model_copy(update={"layers": written}) if written else sidecar
    write_sidecar(folder, output, sidecar)
    if changing is not None:
        _finish_change(folder, changing)
    return sidecar


def _write_layers(
    folder: OutputFolder, output: str, layers: Sequence[LayerPixels], labels: Labels
) -> Iterator[LayerFacts]:
    """Write a picture's layers, one after the other, and say what is known of each. Raises `DiskError`."""
    for number, layer in enumerate(layers, start=1):
        path, data = folder.layer(output, number), encode_layer(layer, labels)
        folder.write(path, data)
        opacity = layer.image().getchannel("A")
        yield LayerFacts(
            name=path.name,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            width=layer.width,
            height=layer.height,
            covered=round(ImageStat.Stat(opacity).mean[0] / 255, 4),
            box=opacity.getbbox(),
        )


def carry(
    folder: OutputFolder,
    source: str,
    output: str,
    describe: Callable[[Sidecar], Sidecar],
    *,
    leaves: bool,
    into: OutputFolder | None = None,
) -> Sidecar:
    """Give a finished picture another output name, with a sidecar of its own; if it `leaves`, the old name goes then.

    It stays in its folder, or goes `into` another. Picture and sidecar are whole under one of the names at every
    moment. `describe` makes the new sidecar from the old.
    Raises `DiskError`.
    """
    told = read_sidecar(folder.sidecar(source))
    if told is None:
        raise DiskError(f"cannot read {folder.sidecar(source)}, which was there a moment ago")
    into = into or folder
    path = into.picture(output, told.keep.format)
    _stay_inside(into.path, path)
    changing = _begin_change(into, output, read_sidecar(into.sidecar(output)), told.keep.format)
    old = folder.picture(source, told.keep.format)
    alias = _is_alias(old, path)
    bring = into.link if leaves else into.copy
    for number in range(1, 1 + len(told.layers)):
        if not alias:
            bring(folder.layer(source, number), into.layer(output, number))
    if not alias:
        bring(old, path)
    sidecar = describe(_renamed(told, into, output))
    write_sidecar(into, output, sidecar)
    if changing is not None:
        _finish_change(into, changing)
    if leaves and not alias:
        remove(folder, source, told.keep.format)
    return sidecar


def _renamed(told: Sidecar, folder: OutputFolder, output: str) -> Sidecar:
    """A sidecar whose files have the names that they have under another output name."""
    file = told.file.model_copy(update={"name": folder.picture(output, told.keep.format).name})
    layers = tuple(
        layer.model_copy(update={"name": folder.layer(output, number).name})
        for number, layer in enumerate(told.layers, start=1)
    )
    return told.model_copy(update={"file": file, "layers": layers})


def _is_alias(one: Path, other: Path) -> bool:
    """Whether two names are one file's only name: where case tells nothing apart, or one's folder links to the other's.

    A file with a second link is none: there each name can go without the other.
    """
    try:
        return one.samefile(other) and one.stat().st_nlink == 1
    except OSError:
        return False


def remove(folder: OutputFolder, output: str, file_format: Format) -> None:
    """Remove a picture, with its layers, and then its sidecar, so that what is left is never a picture without one.

    Raises `DiskError`.
    """
    told = read_sidecar(folder.sidecar(output))
    layers = [folder.layer(output, number) for number in range(1, 1 + len(told.layers if told else ()))]
    for path in (folder.picture(output, file_format), *layers, folder.sidecar(output)):
        folder.remove(path)
    if (parent := folder.picture(output).parent) not in (folder.path, folder.takes):  # another take may be coming there
        folder.remove_empty(parent)


def check_place(folder: OutputFolder, output: str, file_format: Format) -> None:
    """Raise `DiskError` where it is plain that a picture's files cannot be written, before it is rendered in vain."""
    for path in (folder.picture(output, file_format), folder.sidecar(output)):
        _stay_inside(folder.path, path)
        try:
            if stat.S_ISDIR(path.lstat().st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(path, error) from error


class _Change(Value):
    """A picture's way from one format to another, noted beside it while it lasts: for then both files may be there.

    So may layers that it had before, of which there were so many.
    """

    name: str
    formats: tuple[Format, Format]
    layers: int = 0


def _begin_change(folder: OutputFolder, output: str, before: Sidecar | None, file_format: Format) -> Path | None:
    """Note that what stands in a picture's place is to go, where what comes there does not replace all of it."""
    if before is None or (before.keep.format == file_format and not before.layers):
        return None
    path = folder.picture(output, file_format)
    change = _Change(name=path.stem, formats=(before.keep.format, file_format), layers=len(before.layers))
    note = path.with_name(f"{_CHANGE_PREFIX}{uuid4().hex}")
    folder.write(note, change.model_dump_json().encode())
    return note


def _finish_change(folder: OutputFolder, note: Path) -> None:
    """Remove, of the files that a note tells of, those that the sidecar does not; then the note."""
    with contextlib.suppress(DiskError, OSError, ValueError):
        change = _Change.model_validate_json(note.read_bytes())
        kept = read_sidecar(note.with_name(f"{change.name}{SIDECAR_SUFFIX}"))
        if kept is not None:
            here = replace(folder, path=note.parent)
            gone = [here.picture(change.name, each) for each in change.formats if each != kept.keep.format]
            gone += [here.layer(change.name, 1 + each) for each in range(len(kept.layers), change.layers)]
            for path in gone:
                here.remove(path)
    with contextlib.suppress(DiskError):
        folder.remove(note)


def rewrite(
    folder: OutputFolder,
    output: str,
    before: Sidecar,
    keep: Keep,
    labels: Labels,
    layer_labels: Labels = NO_LABELS,
) -> Sidecar:
    """Keep a finished picture another way, from the pixels in its files. Raises `DiskError`.

    It is whole aside before anything in its place goes: of a disk that fills meanwhile, or a run that dies, one of both
    is left.
    """
    width, height, rgb = _read(folder.picture(output, before.keep.format), "RGB")
    paths = [folder.layer(output, number) for number in range(1, 1 + len(before.layers))]
    layers = [LayerPixels(*_read(path, "RGBA")) for path in paths]

    def describe(file: FileFacts, _save_s: float) -> Sidecar:
        return before.model_copy(update={"file": file, "keep": keep})

    mine = hashlib.sha256(output.encode()).hexdigest()  # two pictures may have the same fingerprint
    aside = f"{Own.ASIDE}/{mine[:24]}-{before.fingerprint[:32]}/{_KEPT}"
    try:
        save(
            folder,
            aside,
            Pixels(width, height, rgb),
            describe,
            file_format=keep.format,
            labels=labels,
            layers=layers,
            layer_labels=layer_labels,
        )
    except DiskError:
        _abandon(folder, folder.sidecar(aside).parent)
        raise
    return carry(folder, aside, output, lambda told: told, leaves=True)


def _abandon(folder: OutputFolder, place: Path) -> None:
    """Remove a folder whose picture did not become whole, as far as that can be done."""
    with contextlib.suppress(OSError, DiskError):
        for path in place.iterdir():
            folder.remove(path)
        folder.remove_empty(place)


def _read(path: Path, mode: str) -> tuple[int, int, bytes]:
    """A picture's sides and its pixels. Raises `DiskError`."""
    try:
        with Image.open(path) as image:
            return image.width, image.height, image.convert(mode).tobytes()
    except OSError as error:
        raise disk_error(path, error, doing="read") from error


def _stay_inside(folder: Path, path: Path) -> None:
    """Refuse a path whose folder, links resolved, lies outside the output folder."""
    root = os.path.realpath(folder)
    if os.path.commonpath((root, os.path.realpath(path.parent))) != root:
        raise DiskError(
            f"{path} leads out of {folder} through a link", hint="remove the link, or change the manifest's output"
        )
