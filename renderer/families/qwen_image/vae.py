"""The VAE: convolutions, in one file, and no section."""

from __future__ import annotations

from renderer.families.family import Network, Outside, Staying
from renderer.families.qwen_image import shapes

VAE = Network(
    "vae",
    "VAE",
    expected=lambda found: shapes.vae(shapes.vae_widths(found)),
    anchor="encoder.conv_in.weight",
    own=("decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.mid_block.resnets.0.conv1.weight"),
    outside=(Outside("whole", "vae"),),
    stays=(Staying(r"", "convolutions, which have no FP8 kernels, and the last to touch a pixel; 0.25 GB"),),
)
