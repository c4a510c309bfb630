"""GPU memory of Stable Diffusion 1.5 in fp16, by the same kind of arithmetic: another architecture, publicly measured.

A UNet over latents of an eighth of the picture's side: attention at the first level is over H/8 x W/8 tokens, with
guidance two passes in one batch. It is not rendered with; the arithmetic is held against what others have measured
(`tests/estimate/test_stable_diffusion.py` names them).
"""

from __future__ import annotations

from renderer.catalog import STABLE_DIFFUSION_15, UNetShape
from renderer.estimate.terms import Estimate, Stage, Term, terms, total
from renderer.text import MIB

WORKSPACE = 30 * MIB
"""cuBLAS and small things, beside the terms."""

_CONTEXT_BYTES = 450 * MIB


def f(  # the name under which this formula is known
    h: int,
    w: int,
    prompt_length: int,
    guidance_scale: float = 7.5,
    batch_size: int = 1,
    *,
    fused: bool = True,
    safety_checker: bool = False,
) -> float:
    """Peak bytes of Stable Diffusion 1.5 in fp16. `fused`: with torch 2's attention, or xFormers'.

    The safety checker is a fourth network, which diffusers loads unless it is told not to.
    """
    found = estimate_unet(h, w, prompt_length, guidance_scale, batch_size, fused=fused, safety_checker=safety_checker)
    return float(found.allocated)


def estimate_unet(
    height: int,
    width: int,
    prompt_length: int = 77,
    guidance_scale: float = 7.5,
    batch_size: int = 1,
    *,
    fused: bool = True,
    safety_checker: bool = False,
    shape: UNetShape = STABLE_DIFFUSION_15,
) -> Estimate:
    """Peak memory by stage and term. Sides are rounded down to multiples of 8, as diffusers does."""
    rows = (height // 8) * (width // 8)
    passes = batch_size * (2 if guidance_scale > 1.0 else 1)
    kept = terms(
        UNet=2 * shape.unet,
        VAE=2 * shape.vae,
        text_encoder=2 * shape.text_encoder,
        safety_checker=2 * shape.safety_checker if safety_checker else 0,
        cuBLAS_workspace=WORKSPACE,
    )
    text = terms(prompt_embeddings=2 * passes * max(77, prompt_length) * shape.text_width)
    piece = 128 * batch_size * rows * shape.vae_channels[0]
    stages = (
        Stage("denoise", kept + text + _block(shape, rows, passes, fused=fused)),
        Stage("decode", kept + text + _decode(shape, rows, batch_size, fused=fused), piece),
    )
    return Estimate(stages, _CONTEXT_BYTES)


def _block(shape: UNetShape, rows: int, passes: int, *, fused: bool) -> tuple[Term, ...]:
    """The last transformer block of the first level, where tokens are most: attention, or its gated MLP."""
    channels = shape.channels[0]
    one = 2 * passes * rows * channels
    held = terms(skip_connections_and_residuals=8 * one)
    attention = terms(queries_keys_values=4 * one)
    if not fused:
        attention += terms(attention_scores_twice=2 * 2 * passes * shape.heads * rows**2)
    mlp = terms(gated_MLP=16 * one, MLP_input=2 * one)  # 8 for value and gate, 4 for GELU, 4 for the product
    return held + max(attention, mlp, key=total)


def _decode(shape: UNetShape, rows: int, batch: int, *, fused: bool) -> tuple[Term, ...]:
    """The VAE's first convolution at full size; or, unfused, its one attention over all latent pixels."""
    before, after = (2 * batch * 64 * rows * channels for channels in shape.vae_channels)
    convolution = terms(
        VAE_residual_and_activation=2 * before,
        VAE_convolved=after,
        cuDNN_workspace=before * 9 // 4,  # Winograd's tiles: 6 x 6 for every 4 x 4
    )
    if fused:
        return convolution
    held = 6 * 2 * batch * rows * 512
    middle = terms(VAE_attention_input=held, VAE_attention_scores_twice=2 * 2 * batch * rows**2)
    return max(convolution, middle, key=total)
