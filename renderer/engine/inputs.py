"""Pictures that go in, on the worker's side: unpacked from an order, and brought to the size of what is rendered.

DiffSynth takes them as they are, and wants them of the picture's own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageOps

from renderer.errors import PictureError
from renderer.job import Job
from renderer.outputs import input_files
from renderer.protocol import Render

Inputs = Mapping[str, Image.Image]
"""Pictures by the SHA-256 over their pixels."""

NO_INPUTS: Inputs = {}


def unpack(order: Render, payload: bytes) -> Inputs:
    """The pictures of an order, decoded. Raises `PictureError` where one is not what its job says."""
    found: dict[str, Image.Image] = {}
    begin = 0
    for wanted, size in zip(order.job.inputs, order.files, strict=True):
        purpose: input_files.Purpose = "mask" if wanted == order.job.inpaint_mask else "picture"
        decoded = input_files.decode(payload[begin : begin + size], "an input", purpose)
        if decoded.known != wanted:
            message = "an input's pixels are not those that were planned with"
            raise PictureError(message, hint="another version of Pillow reads it otherwise")
        found[wanted.sha256] = decoded.image
        begin += size
    return found


def arguments(job: Job, given: Inputs) -> dict[str, Any]:
    """What DiffSynth's call is given of them; nothing where nothing goes in."""
    if job.input_image is None:
        return {}
    found = {
        "input_image": _fitted(given[job.input_image.sha256], job),
        "denoising_strength": job.denoising_strength,
    }
    if job.inpaint_mask is not None:
        found["inpaint_mask"] = _fitted(given[job.inpaint_mask.sha256], job)
        if job.inpaint_blur_size:
            found |= {"inpaint_blur_size": job.inpaint_blur_size, "inpaint_blur_sigma": job.inpaint_blur_size / 2}
    return found


def _fitted(image: Image.Image, job: Job) -> Image.Image:
    """Of the picture's size: scaled until it covers that, and cut at the middle."""
    size = (job.width, job.height)
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)
