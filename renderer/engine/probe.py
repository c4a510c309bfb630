"""What works on this machine, found by trying: `python -m renderer.engine.probe` writes one JSON object to stdout.

    python, torch, cuda, diffsynth, transformers: versions, or null
    archs: the compute capabilities torch was built for
    gpus: for each GPU torch sees its name, total_bytes, compute_capability, and how its kernels fared:
          "ok" or what went wrong (kernel: a sum; fp8: a product in FP8 with a scale a row, null where there is none)
    compiler: triton's version, whether there are a C compiler and Python's headers, and how one of our kernels
          fared that was compiled anew (null without a GPU)
    pinning: "ok", or what went wrong when 256 MiB of host memory were pinned (null without a GPU)
    troubles: for each library what went wrong with it; empty when all is well

Whatever fails is text in the answer. Knows nothing of models or jobs.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from renderer.system import streams
from renderer.weights.codecs import fp8

_OK = "ok"

_PINNED_BYTES = 2**28
"""As much as a block of Qwen-Image has in FP8, and a little more."""


def main() -> None:
    """Write the findings to stdout, and what libraries print to stderr."""
    sys.stdout.flush()
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    streams.settle()
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
    usable = any(gpu["kernel"] == _OK for gpu in torch_facts["gpus"])
    attempt("diffsynth", _import_diffsynth)
    if "diffsynth" not in troubles:
        attempt("transformers", _resolve_offload_names)
    versions = {name: _version(name) for name in ("torch", "diffsynth", "transformers")}
    return {
        "python": platform.python_version(),
        **versions,
        **torch_facts,
        "compiler": _compiler_facts(usable=usable),
        "pinning": _tried(_pin) if usable else None,
        "troubles": troubles,
    }


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
        "fp8": _tried(lambda: _fp8_product(torch, device)) if capability >= fp8.CODEC.capability else None,
    }


def _sum(torch: Any, device: str) -> bool:
    return bool((torch.ones(8, device=device) + 1).sum().item() == 16)  # noqa: PLR2004  # eight twos


def _fp8_product(torch: Any, device: str) -> bool:
    from renderer.engine.fp8_reference import FAST_ACCUMULATION  # noqa: PLC0415  # torch, as above

    side = 128
    ones = torch.ones(side, side, device=device).to(torch.float8_e4m3fn)
    scale = torch.ones(side, 1, device=device)
    product = torch._scaled_mm(  # noqa: SLF001  # torch has no public name for it
        ones,
        ones.T,
        scale_a=scale,
        scale_b=scale.T,
        out_dtype=torch.bfloat16,
        use_fast_accum=FAST_ACCUMULATION,
    )
    return bool((product == side).all().item())


def _compiler_facts(*, usable: bool) -> dict[str, Any]:
    chosen = os.environ.get("CC")
    names = [chosen] if chosen else ["cc", "gcc", "clang"]
    return {
        "triton": _version("triton"),
        "c_compiler": any(shutil.which(name) for name in names),
        "python_headers": Path(sysconfig.get_path("include"), "Python.h").is_file(),
        "kernel": _tried(_compile) if usable else None,
    }


def _compile() -> bool:
    """Compile one of our kernels in an empty cache: what lies in the usual one would run without any compiler."""
    import torch  # noqa: PLC0415  # as above

    with tempfile.TemporaryDirectory() as folder, _compiling_in(folder):
        from renderer.engine import fp8_kernels  # noqa: PLC0415  # Triton is not everywhere

        ones = torch.ones(4, 128, dtype=torch.bfloat16, device="cuda")
        whose = torch.zeros(4, dtype=torch.int32, device="cuda")
        total = fp8_kernels.add(ones, ones, torch.ones(1, 6 * 128, dtype=torch.bfloat16, device="cuda"), whose, 2)
        return bool((total == 2).all().item())  # noqa: PLR2004  # one and one


@contextlib.contextmanager
def _compiling_in(folder: str) -> Iterator[None]:
    """Let Triton keep what it compiles in `folder`."""
    before = os.environ.get("TRITON_CACHE_DIR")
    os.environ["TRITON_CACHE_DIR"] = folder
    try:
        yield
    finally:
        del os.environ["TRITON_CACHE_DIR"]
        if before is not None:
            os.environ["TRITON_CACHE_DIR"] = before


def _pin() -> bool:
    from renderer.engine.pinned import pinned_buffer  # noqa: PLC0415  # torch, as above

    return pinned_buffer(_PINNED_BYTES, "cuda", lambda memory: memory.zero_()).numel() == _PINNED_BYTES


def _tried(kernel: Callable[[], bool]) -> str:
    try:
        return _OK if kernel() else "it ran, and its result is wrong"
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
