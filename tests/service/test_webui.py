"""AUTOMATIC1111's API as Open WebUI and SillyTavern call it; and `renderer smoke`, against the same server."""

from __future__ import annotations

import base64
import configparser
import io
import json
import shlex
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from renderer.cli import command
from renderer.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from renderer.manifest.expand import find_model
from renderer.service.answers import RequestError
from renderer.service.automatic1111 import pictures_of
from renderer.service.bodies import DrawOverFields, read
from renderer.supervisor.settings import Settings
from tests.service.running import ROOT, Server, serving
from tests.waiting import until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), fake="--capacity 2") as served:
        yield served


def draw(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def size_of(data: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(data))).size


def test_open_webui_draws(server: Server) -> None:
    """What it asks for, in its order: options, models, a choice, and a picture."""
    assert server.client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "demo"
    assert [each["model_name"] for each in server.client.get("/sdapi/v1/sd-models").json()] == ["demo"]
    assert server.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "demo"}).json() == {}
    told = draw(server, prompt="a boat", batch_size=2, width=64, height=64, steps=2, negative_prompt="")
    assert [size_of(each) for each in told["images"]] == [(64, 64)] * 2
    info = json.loads(told["info"])
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    assert "Steps: 2" in info["infotexts"][0]


def test_sillytavern_draws(server: Server) -> None:
    """Its lists are there, and its settings of a sampler, of upscaling and of CLIP are passed over."""
    for name in ("upscalers", "latent-upscale-modes", "sd-vae", "sd-modules", "samplers", "schedulers", "loras"):
        assert server.client.get(f"/sdapi/v1/{name}").status_code == 200
    told = draw(
        server, prompt="a boat", negative_prompt="grey", sampler_name="Euler", scheduler="Automatic", steps=2,
        cfg_scale=7, width=64, height=64, seed=-1, restore_faces=False, enable_hr=False, hr_upscaler="Latent",
        denoising_strength=0.7, clip_skip=1, save_images=True, send_images=True, do_not_save_grid=False,
        override_settings={"CLIP_stop_at_last_layers": 1, "sd_vae": ""}, override_settings_restore_afterwards=True,
    )  # fmt: skip
    assert size_of(told["images"][0]) == (64, 64)
    again = draw(server, prompt="a boat", negative_prompt="grey", steps=2, cfg_scale=7, width=64, height=64, seed=-1)
    assert again["images"] != told["images"]


def test_a_size_that_there_is_not_becomes_the_nearest(server: Server) -> None:
    answer = server.client.post("/sdapi/v1/txt2img", json={"prompt": "x", "width": 72, "height": 65, "steps": 2})
    assert size_of(answer.json()["images"][0]) == (80, 64)
    assert "80x64 is the nearest" in answer.headers["X-Renderer-Warning"]


def test_progress_and_interrupt(server: Server) -> None:
    """What a client waits for can be followed, and what has not begun is cancelled."""
    assert server.client.get("/sdapi/v1/progress").json()["progress"] == 0
    with ThreadPoolExecutor(20) as pool:
        body = {"prompt": "slow", "width": 64, "height": 64, "steps": 6}
        asked = [
            pool.submit(server.client.post, "/sdapi/v1/txt2img", json={**body, "seed": seed}) for seed in range(20)
        ]
        until(lambda: server.client.get("/sdapi/v1/progress").json()["progress"] > 0)
        until(lambda: server.client.get("/sdapi/v1/progress").json()["state"]["job_count"] > 15)
        assert server.client.post("/sdapi/v1/interrupt").json() == {}
        statuses = [each.result().status_code for each in asked]
    assert set(statuses) == {200, 409}


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ""},
        {"prompt": "x", "batch_size": 11},
        {"prompt": "x", "seed": "y"},
        {"prompt": "x", "width": 0},
        {"prompt": "x", "width": 1e300},
        {"prompt": "x", "steps": 1000},
        {"prompt": "x", "override_settings": []},
    ],
)
def test_what_cannot_be_is_refused(server: Server, body: dict[str, Any]) -> None:
    """In a form in which these clients find a sentence."""
    answer = server.client.post("/sdapi/v1/txt2img", json={"width": 64, "height": 64, "steps": 2, **body})
    assert answer.status_code == 422
    assert answer.json()["detail"]
    assert server.client.post("/sdapi/v1/img2img", json=body).status_code == 422


def test_pictures_go_to_models_that_edit() -> None:
    """As what they edit, all of them; how much is drawn anew counts within a mask alone, and that is said."""
    two = {"prompt": "x", "init_images": ["YQ==", "Yg=="], "denoising_strength": 0.5}
    edits, layers, over = (find_model(f"Qwen/Qwen-Image{name}") for name in ("-Edit-2511", "-Layered", ""))
    fields, warnings = pictures_of(read(DrawOverFields, two), edits)
    assert fields == {"images": ["data:image/png;base64,YQ==", "data:image/png;base64,Yg=="]}
    assert "takes no denoising_strength without a mask" in warnings[0]
    fields, warnings = pictures_of(read(DrawOverFields, {**two, "mask": "Yw=="}), edits)
    assert (len(fields["images"]), fields["strength"], warnings) == (2, 0.5, [])
    one = {**two, "init_images": ["YQ=="]}
    fields, warnings = pictures_of(read(DrawOverFields, one), layers)
    assert (list(fields), len(warnings)) == (["images"], 1)
    fields, warnings = pictures_of(read(DrawOverFields, one), over)
    assert (sorted(fields), warnings) == (["image", "strength"], [])
    with pytest.raises(RequestError, match="several were sent"):
        pictures_of(read(DrawOverFields, two), over)


def test_a_picture_is_drawn_over(server: Server) -> None:
    """Within the mask's white, with as much noise as was asked for; the picture's own bytes do not come back."""
    buffers = [io.BytesIO() for _ in range(2)]
    Image.new("RGB", (64, 64), "teal").save(buffers[0], "PNG")
    Image.new("L", (64, 64), 255).save(buffers[1], "PNG")
    picture, mask = (base64.b64encode(each.getvalue()).decode() for each in buffers)
    body = {"prompt": "x", "steps": 2, "seed": 5, "width": 64, "height": 64, "denoising_strength": 0.5}
    plain, within = (
        server.client.post("/sdapi/v1/img2img", json={**body, "init_images": [picture], **more}).json()
        for more in ({}, {"mask": f"data:image/png;base64,{mask}", "mask_blur": 8})
    )
    assert "Denoising strength: 0.5" in json.loads(plain["info"])["infotexts"][0]
    assert "Mask blur: 1" in json.loads(within["info"])["infotexts"][0]
    assert "init_images" not in plain["parameters"]
    for wrong in ({"init_images": [picture, picture]}, {"init_images": ["%"]}, {"denoising_strength": 2}):
        answer = server.client.post("/sdapi/v1/img2img", json={**body, "init_images": [picture], **wrong})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(f"{next(iter(wrong))}: "), "as these clients call it"


class TestSmoke:
    def test_it_writes_what_comes_and_says_so(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A quick run has one picture, a full one three, with lettering in two scripts."""
        for options, names in (((), ["quick"]), (("--full",), ["chinese", "portrait", "scene"])):
            out = tmp_path / "-".join(names)
            arguments = ["smoke", "--url", server.url, "--size", "64x64", "--out", str(out), *options]
            assert command.main(arguments) == EXIT_DONE
            assert sorted(path.stem for path in out.glob("*.png")) == names
            told = capsys.readouterr().out
            assert all(f"{name}: 64x64, " in told for name in names)

    def test_it_says_what_is_wrong(self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = str(tmp_path)
        assert command.main(["smoke", "--url", server.url, "--size", "65x64", "--out", out]) == EXIT_FAILED
        assert "not a multiple of 16" in capsys.readouterr().out
        assert command.main(["smoke", "--url", "http://127.0.0.1:9", "--out", out]) == EXIT_FAILED
        assert "Connection refused" in capsys.readouterr().out
        assert command.main(["smoke", "--url", "file:///etc/passwd", "--out", out]) == EXIT_USAGE

    @pytest.mark.parametrize("answer", [b"[]", b'{"image_url": 5}', b"{}", b"<html>", None])
    def test_what_is_no_renderer(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes | None
    ) -> None:
        """Another server at the address is said, whatever it answers."""

        class Other(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if answer is not None:
                    self.send_response(200)
                    self.end_headers()
                self.wfile.write(answer or b"220 a mail server\r\n")

            def log_message(self, *_: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Other) as other:
            threading.Thread(target=other.handle_request).start()
            url = f"http://127.0.0.1:{other.server_port}"
            assert command.main(["smoke", "--url", url, "--out", str(tmp_path)]) == EXIT_FAILED
        assert "quick: no picture: " in capsys.readouterr().out


class TestDeploy:
    def unit(self) -> configparser.SectionProxy:
        reader = configparser.RawConfigParser(strict=False)
        reader.optionxform = str  # type: ignore[assignment,method-assign]
        reader.read_string((ROOT / "deploy/renderer-serve.service").read_text())
        return reader["Service"]

    def test_the_unit_is_shown_as_it_is_and_its_command_is_one(self) -> None:
        assert (ROOT / "deploy/renderer-serve.service").read_text() in (ROOT / "docs/service.md").read_text()
        _, *arguments = shlex.split(self.unit()["ExecStart"])
        assert command.parser().parse_args(arguments).command == "serve"
        assert float(self.unit()["TimeoutStopSec"]) >= Settings().grace_s + 15

    def test_the_container_runs_a_command_that_there_is(self) -> None:
        """Not as root, with a health check, and with a host that others reach: so it wants a token."""
        text = (ROOT / "deploy/Dockerfile").read_text()
        arguments = json.loads(text.rpartition("\nCMD ")[2])
        assert command.parser().parse_args(arguments).command == "serve"
        assert "\nUSER renderer\n" in text
        assert "\nHEALTHCHECK " in text
        assert "RENDERER_HOST=0.0.0.0" in text
