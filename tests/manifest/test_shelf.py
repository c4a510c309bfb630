"""What a manifest may name that somebody else sent: no path that it holds is looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from renderer.errors import ManifestError
from renderer.manifest.fields import JobFields
from renderer.manifest.manifest import Manifest, Overrides, parse
from renderer.manifest.shelf import FILE_FIELDS, Shelf
from renderer.manifest.source import ManifestSource

NAMES_NO_FILE = {
    *("id", "prompt", "negative_prompt", "precision", "cfg_scale", "num_inference_steps", "steps", "schedule"),
    *("size", "sizes", "width", "height", "seed", "seeds", "count", "matrix", "include", "exclude"),
    *("format", "embed", "expect", "strength", "mask_blur", "lettering", "retake"),
    *("sample", "sample_seed", "layers"),
}
"""Fields that hold no path; whoever adds one to a manifest says here, or in `FILE_FIELDS`, which it is."""

CANNY = "DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Canny"

BY_NAME = {"model", "loras"}
"""Fields that name something, which a shelf has or has not."""


WITHIN: dict[str, Callable[[str], Any]] = {
    "images": lambda path: [path],
    "controlnets": lambda path: [{"id": CANNY, "image": path}],
    "regions": lambda path: [{"prompt": "a", "mask": path}],
}
"""How a field has a file, where it is not all of it."""


def sent(job: dict[str, Any], folder: Path, shelf: Shelf | None = None) -> Manifest:
    text = json.dumps({"jobs": [{"prompt": "a boat", **job}]})
    shelf = shelf or Shelf({"ours": "demo", "other": "Qwen/Qwen-Image"})
    return parse(ManifestSource(text.encode(), "sent", "sent", folder), Overrides(shelf=shelf))


def problem(job: dict[str, Any], folder: Path) -> str:
    with pytest.raises(ManifestError) as refused:
        sent(job, folder)
    return refused.value.problems[0].message


def test_each_field_is_known_to_name_files_or_not() -> None:
    assert set(JobFields.__annotations__) == NAMES_NO_FILE | BY_NAME | set(FILE_FIELDS)


def test_models_are_the_shelfs(tmp_path: Path) -> None:
    """By the names that it gives them; the first is the usual one."""
    assert sent({}, tmp_path).pictures[0].job.model == "demo"
    assert sent({"model": "other"}, tmp_path).pictures[0].job.model == "Qwen/Qwen-Image"
    assert problem({"model": "demo"}, tmp_path) == 'there is no model "demo" here'


@pytest.mark.parametrize("field", FILE_FIELDS)
def test_a_file_that_is_there_is_refused_like_one_that_is_not(field: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "there.png")
    (tmp_path / "there.csv").write_text("prompt\nx\n")
    there = str(tmp_path / ("there.csv" if field == "rows" else "there.png"))
    told = {
        problem({field: WITHIN[field](path) if field in WITHIN else path}, tmp_path)
        for path in (there, "there.png", "not-there", "/etc/*", "../*.png")
    }
    assert told == {"names a file, and no file of this machine is read"}


def test_a_lora_is_the_catalogues(tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"x")
    for lora in ("there.safetensors", "/etc/passwd", {"file": "not-there"}, {"id": "nobodys"}):
        assert "is no LoRA of the catalogue" in problem({"loras": [lora]}, tmp_path)


def test_a_controlnet_is_the_catalogues(tmp_path: Path) -> None:
    """Also where its pictures are the server's own."""
    Image.new("RGB", (64, 64)).save(tmp_path / "ours.png")
    ours = str(tmp_path / "ours.png")
    shelf = Shelf({"ours": "Qwen/Qwen-Image"}, frozenset({ours}))
    (picture,) = sent({"controlnets": [{"id": CANNY, "image": ours}]}, tmp_path, shelf).pictures
    assert picture.job.controlnets[0].source == CANNY
    for net in ({"file": "there.safetensors"}, {"id": "there.safetensors"}):
        with pytest.raises(ManifestError, match=r"no file of this machine|is no ControlNet of the catalogue"):
            sent({"controlnets": [{**net, "image": ours}]}, tmp_path, shelf)


def test_a_file_that_the_server_wrote_may_be_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "ours.png")
    shelf = Shelf({"ours": "demo"}, frozenset({str(tmp_path / "ours.png")}))
    (picture,) = sent({"image": str(tmp_path / "ours.png")}, tmp_path, shelf).pictures
    assert picture.job.input_image is not None


@pytest.mark.parametrize("field", sorted(WITHIN))
def test_one_of_the_servers_lets_no_other_in(field: str, tmp_path: Path) -> None:
    """A list is of the server's files in every place: whoever has sent one picture names no other of the disk."""
    for name in ("ours.png", "theirs.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    ours = str(tmp_path / "ours.png")
    shelf = Shelf({"ours": "demo"}, frozenset({ours}))
    for listed in ((ours, "theirs.png"), ("theirs.png", ours)):
        with pytest.raises(ManifestError, match="names a file, and no file of this machine is read"):
            sent({field: [each for path in listed for each in WITHIN[field](path)]}, tmp_path, shelf)
