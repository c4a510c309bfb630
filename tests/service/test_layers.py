"""Models that are shown pictures, by each door of a server that has no others: layers beside the whole, and edits."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.engine.edits import make_edit_model
from tests.engine.layered import make_layered_model
from tests.service.running import Server, serving
from tests.service.test_uploads import data_url, drawn, png

QUICK: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1, "layers": 2}


@pytest.fixture(scope="module")
def edits(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that edits."""
    return make_edit_model(demo_folder, tmp_path_factory.mktemp("edits") / "model", zero_cond_t=True)


@pytest.fixture(scope="module")
def server(demo_folder: Path, edits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a model that makes layers, and one that edits, whose workers only seem to render."""
    folder = make_layered_model(demo_folder, tmp_path_factory.mktemp("layered") / "model")
    options = ("--model", str(folder), "--model", str(edits), "--profile", "cpu")
    with serving(tmp_path_factory.mktemp("outputs"), *options, fake="--capacity 2") as served:
        yield served


def modes(pictures: list[bytes]) -> list[str]:
    return [Image.open(io.BytesIO(each)).mode for each in pictures]


def test_our_own(server: Server) -> None:
    """The picture, and its layers as data URLs; each by its number, too, and none that is not there."""
    told = server.generate("a poster", **QUICK, image=data_url(png(drawn()))).json()
    assert told["error"]["hint"] == "write images: [photo.png]"
    told = server.generate("a poster", **QUICK, images=[data_url(png(drawn()))]).json()
    assert "layers" in told, told
    layers = [base64.b64decode(each.partition(",")[2]) for each in told["layers"]]
    assert modes(layers) == ["RGBA", "RGBA"]
    at = f"/api/v1/images/{told['id']}/file"
    assert [server.client.get(at, params={"layer": number}).content for number in (1, 2)] == layers
    assert server.client.get(at, params={"layer": 3}).status_code == 404
    assert server.client.get(at, params={"layer": 0}).status_code == 422
    assert modes([server.client.get(at).content]) == ["RGB"]


def test_layers_say_no_more_of_themselves_than_is_asked(server: Server) -> None:
    """As their picture does: `embed: none` is of the files that are sent, by every door."""
    fields = {**QUICK, "images": [data_url(png(drawn()))], "embed": "none"}
    told = server.generate("a secret poster", **fields).json()
    files = [base64.b64decode(each.partition(",")[2]) for each in (told["image_url"], *told["layers"])]
    files.append(server.client.get(f"/api/v1/images/{told['id']}/file", params={"layer": 1, "embed": "none"}).content)
    for kind in ("b64_json", "url"):
        body = {"prompt": "a secret poster", **fields, "response_format": kind}
        data = [each[kind] for each in server.client.post("/v1/images/generations", json=body).json()["data"]]
        files += [base64.b64decode(each) if kind == "b64_json" else server.client.get(each).content for each in data]
    assert modes(files).count("RGBA") == 7
    assert not [each for each in files if b"secret" in each]
    kept = server.client.get(f"/api/v1/images/{told['id']}/file", params={"layer": 1}).content
    assert b"secret" in kept
    assert Image.open(io.BytesIO(kept)).tobytes() == Image.open(io.BytesIO(files[1])).tobytes()


@pytest.mark.parametrize("kind", ["b64_json", "url"])
def test_openais(server: Server, kind: str) -> None:
    files = {"image": ("poster.png", png(drawn()), "image/png")}
    fields = {"prompt": "a poster", "response_format": kind, **{name: str(value) for name, value in QUICK.items()}}
    data = server.client.post("/v1/images/edits", data=fields, files=files).json()["data"]
    assert [each.get("layer") for each in data] == [None, 1, 2]
    told = [each[kind] for each in data]
    found = [base64.b64decode(each) if kind == "b64_json" else server.client.get(each).content for each in told]
    assert modes(found) == ["RGB", "RGBA", "RGBA"]


def test_automatic1111s(server: Server) -> None:
    body = {"prompt": "a poster", "steps": 2, "width": 64, "height": 64, "seed": 1}
    picture = base64.b64encode(png(drawn())).decode()
    answer = server.client.post("/sdapi/v1/img2img", json={**body, "init_images": [picture], "denoising_strength": 0.5})
    assert modes([base64.b64decode(each) for each in answer.json()["images"]]) == ["RGB", *["RGBA"] * 4]
    assert "takes no denoising_strength" in answer.headers["x-renderer-warning"]


def test_edits_of_several_pictures_within_a_mask(server: Server, edits: Path) -> None:
    """As OpenAI's clients send them and as AUTOMATIC1111's do; and from text, where none is sent."""
    clear = Image.new("RGBA", (64, 64), "black")
    clear.paste((0, 0, 0, 0), (0, 0, 32, 64))
    shop, cup, mask = png(drawn()), png(drawn(96)), png(clear)
    fields = {"prompt": "in red", "model": str(edits), "size": "64x64", "num_inference_steps": "2"}
    files = [("image[]", ("shop.png", shop)), ("image[]", ("cup.png", cup)), ("mask", ("mask.png", mask))]
    (told,) = server.client.post("/v1/images/edits", data=fields, files=files).json()["data"]
    job = server.sidecar(told["id"])["job"]
    assert [each["width"] for each in job["edit"]["images"]] == [64, 96]
    assert job["inpaint_mask"] is not None
    (told,) = server.client.post("/v1/images/generations", json={**fields, "num_inference_steps": 2}).json()["data"]
    assert server.sidecar(told["id"])["job"]["edit"] is None
    pictures = [base64.b64encode(each).decode() for each in (shop, cup)]
    chosen = {
        "override_settings": {"sd_model_checkpoint": str(edits)},
        "steps": 2,
        "width": 64,
        "height": 64,
        "seed": 3,
    }
    answer = server.client.post("/sdapi/v1/img2img", json={"prompt": "in red", "init_images": pictures, **chosen})
    assert len(answer.json()["images"]) == 1
