"""The family's forward passes for edits, batched and padded, beside those of `passes`.

A picture that is edited is seen twice: its latents follow the image's tokens in the DiT, modulated as of no noise
(DiffSynth's `zero_cond_t`), and the vision tower's tokens stand in the prompt. The values are DiffSynth's
(tests/demo/test_edit_passes.py). Sequences are `IMAGE` patches of what is drawn, as many of what is edited, and `TEXT`
tokens of what was looked at and what was said. What is drawn is as large as what is edited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from renderer.catalog import EDIT_DROPPED_TOKENS
from renderer.demo import looks
from renderer.demo.members import TEXT_AXES, VISION_WIDTH
from renderer.demo.train import passes
from renderer.demo.train.edits import EDIT_SIZES
from renderer.demo.train.passes import rms, rotate_half

IMAGE = 280
"""Patches of the largest of `EDIT_SIZES`."""

SAID = 48
"""Tokens of an instruction at most, with what the template says after it."""

SIDE = 14
"""Of a patch of the vision tower, in pixels; two by two of them are a token."""

GRIDS = tuple((round(height / 28) * 2, round(width / 28) * 2) for width, height in EDIT_SIZES)
"""Rows and columns of patches that Qwen2.5-VL's processor makes of each size."""

PATCHES = max(rows * columns for rows, columns in GRIDS)
LOOKED = PATCHES // 4
FIRST_SEEN = EDIT_DROPPED_TOKENS + 1
"""Of a picture's tokens in a prompt: after the template's and the one that opens it."""

PROMPT_TOKENS = -(-(FIRST_SEEN + LOOKED + 1 + SAID) // 8) * 8
"""Tokens of a padded prompt, template and picture included."""

TEXT = PROMPT_TOKENS - EDIT_DROPPED_TOKENS

Turns = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class EditRopes:
    """Cosines and sines for each of `EDIT_SIZES`, and which tokens are there.

    `tower` is sizes x patches x a head's width, `prompt` sizes x tokens x a head's width, and `image` and `text`, those
    of the DiT, are sizes x tokens x half a head's width. `seen` is sizes x patches of the tower, `looked` sizes x its
    tokens, `present` sizes x patches of the DiT.
    """

    tower: Turns
    prompt: Turns
    image: Turns
    text: Turns
    seen: Tensor
    looked: Tensor
    present: Tensor

    @classmethod
    def make(cls, dit: Any, device: torch.device | str) -> EditRopes:
        """The tables, on a device; the DiT's by DiffSynth's own."""
        towers, prompts, images, texts, counts, drawn = [], [], [], [], [], []
        for (width, height), (rows, columns) in zip(EDIT_SIZES, GRIDS, strict=True):
            towers.append(functional.pad(_tower_angles(rows, columns), (0, 0, 0, PATCHES - rows * columns)))
            prompts.append(_prompt_angles(rows // 2, columns // 2))
            shape = (1, height // 16, width // 16)
            image, text = dit.pos_embed([shape, shape], [TEXT], torch.device("cpu"))
            count = len(image) // 2
            parts = torch.view_as_real(image).unflatten(0, (2, count))
            images.append(functional.pad(parts, (0, 0, 0, 0, 0, IMAGE - count)).flatten(0, 1))
            texts.append(torch.view_as_real(text))
            counts.append(rows * columns)
            drawn.append(count)
        number, drawn_number = torch.tensor(counts)[:, None], torch.tensor(drawn)[:, None]
        image, text = torch.stack(images), torch.stack(texts)
        tower, prompt = torch.stack(towers), torch.stack(prompts)
        return cls(
            (tower.cos().to(device), tower.sin().to(device)),
            (prompt.cos().to(device), prompt.sin().to(device)),
            (image[..., 0].to(device), image[..., 1].to(device)),
            (text[..., 0].to(device), text[..., 1].to(device)),
            (torch.arange(PATCHES)[None] < number).to(device),
            (torch.arange(LOOKED)[None] < number // 4).to(device),
            (torch.arange(IMAGE)[None] < drawn_number).to(device),
        )


def _tower_angles(rows: int, columns: int) -> Tensor:
    """Of each patch of a picture, in the tower's order: two by two, then along the rows."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([y, x], -1).unflatten(1, (columns // 2, 2)).unflatten(0, (rows // 2, 2))
    places = places.transpose(1, 2).reshape(rows * columns, 2)
    quarter = VISION_WIDTH // 4
    steps = 1 / 10_000.0 ** (torch.arange(quarter) / quarter)
    angles = (places[:, :, None] * steps).flatten(1)
    return torch.cat([angles, angles], -1)


def _prompt_angles(rows: int, columns: int) -> Tensor:
    """Of each token of a padded prompt: a picture's tokens are numbered by row and column, and words go on after."""
    count = rows * columns
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    before = torch.arange(FIRST_SEEN).expand(3, -1)
    picture = torch.stack([torch.zeros(count, dtype=torch.long), y.flatten(), x.flatten()]) + FIRST_SEEN
    after = (torch.arange(PROMPT_TOKENS - FIRST_SEEN - count) + FIRST_SEEN + max(rows, columns)).expand(3, -1)
    places = torch.cat([before, picture, after], 1)
    half = sum(TEXT_AXES)
    axes = torch.repeat_interleave(torch.arange(3), torch.tensor(TEXT_AXES))
    angles = places[axes].T / 1e6 ** (torch.arange(half) / half)
    return torch.cat([angles, angles], -1)


def shown(pictures: Tensor, size: int) -> Tensor:
    """What the tower is shown of pictures from 0 to 1, all of one of `EDIT_SIZES`: padded patches, bytes."""
    rows, columns = GRIDS[size]
    small = functional.interpolate(
        pictures.float(), (rows * SIDE, columns * SIDE), mode="bicubic", antialias=True, align_corners=False
    )
    pixels = (small.clamp(0, 1) * 255).round().byte()
    patches = pixels.view(len(pixels), 3, rows // 2, 2, SIDE, columns // 2, 2, SIDE).permute(0, 2, 5, 3, 6, 1, 4, 7)
    patches = patches.reshape(len(pixels), rows * columns, 3 * SIDE * SIDE)
    return functional.pad(patches, (0, 0, 0, PATCHES - rows * columns))


def look(tower: Any, patches: Tensor, sizes: Tensor, ropes: EditRopes) -> Tensor:
    """What the vision tower makes of `shown` pictures: batch x tokens x the text's width. It has one block."""
    (block,) = tower.blocks
    weights = dict(block.named_parameters())
    mean, deviation = (
        torch.tensor(looks.SETTINGS[name], device=patches.device).repeat_interleave(SIDE * SIDE)
        for name in ("image_mean", "image_std")
    )
    projection = tower.patch_embed.proj.weight.sum(2).flatten(1)  # a picture is two frames that are alike
    values = functional.linear((patches.float() / 255 - mean) / deviation, projection)
    normed = rms(values, weights["norm1.weight"])
    joint = functional.linear(normed, weights["attn.qkv.weight"], weights["attn.qkv.bias"])
    query, key, value = (each[:, None] for each in joint.chunk(3, -1))  # one head
    cos, sin = (table[sizes][:, None] for table in ropes.tower)
    out = functional.scaled_dot_product_attention(
        rotate_half(query.float(), cos, sin).to(value.dtype),
        rotate_half(key.float(), cos, sin).to(value.dtype),
        value,
        attn_mask=ropes.seen[sizes][:, None, None],
    )
    values = values + functional.linear(out[:, 0], weights["attn.proj.weight"], weights["attn.proj.bias"])
    normed = rms(values, weights["norm2.weight"])
    gate, up = (
        functional.linear(normed, weights[f"mlp.{name}.weight"], weights[f"mlp.{name}.bias"])
        for name in ("gate_proj", "up_proj")
    )
    inner = functional.silu(gate) * up
    values = values + functional.linear(inner, weights["mlp.down_proj.weight"], weights["mlp.down_proj.bias"])
    merger = tower.merger
    merged: Tensor = merger.mlp(rms(values, merger.ln_q.weight).unflatten(1, (-1, 4)).flatten(2))
    return merged


def encode(
    encoder: Any, tokens: Tensor, patches: Tensor, sizes: Tensor, ropes: EditRopes, layer: Any = passes.text_layer
) -> Tensor:
    """What DiffSynth gives the DiT for instructions and pictures: batch x `TEXT` x width, padded at the end."""
    language = encoder.model.language_model
    hidden = language.embed_tokens(tokens)
    seen = look(encoder.model.visual, patches, sizes, ropes).to(hidden.dtype)
    place = slice(FIRST_SEEN, FIRST_SEEN + LOOKED)
    middle = torch.where(ropes.looked[sizes][:, :, None], seen, hidden[:, place])
    hidden = torch.cat([hidden[:, : place.start], middle, hidden[:, place.stop :]], 1)
    cos, sin = (table[sizes][:, None].to(hidden.dtype) for table in ropes.prompt)
    for module in language.layers:
        hidden = layer(dict(module.named_parameters()), hidden, cos, sin)
    return rms(hidden, language.norm.weight)[:, EDIT_DROPPED_TOKENS:]


def predict_velocity(
    dit: Any,
    patches: Tensor,
    edited: Tensor,
    sigma: Tensor,
    text: Tensor,
    text_lengths: Tensor,
    sizes: Tensor,
    ropes: EditRopes,
    one_block: passes.Block = passes.block,
) -> Tensor:
    """`model_fn_qwen_image` for a batch of edits: velocities, batch x `IMAGE` x 64, of noisy patches.

    `edited` are the patches of what is edited; `text` is what `encode` gives, of which `text_lengths` tokens are meant.
    """
    there = torch.arange(TEXT, device=text.device)[None] < text_lengths[:, None]
    present = ropes.present[sizes]
    mask = torch.cat([there, present, present], 1)[:, None, None]
    turns = tuple(table[sizes][:, None] for table in (*ropes.image, *ropes.text))
    image = dit.img_in(torch.cat([patches, edited], 1))
    # In bf16, as DiffSynth hands the timestep over.
    levels = torch.cat([(sigma * 1000).bfloat16() / 1000, torch.zeros_like(sigma, dtype=torch.bfloat16)])
    drawn, still = dit.time_text_embed(levels, image.dtype).chunk(2)
    text = dit.txt_in(rms(text, dit.txt_norm.weight))
    condition = torch.stack([drawn, still], 1)
    for module in dit.transformer_blocks:
        image, text = one_block(dict(module.named_parameters()), image, text, condition, turns, mask)
    velocity: Tensor = dit.proj_out(dit.norm_out(image[:, :IMAGE], drawn))
    return velocity
