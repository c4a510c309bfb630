"""Pictures that clients send along: OpenAI's edits by its own client, data URLs, and what is no picture."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image, ImageChops, ImageDraw

from renderer.outputs import input_files
from renderer.outputs.folder import OutputFolder
from renderer.service import uploads
from renderer.service.answers import RequestError
from renderer.service.uploads import Uploads
from tests.service.running import Server, serving

SIDE = 64
QUICK = {"num_inference_steps": 2, "seed": 1}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def drawn(side: int = SIDE) -> Image.Image:
    image = Image.new("RGB", (side, side), "teal")
    ImageDraw.Draw(image).rectangle([side // 4, side // 4, side // 2, side // 2], fill="orange")
    return image


def half_clear() -> Image.Image:
    """A mask as OpenAI's clients send it: what is transparent, the left half, is drawn anew."""
    mask = Image.new("RGBA", (SIDE, SIDE), "black")
    mask.paste((0, 0, 0, 0), (0, 0, SIDE // 2, SIDE))
    return mask


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), "--in-flight", "4") as served:
        yield served


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def refusal(server: Server, **fields: Any) -> tuple[int, str, str]:
    answer = server.generate("a red circle", **fields)
    error = answer.json()["error"]
    return answer.status_code, error["field"], error["message"]


def test_openais_client_edits_within_a_mask(server: Server) -> None:
    """What is transparent in the mask is drawn anew, the rest stays; the size is the picture's."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.images.edit(
            image=("shop.png", png(drawn(256)), "image/png"), mask=("mask.png", png(half_clear().resize((256, 256)))),
            prompt="a blue square", extra_body=QUICK,
        )  # fmt: skip
    found = (answer.data or [])[0]
    edited = Image.open(io.BytesIO(base64.b64decode(found.b64_json or ""))).convert("RGB")
    assert edited.size == (256, 256)
    apart = ImageChops.difference(edited, drawn(256)).convert("L")
    kept, anew = (max(apart.crop((left, 0, left + 112, 256)).tobytes()) for left in (144, 0))
    assert kept < 60 < anew


def test_a_stream_of_an_edit_has_events_of_an_edit(server: Server) -> None:
    """By the names that OpenAI's client gives them, with previews where they are asked for."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        *partial, completed = client.images.edit(
            image=("shop.png", png(drawn()), "image/png"), prompt="a blue square", stream=True, partial_images=1,
            extra_body={"num_inference_steps": 8, "seed": 2, "strength": 1.0},
        )  # fmt: skip
    assert {one.type for one in partial} <= {"image_edit.partial_image"}
    assert completed.type == "image_edit.completed"


def test_a_data_url_is_a_picture_to_draw_over(server: Server) -> None:
    """By the fields of a job; the same pixels again are the same picture, and are kept once."""
    fields: dict[str, Any] = {"image": data_url(png(drawn())), "strength": 0.5, "seed": 3}
    first, again = (server.generate("a red circle", **fields).json() for _ in range(2))
    assert (first["found"], again["found"], again["id"]) == (False, True, first["id"])
    job = server.sidecar(first["id"])["job"]
    assert job["denoising_strength"] == 0.5
    assert (server.folder / "inputs" / f"{job['input_image']['sha256']}.png").is_file()
    other = server.generate("a red circle", **{**fields, "image": data_url(png(drawn(48)))}).json()
    assert other["id"] != first["id"]


def test_what_controls_a_picture_is_sent_along(server: Server) -> None:
    """Masks of regions, and what stands beside; a file of the server's machine is nobody's."""
    plain: dict[str, Any] = {"width": SIDE, "height": SIDE, **QUICK}
    left = Image.new("L", (SIDE, SIDE))
    left.paste(255, (0, 0, SIDE // 2, SIDE))
    regions = [{"prompt": "a red circle", "mask": data_url(png(left))}]
    answers = [
        server.generate("two shapes", **plain, **each)
        for each in ({}, {"regions": regions}, {"context_image": data_url(png(drawn()))})
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({(server.folder / f"{answer.json()['id']}.png").read_bytes() for answer in answers}) == 3
    for fields in ({"regions": [{"prompt": "a", "mask": "/etc/hosts"}]}, {"context_image": "/etc/hosts"}):
        assert refusal(server, **plain, **fields)[0] == 422
    canny = {"id": "DiffSynth-Studio/Qwen-Image-Blockwise-ControlNet-Canny", "image": data_url(png(drawn()))}
    assert "no file of this machine" in refusal(server, **plain, controlnets=[{**canny, "image": "/etc/hosts"}])[2]
    assert (
        "no file of this machine"
        in refusal(server, **plain, controlnets=[{"file": "/etc/hosts", "image": canny["image"]}])[2]
    )


def test_the_same_pixels_in_another_file_do_not_disturb_who_waits(server: Server) -> None:
    """What is kept for the first stays, so that what was planned with it is rendered."""
    large, small = (io.BytesIO() for _ in range(2))
    drawn(80).save(large, "PNG", compress_level=0)
    drawn(80).save(small, "PNG", compress_level=9)
    pixels = input_files.decode(large.getvalue(), "large").known.sha256
    found = []
    for seed, data in ((11, large), (12, small), (13, large)):
        image = data_url(data.getvalue())
        key = server.accept("a red circle", image=image, strength=0.5, seed=seed).json()["id"]
        (kept,) = [each.read_bytes() for each in (server.folder / "inputs").iterdir() if each.stem == pixels]
        found.append((key, kept))
    assert [server.until_done(key)["state"] for key, _ in found] == ["done"] * 3
    assert {kept for _, kept in found} == {large.getvalue()}


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (data_url(b"no picture"), "it is no picture"),
        ("data:image/png;base64,%%%", "is no data URL"),
        (data_url(png(Image.new("1", (20_000, 20_000)))), "more than 100 million pixels"),
        ("/etc/passwd", "no file of this machine is read"),
        ("http://127.0.0.1/x.png", "no file of this machine is read"),
    ],
)
def test_what_is_no_picture(server: Server, image: str, words: str) -> None:
    status, field, message = refusal(server, image=image)
    assert (status, field) == (422, "image")
    assert words in message


def test_nobody_is_told_where_the_server_keeps_what_was_sent(server: Server) -> None:
    """What is wrong is the picture, or the mask: a folder of the server's is none of a client's business."""
    image, wide = data_url(png(drawn())), data_url(png(drawn().resize((SIDE, SIDE // 2))))
    wanted = "the mask is 64x32, and the image 64x64"
    assert refusal(server, image=image, mask=wide) == (422, "mask", wanted)


def test_what_is_refused_leaves_nothing(server: Server) -> None:
    """Pictures of a request that is wrong in something else are not kept: by each door."""
    shop, mask = png(drawn(72)), png(Image.new("L", (64, 16)))
    picture = base64.b64encode(shop).decode()
    server.generate("a red circle", image=data_url(png(drawn())), strength=0.5, seed=3)
    before = sorted(each.name for each in (server.folder / "inputs").iterdir())
    assert refusal(server, image=data_url(shop), strength=5)[0] == 422
    assert refusal(server, image=data_url(shop), mask=data_url(mask))[0] == 422
    assert refusal(server, image=data_url(shop), mask="data:image/png;base64,%")[0] == 422
    over = {"prompt": "x", "init_images": [picture], "steps": 1}
    assert server.client.post("/sdapi/v1/img2img", json=over).status_code == 422
    files = [("image", ("shop.png", shop, "image/png")), ("mask", ("mask.png", mask, "image/png"))]
    assert server.client.post("/v1/images/edits", data={"prompt": "a"}, files=files).status_code == 400
    assert sorted(each.name for each in (server.folder / "inputs").iterdir()) == before


def test_what_is_refused_takes_nothing_from_whoever_sent_the_same(tmp_path: Path) -> None:
    """Of two who send the same pixels at once one is refused: the other's file stays, and goes with the last."""
    desk, sent = Uploads(OutputFolder(tmp_path), lambda _: False), {"image": data_url(png(drawn()))}

    def kept() -> int:
        return len([*(tmp_path / "inputs").iterdir()])

    async def refused(*, beside: bool) -> None:
        with contextlib.suppress(RequestError):
            async with desk.of(sent):
                assert kept() == 1
                if beside:
                    await refused(beside=False)
                    assert kept() == 1
                raise RequestError(422, "invalid_request", "it is refused")

    async def all_of_it() -> None:
        await refused(beside=True)
        assert kept() == 0
        async with desk.of(sent):
            pass
        await refused(beside=True)
        assert kept() == 1, "somebody was accepted with it"

    asyncio.run(all_of_it())


def test_a_mask_is_opened_only_where_it_is_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its header says is looked at first."""
    mask = png(half_clear())
    assert uploads._where_transparent(mask) != mask
    monkeypatch.setattr(input_files, "MOST_PIXELS", SIDE * SIDE - 1)
    assert uploads._where_transparent(mask) == mask


def test_forms_that_are_none(server: Server) -> None:
    """Each has its field and what is wrong with it; none costs the server anything."""
    shop = ("shop.png", png(drawn()), "image/png")
    for files, words in (
        ([("image[]", shop), ("image[]", shop)], "several were sent"),
        ([("mask", shop)], "is missing"),
        ([("image", shop), ("other", shop)], "no file goes in here"),
        ([("image", ("x.png", b"GIF89a", "image/png"))], "image: it is a GIF, which is not read"),
    ):
        answer = server.client.post("/v1/images/edits", data={"prompt": "a"}, files=files)
        assert answer.status_code == 400, answer.text  # as OpenAI's own
        told = answer.json()["error"]["message"]
        assert words in told
        assert told.count("image:") <= 1, "it is named once"
    answer = server.client.post("/v1/images/edits", content=b"x", headers={"content-type": "multipart/form-data"})
    assert answer.status_code == 400
