"""The process that tells how far apart pictures are to people's eyes: LPIPS (Zhang et al. 2018), by the library itself.

On the CPU. `python -m renderer.engine.perceptual` reads one JSON object: AlexNet's weights and pairs of pictures'
files, and writes one: their distances, or an error in words. The library would fetch what it has not; it is given a
network without weights, which are filled in here. Knows nothing of manifests.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import torch
from PIL import Image

_TRUNK = "features"
"""What torchvision's AlexNet calls the layers that are looked at; the library keeps their numbers."""


def main() -> None:
    """Answer once."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    asked = json.load(sys.stdin)
    try:
        net = network(Path(asked["weights"]))
        told: dict[str, Any] = {"distances": [distance(net, *map(Path, pair)) for pair in asked["pairs"]]}
    except Exception as error:  # noqa: BLE001  # whatever it is, there is no figure then
        told = {"error": str(error) or type(error).__name__}
    answers.write(json.dumps(told))
    answers.flush()


def network(path: Path) -> Any:
    """The library's network with these weights of AlexNet's."""
    weights: Mapping[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    with torch.no_grad():
        for name, parameter in net.net.named_parameters():
            parameter.copy_(weights[f"{_TRUNK}.{name.partition('.')[2]}"])
    return net


def distance(net: Any, one: Path, other: Path) -> float:
    """Of two pictures' files; 0 for the same colours."""
    with torch.no_grad():
        return float(net(_pixels(one), _pixels(other)))


def _pixels(path: Path) -> torch.Tensor:
    """1 x 3 x height x width, from -1 to 1."""
    with Image.open(path) as image:
        colours = np.array(image.convert("RGB"))
    return torch.from_numpy(colours).permute(2, 0, 1)[None].float() / 127.5 - 1


if __name__ == "__main__":
    main()
