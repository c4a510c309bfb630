"""`precision: auto`: chosen for a machine when a manifest is planned, written down by the first run, and kept then.

What is chosen for a model stands in the folder, and every later plan keeps to it, on whatever machine, and so do the
parts of a manifest that several machines render. Of what is finished nothing changes: a picture that is there at some
precision is that picture, whatever would be chosen now. Choosing asks the machine alone, and not what else is in the
manifest: a picture more changes no other. What it asks (`precision_choice`) is imported where something is open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field, ValidationError

from renderer import catalog
from renderer.errors import DiskError, LockedError
from renderer.job import ModelIdentity, Picture, Precision, Value
from renderer.manifest.manifest import Manifest
from renderer.outputs import done
from renderer.outputs.folder import OutputFolder
from renderer.planning import part_folders, takes
from renderer.system import lock

if TYPE_CHECKING:
    from renderer.machine.hardware import Machine

_PATIENCE_S = 10.0
_MOST_BYTES = 2**16


class ChosenPrecision(Value):
    """What was chosen for a model, why, and for what machine."""

    precision: Precision
    why: str
    machine: str


class _Choices(Value):
    """The file."""

    choices_version: Literal[1] = 1
    choices: dict[str, ChosenPrecision] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """What a folder tells: the choices that were written down, and the fingerprints of what is finished."""

    choices: Mapping[str, ChosenPrecision]
    marks: frozenset[str]


def settle(manifest: Manifest, outputs: Path, machine: Machine, *, is_meant: Callable[[Picture], bool]) -> None:
    """Write down what is chosen for the models of pictures that are meant, where nothing is; what is written stays.

    Nothing is written for a machine that cannot render such a model. Raises `ModelError` for a model that is not there,
    and `DiskError`.
    """
    meant = replace(manifest, pictures=tuple(picture for picture in manifest.pictures if is_meant(picture)))
    wanted = {name for name in _models(meant) if machine.gpu is not None or catalog.find(name).is_the_demo}
    folder = _whole(manifest, outputs)
    if wanted <= _read(folder).keys():
        return
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with lock.waited(folder.choices_lock, _PATIENCE_S):
            found = dict(_read(folder))
            for name in sorted(wanted - found.keys()):
                found[name] = _choose(name, machine)
            folder.write(folder.choices, _Choices(choices=found).model_dump_json(indent=1).encode() + b"\n")
    except LockedError as error:
        hint = f"try again; if no machine begins a run there, remove {folder.choices_lock}.held"
        raise DiskError(f"somebody else has been choosing in {folder.path} all the time", hint=hint) from error
    except OSError as error:
        raise DiskError(f"cannot make {folder.path}: {error.strerror or error}") from error


def resolved(
    manifest: Manifest, outputs: Path, identities: Mapping[str, ModelIdentity], machine: Machine | None = None
) -> Manifest:
    """A manifest whose pictures all have a precision, and the choices among its remarks; `identities` are by model.

    Without a `machine` it is this one that is chosen for, where nothing is written. Raises `DiskError`.
    """
    if not manifest.auto:
        return manifest
    folder = _whole(manifest, outputs)
    choices = dict(_read(folder))
    for name in sorted(_models(manifest) - choices.keys()):
        choices[name] = _choose(name, machine)
    known = _Known(choices, frozenset(_marks(folder, outputs)))

    def of(picture: Picture) -> Picture:
        return _as_it_is(picture, folder, identities[picture.job.model], known)

    pictures = tuple(of(each) if each.id in manifest.auto else each for each in manifest.pictures)
    remarks = tuple(
        f"precision auto: {name} at {choices[name].precision}, for {choices[name].machine}: {choices[name].why}"
        for name in sorted(_models(manifest))
    )
    return replace(manifest, pictures=pictures, auto=frozenset(), remarks=(*manifest.remarks, *remarks))


def _choose(name: str, machine: Machine | None) -> ChosenPrecision:
    from renderer.machine import hardware  # noqa: PLC0415  # most manifests leave nothing open
    from renderer.planning import precision_choice  # noqa: PLC0415  # as above

    return precision_choice.choose(catalog.find(name), machine or hardware.look())


def _as_it_is(picture: Picture, folder: OutputFolder, identity: ModelIdentity, known: _Known) -> Picture:
    """A picture at the precision at which it is finished somewhere; else as it was chosen."""
    chosen = known.choices[picture.job.model].precision
    there = done.find(folder, picture.output)
    able = [
        _at(picture, precision) for precision in (chosen, *(each for each in get_args(Precision) if each != chosen))
    ]
    if there is not None:
        for one in able:
            if takes.take_of(one, identity, there.fingerprint) is not None:
                return one
    finished = (one for one in able if takes.is_among(one, identity, known.marks)) if known.marks else ()
    return next(iter(finished), able[0])


def _at(picture: Picture, precision: Precision) -> Picture:
    return picture.model_copy(update={"job": picture.job.model_copy(update={"precision": precision})})


def _models(manifest: Manifest) -> set[str]:
    return {picture.job.model for picture in manifest.pictures if picture.id in manifest.auto}


def _whole(manifest: Manifest, outputs: Path) -> OutputFolder:
    """The folder of the whole manifest, also of a part: all parts keep to what is written there."""
    return OutputFolder(outputs / (part_folders.whole_name(manifest.name) if manifest.is_part else manifest.name))


def _marks(folder: OutputFolder, outputs: Path) -> set[str]:
    """Fingerprints of all that is finished in the whole's folder, and in those of parts."""
    places = [folder, *part_folders.folders(folder.path.name, outputs)]
    return {found.fingerprint for place in places for found in done.find_all(place)}


def _read(folder: OutputFolder) -> Mapping[str, ChosenPrecision]:
    """What is written in a folder; nothing where there is no file. Raises `DiskError` for one that cannot be read."""
    try:
        is_one = folder.choices.stat().st_size <= _MOST_BYTES
        return _Choices.model_validate_json(folder.choices.read_bytes() if is_one else b"").choices
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError, ValueError) as error:
        hint = "mend it, or remove it: what is not finished is then chosen for anew"
        raise DiskError(f"cannot read {folder.choices}", hint=hint) from error
