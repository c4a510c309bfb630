"""What this machine has: GPUs, memory, disk. Asks NVML and the system, so it answers in a blink and without torch.

What torch makes of it is asked in a child process (`ask_torch`), for `doctor` alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pynvml

_PROBE_TIMEOUT_S = 180


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as NVML sees it. Bytes; the compute capability as (major, minor)."""

    index: int
    name: str
    uuid: str
    total_bytes: int
    free_bytes: int
    driver: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Machine:
    """The GPUs this process may use, in CUDA's order, and the host's memory in bytes."""

    gpus: tuple[Gpu, ...]
    cpus: int
    ram_bytes: int
    ram_free_bytes: int

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that renders: the first one visible."""
        return self.gpus[0] if self.gpus else None


def look() -> Machine:
    """This machine as it is now."""
    memory = psutil.virtual_memory()
    limit = _memory_limit()
    return Machine(
        gpus=_visible(_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1),
        ram_bytes=min(memory.total, limit),
        ram_free_bytes=min(memory.available, limit),
    )


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, or that would once it is made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def cache_folder() -> Path:
    """Where things are kept that can be made again: `$RENDERER_CACHE`, or `renderer` in the user's cache folder.

    An empty variable counts as none.
    """
    if own := os.environ.get("RENDERER_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "renderer"


def _gpus() -> list[Gpu]:
    """Every GPU that NVML sees; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        return [_gpu(index, driver) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int, driver: str) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver=driver,
        compute_capability=(int(major), int(minor)),
    )


def _visible(gpus: list[Gpu], setting: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; like CUDA, it stops at the first name it cannot find."""
    if setting is None:
        return tuple(gpus)
    chosen = []
    for name in (part.strip() for part in setting.split(",")):
        found = [gpu for gpu in gpus if name == str(gpu.index) or (name and gpu.uuid.startswith(name))]
        if not found:
            break
        chosen.append(found[0])
    return tuple(chosen)


def _memory_limit() -> int:
    """What a container may use, in bytes, where one is set; without bound otherwise (cgroup v2, then v1)."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return int(Path(path).read_text(encoding="ascii"))
    return sys.maxsize


def ask_torch() -> dict[str, Any]:
    """What torch and DiffSynth say of this machine, from a child process: a broken library cannot take us along."""
    command = [sys.executable, "-m", "renderer.engine.probe"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {_PROBE_TIMEOUT_S} s"}
    try:
        found: dict[str, Any] = json.loads(answer.stdout)
    except ValueError:
        last = answer.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return {"error": f"exit status {answer.returncode}: {' '.join(last)}"}
    return found
