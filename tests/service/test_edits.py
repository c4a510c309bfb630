"""Pictures to edit, as clients send them for a model that edits: what is made of a request, before anything renders."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from renderer.job import Job
from renderer.manifest.shelf import Shelf
from renderer.outputs.folder import OutputFolder
from renderer.service.answers import RequestError
from renderer.service.configuration import Limits
from renderer.service.intake import FieldError, Intake
from renderer.service.openai_fields import translate
from renderer.service.uploads import Uploads
from tests.service.test_uploads import data_url, drawn, png

MODELS = {"edits": "Qwen/Qwen-Image-Edit-2511", "draws": "demo"}
ONE, OTHER = data_url(png(drawn(96))), data_url(png(drawn(64)))


def job(folder: Path, **fields: Any) -> Job:
    """What a request makes, once its pictures are kept."""
    taken, files = asyncio.run(Uploads(OutputFolder(folder)).take({"prompt": "make it red", **fields}))
    asked = translate(taken, MODELS, strict=True)
    (one,) = Intake(Shelf(MODELS), Limits()).read(asked.fields, "r", files)
    assert {Path(file.path).parent.name for file in one.item.picture.inputs} <= {"inputs"}
    return one.item.picture.job


def test_several_pictures(tmp_path: Path) -> None:
    found = job(tmp_path, model="edits", images=[ONE, OTHER])
    assert found.edit is not None
    assert [image.width for image in found.edit.images] == [96, 64]
    assert len(list((tmp_path / "inputs").iterdir())) == 2


def test_one_as_openais_clients_send_it(tmp_path: Path) -> None:
    """`image` is what a model that edits looks at, and what another draws over."""
    edited, over = job(tmp_path, model="edits", image=ONE), job(tmp_path, model="draws", image=ONE, size="64x64")
    assert edited.edit is not None
    assert (edited.input_image, over.edit) == (None, None)
    assert edited.edit.images == (over.input_image,)


def test_refused(tmp_path: Path) -> None:
    """Several for a model that draws over one; none for one that edits; a file of this machine; no picture."""
    with pytest.raises(RequestError, match="several were sent"):
        job(tmp_path, model="draws", images=[ONE, OTHER])
    with pytest.raises(FieldError, match="the job names none"):
        job(tmp_path, model="edits")
    with pytest.raises(FieldError, match="names a file"):
        job(tmp_path, model="edits", images=[ONE, "/etc/passwd"])
    with pytest.raises(RequestError, match="no picture"):
        job(tmp_path, model="edits", images=[ONE, data_url(b"GIF89a")])


def test_a_server_of_edits_alone_knows_its_usual_weights() -> None:
    """Nothing is asked of it yet, and so nothing to edit is there."""
    found = Intake(Shelf({"edits": "Qwen/Qwen-Image-Edit-2511"}), Limits()).usual_weights()
    assert (found.model, found.precision) == ("Qwen/Qwen-Image-Edit-2511", "fp8")
