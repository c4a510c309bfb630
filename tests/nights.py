"""Nights that have been: output folders as a run leaves them, made in a moment, for what is read in the morning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image, ImageDraw

from renderer import catalog
from renderer.job import Engine, FileFacts, Gpu, Memory, Picture, Sidecar, Timing, fingerprint
from renderer.manifest.manifest import Manifest
from renderer.outputs import encode
from renderer.outputs.encode import Pixels
from renderer.outputs.folder import OutputFolder
from renderer.weights.identity import identify
from tests.fakes import SOFTWARE

BEGAN = datetime(2026, 11, 20, 23, 0, tzinfo=UTC)
GIB = 2**30


def paint(picture: Picture) -> Pixels:
    """A circle in a colour of the picture's own."""
    job = picture.job
    digits = hashlib.sha256(picture.id.encode()).hexdigest()
    image = Image.new("RGB", (job.width, job.height), f"#{digits[:6]}")
    box = (job.width // 4, job.height // 4, 3 * job.width // 4, 3 * job.height // 4)
    ImageDraw.Draw(image).ellipse(box, fill=f"#{digits[6:12]}")
    return Pixels(job.width, job.height, image.tobytes())


def make_night(manifest: Manifest, outputs: Path, *, without: Sequence[str] = (), same_picture: bool = False) -> None:
    """Write a manifest's pictures and sidecars, but for the ids in `without`; `same_picture` paints one for all."""
    folder = OutputFolder(outputs / manifest.name)
    done = [picture for picture in manifest.pictures if picture.id not in without]
    first = encode.encode(paint(done[0]))
    for number, picture in enumerate(done):
        data = first if same_picture else encode.encode(paint(picture), picture.keep.format)
        path = folder.picture(picture.output, picture.keep.format)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sidecar = _sidecar(picture, number, path.name, data)
        folder.sidecar(picture.output).write_text(sidecar.model_dump_json(indent=2))


def _sidecar(picture: Picture, number: int, name: str, data: bytes) -> Sidecar:
    began = BEGAN + timedelta(seconds=30 * number)
    took = 20.0 + number % 7
    model = identify(catalog.find(picture.job.model))
    job = picture.job
    return Sidecar(
        fingerprint=fingerprint(job, model),
        id=picture.id,
        place=picture.place,
        job=job,
        model=model,
        engine=Engine(name="fake", profile="cpu", device="cpu"),
        software=SOFTWARE,
        gpu=Gpu(name="A card", total_bytes=10 * GIB),
        timing=Timing(
            load_s=4.0, encode_s=1.0, step_median_s=took / 8, denoise_s=took, decode_s=0.5, save_s=0.2,
            total_s=took + 1.7, began_at=began, ended_at=began + timedelta(seconds=took),
        ),
        memory=Memory(peak_reserved_bytes=int((5 + number % 3) * GIB), peak_rss_bytes=int((20 + number % 5) * GIB)),
        keep=picture.keep,
        file=FileFacts(
            name=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), width=job.width, height=job.height
        ),
        warnings=("the prompt was cut",) if number == 1 else (),
    )  # fmt: skip
