"""Training's batched passes for edits against DiffSynth's own, on random weights."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffsynth.pipelines.qwen_image import QwenImageUnit_PromptEmbedder, model_fn_qwen_image
from PIL import Image

from renderer.demo import looks
from renderer.demo.members import DemoDiT, DemoTextEncoder
from renderer.demo.train import edit_feed, edit_passes, edits, passes, placing
from renderer.demo.train.draw import Atlas, draw
from renderer.demo.train.edit_passes import EditRopes
from renderer.families.qwen_image.networks import open_processor, tell_pictures_from_text

SIZES = (0, 3)
"""A square and one as long as they come."""


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        yield


def test_instructions_are_read_as_by_diffsynth(tmp_path: Path) -> None:
    """Padded instructions get, token for token, what DiffSynth's unit makes of each with its picture."""
    encoder: Any = DemoTextEncoder()
    for value in encoder.model.parameters():  # large enough that places and pictures are seen
        if value.dim() > 1:
            torch.nn.init.normal_(value, std=1.5 * value[0].numel() ** -0.5)
    tell_pictures_from_text(encoder)
    looks.write(tmp_path)
    pipe = SimpleNamespace(processor=open_processor(tmp_path), text_encoder=encoder, device="cpu")
    ropes = EditRopes.make(DemoDiT(), "cpu")
    rng, reading = random.Random(1), edit_feed.EditTokens()  # noqa: S311  # no secrets here
    for size in SIZES:
        width, height = edits.EDIT_SIZES[size]
        edit = edits.draw_edit(rng, width, height)
        assert len(edit.numbers) == placing.NUMBERS
        picture = (draw(torch.tensor([edit.numbers]), width, height, Atlas.make()) * 255).round().byte()
        image = Image.frombytes("RGB", (width, height), bytes(picture[0].permute(1, 2, 0).flatten().tolist()))
        tokens, lengths = reading.of([edit.prompt], size)
        pixels = pipe.processor(text="<|image_pad|>", images=image, return_tensors="pt").pixel_values
        patches = torch.zeros(1, edit_passes.PATCHES, 588, dtype=torch.uint8)
        patches[0, : len(pixels)] = _bytes(pixels)
        shown = edit_passes.shown(picture.float() / 255, size)
        assert (shown.float() - patches.float()).abs().mean() < 0.5  # torch's pixels, and Pillow's
        found = edit_passes.encode(encoder, tokens, patches, torch.tensor([size]), ropes)
        (expected,) = QwenImageUnit_PromptEmbedder().encode_prompt_edit(pipe, [edit.prompt], image)
        assert lengths.tolist() == [len(expected)]
        torch.testing.assert_close(found[0, : len(expected)], expected, rtol=1e-3, atol=1e-3)


def _bytes(pixels: torch.Tensor) -> torch.Tensor:
    """What the processor has made numbers of, patches x (3 x 2 x 14 x 14): of two frames that are alike the first."""
    mean, deviation = (torch.tensor(looks.SETTINGS[name])[None, :, None] for name in ("image_mean", "image_std"))
    first = pixels.view(len(pixels), 3, 2, 196)[:, :, 0]
    return ((first * deviation + mean) * 255).round().byte().flatten(1)


def test_dit_is_diffsynths() -> None:
    """A batch of two sizes gets the velocities that DiffSynth's model function gives each, beside what is edited."""
    dit: Any = DemoDiT()
    ropes = EditRopes.make(dit, "cpu")
    lengths, sigma = torch.tensor([90, 117]), torch.tensor([0.5, 0.25])
    text = torch.randn(2, edit_passes.TEXT, 128)
    shapes = [(1, 16, edits.EDIT_SIZES[size][1] // 8, edits.EDIT_SIZES[size][0] // 8) for size in SIZES]
    noisy, edited = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    together, beside = (torch.cat([passes.pack(each, edit_passes.IMAGE) for each in all_]) for all_ in (noisy, edited))
    found = edit_passes.predict_velocity(dit, together, beside, sigma, text, lengths, torch.tensor(SIZES), ropes)
    for place, size in enumerate(SIZES):
        width, height = edits.EDIT_SIZES[size]
        expected = model_fn_qwen_image(
            dit=dit,
            latents=noisy[place],
            timestep=sigma[place : place + 1] * 1000,
            prompt_emb=text[place : place + 1, : lengths[place]],
            prompt_emb_mask=torch.ones(1, int(lengths[place]), dtype=torch.long),
            height=height,
            width=width,
            edit_latents=edited[place],
            zero_cond_t=True,
        )
        own = passes.unpack(found[place : place + 1], width, height)
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)
