"""A family that is none of ours: a DiT of two kinds of blocks, a text encoder without biases, a VAE of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from renderer.catalog import Architecture, Role
from renderer.families import BlockPart, Family, Network, Outside, Section, Shapes, Staying

WIDTH = 32

ARCHITECTURE = Architecture(
    layers=5,
    width=WIDTH,
    heads=1,
    text_layers=2,
    text_width=WIDTH,
    text_heads=1,
    text_key_heads=1,
    text_mlp_width=WIDTH,
    vocabulary=8,
    vae_width=4,
    family="toy",
)

DOUBLE = Section("double", "double_blocks.", BlockPart("double", ("img.qkv", "txt.qkv"), ("img.norm.scale",)))
SINGLE = Section("single", "single_blocks.", BlockPart("single", ("linear",)), BlockPart("gate", ("gate.lin",)))
TEXT = Section("text", "encoder.block.", BlockPart("block", ("q", "k")))

SHAPES: Mapping[Role, Shapes] = {
    "transformer": {
        "img_in.weight": (WIDTH, 16),
        "guidance_in.weight": (WIDTH, 16),
        **{
            f"double_blocks.{number}.{name}": shape
            for number in range(2)
            for name, shape in {
                "img.qkv.weight": (3 * WIDTH, WIDTH),
                "img.qkv.bias": (3 * WIDTH,),
                "txt.qkv.weight": (3 * WIDTH, WIDTH),
                "img.norm.scale": (WIDTH,),
            }.items()
        },
        **{
            f"single_blocks.{number}.{name}": shape
            for number in range(3)
            for name, shape in {"linear.weight": (4 * WIDTH, WIDTH), "gate.lin.weight": (WIDTH, WIDTH)}.items()
        },
    },
    "text_encoder": {
        "shared.weight": (8, WIDTH),
        **{f"encoder.block.{number}.{name}.weight": (WIDTH, WIDTH) for number in range(2) for name in "qk"},
    },
    "vae": {"decoder.toy.weight": (4, 4, 2, 2)},
}


def _network(role: Role, own: str, *sections: Section) -> Network:
    return Network(
        role,
        role.replace("_", " "),
        expected=lambda _: dict(SHAPES[role]),
        anchor=own,
        own=(own,),
        sections=sections,
        outside=(Outside("outside", f"{role}/outside"),),
        stays=(Staying(r"\.bias$|^img_in\.", "for the test"), Staying(r"norm", "for the test")),
        renamed=(("toy.", ""),),
    )


TOY = Family(
    "toy",
    "Toy",
    (
        _network("transformer", "img_in.weight", DOUBLE, SINGLE),
        _network("text_encoder", "shared.weight", TEXT),
        _network("vae", "decoder.toy.weight"),
    ),
    unfit=lambda _: "",
    shapes=lambda _: SHAPES,
    torch_half="tests.families.toy_networks",
    costs="tests.families.toy_costs",
    architecture=ARCHITECTURE,
)


def make(folder: Path) -> dict[Role, list[Path]]:
    """Write a checkpoint of it, always with the same bits; the DiT's names are another tool's."""
    generator = torch.Generator().manual_seed(3)
    found: dict[Role, list[Path]] = {}
    for network in TOY.networks:
        path = folder / f"{network.role}.safetensors"
        prefix = "toy." if network.role == "transformer" else ""
        tensors = {
            prefix + name: torch.randn(shape, generator=generator).to(torch.bfloat16)
            for name, shape in SHAPES[network.role].items()
        }
        save_file(tensors, path)
        found[network.role] = [path]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer.json").write_text("{}", encoding="utf-8")
    return found
