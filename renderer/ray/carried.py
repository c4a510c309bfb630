"""Somebody's own LoRAs, on their way to machines that have not got their files: read here, kept there by what they are.

Pictures that go in are in an order's payload already, and the catalogue's LoRAs are fetched by each machine itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from renderer import catalog
from renderer.errors import PictureError
from renderer.job import Job, Lora
from renderer.system import files, folders, lock
from renderer.weights.adapters.whereabouts import path_of

_BESIDE = "adapter_config.json"
"""peft says in it how strongly factors count (`weights.adapters.alphas`)."""


@dataclass(frozen=True, slots=True)
class CarriedLora:
    """A LoRA's file, and what lies beside it that counts, by name; `main` is the file itself."""

    identity: str
    main: str
    contents: Mapping[str, bytes]


def own_loras(job: Job) -> list[Lora]:
    """The LoRAs of a job that no hub has."""
    return [lora for lora in job.riding if lora.source not in catalog.MODELS]


def read(lora: Lora) -> CarriedLora:
    """A LoRA of this machine, to be sent. Raises `PictureError` where it cannot be read."""
    path = path_of(lora.source)
    assert path is not None
    try:
        contents = {path.name: path.read_bytes()}
        config = path.with_name(_BESIDE)
        if config.is_file():
            contents[_BESIDE] = config.read_bytes()
    except OSError as error:
        raise PictureError(f"{path}: cannot be read: {error.strerror or error}") from error
    return CarriedLora(lora.identity, path.name, contents)


def keep(carried: CarriedLora) -> None:
    """Keep it on this machine, for all its workers. Raises `DiskError`."""
    folder = _folder(carried.identity)
    with lock.waited(folder.with_name(f"{folder.name}.lock")):
        for name, data in sorted(carried.contents.items(), key=lambda each: each[0] == carried.main):
            if not (folder / name).is_file():
                files.write_whole(folder / name, data)


def as_kept(job: Job) -> Job:
    """The job, with its LoRAs where this machine keeps them. Raises `PictureError` where one has not come."""
    own = {lora.identity for lora in own_loras(job)}
    if not own:
        return job
    return job.model_copy(
        update={"loras": tuple(_as_kept(each) if each.identity in own else each for each in job.loras)}
    )


def _as_kept(lora: Lora) -> Lora:
    path = _folder(lora.identity) / Path(lora.source).name
    if not path.is_file():
        raise PictureError(f"the LoRA {lora.name} has not come to this machine")
    return lora.model_copy(update={"source": str(path)})


def _folder(identity: str) -> Path:
    return folders.cache_folder() / "carried-loras" / identity[:32]
