"""What is wrong with a machine or worth knowing: what was seen, what it means, what to do.

A pure function from facts to findings: it looks at nothing, starts nothing, prints nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from renderer.doctor import card_findings
from renderer.doctor.finding import LITTLE_DISK_BYTES, Facts, Finding
from renderer.machine.gpus import BF16_CAPABILITY
from renderer.machine.rates import Rates
from renderer.text import GIB, amount
from renderer.weights.codecs import fp8, int8

DRIVERS: Mapping[int, str] = MappingProxyType({11: "450.80", 12: "525.60", 13: "580.65"})
"""The first driver on Linux for a CUDA's major version (NVIDIA, CUDA Compatibility, 2025)."""

LITTLE_SHM_BYTES = GIB


def find(facts: Facts) -> tuple[Finding, ...]:
    """All findings, those that forbid rendering first."""
    found = [
        *_libraries(facts),
        *_driver(facts),
        *_kernels(facts),
        *_arithmetic(facts),
        *_compiler(facts),
        *_pinning(facts),
        *_host(facts),
        *_disks(facts),
        *card_findings.find(facts),
    ]
    return tuple(sorted(found, key=lambda finding: not finding.fatal))


def of_gpu(label: str, facts: Facts) -> Iterator[Finding]:
    """What there is to say of one of several GPUs besides the first: none of it keeps that from rendering."""
    if not facts.torch.get("gpus"):
        why = facts.torch.get("error") or "the driver shows it, and torch does not"
        yield Finding(
            f"{label}: torch cannot use it: {why}",
            "no worker opens there",
            "see the driver's log (dmesg | grep NVRM); reboot",
        )
    for found in (*_kernels(facts), *_arithmetic(facts), *card_findings.of_gpu(facts)):
        yield replace(found, message=f"{label}: {found.message}", fatal=False)


# ---- software --------------------------------------------------------------------------------------------------------


def _libraries(facts: Facts) -> Iterator[Finding]:
    if error := facts.torch.get("error"):
        yield Finding(f"torch cannot be asked: {error}", hint="set up anew: rm -rf .venv, then make setup", fatal=True)
    for library, trouble in (facts.torch.get("troubles") or {}).items():
        meaning, hint = "nothing can be rendered", "run make setup: constraints.txt holds the versions that were tried"
        if library == "transformers":
            version = facts.torch.get("transformers")
            meaning = f"DiffSynth names a class that transformers {version} no longer has, and cannot offload with it"
            hint = "install an older one (pip install 'transformers<5.16'), or run make setup"
        yield Finding(f"{library}: {trouble}", meaning, hint, fatal=True)


def _driver(facts: Facts) -> Iterator[Finding]:
    here, torch = facts.machine, facts.torch
    wanted = _version(torch.get("cuda"))
    if here.gpu is None:
        yield Finding(
            "no NVIDIA GPU is visible",
            "only the demo model renders here (--proof rehearses any manifest with it)",
            "see what the driver shows (nvidia-smi); give a container --gpus all; unset CUDA_VISIBLE_DEVICES, if set",
        )
        return
    if here.cuda and wanted and wanted[0] > here.cuda[0]:
        first = DRIVERS.get(wanted[0], "a newer one")
        yield Finding(
            f"driver {here.gpu.driver} runs CUDA up to {_dotted(here.cuda)}, and this torch is of {_dotted(wanted)}",
            "torch cannot use the GPU",
            f"install driver {first} or newer, or a torch built for CUDA {here.cuda[0]}",
            fatal=True,
        )
    elif not torch.get("gpus") and not torch.get("error"):
        built = f"built for CUDA {torch['cuda']}" if torch.get("cuda") else "built without CUDA"
        yield Finding(
            f"the driver shows {here.gpu.name}, but torch sees none",
            f"this torch is {built}, and nothing but the demo model renders with it",
            "install a torch built for CUDA; where it is, look for a failed driver update (reboot) or a container",
            fatal=True,
        )


def _kernels(facts: Facts) -> Iterator[Finding]:
    here, torch = facts.machine, facts.torch
    wanted = _version(torch.get("cuda"))
    old = bool(here.cuda and wanted and wanted > here.cuda)
    for gpu in torch.get("gpus") or ():
        if gpu.get("kernel") == "ok":
            continue
        archs = torch.get("archs") or []
        if not _built_for(_version(gpu.get("compute_capability")), archs):
            meaning = f"this torch holds kernels for {', '.join(archs)}, none of which run on {_sm(gpu)}"
            hint = "install a torch built for this card: of CUDA 12 for older ones, the newest for the latest"
        elif old:
            meaning = "its driver is older than this torch's CUDA"
            hint = f"install a driver for CUDA {_dotted(wanted)}"
        else:
            meaning, hint = "the GPU does not work", "see the driver's log (dmesg | grep NVRM); reset or reboot"
        yield Finding(f"{gpu.get('name')}: a kernel did not run: {gpu.get('kernel')}", meaning, hint, fatal=True)


def _arithmetic(facts: Facts) -> Iterator[Finding]:
    gpu = facts.machine.gpu
    if gpu is None:
        yield from _processor(facts)
        return
    capability = _dotted(gpu.compute_capability)
    if gpu.compute_capability == (0, 0):
        yield Finding(
            f"{gpu.name} does not tell its compute capability",
            "plans take it for a card without bf16 and FP8 arithmetic",
            'plan for the card that it is: --gpu "RTX 3080", with its own name',
        )
    elif gpu.compute_capability < BF16_CAPABILITY:
        yield Finding(
            f"{gpu.name} has no bf16 arithmetic (compute capability {capability}; it takes 8.0)",
            "bf16 is emulated in float32, ten times slower than its float16; attention is not fused and takes memory "
            "with the square of a picture's tokens",
            "expect minutes a step; small sizes only"
            + (
                "; products of precision: int8 are this card's own"
                if gpu.compute_capability >= int8.CODEC.capability
                else ""
            ),
        )
    elif gpu.compute_capability < fp8.CODEC.capability:
        yield Finding(
            f"{gpu.name} has no FP8 arithmetic (compute capability {capability}; it takes 8.9)",
            "fp8 weights are kept and moved as FP8, and multiplied as bf16: half the memory and traffic, bf16's speed",
            "take precision: int8, which is multiplied as it is kept here, and more exact",
        )
    for seen in facts.torch.get("gpus") or ():
        if seen.get("fp8") not in (None, "ok"):
            yield Finding(
                f"{seen.get('name')}: a product in FP8 did not run: {seen.get('fp8')}",
                "jobs of precision fp8 fail here",
                "take --precision bf16, or install the torch that was tried (constraints.txt)",
            )


def _processor(facts: Facts) -> Iterator[Finding]:
    """Of a machine whose processor renders."""
    here = facts.processor
    if here.arithmetic == "float32":
        yield Finding(
            here.words,
            "pictures are as good, and a little exacter; their bits are not those of a machine that computes in bf16",
            f"unset {here.capped_by.partition('=')[0]}, unless you mean it" if here.bf16_units else "",
        )


def _compiler(facts: Facts) -> Iterator[Finding]:
    compiler = facts.torch.get("compiler") or {}
    outcome = compiler.get("kernel")
    if outcome in (None, "ok"):
        return
    if not compiler.get("triton"):
        missing, hint = "Triton is missing", "install the Triton that this torch names (pip install triton)"
    elif not compiler.get("c_compiler"):
        missing, hint = "there is no C compiler", "install one (apt install gcc), or set CC"
    elif not compiler.get("python_headers"):
        missing, hint = "Python.h is missing", "install it (apt install python3-dev, for this Python's version)"
    else:
        missing, hint = "C compiler, headers and Triton are here", "delete ~/.triton; install a newer driver"
    yield Finding(
        f"Triton cannot compile: {outcome}",
        f"{missing}; FP8 and int8 blocks then run in plain torch, several times slower; torch.compile does not work",
        hint,
    )


# ---- memory and disks ------------------------------------------------------------------------------------------------


def _pinning(facts: Facts) -> Iterator[Finding]:
    here, outcome = facts.machine, facts.torch.get("pinning")
    if outcome not in (None, "ok"):
        limit = here.lockable_bytes
        told = "" if limit is None else f"; the limit on locked memory is {amount(limit)}"
        hint = (
            "raise it: ulimit -l unlimited; in a container --ulimit memlock=-1; in a systemd unit LimitMEMLOCK=infinity"
        )
        if here.wsl:
            hint = "raise memory= in .wslconfig: Windows lets about half of it be pinned"
        rates = facts.rates
        speed = (
            f"{rates.pageable_bytes_per_s / 1e9:.1f} GB/s" if isinstance(rates, Rates) else "a fraction of the speed"
        )
        yield Finding(
            f"host memory cannot be pinned: {outcome}{told}",
            f"blocks come to the GPU as they lie, at {speed}, and computing waits for them; pictures are the same",
            hint,
        )
    elif here.wsl and here.gpu is not None:
        yield Finding(
            "this is WSL2",
            "Windows lets about half of WSL's memory be pinned; blocks beyond that come several times slower",
            f"give WSL {amount(2 * facts.swept_bytes)} or more by memory= in .wslconfig" if facts.swept_bytes else "",
        )


def _host(facts: Facts) -> Iterator[Finding]:
    here = facts.machine
    if here.gpu is not None and here.ram_free_bytes < facts.swept_bytes:
        swap = "" if here.swap_bytes else "; there is no swap, so what asks for more is killed"
        yield Finding(
            f"{amount(here.ram_free_bytes)} of host memory are free, and blocks want {amount(facts.swept_bytes)}",
            f"blocks are read from the disk in every step, which may be what limits it{swap}",
            "end what else uses memory, or raise the container's limit; with a fast disk leave it so",
        )
    if here.swap_bytes and here.swap_bytes - here.swap_free_bytes > here.swap_bytes / 2:
        yield Finding(
            f"{amount(here.swap_bytes - here.swap_free_bytes)} of {amount(here.swap_bytes)} swap are in use",
            "host memory has been short; what was swapped out comes back slowly",
            "see who holds it (ps aux --sort=-rss)",
        )
    if here.shm_bytes is not None and here.shm_bytes < LITTLE_SHM_BYTES:
        yield Finding(
            f"/dev/shm holds {amount(here.shm_bytes)}",  # noqa: S108  # nothing is written to it
            "the renderer does without it; data loaders, NCCL and models kept there end with a bus error",
            "give a container --shm-size=8g or --ipc=host, where others want it",
        )


def _disks(facts: Facts) -> Iterator[Finding]:
    for what, free in (("outputs", facts.outputs_free_bytes), ("models", facts.models_free_bytes)):
        if free < LITTLE_DISK_BYTES:
            yield Finding(
                f"{amount(free)} are free on the disk for {what}",
                "a picture takes a few megabytes, a model 30 to 60 GB",
                "free some, or choose another disk (--outputs, RENDERER_MODELS)",
            )
    if facts.cache_trouble:
        yield Finding(
            f"the cache cannot be written to: {facts.cache_trouble}",
            "the demo model cannot be packed, and rates are measured anew every time",
            "make it writable, or set RENDERER_CACHE to a folder that is",
        )
    elif facts.cache_moved is not None:
        here, usual = facts.cache_moved
        yield Finding(
            f"{usual} cannot be written, and {here} is used instead",
            "rates, encoded prompts, kernels and the packed demo may be forgotten at the next restart",
            "make it writable, or set RENDERER_CACHE to a folder that stays",
        )


# ---- words -----------------------------------------------------------------------------------------------------------


def _built_for(capability: tuple[int, int] | None, archs: list[str]) -> bool:
    """Whether kernels for these run on that: the same major version, not newer; PTX (`compute_`) on anything newer."""
    if capability is None:
        return True
    for arch in archs:
        kind, _, digits = arch.partition("_")
        number = re.match(r"\d+", digits)
        if number is None:
            continue
        built = divmod(int(number.group()), 10)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def _version(text: str | None) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else None


def _dotted(version: tuple[int, int] | None) -> str:
    return ".".join(map(str, version or ()))


def _sm(gpu: Mapping[str, Any]) -> str:
    return "sm_" + str(gpu.get("compute_capability", "?")).replace(".", "")
