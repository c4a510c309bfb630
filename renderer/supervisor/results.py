"""A picture that has come from a worker: looked at, labelled, written down. Or kept another way, from its own file.

Knows pictures, sidecars and the output folder; nothing of workers, retries or what else is on its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from renderer.catalog import MODELS
from renderer.errors import BadPictureError, DiskError, PictureError
from renderer.job import Expect, FileFacts, Job, Sidecar
from renderer.outputs import metadata, picture_files
from renderer.outputs.encode import LayerPixels, Pixels
from renderer.outputs.folder import OutputFolder
from renderer.planning.plan import Planned
from renderer.protocol import Opened, Rendered
from renderer.weights.adapters.whereabouts import licence_of
from renderer.weights.provenance import provenance


@dataclass(frozen=True, slots=True)
class Result:
    """A picture as it comes: what was asked for, at which attempt, and what the worker answered.

    `payload` is its pixels, and behind them those of its layers, as `Rendered` tells; `where` is which of several
    workers it was.
    """

    item: Planned
    attempt: int
    opened: Opened
    event: Rendered
    payload: bytes
    where: str = ""

    @property
    def pixels(self) -> Pixels:
        """The picture itself."""
        width, height = self.event.width, self.event.height
        return Pixels(width, height, self.payload[: width * height * 3] if self.event.layers else self.payload)

    @property
    def layers(self) -> list[LayerPixels]:
        """Those that it was taken apart into."""
        width, height = self.event.width, self.event.height
        begin, each = width * height * 3, width * height * 4
        places = range(begin, begin + self.event.layers * each, each)
        return [LayerPixels(width, height, self.payload[place : place + each]) for place in places]


def check(result: Result) -> None:
    """Raise `PictureError` for a picture that breaks what its job expects, or whose bytes cannot be it."""
    event = result.event
    _check_expectations(result.item.picture.expect, event)
    layers = result.item.picture.job.layers
    if event.layers != layers:
        raise BadPictureError(f"{event.layers} layers came, and {layers} were asked for")
    if len(result.payload) != event.width * event.height * (3 + 4 * layers):
        why = "" if result.payload else ": there was no memory left for them"
        raise BadPictureError(f"{len(result.payload)} bytes came for {event.width}x{event.height} pixels{why}")


def save(folder: OutputFolder, result: Result) -> Sidecar:
    """Write the picture and its sidecar. Raises `DiskError`."""
    item = result.item
    origin = metadata.PictureOrigin(
        fingerprint=item.fingerprint, job=_told(item), model=item.identity, software=result.opened.software
    )

    def describe(file: FileFacts, save_s: float) -> Sidecar:
        return _sidecar(result, file, save_s)

    return picture_files.save(
        folder,
        item.output,
        result.pixels,
        describe,
        file_format=item.picture.keep.format,
        labels=metadata.write_labels(origin, item.picture.keep),
        layers=result.layers,
        layer_labels=metadata.write_layer_labels(origin, item.picture.keep),
    )


def move(folder: OutputFolder, item: Planned, source: str, *, leaves: bool) -> Sidecar:
    """Bring a picture that lies under another name to its place, kept as it is; if it `leaves`, it goes from there.

    Raises `DiskError`.
    """

    def describe(told: Sidecar) -> Sidecar:
        return told.model_copy(update={"id": item.picture.id, "place": item.picture.place})

    return picture_files.carry(folder, source, item.picture.output, describe, leaves=leaves)


def stow(folder: OutputFolder, source: str, aside: str) -> None:
    """Keep a finished picture aside, under another output name. Raises `DiskError`."""
    picture_files.carry(folder, source, aside, lambda told: told, leaves=True)


def rewrite(folder: OutputFolder, item: Planned) -> Sidecar:
    """Keep a picture in its place another way, from the file that is there. Raises `DiskError`."""
    output, keep = item.picture.output, item.picture.keep
    before = picture_files.read_sidecar(folder.sidecar(output))
    if before is None or before.fingerprint != item.fingerprint:
        raise DiskError(f"cannot read {folder.sidecar(output)}, which was there a moment ago")
    origin = metadata.PictureOrigin(
        fingerprint=item.fingerprint, job=before.job, model=before.model, software=before.software
    )
    labels, layer_labels = metadata.write_labels(origin, keep), metadata.write_layer_labels(origin, keep)
    return picture_files.rewrite(folder, output, before, keep, labels, layer_labels)


def _sidecar(result: Result, file: FileFacts, save_s: float) -> Sidecar:
    item, opened, event = result.item, result.opened, result.event
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
        model=item.identity,
        engine=opened.engine,
        software=opened.software,
        gpu=opened.gpu,
        worker=result.where,
        timing=timing,
        memory=event.memory,
        sharing=event.sharing,
        keep=item.picture.keep,
        file=file,
        attempt=result.attempt,
        warnings=event.warnings,
        licences=_licences(item),
        provenance=provenance(item.model, item.identity, item.picture.job),
    )


def _told(item: Planned) -> Job:
    """A picture's job as it may be told: never with a folder's path."""
    job = item.picture.job
    loras = tuple(each.found_at(_told_source(each.source)) for each in job.loras)
    nets = tuple(each.found_at(_told_source(each.source)) for each in job.controlnets)
    return job.model_copy(update={"model": item.identity.id, "loras": loras, "controlnets": nets})


def _told_source(source: str) -> str:
    return source if source in MODELS else Path(source).name


def _licences(item: Planned) -> dict[str, str]:
    """What is known of the licences of a picture's weights."""
    known = {item.identity.id: item.model.licence}
    known |= {each.name: licence_of(each.source) for each in item.picture.job.extra_networks}
    known |= {Path(each.source).stem: licence_of(each.source) for each in item.model.fused}
    return {name: licence for name, licence in known.items() if licence}


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
