"""Pictures that go in, on the worker's side: unpacked from an order, and brought to the size of what is rendered.

DiffSynth takes them as they are. It wants what is drawn over of the picture's own size, and what is edited of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageOps

from renderer.errors import PictureError
from renderer.job import ControlNet, Edit, Input, Job
from renderer.outputs import input_files
from renderer.protocol import Render

Inputs = Mapping[str, Image.Image]
"""Pictures of the size that is rendered, by the SHA-256 over the pixels that they had before; those that are edited, of
the size in which they are, by `name_edited`.

They are held until theirs has landed, so nothing is that is larger: a photo of 100 megapixels takes 400 MB.
"""

NO_INPUTS: Inputs = {}


def unpack(order: Render, payload: bytes) -> Inputs:
    """The pictures of an order, decoded and brought to its size. Raises `PictureError` where one is not its job's."""
    found: dict[str, Image.Image] = {}
    begin, fitted = 0, _fitting(order.job)
    for wanted, size in zip(order.job.inputs, order.files, strict=True):
        purpose = _purpose(wanted, order.job)
        decoded = input_files.decode(payload[begin : begin + size], "an input", purpose)
        if decoded.known != wanted:
            message = "an input's pixels are not those that were planned with"
            raise PictureError(message, hint="another version of Pillow reads it otherwise")
        if wanted in fitted:
            found[wanted.sha256] = _fitted(decoded.image, order.job)
        if order.job.edit and wanted in order.job.edit.images:
            found[name_edited(wanted, order.job.edit)] = _brought(decoded.image, wanted, order.job.edit)
        begin += size
    return found


def _purpose(wanted: Input, job: Job) -> input_files.Purpose:
    if wanted == job.layer_input_image:
        return "layers"
    return "mask" if wanted in job.mask_inputs else "picture"


def name_edited(image: Input, edit: Edit) -> str:
    """What a picture that is edited is called among inputs: the same for all jobs that bring it to this size."""
    return f"{image.sha256} of {edit.pixels}"


def edited(edit: Edit, given: Inputs) -> list[Image.Image]:
    """The pictures of an edit."""
    return [given[name_edited(each, edit)] for each in edit.images]


def arguments(job: Job, given: Inputs) -> dict[str, Any]:
    """What DiffSynth's call is given of them; nothing where nothing goes in."""
    found: dict[str, Any] = {} if job.edit is None else _of_edit(job.edit, given)
    if job.layer_input_image is not None:
        found |= {"layer_input_image": given[job.layer_input_image.sha256], "layer_num": job.layer_num}
    if job.controlling:
        found["blockwise_controlnet_inputs"] = _of_controlnets(job.controlling, given)
    if job.context_image is not None:
        found["context_image"] = given[job.context_image.sha256]
    if job.regions:
        found["eligen_entity_prompts"] = [region.prompt for region in job.regions]
        found["eligen_entity_masks"] = [given[region.mask.sha256].convert("RGB") for region in job.regions]
    if job.input_image is None:
        return found
    found |= {
        "input_image": given[job.input_image.sha256],
        "denoising_strength": job.denoising_strength,
    }
    if job.inpaint_mask is not None:
        found["inpaint_mask"] = given[job.inpaint_mask.sha256]
        if job.inpaint_blur_size:
            found |= {"inpaint_blur_size": job.inpaint_blur_size, "inpaint_blur_sigma": job.inpaint_blur_size / 2}
    return found


def _of_controlnets(nets: Sequence[ControlNet], given: Inputs) -> list[Any]:
    """As DiffSynth wants them: it counts steps down, from 1 to 0, and takes the mean of a mask's colours."""
    from diffsynth.pipelines.qwen_image import ControlNetInput  # noqa: PLC0415  # it is there long before

    return [
        ControlNetInput(
            controlnet_id=number,
            scale=net.scale,
            start=1 - net.start,
            end=1 - net.end,
            image=given[net.image.sha256],
            inpaint_mask=given[net.mask.sha256].convert("RGB") if net.mask else None,
        )
        for number, net in enumerate(nets)
    ]


def _fitting(job: Job) -> set[Input | None]:
    """Those of a job's inputs that are brought to the size of what is rendered."""
    controls = (each for net in job.controlnets for each in (net.image, net.mask))
    plain = (job.input_image, job.inpaint_mask, job.layer_input_image, job.context_image)
    return {*plain, *controls, *job.mask_inputs} - {None}


def _of_edit(edit: Edit, given: Inputs) -> dict[str, Any]:
    images = edited(edit, given)
    found = {"edit_image": images if edit.numbered else images[0], "edit_image_auto_resize": False}
    return found | ({"zero_cond_t": True} if edit.zero_cond_t else {})


def _brought(image: Image.Image, known: Input, edit: Edit) -> Image.Image:
    """As DiffSynth's `edit_image_auto_resize` brings a picture to its size; what comes out it need not touch again."""
    size = edit.size_of(known)
    return image.resize((size.width, size.height))


def _fitted(image: Image.Image, job: Job) -> Image.Image:
    """Of the picture's size: scaled until it covers that, and cut at the middle."""
    size = (job.width, job.height)
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)
