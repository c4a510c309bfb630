"""Pictures to edit, as clients send them for a model that edits: what is made of a request, before anything renders."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from renderer.job import Job, Weights
from renderer.manifest.expand import usual_job
from renderer.manifest.shelf import Shelf
from renderer.outputs.folder import OutputFolder
from renderer.service.answers import RequestError
from renderer.service.configuration import Limits
from renderer.service.images import read_object
from renderer.service.intake import FieldError, Intake, Requested
from renderer.service.openai_fields import translate
from renderer.service.uploads import Uploads
from tests.service.test_uploads import data_url, drawn, png

MODELS = {"edits": "Qwen/Qwen-Image-Edit-2511", "draws": "demo", "layers": "Qwen/Qwen-Image-Layered"}
ONE, OTHER = data_url(png(drawn(96))), data_url(png(drawn(64)))


def job(folder: Path, **fields: Any) -> Job:
    """What a request makes, once its pictures are kept."""
    intake = Intake(Shelf(MODELS), Limits())

    async def asked() -> list[Requested]:
        async with Uploads(OutputFolder(folder), intake.takes_apart).of({"prompt": "make it red", **fields}) as sent:
            return intake.read(translate(sent.fields, MODELS, strict=True).fields, "r", sent.named)

    (one,) = asyncio.run(asked())
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


def test_without_a_picture_it_draws_from_text(tmp_path: Path) -> None:
    found = job(tmp_path, model="edits")
    assert (found.edit, found.inputs, found.width) == (None, (), 1328)


def test_refused(tmp_path: Path) -> None:
    """Several for a model that draws over one; a number; a file of this machine; no picture."""
    with pytest.raises(RequestError, match="several were sent"):
        job(tmp_path, model="draws", images=[ONE, OTHER])
    with pytest.raises(FieldError, match="must be a list, not a number"):
        job(tmp_path, model="draws", images=5)
    with pytest.raises(FieldError, match="names a file"):
        job(tmp_path, model="edits", images=[ONE, "/etc/passwd"])
    with pytest.raises(RequestError, match="it is a GIF"):
        job(tmp_path, model="edits", images=[ONE, data_url(b"GIF89a")])
    assert not [*(tmp_path / "inputs").iterdir()]


def test_what_was_sent_is_not_kept_while_a_picture_is_waited_for() -> None:
    """Two hundred may wait, each with megabytes of pictures that lie on the disk by then."""
    sent = json.dumps({"image": ONE}).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": sent, "more_body": False}

    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    assert asyncio.run(read_object(request)) == {"image": ONE}
    assert [name for name, value in vars(request).items() if isinstance(value, bytes) and ONE.encode() in value] == []


def test_transparency_counts_where_a_picture_is_taken_apart(tmp_path: Path) -> None:
    """It is kept by what it is for: two pictures that look alike on white are two."""
    clear, white = (data_url(png(Image.new("RGBA", (64, 64), (255, 255, 255, alpha)))) for alpha in (0, 255))
    found = [job(tmp_path, model="layers", image=each, layers=2) for each in (clear, white)]
    assert found[0].layer_input_image != found[1].layer_input_image
    assert [each.layer_num for each in found] == [2, 2]
    assert len({job(tmp_path, model="edits", image=each, seed=1) for each in (clear, white)}) == 1


@pytest.mark.parametrize(("first", "second", "left"), [(True, False, 1), (False, True, 1), (True, True, 0)])
def test_what_somebody_is_accepted_with_stays(tmp_path: Path, *, first: bool, second: bool, left: int) -> None:
    """Whoever of two sent it first and is refused: it goes when both are."""

    async def ask(uploads: Uploads, *, refused: bool, there: asyncio.Event, decide: asyncio.Event) -> None:
        async with uploads.of({"image": ONE}):
            there.set()
            await decide.wait()
            if refused:
                raise RequestError(422, "x", "no")

    async def both() -> None:
        uploads = Uploads(OutputFolder(tmp_path), lambda _: False)
        there, decide = ([asyncio.Event(), asyncio.Event()] for _ in range(2))
        asked = [
            asyncio.create_task(ask(uploads, refused=refused, there=there[place], decide=decide[place]))
            for place, refused in enumerate((first, second))
        ]
        for each in there:
            await each.wait()
        for place, one in enumerate(asked):
            decide[place].set()
            await asyncio.wait([one])
            assert (one.exception() is not None) is (first, second)[place]

    asyncio.run(both())
    assert len([*(tmp_path / "inputs").iterdir()]) == left


@pytest.mark.parametrize("model", ["edits", "layers", "draws"])
def test_forms_go_as_the_model_takes_them(tmp_path: Path, model: str) -> None:
    """Several pictures and a mask; the model may be named behind them."""
    clear = Image.new("RGBA", (96, 96), "black")
    clear.paste((0, 0, 0, 0), (0, 0, 48, 96))
    shop = ("image", png(drawn(96)))
    sent_files = {
        "edits": [("image[]", png(drawn(96))), ("image[]", png(drawn(64))), ("mask", png(clear))],
        "layers": [("image", png(clear))],
        "draws": [shop, ("mask", png(clear))],
    }
    intake = Intake(Shelf(MODELS), Limits())

    async def asked() -> Job:
        files = [(name, UploadFile(io.BytesIO(data), filename="x.png")) for name, data in sent_files[model]]
        form = FormData([*files, ("prompt", "make it red"), ("model", model)])
        uploads = Uploads(OutputFolder(tmp_path), intake.takes_apart)
        async with uploads._deciding() as sent:
            await uploads._take_form(sent, form)
            fields = translate(sent.fields, MODELS, strict=True).fields
            (one,) = intake.read(fields, "r", sent.named)
            return one.item.picture.job

    found = asyncio.run(asked())
    assert (found.inpaint_mask is not None) is (model != "layers")
    assert len(found.edit.images if found.edit else ()) == (2 if model == "edits" else 0)
    assert (found.layer_input_image is not None) is (model == "layers")
    assert (found.input_image is not None) is (model != "layers")  # what a mask is of


def test_a_server_of_edits_alone_knows_its_usual_weights() -> None:
    """Nothing is asked of it yet, and so nothing to edit is there."""
    found = Intake(Shelf({"edits": "Qwen/Qwen-Image-Edit-2511"}), Limits()).usual_weights()
    assert (found.model, found.precision) == ("Qwen/Qwen-Image-Edit-2511", "fp8")


@pytest.mark.parametrize("model", MODELS.values())
def test_memory_is_shared_out_before_anything_is_asked_for(model: str) -> None:
    """For a usual picture of the model: one that edits or takes apart is shown one."""
    found = usual_job(Weights(model, "fp8"))
    assert (len(found.inputs), found.edit is not None, found.layers) == {
        "demo": (0, False, 0),
        "Qwen/Qwen-Image-Edit-2511": (1, True, 0),
        "Qwen/Qwen-Image-Layered": (1, False, 4),
    }[model]
