"""`precision: auto`: chosen for a machine when a manifest is planned, written down by the first run, and kept then.

What is chosen for a model stands in the folder, and every later plan keeps to it, on whatever machine, and so do the
parts of a manifest that several machines render. Of what is finished nothing changes: a picture that is there at some
precision is that picture, whatever would be chosen now. Choosing asks the machine alone, and not what else is in the
manifest: a picture more changes no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from renderer import catalog
from renderer.catalog import Model
from renderer.errors import DiskError, LockedError
from renderer.estimate import duration, shape_of
from renderer.estimate.fitted import LIBRARIES_BYTES
from renderer.estimate.host import has_room
from renderer.estimate.memory import TURNING_SLOTS, Streaming
from renderer.estimate.weights import weight_bytes
from renderer.estimate.work import Kernels, Work
from renderer.job import ModelIdentity, Picture, Precision, Stored, Value, fingerprint
from renderer.machine import hardware, rates
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates
from renderer.manifest.manifest import Manifest
from renderer.outputs import done
from renderer.outputs.folder import OutputFolder
from renderer.planning import part_folders, takes
from renderer.system import lock
from renderer.system.files import write_whole
from renderer.text import gb

FASTER = 1.1
"""How many times as fast `fp8` has to be, so that it is taken although `int8` is three times as exact."""

MUCH_FASTER = 1.5
"""How many times as fast `int4` has to be for a large picture alone: where a bus is slow."""

_SIDE = 1328
"""Of the picture that they are held against each other by."""

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


# ---- choosing --------------------------------------------------------------------------------------------------------


def choose(model: Model, machine: Machine) -> ChosenPrecision:
    """The precision that a model is rendered at on a machine, where nobody says one."""
    gpu = machine.gpu
    name = f"{gpu.name if gpu else 'a machine without a GPU'}, {gb(machine.ram_bytes)} of host memory"
    if model.is_the_demo:
        return ChosenPrecision(precision="bf16", why="the demo model is small, and bf16 is what it has", machine=name)
    small = _for_little_memory(model, machine)
    if small is not None:
        return ChosenPrecision(precision="int4", why=small, machine=name)
    if gpu is None:
        return ChosenPrecision(precision="int8", why="a CPU multiplies it as it is kept", machine=name)
    kernels, known = Kernels.of(gpu.compute_capability), rates.known(machine)
    found = _by_pace(model, kernels, known) if known is not None else None
    if found is not None:
        return ChosenPrecision(precision=found[0], why=found[1], machine=name)
    able = "int8" in kernels.products
    why = "this card multiplies it as it is kept" if able else "no card of its age multiplies what is kept"
    return ChosenPrecision(precision="int8", why=f"{why}, and it is more exact than fp8", machine=name)


def _for_little_memory(model: Model, machine: Machine) -> str | None:
    """Why the blocks have to be small; None where those of int8 fit into host memory."""
    shape = shape_of(model)
    eight, four = (shape.layers * weight_bytes(shape, kept).block for kept in _EIGHT_AND_FOUR)
    if has_room(eight + LIBRARIES_BYTES, machine.ram_bytes):
        return None
    there = gb(machine.ram_bytes)
    return f"{there} of host memory are too little for int8's {gb(eight)} of blocks; int4's take {gb(four)}"


_EIGHT_AND_FOUR: tuple[Stored, Stored] = ("int8", "int4")


def _by_pace(model: Model, kernels: Kernels, known: Rates) -> tuple[Precision, str] | None:
    """The precision that is so much faster than int8 that it is worth what it costs; None where none is."""

    def seconds(kept: Stored) -> float:
        streaming = Streaming(shape_of(model), kept, TURNING_SLOTS, kernels)
        return duration.sweep(streaming, [Work(_SIDE, _SIDE)], known).seconds

    eight = seconds("int8")
    if (times := eight / seconds("fp8")) >= FASTER:
        return "fp8", f"this card multiplies it {times:.1f} times as fast as int8"
    if (times := eight / seconds("int4")) >= MUCH_FASTER:
        return "int4", f"over this bus a large picture takes a step {times:.1f} times as fast as at int8"
    return None


# ---- keeping to it ---------------------------------------------------------------------------------------------------


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
                found[name] = choose(catalog.find(name), machine)
            write_whole(folder.choices, _Choices(choices=found).model_dump_json(indent=1).encode() + b"\n")
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
        choices[name] = choose(catalog.find(name), machine or hardware.look())
    known = _Known(choices, frozenset(_marks(folder, outputs)))

    def of(picture: Picture) -> Picture:
        return _as_it_is(picture, folder, identities[picture.job.model], known)

    pictures = tuple(of(each) if each.id in manifest.auto else each for each in manifest.pictures)
    remarks = tuple(
        f"precision auto: {name} at {choices[name].precision}, for {choices[name].machine}: {choices[name].why}"
        for name in sorted(_models(manifest))
    )
    return replace(manifest, pictures=pictures, auto=frozenset(), remarks=(*manifest.remarks, *remarks))


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
    finished = (one for one in able if fingerprint(one.job, identity) in known.marks) if known.marks else ()
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
        if folder.choices.stat().st_size > _MOST_BYTES:
            raise DiskError(f"{folder.choices} is too large to be what it is called")
        return _Choices.model_validate_json(folder.choices.read_bytes()).choices
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError, ValueError) as error:
        hint = "mend it, or remove it: what is not finished is then chosen for anew"
        raise DiskError(f"cannot read {folder.choices}", hint=hint) from error
