"""How far apart pictures are to people's eyes (LPIPS), where this machine has what tells it; else why not.

It takes a library (the extra `lpips`) and the weights of a small network, AlexNet's, which are looked for where torch
keeps such files. Nothing is fetched. What computes is a process of its own: `renderer.engine.perceptual`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from renderer.machine import processor
from renderer.system import children
from renderer.system.files import sha256_of
from renderer.text import installing

ALEXNET = "alexnet-owt-7be5be79.pth"
"""torchvision's name for them, which ends with how the file's SHA-256 begins."""

ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET}"


_MODULE = "renderer.engine.perceptual"
_START_S, _PAIR_S = 120.0, 60.0
"""Seconds that torch may take to be imported, and a pair of pictures, on a slow machine."""


@dataclass(frozen=True, slots=True)
class Distances:
    """Of each pair its distance, 0 for the same picture; or none at all, and the `reason`."""

    values: tuple[float, ...] = ()
    reason: str = ""


def weights_file() -> Path:
    """Where torch's library of models keeps AlexNet's weights."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or str(Path(cache) / "torch")
    return Path(home).expanduser() / "hub" / "checkpoints" / ALEXNET


def distances(pairs: Sequence[tuple[Path, Path]]) -> Distances:
    """How far apart the pictures of each pair are, which are of one size."""
    if not pairs:
        return Distances()
    if importlib.util.find_spec("lpips") is None:
        return Distances(reason=f"lpips is not installed: {installing('lpips')}")
    path = weights_file()
    if not path.is_file():
        return Distances(reason=f"AlexNet's weights are not at {path}: put {ALEXNET_URL} there")
    if not sha256_of(path).startswith(path.stem.rpartition("-")[2]):
        return Distances(reason=f"{path} is not what its name says, by its SHA-256: fetch it again from {ALEXNET_URL}")
    asked = json.dumps({"weights": str(path), "pairs": [[str(one), str(other)] for one, other in pairs]})
    timeout_s = _START_S + _PAIR_S * len(pairs)
    environment = dict(os.environ)
    processor.let_waiting_threads_sleep(environment)
    try:
        answer = children.ask([sys.executable, "-m", _MODULE], environment, timeout_s, given=asked.encode())
    except TimeoutError as error:
        return Distances(reason=str(error))
    with suppress(ValueError):
        found: Any = json.loads(answer.stdout)
        if "error" in found:
            return Distances(reason=found["error"])
        return Distances(tuple(map(float, found["distances"])))
    last = answer.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return Distances(reason=f"the process that computes it ended with status {answer.status}: {' '.join(last)}")
