"""Values for tests: jobs, pictures and manifests, made without YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from renderer.job import Expect, Job, Picture, Place, Sidecar
from renderer.manifest.manifest import Manifest
from renderer.outputs import done
from renderer.outputs.encode import Pixels
from renderer.outputs.folder import OutputFolder
from renderer.outputs.picture_files import read_sidecar


def pixels_of(path: Path) -> Pixels:
    """What a picture's file shows, whatever it is kept as."""
    with Image.open(path) as image:
        return Pixels(image.width, image.height, image.convert("RGB").tobytes())


def finished(folder: OutputFolder, output: str, fingerprint: str, *, thorough: bool) -> Sidecar | None:
    """The sidecar of a picture that counts as done: of this fingerprint, and its file is what it says."""
    found = done.find(folder, output)
    if found is None or found.fingerprint != fingerprint or not found.is_whole(folder, thorough=thorough):
        return None
    return read_sidecar(folder.sidecar(output))


def make_job(prompt: str = "a red circle", *, seed: int = 1, side: int = 64, steps: int = 2) -> Job:
    """A small job for the demo model."""
    return Job(
        model="demo",
        precision="bf16",
        prompt=prompt,
        negative_prompt="",
        cfg_scale=4.0,
        num_inference_steps=steps,
        width=side,
        height=side,
        seed=seed,
    )


def make_picture(
    index: int = 0, prompt: str = "a red circle", *, output: str = "", expect: Expect | None = None, steps: int = 2
) -> Picture:
    """The `index`-th picture of a manifest; its seed is its index."""
    name = output or f"p{index:03}"
    place = Place(manifest="jobs/test.yaml", line=index + 1, job_id=f"p{index:03}", index=index)
    job = make_job(prompt, seed=index, steps=steps)
    return Picture(id=f"p{index:03}", output=name, job=job, place=place, expect=expect)


def make_manifest(prompts: Sequence[str] = ("a", "b", "c"), name: str = "test", steps: int = 2) -> Manifest:
    """A manifest with one picture a prompt."""
    pictures = tuple(make_picture(index, prompt, steps=steps) for index, prompt in enumerate(prompts))
    return Manifest(file=f"jobs/{name}.yaml", name=name, pictures=pictures)
