"""Our own label, under `renderer` or within the XMP packet, and sidecars: what keeps every character.

Both may be a stranger's. They go through Python's JSON on the way to pydantic, whose own takes up to six hundred times
a hostile text's bytes.
"""

from __future__ import annotations

import re
from pathlib import Path

from renderer.job import Input, Job, Sidecar, Software
from renderer.manifest.labels.told import MAX_TEXT, Told, ToldLora, read_object, unescape
from renderer.outputs.metadata import ORIGIN_KEY, PictureOrigin

_IN_XMP = re.compile(r"<renderer:origin>([^<]*)</renderer:origin>")


def read(text: str, xmp: str) -> Told | None:
    """What our label tells, from the text under its key or from XMP; None where it is none, or damaged."""
    if not text and (found := _IN_XMP.search(xmp)):
        text = unescape(found[1])
    fields = read_object(text)
    try:
        origin = PictureOrigin.model_validate(fields) if fields else None
    except ValueError:
        return None
    return None if origin is None else _told_by_job("renderer", origin.job, origin.fingerprint, origin.software)


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar in a file; None when it is none of this version."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TEXT + 1)
        return Sidecar.model_validate(read_object(data.decode("utf-8"))) if len(data) <= MAX_TEXT else None
    except (OSError, ValueError):
        return None


def told_by_sidecar(sidecar: Sidecar) -> Told:
    """What a sidecar tells."""
    return _told_by_job("sidecar", sidecar.job, sidecar.fingerprint, sidecar.software)


def _told_by_job(by: str, job: Job, fingerprint: str, software: Software) -> Told:
    return Told(
        by=by,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        model=job.model,
        precision=job.precision,
        steps=job.num_inference_steps,
        cfg_scale=job.cfg_scale,
        width=job.width,
        height=job.height,
        seed=job.seed,
        loras=tuple(ToldLora(lora.source, lora.weight, lora.file_hash, lora.identity) for lora in job.loras),
        schedule=job.schedule,
        image=job.input_image if job.edit is None else None,
        mask=job.inpaint_mask,
        images=_images(job),
        layers=job.layers or None,
        strength=job.denoising_strength if job.input_image else None,
        mask_blur=job.inpaint_blur_size,
        controlnets=job.controlnets,
        regions=job.regions,
        context=job.context_image,
        fingerprint=fingerprint,
        software=software,
    )


def _images(job: Job) -> tuple[Input, ...]:
    """What was edited, or taken apart."""
    if job.layer_input_image is not None:
        return (job.layer_input_image,)
    return job.edit.images if job.edit else ()


__all__ = ["ORIGIN_KEY", "read", "read_sidecar", "told_by_sidecar"]
