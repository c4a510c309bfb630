"""Pictures that are taken apart, by each door: the whole and its layers."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.engine.layered import make_layered_model
from tests.service.running import Server, serving
from tests.service.test_uploads import data_url, drawn, png

QUICK: dict[str, Any] = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1, "layers": 2}


@pytest.fixture(scope="module")
def server(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a model that makes layers, whose worker only seems to render."""
    folder = make_layered_model(demo_folder, tmp_path_factory.mktemp("layered") / "model")
    options = ("--model", str(folder), "--profile", "cpu")
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
