"""OpenAI's own client, sync and async, against a server that really runs and renders with the demo model."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from renderer import catalog
from renderer.job import Size
from renderer.manifest import choices, naming
from renderer.service.answer_bodies import Drawn
from renderer.service.answers import RequestError
from renderer.service.bodies import BatchFields, read
from renderer.service.intake import FieldError
from renderer.service.json_values import read_json
from renderer.service.openai_fields import nearest_in_shape, translate
from tests.service.running import Server, serving

SIZE: Any = "64x64"
QUICK = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("outputs"), "--in-flight", "4") as served:
        yield served


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def opened(data: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data or "")))


def alike(one: Image.Image, other: Image.Image) -> float:
    """How far the colours of two pictures go together: 1 where they are the same up to contrast."""
    left, right = (torch.tensor(list(each.convert("RGB").tobytes()), dtype=torch.float32) for each in (one, other))
    return float(torch.corrcoef(torch.stack((left, right)))[0, 1])


class TestClient:
    def test_models_are_listed(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["demo"]
        assert client.models.retrieve("demo").owned_by == "renderer"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-5")

    def test_pictures_come_as_base64(self, client: openai.OpenAI) -> None:
        """Several at once, each of another seed; what was taken is said."""
        answer = client.images.generate(prompt="a red circle", model="demo", n=3, size=SIZE, extra_body=QUICK)
        assert [opened(each.b64_json).size for each in answer.data or ()] == [(64, 64)] * 3
        assert len({each.b64_json for each in answer.data or ()}) == 3
        assert (answer.size, answer.output_format) == ("64x64", "png")

    def test_the_same_prompt_is_another_picture_each_time(self, client: openai.OpenAI) -> None:
        """As their clients expect; with a seed, or with a key of idempotence, it is the same one."""

        def ask(**body: Any) -> str | None:
            headers = body.pop("headers", None)
            extra = {**QUICK, **body}
            answer = client.images.generate(prompt="again", size=SIZE, extra_body=extra, extra_headers=headers)
            return (answer.data or [])[0].b64_json

        assert ask() != ask()
        assert ask(seed=5) == ask(seed=5)
        headers = {"Idempotency-Key": "mine"}
        assert ask(headers=headers) == ask(headers=headers)

    def test_fixed_names_and_sizes_of_other_tools_are_taken(self, client: openai.OpenAI) -> None:
        """The usual model and the nearest size, and a header that says so."""
        told = client.images.with_raw_response.generate(
            prompt="from a tool", model="gpt-image-1", size="1792x1024", quality="hd", extra_body=QUICK
        )
        answer = told.parse()
        width, height = map(int, (answer.size or "").split("x"))
        assert opened((answer.data or [])[0].b64_json).size == (width, height)
        assert abs(width / height - 1792 / 1024) < 0.1
        assert 'no model "gpt-image-1" here: demo is taken' in told.headers["X-Renderer-Warning"]
        assert f"{answer.size} is the nearest" in told.headers["X-Renderer-Warning"]

    def test_a_size_can_be_left_to_the_model(self, client: openai.OpenAI) -> None:
        told = client.images.with_raw_response.generate(prompt="auto", size="auto", extra_body=QUICK)
        assert "X-Renderer-Warning" not in told.headers
        assert told.parse().size == str(catalog.DEMO.ratios["1:1"])

    def test_formats(self, client: openai.OpenAI) -> None:
        told = client.images.generate(
            prompt="x", size=SIZE, output_format="webp", response_format="url", extra_body=QUICK
        )
        assert Image.open(io.BytesIO(httpx.get((told.data or [])[0].url or "").content)).format == "WEBP"
        answer = client.images.generate(prompt="a jpeg", size=SIZE, output_format="jpeg", extra_body=QUICK)
        assert opened((answer.data or [])[0].b64_json).format == "JPEG"

    def test_a_picture_comes_as_a_url(self, client: openai.OpenAI, server: Server) -> None:
        """Of this server, by the name that the client calls it."""
        answer = client.images.generate(prompt="a url", size=SIZE, response_format="url", extra_body=QUICK)
        url = (answer.data or [])[0].url or ""
        assert url.startswith(f"{server.url}/api/v1/images/")
        assert Image.open(io.BytesIO(server.client.get(url).content)).size == (64, 64)

    def test_a_stream_ends_with_the_picture(self, client: openai.OpenAI) -> None:
        stream = client.images.generate(prompt="streamed", size=SIZE, stream=True, extra_body=QUICK)
        (event,) = list(stream)
        assert event.type == "image_generation.completed"
        assert opened(event.b64_json).size == (64, 64)

    def test_a_stream_shows_what_a_picture_will_look_like(self, client: openai.OpenAI) -> None:
        """So many previews or fewer, small, in the order of the steps; and then the picture."""
        body = {"num_inference_steps": 12, "seed": 11}
        size: Any = "192x128"
        stream = client.images.generate(
            prompt="a red circle", size=size, stream=True, partial_images=3, extra_body={**body, "cfg_scale": 4.0}
        )
        *partial, completed = list(stream)
        assert 1 <= len(partial) <= 3
        for index, one in enumerate(partial):
            assert one.type == "image_generation.partial_image"
            assert (one.partial_image_index, opened(one.b64_json).size) == (index, (24, 16))
        assert completed.type == "image_generation.completed"
        small = opened(completed.b64_json).convert("RGB").resize((24, 16), Image.Resampling.BOX)
        assert alike(opened(partial[-1].b64_json), small) > 0.6

    def test_previews_without_a_stream_are_said_not_to_come(self, client: openai.OpenAI) -> None:
        told = client.images.with_raw_response.generate(
            prompt="x", size=SIZE, extra_body={**QUICK, "partial_images": 2}
        )
        assert "partial images come in a stream" in told.headers["X-Renderer-Warning"]

    def test_names_of_servers_of_this_kind_are_taken(self, client: openai.OpenAI) -> None:
        """`guidance_scale` and the rest, as they are sent to other servers; any field of a job besides."""
        body = {**QUICK, "guidance_scale": 1.0, "negative_prompt": "grey", "seed": 3}
        answer = client.images.generate(prompt="theirs", size=SIZE, extra_body=body)
        assert (answer.data or [])[0].model_extra == {"seed": 3, "id": (answer.data or [])[0].model_extra["id"]}  # type: ignore[index]

    def test_what_cannot_be_is_refused_in_their_form(self, client: openai.OpenAI) -> None:
        """The field, and our line of help in the message."""
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(prompt="x", size=SIZE, extra_body={"stpes": 3})
        assert refused.value.param == "stpes"
        assert 'did you mean "steps"?' in str(refused.value)
        for field, value in (
            ("size", "wide"),
            ("n", 11),
            ("partial_images", 4),
            ("output_format", "svg"),
            ("response_format", "x"),
        ):
            body: dict[str, Any] = {"prompt": "x", field: value}
            with pytest.raises(openai.BadRequestError) as refused:
                client.images.generate(**body)
            assert refused.value.param == field

    def test_many_ask_at_once(self, server: Server) -> None:
        """The client's asynchronous side: all are answered, whatever their size."""

        async def ask_all() -> list[str | None]:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

                async def ask(number: int) -> str | None:
                    size: Any = f"{64 + 16 * (number % 3)}x64"
                    body = {**QUICK, "seed": number}
                    answer = await client.images.generate(prompt="many", size=size, extra_body=body)
                    return answer.size

                return list(await asyncio.gather(*map(ask, range(9))))

        assert asyncio.run(ask_all()) == ["64x64", "80x64", "96x64"] * 3


@pytest.mark.parametrize("pair", [("guidance_scale", "cfg_scale"), ("true_cfg_scale", "guidance_scale")])
def test_two_names_of_one_field_are_refused(pair: tuple[str, str]) -> None:
    """Which of them is meant, nobody knows."""
    with pytest.raises(RequestError, match=f"is the same as {pair[0]}"):
        translate({"prompt": "x", **dict.fromkeys(pair, 2.0)}, {"demo": "demo"}, strict=False)


def test_what_is_wrong_is_said_in_words_of_ours() -> None:
    """Not in those of the library that checks it; and no hint leads to what is refused as well."""
    for field, value, said in (
        ("stream", "yes", ("must be true or false, not text", "")),
        ("stream", "true", ("must be true or false, not text", "remove the quotes")),
        ("size", "0x0", ("is not a size", 'like "1024x1024", or "auto"')),
    ):
        with pytest.raises(FieldError) as refused:
            translate({"prompt": "x", field: value}, {"demo": "demo"}, strict=False)
        assert refused.value.problems == ((field, *said),)


def test_prompts_are_text() -> None:
    """Braces and bars of a client that knows no manifests are drawn as they stand, also where a picture goes in."""
    some_more: tuple[dict[str, Any], ...] = ({}, {"image": "data:,"})
    for more in some_more:
        for prompt in ("a {{red|blue}} {x}", "} {{", r"\{{a|b", "plain"):
            told = translate({"prompt": prompt, **more}, {"demo": "demo"}, strict=False).fields
            read = naming.parse if more else naming.literal
            assert choices.parse(told["prompt"], read).fill({}) == prompt


def test_loras_are_named_once() -> None:
    models = {"demo": "demo"}
    lora = {"name": "lightning", "scale": 0.5}
    assert translate({"prompt": "x", "lora": lora}, models, strict=False).fields["loras"] == [
        {"id": "lightning", "weight": 0.5}
    ]
    with pytest.raises(RequestError, match="is the same as lora"):
        translate({"prompt": "x", "lora": lora, "loras": []}, models, strict=False)


def test_what_changes_nothing_here_is_passed_over() -> None:
    assert (
        "input_fidelity"
        not in translate({"prompt": "x", "input_fidelity": "high"}, {"demo": "demo"}, strict=False).fields
    )


def test_a_size_beside_a_width_is_said_to_be_passed_over() -> None:
    body = {"prompt": "x", "width": 64, "height": 64}
    for size, words in (
        ("512x512", ("width and height are taken, and size is passed over",)),
        ("auto", ()),
        (None, ()),
    ):
        asked = translate({**body, "size": size}, {"demo": "demo"}, strict=False)
        assert (asked.fields["width"], asked.warnings) == (64, words)


def test_strict_servers_refuse_names_that_they_have_not() -> None:
    with pytest.raises(Exception, match='no model "gpt-image-1" here'):
        translate({"prompt": "x", "model": "gpt-image-1"}, {"demo": "demo"}, strict=True)


def test_a_token_is_the_clients_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """And what fails comes as their errors: of a stream, too."""
    environment = {"RENDERER_API_KEY": "a-long-token"}
    with serving(tmp_path_factory.mktemp("outputs"), fake="", environment=environment) as server:
        base = f"{server.url}/v1"
        with (
            openai.OpenAI(base_url=base, api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
        with openai.OpenAI(base_url=base, api_key="a-long-token", max_retries=0) as client:
            assert client.images.generate(prompt="let in", size=SIZE, extra_body=QUICK).data
            with pytest.raises(openai.InternalServerError, match="one flat colour"):
                client.images.generate(prompt="fail", size=SIZE, extra_body=QUICK)
            with pytest.raises(openai.APIError, match="one flat colour"):
                list(client.images.generate(prompt="fail", size=SIZE, stream=True, extra_body=QUICK))


@given(some.integers(1, 99_999), some.integers(1, 99_999), some.sampled_from([catalog.DEMO, catalog.QWEN_IMAGE]))
def test_the_nearest_size_is_one_that_the_model_has(width: int, height: int, model: catalog.Model) -> None:
    assert not model.refusal(nearest_in_shape(model, Size(width=width, height=height)))


def test_noughts_before_a_number_are_no_fault_of_the_server() -> None:
    """Python reads no number of thousands of digits: a size or a window with so many is none."""
    assert translate({"size": "00064x064"}, {"demo": "demo"}, strict=True).fields["width"] == 64
    noughts = "0" * 5000
    with pytest.raises(FieldError):
        translate({"size": f"{noughts}64x64"}, {"demo": "demo"}, strict=True)
    batch = {"input_file_id": "file", "endpoint": "/v1/images/generations", "completion_window": f"{noughts}1h"}
    with pytest.raises(FieldError):
        read(BatchFields, batch)


def test_what_is_read_can_be_written_again() -> None:
    """AUTOMATIC1111's answers hold what was asked for: nothing may be nested so deeply that this fails at the end."""
    deep = [b'{"a": ' + b"[" * depth + b"]" * depth + b"}" for depth in (63, 64, 300)]
    answer = Drawn(images=[], parameters=read_json(deep[0]), info="")
    assert b"[" * 63 in answer.model_dump_json().encode()
    for each in deep[1:]:
        with pytest.raises(RecursionError):
            read_json(each)
