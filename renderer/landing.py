"""A picture that has come from a worker: looked at, labelled, written down. Or kept another way, from its own file.

Knows pictures, sidecars and the output folder; nothing of workers, retries or what else is on its way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from renderer import artifacts, metadata
from renderer.encode import Pixels
from renderer.errors import BadPictureError, PictureError
from renderer.events import Opened, Rendered
from renderer.job import Expect, FileFacts, Job, Sidecar
from renderer.layout import OutputFolder
from renderer.plan import Planned


@dataclass(frozen=True, slots=True)
class Arrival:
    """A picture as it comes: what was asked for, at which attempt, and what the worker answered."""

    item: Planned
    attempt: int
    opened: Opened
    event: Rendered
    rgb: bytes


def check(arrival: Arrival) -> None:
    """Raise `PictureError` for a picture that breaks what its job expects, or whose bytes cannot be it."""
    event = arrival.event
    _check_expectations(arrival.item.picture.expect, event)
    if len(arrival.rgb) != event.width * event.height * 3:
        raise BadPictureError(f"{len(arrival.rgb)} bytes came for {event.width}x{event.height} pixels")


def save(folder: OutputFolder, arrival: Arrival) -> Sidecar:
    """Write the picture and its sidecar. Raises `DiskError`."""
    item, event = arrival.item, arrival.event
    origin = metadata.Origin(
        fingerprint=item.fingerprint, job=_told(item), model=item.model, software=arrival.opened.software
    )

    def describe(file: FileFacts, save_s: float) -> Sidecar:
        return _sidecar(arrival, file, save_s)

    return artifacts.save(
        folder,
        item.picture.output,
        Pixels(event.width, event.height, arrival.rgb),
        describe,
        file_format=item.picture.keep.format,
        labels=metadata.write_labels(origin, item.picture.keep),
    )


def rewrite(folder: OutputFolder, item: Planned) -> bool:
    """Whether a picture that is only to be kept another way could be written anew from the file that is there."""
    output, keep = item.picture.output, item.picture.keep
    before = artifacts.finished(folder, output, item.fingerprint, thorough=True)
    if before is None or before.keep.format == "jpeg":
        return False
    origin = metadata.Origin(fingerprint=item.fingerprint, job=before.job, model=before.model, software=before.software)
    artifacts.rewrite(folder, output, before, keep, metadata.write_labels(origin, keep))
    return True


def done(folder: OutputFolder, item: Planned) -> Planned:
    """A picture whose file and sidecar have just been written, as a plan has it."""
    sidecar = artifacts.read_sidecar(folder.sidecar(item.picture.output))
    return replace(item, state="done", note="", sidecar=sidecar)


def _sidecar(arrival: Arrival, file: FileFacts, save_s: float) -> Sidecar:
    item, opened, event = arrival.item, arrival.opened, arrival.event
    known = (event.timing.encode_s, event.timing.denoise_s, event.timing.decode_s, save_s)
    timing = event.timing.model_copy(
        update={
            "load_s": opened.load_s,
            "save_s": save_s,
            "total_s": sum(seconds or 0.0 for seconds in known),
        }
    )
    return Sidecar(
        fingerprint=item.fingerprint,
        id=item.picture.id,
        place=item.picture.place,
        job=_told(item),
        model=item.model,
        engine=opened.engine,
        software=opened.software,
        gpu=opened.gpu,
        timing=timing,
        memory=event.memory,
        sharing=event.sharing,
        keep=item.picture.keep,
        file=file,
        attempt=arrival.attempt,
        warnings=event.warnings,
    )


def _told(item: Planned) -> Job:
    """A picture's job as it may be told: never with a folder's path."""
    return item.picture.job.model_copy(update={"model": item.model.id})


def _check_expectations(expect: Expect | None, event: Rendered) -> None:
    """Raise `PictureError` when a picture took more than its job allows."""
    if expect is None:
        return
    timing, memory = event.timing, event.memory
    seconds = sum(part or 0.0 for part in (timing.encode_s, timing.denoise_s, timing.decode_s))
    limits = (
        ("seconds", expect.seconds, seconds),
        ("bytes of GPU memory", expect.vram_bytes, memory.peak_reserved_bytes),
        ("bytes of host memory", expect.ram_bytes, memory.peak_rss_bytes),
    )
    over = [
        f"{found:,.0f} {what} where {limit:,.0f} were expected at most"
        for what, limit, found in limits
        if limit is not None and found is not None and found > limit
    ]
    if over:
        raise PictureError("; ".join(over), hint="the limits stand under expect: in the manifest")
