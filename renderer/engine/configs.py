"""What DiffSynth's `from_pretrained` is given: a `ModelConfig` for each network, wherever its weights lie.

A model's own files in bf16 are DiffSynth's to read, with nothing of ours between. All else reaches it as weights that
were quantised before (`Packed`): a store's, of either precision, files that are encoded as they are read, and those
whose names are other tools'. Knows nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffsynth.configs import MODEL_CONFIGS
from diffsynth.core import ModelConfig
from diffsynth.core.loader import hash_model_file
from diffsynth.core.quant import QuantizeConfig
from safetensors.torch import save_file

from renderer.catalog import Role
from renderer.demo import members
from renderer.engine import device as placement
from renderer.engine import traps
from renderer.engine.coded import CodedLayers
from renderer.engine.device import Device, Placement
from renderer.engine.tensor_map import OpenWeights, TensorMap
from renderer.errors import ModelError
from renderer.families.qwen_image import networks
from renderer.families.qwen_image.shapes import LAYERED
from renderer.weights.codecs import PLAIN
from renderer.weights.unpacked import Unpacked, UnpackedFile


class Packed(QuantizeConfig):
    """A network's packed weights as DiffSynth's quantised ones: what it asks of them while it loads, answered.

    `tensors` are what is loaded, by the names that the network's module has; `device` is where they go.
    """

    def __init__(self, tensors: TensorMap, device: Device) -> None:
        self._tensors, self._device = tensors, device
        super().__init__(method=CodedLayers.name, target_modules=list(tensors.coded), load_prequantized=True)

    def _build_backend(self) -> CodedLayers:
        """Ours, which DiffSynth's tables need not know."""
        return CodedLayers(next(iter(self._tensors.coded.values()), PLAIN))

    def prepare_for_prequantized_load(self, model: Any, compute_dtype: torch.dtype = torch.bfloat16) -> Any:
        """The network with room for what is loaded, and without what is not."""
        traps.leave_out(model, vision=not any(name.startswith("model.visual.") for name in self._tensors))
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


def config(weights: OpenWeights, role: Role, place: Placement | None, device: Device, sheets: Path) -> ModelConfig:
    """The `ModelConfig` of one network: its files, and its weights' states, as the profile has them.

    The VAE stays on the device whatever the others do: it is 0.25 GB at Qwen-Image's widths. `sheets` is a folder that
    is there until the network is loaded. Raises `ModelError` for a network of no known width, and for damaged files.
    """
    states = placement.vram_config(place, device) if place is not None and role != "vae" else {}
    files = [file for file in weights.files if file.network == role]
    if isinstance(weights, Unpacked) and all(isinstance(file, UnpackedFile) and file.is_as_it_was for file in files):
        paths = [str(path) for path in weights.sources[role]]
        if _is_known(paths):
            return ModelConfig(path=paths, skip_download=True, **states)
    waits = states.get("offload_device", device)
    needed = [file for file in files if weights.processor or file.kind != "vision"]
    tensors = TensorMap(weights.family.network(role), needed)
    if waits == "disk":  # where layers come and go, damage would be met in the middle of a picture
        tensors.check()
    packed = Packed(tensors, "cpu" if waits == "disk" else waits)
    sheet = _introduce(weights, role, sheets)
    return ModelConfig(path=str(sheet), skip_download=True, state_dict={}, quantize=packed, **states)


def _is_known(paths: list[str]) -> bool:
    """Whether DiffSynth can read files, and knows them by the names and shapes of their tensors."""
    try:
        found = hash_model_file(paths)
    except RuntimeError:  # it maps files whole, and 41 GB in one cannot be mapped where there is less memory
        return False
    return any(entry["model_hash"] == found for entry in MODEL_CONFIGS)


_LIKE: Mapping[int, Mapping[Role, str]] = {
    networks.QWEN_IMAGE_WIDTH: {
        "transformer": "0319a1cb19835fb510907dd3367c95ff",
        "text_encoder": "8004730443f55db63092006dd9f7110e",
        "vae": "ed4ea5824d55ec3107b09815e318123a",
    },
    members.DIT_WIDTH: {
        "transformer": members.DIT_HASH,
        "text_encoder": members.TEXT_ENCODER_HASH,
        "vae": members.VAE_HASH,
    },
}
"""By the DiT's width: the hashes under which DiffSynth's tables have the networks of a model."""


def _introduce(weights: OpenWeights, role: Role, sheets: Path) -> Path:
    """A file that stands for a packed network, and tells DiffSynth, who knows networks by files, the class of it."""
    transformer = [file for file in weights.files if file.network == "transformer"]
    tensors = TensorMap(weights.family.network("transformer"), transformer)
    width = tensors.place("img_in.weight").shape[0]
    if width not in _LIKE:
        raise ModelError(f"no known model of the family has a DiT {width} wide")
    entry = next(dict(entry) for entry in MODEL_CONFIGS if entry["model_hash"] == _LIKE[width][role])
    layers = sum(file.kind == "block" for file in transformer)
    built = dict(entry.get("extra_kwargs", {}))
    if role == "transformer" and width == networks.QWEN_IMAGE_WIDTH:
        built["num_layers"] = layers
    layered = LAYERED in {*tensors}  # asked by name, a tensor would be read
    if layered:
        built |= networks.LAYERED_OPTIONS.get(role, {})
    entry["extra_kwargs"] = built
    sheet = sheets / f"{role}.safetensors"
    kind = ", that makes layers" if layered else ""
    save_file({f"packed {role} of a DiT {width} wide, {layers} deep{kind}": torch.empty(0)}, sheet)
    entry["model_hash"] = hash_model_file(str(sheet))
    if entry not in MODEL_CONFIGS:
        MODEL_CONFIGS.append(entry)
    return sheet
