"""The VAE: convolutions, in one file, and no section."""

from __future__ import annotations

from collections.abc import Iterator

from renderer.families.family import Network, Outside, Staying
from renderer.families.qwen_image import shapes

_RESIDUAL = (
    ("residual.0", "norm1"),
    ("residual.2", "conv1"),
    ("residual.3", "norm2"),
    ("residual.6", "conv2"),
    ("shortcut", "conv_shortcut"),
)
"""The layers of a residual block under Wan's names, and under diffusers'."""

_UP = 4
"""Wan counts what is in a stage of the decoder on and on: three residual blocks, then what doubles the sides."""


def _wans_names() -> Iterator[tuple[str, str]]:
    """Patterns of the names that Wan's own code and ComfyUI have for the same tensors, and the hub's."""
    yield r"conv1\.(\w+)", r"quant_conv.\1"
    yield r"conv2\.(\w+)", r"post_quant_conv.\1"
    yield r"(encoder|decoder)\.conv1\.(\w+)", r"\1.conv_in.\2"
    yield r"(encoder|decoder)\.head\.0\.gamma", r"\1.norm_out.gamma"
    yield r"(encoder|decoder)\.head\.2\.(\w+)", r"\1.conv_out.\2"
    yield r"(encoder|decoder)\.middle\.1\.(.+)", r"\1.mid_block.attentions.0.\2"
    yield r"encoder\.downsamples\.(\d+)\.(resample\.1|time_conv)\.(\w+)", r"encoder.down_blocks.\1.\2.\3"
    for stage in range(_UP - 1):
        wans = rf"decoder\.upsamples\.{_UP * stage + 3}\.(resample\.1|time_conv)\.(\w+)"
        yield wans, rf"decoder.up_blocks.{stage}.upsamplers.0.\1.\2"
    for layer, own in _RESIDUAL:
        wans = layer.replace(".", r"\.")
        for number, resnet in (("0", "0"), ("2", "1")):
            middle = rf"(encoder|decoder)\.middle\.{number}\.{wans}\.(\w+)"
            yield middle, rf"\1.mid_block.resnets.{resnet}.{own}.\2"
        yield rf"encoder\.downsamples\.(\d+)\.{wans}\.(\w+)", rf"encoder.down_blocks.\1.{own}.\2"
        for stage in range(_UP):
            for block in range(3):
                up = rf"decoder\.upsamples\.{_UP * stage + block}\.{wans}\.(\w+)"
                yield up, rf"decoder.up_blocks.{stage}.resnets.{block}.{own}.\1"


VAE = Network(
    "vae",
    "VAE",
    expected=lambda found: shapes.vae(shapes.vae_widths(found)),
    anchor="encoder.conv_in.weight",
    own=("decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.mid_block.resnets.0.conv1.weight"),
    outside=(Outside("whole", "vae"),),
    stays=(Staying(r"", "convolutions, which have no FP8 kernels, and the last to touch a pixel; 0.25 GB"),),
    respelled=tuple(_wans_names()),
)
