"""What a plan keeps of a finished picture: a tenth of its sidecar, for there may be a hundred thousand of them.

Seconds, memory, the file and how it is kept; the job and everything else stays on the disk. Names are the sidecar's.
Reads sidecars and files; writes nothing.
"""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Container, Hashable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from renderer.job import (
    BlockArithmetic,
    Bytes,
    DeviceArithmetic,
    Forgiven,
    Job,
    Keep,
    Profile,
    Seconds,
    Sidecar,
    Take,
    TextRead,
)
from renderer.outputs.folder import MAX_SIDECAR_BYTES, PICTURE_SUFFIXES, SIDECAR_SUFFIX, OutputFolder, Own
from renderer.system.files import sha256_of

_PART_OF_IT = ConfigDict(extra="ignore")


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneTiming:
    """Of `job.Timing`."""

    began_at: datetime
    ended_at: datetime
    load_s: Seconds | None = None
    encode_s: Seconds | None = None
    denoise_s: Seconds | None = None
    decode_s: Seconds | None = None
    save_s: Seconds | None = None
    total_s: Seconds | None = None


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneMemory:
    """Of `job.Memory`."""

    peak_allocated_bytes: Bytes | None = None
    peak_reserved_bytes: Bytes | None = None
    peak_device_bytes: Bytes | None = None
    peak_rss_bytes: Bytes | None = None


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneSharing:
    """Of `job.Sharing`."""

    share_s: Seconds
    mean_in_flight: float
    slots: int
    arithmetic: BlockArithmetic = "bf16"


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneEngine:
    """Of `job.Engine`."""

    profile: Profile
    device: Literal["cuda", "cpu"]
    arithmetic: DeviceArithmetic = "bf16"


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneGpu:
    """Of `job.Gpu`."""

    name: str
    total_bytes: Bytes
    short_uuid: str | None = None


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneSoftware:
    """Of `job.Software`."""

    torch: str


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneModel:
    """Of `job.ModelIdentity`."""

    id: str


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneFile:
    """Of `job.FileFacts`."""

    name: str
    sha256: str
    bytes: Bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneLettering:
    """Of `job.LetteringRead`."""

    texts: tuple[TextRead, ...]
    score: float
    forgives: tuple[Forgiven, ...]
    takes: tuple[Take, ...] = ()


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class DoneLayer:
    """Of `job.LayerFacts`."""

    name: str
    sha256: str
    bytes: Bytes
    covered: float = 0.0


@dataclass(frozen=True, slots=True, config=_PART_OF_IT)
class _Told:
    """A sidecar as far as it is read here."""

    sidecar_version: Literal[1]
    fingerprint: str
    model: DoneModel
    engine: DoneEngine
    timing: DoneTiming
    memory: DoneMemory
    file: DoneFile
    gpu: DoneGpu | None = None
    software: DoneSoftware | None = None
    sharing: DoneSharing | None = None
    keep: Keep = Keep(embed="none")
    attempt: int = 1
    warnings: tuple[str, ...] = ()
    lettering: DoneLettering | None = None
    layers: tuple[DoneLayer, ...] = ()
    worker: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A picture whose file lies in the output folder. `job` is the manifest's own, which is no copy."""

    job: Job
    fingerprint: str
    model: DoneModel
    engine: DoneEngine
    timing: DoneTiming
    memory: DoneMemory
    file: DoneFile
    gpu: DoneGpu | None
    software: DoneSoftware | None
    sharing: DoneSharing | None
    keep: Keep
    attempt: int
    warnings: tuple[str, ...]
    lettering: DoneLettering | None = None
    layers: tuple[DoneLayer, ...] = ()
    worker: str = ""


Known = Done | Sidecar
"""What is known of a finished picture: all of it, or what a plan keeps."""


@dataclasses.dataclass(frozen=True, slots=True)
class FoundSidecar:
    """A sidecar that lies in a folder under `output`, without its job, and before anybody looked at the picture."""

    output: str
    told: _Told

    @property
    def fingerprint(self) -> str:
        return self.told.fingerprint

    @property
    def keep(self) -> Keep:
        return self.told.keep

    def is_whole(self, folder: OutputFolder, *, thorough: bool) -> bool:
        """Whether picture and layers beside it are what it says: by their sizes, or if `thorough` by their SHA-256."""
        path = f"{folder.path}/{self.output}{PICTURE_SUFFIXES[self.keep.format]}"
        files: list[tuple[str, DoneFile | DoneLayer]] = [(path, self.told.file)]
        for number, layer in enumerate(self.told.layers, start=1):
            files.append((str(folder.layer(self.output, number)), layer))
        return all(_is_it(path, told, thorough=thorough) for path, told in files)

    def of(self, job: Job) -> Done:
        """The same, of a picture of this job."""
        told = self.told
        return Done(
            job=job,
            fingerprint=told.fingerprint,
            model=_once(told.model),
            engine=_once(told.engine),
            timing=told.timing,
            memory=told.memory,
            file=told.file,
            gpu=_once(told.gpu),
            software=_once(told.software),
            sharing=told.sharing,
            keep=_once(told.keep),
            attempt=told.attempt,
            warnings=told.warnings,
            lettering=told.lettering,
            layers=told.layers,
            worker=_once(told.worker),
        )


def _is_it(path: str, told: DoneFile | DoneLayer, *, thorough: bool) -> bool:
    try:
        if os.stat(path).st_size != told.bytes:  # noqa: PTH116  (a Path each costs as much again)
            return False
        return not thorough or sha256_of(Path(path)) == told.sha256
    except OSError:
        return False


def find(folder: OutputFolder, output: str) -> FoundSidecar | None:
    """The sidecar that stands in a picture's place; None when there is none, or none of this version."""
    try:
        with open(f"{folder.path}/{output}{SIDECAR_SUFFIX}", "rb") as stream:  # noqa: PTH123
            text = stream.read(MAX_SIDECAR_BYTES + 1)
        return FoundSidecar(output, _TOLD.validate_json(text)) if len(text) <= MAX_SIDECAR_BYTES else None
    except (OSError, ValidationError):
        return None


def find_all(folder: OutputFolder, passing: Container[str] = (), *, below: str = "") -> Iterator[FoundSidecar]:
    """Every sidecar in a folder and those in it, but for the outputs in `passing`. Links are not followed.

    `below` is a folder in it, where only that is looked into.
    """
    own = {Own.ASSETS, Own.THUMBS}
    for place, folders, names in os.walk(folder.path / below):
        top = Path(place) == folder.path
        folders[:] = sorted(name for name in folders if not (top and name in own))
        below = "" if top else f"{Path(place).relative_to(folder.path).as_posix()}/"
        for name in sorted(names):
            # Disks of a Mac give names with accents apart; all names of pictures have them together.
            output = unicodedata.normalize("NFC", f"{below}{name.removesuffix(SIDECAR_SUFFIX)}")
            if name.endswith(SIDECAR_SUFFIX) and output not in passing and (found := find(folder, output)) is not None:
                yield found


def of_sidecar(sidecar: Sidecar, output: str, job: Job) -> Done:
    """What a plan keeps of a sidecar that has just been written."""
    return FoundSidecar(output, _TOLD.validate_python(sidecar.model_dump())).of(job)


_TOLD = TypeAdapter(_Told)
_OnceT = TypeVar("_OnceT", bound=Hashable)
_seen: dict[Hashable, Hashable] = {}


def _once(value: _OnceT) -> _OnceT:
    """One object for all that are equal: thousands of pictures have the same engine."""
    return cast("_OnceT", _seen.setdefault(value, value))
