"""What DiffSynth's `from_pretrained` is given: a `ModelConfig` for each network, wherever its weights lie.

A model's own files in bf16 are DiffSynth's to read, with nothing of ours between. All else reaches it as weights that
were quantised before (`Packed`): a store's, of either precision, files that are scaled to FP8 as they are read, and
those whose names are other tools'. Knows nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffsynth.configs import MODEL_CONFIGS
from diffsynth.core import ModelConfig
from diffsynth.core.loader import hash_model_file
from diffsynth.core.quant import QuantizeConfig

from renderer.catalog import Role
from renderer.demo import family
from renderer.engine import placement, skeletons
from renderer.engine.networks import TensorMap, Weights
from renderer.engine.placement import Device, Placement
from renderer.engine.scaled import ScaledLayers
from renderer.errors import ModelError
from renderer.weights.unpacked import Unpacked, UnpackedFile


class Packed(QuantizeConfig):
    """A network's packed weights as DiffSynth's quantised ones: what it asks of them while it loads, answered.

    `tensors` are what is loaded, by the names that the network's module has; `device` is where they go.
    """

    def __init__(self, tensors: TensorMap, device: Device) -> None:
        self._tensors, self._device = tensors, device
        super().__init__(method=ScaledLayers.name, target_modules=tensors.scaled_layers, load_prequantized=True)

    def _build_backend(self) -> ScaledLayers:
        """Ours, which DiffSynth's tables need not know."""
        return ScaledLayers()

    def prepare_for_prequantized_load(self, model: Any, compute_dtype: torch.dtype = torch.bfloat16) -> Any:
        """The network with room for what is loaded, and without what is not."""
        leave_out(model, vision=not any(name.startswith("model.visual.") for name in self._tensors))
        return super().prepare_for_prequantized_load(model, compute_dtype)

    def unflatten_state_dict(self, state_dict: dict[str, torch.Tensor], metadata: object) -> dict[str, torch.Tensor]:
        """All tensors, where DiffSynth has read none; those of one layer, which it has from `read_from_disk`'s map."""
        del metadata
        return state_dict or self._tensors.read(self._device)

    def read_from_disk(self, network: torch.nn.Module) -> None:
        """Let the layers of a network that waits on the disk read these tensors.

        DiffSynth has given them a map of its own, which reads safetensors by the names of whole networks.
        """
        for layer in network.modules():
            if "disk_map" in vars(layer):
                layer.disk_map = self._tensors


def leave_out(network: Any, *, vision: bool) -> None:
    """Take off what no picture needs: a text encoder's output layer, and its vision tower where `vision` says so."""
    if hasattr(network, "lm_head"):
        network.lm_head = None  # DiffSynth takes hidden states
        network.model.visual = None if vision else network.model.visual


def config(weights: Weights, role: Role, place: Placement | None, device: Device) -> ModelConfig:
    """The `ModelConfig` of one network: its files, and its weights' states, as the profile has them.

    The VAE stays on the device whatever the others do: it is 0.25 GB at Qwen-Image's widths. Raises `ModelError` for
    a network of no known width.
    """
    states = placement.vram_config(place, device) if place is not None and role != "vae" else {}
    files = [file for file in weights.files if file.network == role]
    paths = [str(path) for path in _paths(weights, role)]
    found = hash_model_file(paths)
    known = any(entry["model_hash"] == found and _OURS not in entry for entry in MODEL_CONFIGS)
    if known and all(isinstance(file, UnpackedFile) and file.is_as_it_was for file in files):
        return ModelConfig(path=paths, skip_download=True, **states)
    if not known:
        _introduce(found, role, weights)
    waits = states.get("offload_device", device)
    needed = [file for file in files if weights.processor or file.kind != "vision"]
    packed = Packed(TensorMap(needed), "cpu" if waits == "disk" else waits)
    return ModelConfig(path=paths, skip_download=True, state_dict={}, quantize=packed, **states)


def _paths(weights: Weights, role: Role) -> Sequence[Path]:
    """The files that DiffSynth knows a network by: its own, or of a store's the one outside its blocks."""
    if isinstance(weights, Unpacked):
        return weights.sources[role]
    return [file.path for file in weights.files if file.network == role and file.kind in {"outside", "whole"}]


_OURS = "introduced by renderer"

_LIKE: Mapping[int, Mapping[Role, str]] = {
    skeletons.QWEN_IMAGE_WIDTH: {
        "transformer": "0319a1cb19835fb510907dd3367c95ff",
        "text_encoder": "8004730443f55db63092006dd9f7110e",
        "vae": "ed4ea5824d55ec3107b09815e318123a",
    },
    family.DIT_WIDTH: {
        "transformer": family.DIT_HASH,
        "text_encoder": family.TEXT_ENCODER_HASH,
        "vae": family.VAE_HASH,
    },
}
"""By the DiT's width: the hashes under which DiffSynth's tables have the networks of a model."""


def _introduce(found: str, role: Role, weights: Weights) -> None:
    """Let DiffSynth know files by their hash, as a network of the class that has their width.

    The hash of a store's file does not tell how deep the network is: what was said of it before is forgotten.
    """
    width = TensorMap([file for file in weights.files if file.network == "transformer"]).place("img_in.weight").shape[0]
    if width not in _LIKE:
        raise ModelError(f"no known model of the family has a DiT {width} wide")
    entry = next(dict(entry) for entry in MODEL_CONFIGS if entry["model_hash"] == _LIKE[width][role])
    entry.pop("state_dict_converter", None)  # `TensorMap` has the module's names
    if role == "transformer" and width == skeletons.QWEN_IMAGE_WIDTH:
        layers = sum(file.network == role and file.kind == "block" for file in weights.files)
        entry["extra_kwargs"] = {"num_layers": layers}
    MODEL_CONFIGS[:] = [each for each in MODEL_CONFIGS if not (_OURS in each and each["model_hash"] == found)]
    MODEL_CONFIGS.append({**entry, "model_hash": found, _OURS: True})
