"""What works on this machine, found by trying: `python -m renderer.engine.probe` writes one JSON object to stdout.

    python, torch, cuda, diffsynth, transformers: versions, or null
    archs: the compute capabilities torch was built for
    gpus: for each GPU torch sees its name, total_bytes, compute_capability, and how its kernels fared:
          "ok" or what went wrong (kernel: a sum; fp8: a product in FP8, null where the card has none)
    troubles: for each library what went wrong with it; empty when all is well

Whatever fails is text in the answer. Knows nothing of models or jobs.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

_FP8_CAPABILITY = (8, 9)


def main() -> None:
    """Write the findings to stdout, and what libraries print to stderr."""
    sys.stdout.flush()
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with os.fdopen(answer, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(probe(), indent=2) + "\n")


def probe() -> dict[str, Any]:
    """The findings, JSON-ready."""
    troubles: dict[str, str] = {}

    def attempt(library: str, look: Callable[[], Any]) -> Any:
        try:
            return look()
        except Exception as error:  # noqa: BLE001  # anything at all may be wrong with a library
            troubles[library] = _words(error)
            return None

    torch_facts = attempt("torch", _torch_facts) or {"cuda": None, "archs": [], "gpus": []}
    attempt("diffsynth", _import_diffsynth)
    if "diffsynth" not in troubles:
        attempt("transformers", _resolve_offload_names)
    versions = {name: _version(name) for name in ("torch", "diffsynth", "transformers")}
    return {"python": platform.python_version(), **versions, **torch_facts, "troubles": troubles}


def _torch_facts() -> dict[str, Any]:
    import torch  # noqa: PLC0415  # its import is part of what is tried

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "cuda": torch.version.cuda,
        "archs": torch.cuda.get_arch_list(),
        "gpus": [_gpu_facts(torch, index) for index in range(count)],
    }


def _gpu_facts(torch: Any, index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    device = f"cuda:{index}"
    return {
        "name": properties.name,
        "total_bytes": properties.total_memory,
        "compute_capability": f"{capability[0]}.{capability[1]}",
        "kernel": _tried(lambda: _sum(torch, device)),
        "fp8": _tried(lambda: _fp8_product(torch, device)) if capability >= _FP8_CAPABILITY else None,
    }


def _sum(torch: Any, device: str) -> bool:
    return bool((torch.ones(8, device=device) + 1).sum().item() == 16)  # noqa: PLR2004  # eight twos


def _fp8_product(torch: Any, device: str) -> bool:
    side = 32
    ones = torch.ones(side, side, device=device).to(torch.float8_e4m3fn)
    scale = torch.ones((), device=device)
    product = torch._scaled_mm(ones, ones.T, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)  # noqa: SLF001  # torch has no public name for it
    return bool((product == side).all().item())


def _tried(kernel: Callable[[], bool]) -> str:
    try:
        return "ok" if kernel() else "it ran, and its result is wrong"
    except Exception as error:  # noqa: BLE001  # as above
        return _words(error)


def _import_diffsynth() -> None:
    import diffsynth.pipelines.qwen_image  # noqa: F401, PLC0415  # as above


def _resolve_offload_names() -> None:
    """Raise `AttributeError` when DiffSynth's VRAM management names a class that transformers does not have."""
    from diffsynth.models.model_loader import ModelPool  # noqa: PLC0415  # as above

    parts = ("dit.QwenImageDiT", "text_encoder.QwenImageTextEncoder", "vae.QwenImageVAE")
    for part in parts:
        managed = {"offload_dtype": "any", "offload_device": "any"}
        ModelPool().fetch_module_map(f"diffsynth.models.qwen_image_{part}", managed)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


if __name__ == "__main__":
    main()
