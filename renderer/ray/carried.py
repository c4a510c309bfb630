"""Somebody's own LoRAs and ControlNets, on their way to machines that have not got their files.

They are read here, and kept there by what they are: a file that has become another goes nowhere. Pictures that go in
are in an order's payload already, and what the catalogue has is fetched by each machine itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from renderer import catalog
from renderer.errors import ModelError, PictureError
from renderer.job import ControlNet, ExtraNetwork, Job
from renderer.system import files, folders, lock
from renderer.weights.adapters.whereabouts import identity_of, path_of
from renderer.weights.control_files import identity_of_file

_BESIDE = "adapter_config.json"
"""peft says in it how strongly factors count (`weights.adapters.alphas`)."""


@dataclass(frozen=True, slots=True)
class CarriedLora:
    """A LoRA's or ControlNet's file, and what lies beside it that counts, by name; `main` is the file itself."""

    identity: str
    main: str
    contents: Mapping[str, bytes]


def own_networks(job: Job) -> list[ExtraNetwork]:
    """The LoRAs and ControlNets of a job that no hub has."""
    return [each for each in job.extra_networks if each.source not in catalog.MODELS]


def read(extra: ExtraNetwork) -> CarriedLora:
    """A LoRA or ControlNet of this machine, to be sent.

    Raises `PictureError` where it cannot be read, or is another by now than the job's.
    """
    path = path_of(extra.source)
    assert path is not None
    try:
        contents = {path.name: path.read_bytes()}
        config = path.with_name(_BESIDE)
        if config.is_file() and not isinstance(extra, ControlNet):
            contents[_BESIDE] = config.read_bytes()
    except OSError as error:
        raise PictureError(f"{path}: cannot be read: {error.strerror or error}") from error
    if _identity_of(extra, path) != extra.identity:  # as it is now, after it was read
        raise PictureError(f"{path}: has changed since the manifest was read", hint="run the same command again")
    return CarriedLora(extra.identity, path.name, contents)


def is_kept(extra: ExtraNetwork) -> bool:
    """Whether this machine has it already, whoever has sent it."""
    return _kept_at(extra).is_file()


def keep(carried: CarriedLora) -> None:
    """Keep it on this machine, for all its workers. Raises `DiskError`."""
    folder = _folder(carried.identity)
    with lock.waited(folder.with_name(f"{folder.name}.lock")):
        for name, data in sorted(carried.contents.items(), key=lambda each: each[0] == carried.main):
            if not (folder / name).is_file():
                files.write_whole(folder / name, data)


def as_kept(job: Job) -> Job:
    """The job, with what it carries where this machine keeps it. Raises `PictureError` where one has not come."""
    own = {each.identity for each in own_networks(job)}
    if not own:
        return job
    loras = tuple(each.found_at(_kept_source(each)) if each.identity in own else each for each in job.loras)
    nets = tuple(each.found_at(_kept_source(each)) if each.identity in own else each for each in job.controlnets)
    return job.model_copy(update={"loras": loras, "controlnets": nets})


def _identity_of(extra: ExtraNetwork, path: Path) -> str:
    try:
        return identity_of_file(path) if isinstance(extra, ControlNet) else identity_of(path)
    except ModelError as error:
        raise PictureError(error.message, hint=error.hint) from error


def _kept_source(extra: ExtraNetwork) -> str:
    if not is_kept(extra):
        what = "ControlNet" if isinstance(extra, ControlNet) else "LoRA"
        raise PictureError(f"the {what} {extra.name} has not come to this machine")
    return str(_kept_at(extra))


def _kept_at(extra: ExtraNetwork) -> Path:
    return _folder(extra.identity) / Path(extra.source).name


def _folder(identity: str) -> Path:
    return folders.cache_folder() / "carried-loras" / identity[:32]
