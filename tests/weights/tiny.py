"""A member of the Qwen-Image family of 0.3 MB, and what is done to it: a sharded checkpoint, its store, its bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from renderer.catalog import Role
from renderer.families import Shapes
from renderer.families.qwen_image import shapes
from renderer.job import ModelIdentity, Stored
from renderer.weights import pack as packing
from renderer.weights.index import Index
from renderer.weights.store import FileReport

IDENTITY = ModelIdentity(id="tiny", revision="1")
TRANSFORMER = shapes.TransformerWidths(layers=2, width=16, head=8, mlp=32, text=16, latent=64, timestep=16)
TEXT_ENCODER = shapes.TextEncoderWidths(
    layers=2,
    width=16,
    queries=16,
    keys=8,
    mlp=32,
    vocabulary=32,
    vision_layers=1,
    vision=8,
    vision_mlp=12,
    vision_patch=(3, 2, 2, 2),
)
VAE = shapes.VaeWidths(base=4)
SHAPES: Mapping[Role, Shapes] = {
    "transformer": shapes.transformer(TRANSFORMER),
    "text_encoder": shapes.text_encoder(TEXT_ENCODER) | {"lm_head.weight": (32, 16)},
    "vae": shapes.vae(VAE),
}
SHARDS = tuple(f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2))


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint's folder in the hub's layout, its transformer in two shards with their index."""

    folder: Path

    @property
    def networks(self) -> dict[Role, Sequence[Path]]:
        return {
            "transformer": sorted((self.folder / "transformer").glob("*.safetensors")),
            "text_encoder": sorted((self.folder / "text_encoder").glob("*.safetensors")),
            "vae": sorted((self.folder / "vae").glob("*.safetensors")),
        }

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer"

    @property
    def files(self) -> list[Path]:
        return [path for paths in self.networks.values() for path in paths]

    def pack(self, target: Path, precision: Stored = "fp8", report: FileReport | None = None) -> Index:
        return packing.pack(self.networks, self.tokenizer, target, precision, IDENTITY, report, device="cpu")


def make(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Source:
    """Write the checkpoint, always with the same bits."""
    generator = torch.Generator().manual_seed(7)
    tensors = {
        network: {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in found.items()}
        for network, found in SHAPES.items()
    }
    for name in ("transformer", "text_encoder", "vae", "tokenizer"):
        (folder / name).mkdir(parents=True)
    names = sorted(tensors["transformer"])
    halves = dict(zip(SHARDS, (names[: len(names) // 2], names[len(names) // 2 :]), strict=True))
    for shard, part in halves.items():
        save_file({name: tensors["transformer"][name] for name in part}, folder / "transformer" / shard)
    places = {name: shard for shard, part in halves.items() for name in part}
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    save_file(tensors["text_encoder"], folder / "text_encoder" / "model.safetensors")
    save_file(tensors["vae"], folder / "vae" / "diffusion_pytorch_model.safetensors")
    (folder / "tokenizer" / "vocab.json").write_text("{}", encoding="utf-8")
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return Source(folder)


def tensors_of(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """All tensors of some files, as the safetensors library reads them."""
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def edit(path: Path, change: Any) -> None:
    """Let `change` alter a file's header, a dict, and write the file anew with what it returned (or the same dict)."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    changed = change(header)
    text = json.dumps(header if changed is None else changed).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@contextmanager
def restored(folder: Path) -> Iterator[None]:
    """Whatever happens in a folder, its files are as before afterwards."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    try:
        yield
    finally:
        for path in folder.rglob("*"):
            if path.is_file() and path not in before:
                path.unlink()
        for path, data in before.items():
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)
