"""What this machine has: GPUs, memory, disk. Asks NVML and the system, so it answers in a blink and without torch.

What torch makes of it is asked in a child process (`ask_torch`), for `doctor` alone. How fast it is, `rates` knows.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pynvml

_PROBE_TIMEOUT_S = 180


SLOWDOWNS = {
    0x04: "its power limit",
    0x08: "a hardware slowdown",
    0x20: "its temperature",
    0x40: "its temperature, by the hardware",
    0x80: "the power supply's brake",
}
"""NVML's reasons for running below the clock that was asked for, those that somebody can do something about."""


@dataclass(frozen=True, slots=True)
class Link:
    """A GPU's PCIe link: generation and lanes now and at most. An idle link falls back to an older generation.

    `most_generation` is what card and slot do together, `own_generation` what the card does in a slot to match.
    """

    generation: int
    width: int
    most_generation: int
    most_width: int
    own_generation: int


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes or draws on a GPU, and the bytes it holds there, where the driver tells."""

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as NVML sees it. Bytes; the compute capability as (major, minor).

    What a driver does not tell is None, or empty.
    """

    index: int
    name: str
    uuid: str
    total_bytes: int
    free_bytes: int
    driver: str
    compute_capability: tuple[int, int]
    link: Link | None = None
    ecc: bool | None = None
    mig: bool | None = None
    uncorrected_errors: int | None = None
    slowdowns: tuple[str, ...] = ()
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """The GPUs this process may use, in CUDA's order, and the host's memory in bytes.

    RAM is what a container's limit leaves of it. `lockable_bytes` is the limit on locked memory, None without one;
    `cuda` the newest CUDA that the driver runs, as (major, minor).
    """

    gpus: tuple[Gpu, ...]
    cpus: int
    ram_bytes: int
    ram_free_bytes: int
    swap_bytes: int = 0
    swap_free_bytes: int = 0
    shm_bytes: int | None = None
    shm_free_bytes: int | None = None
    lockable_bytes: int | None = None
    kernel: str = ""
    wsl: bool = False
    cuda: tuple[int, int] | None = None

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that renders: the first one visible."""
        return self.gpus[0] if self.gpus else None


def look() -> Machine:
    """This machine as it is now."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    limit, used = _container(Path("/sys/fs/cgroup"), _own_group())
    shm = _disk(Path("/dev/shm"))  # noqa: S108  # looked at, not written to
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    gpus, cuda = _gpus()
    kernel = platform.release()
    return Machine(
        gpus=_visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES")),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1),
        ram_bytes=min(memory.total, limit),
        ram_free_bytes=max(0, min(memory.available, limit - used)),
        swap_bytes=swap.total,
        swap_free_bytes=swap.free,
        shm_bytes=shm[0] if shm else None,
        shm_free_bytes=shm[1] if shm else None,
        lockable_bytes=None if soft == resource.RLIM_INFINITY else soft,
        kernel=kernel,
        wsl="microsoft" in kernel.lower(),
        cuda=cuda,
    )


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, or that would once it is made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gpus() -> tuple[list[Gpu], tuple[int, int] | None]:
    """Every GPU that NVML sees, and the newest CUDA that the driver runs; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return [], None
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        newest = _asked(pynvml.nvmlSystemGetCudaDriverVersion_v2)
        cuda = (newest // 1000, newest % 1000 // 10) if newest else None
        return [_gpu(index, driver) for index in range(pynvml.nvmlDeviceGetCount())], cuda
    except pynvml.NVMLError:
        return [], None
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int, driver: str) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    ecc = _asked(pynvml.nvmlDeviceGetCurrentEccMode, handle)
    mig = _asked(pynvml.nvmlDeviceGetMigMode, handle)
    reasons = _asked(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
    errors = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
        driver=driver,
        compute_capability=(int(major), int(minor)),
        link=_link(handle),
        ecc=None if ecc is None else bool(ecc),
        mig=None if mig is None else bool(mig[0]),
        uncorrected_errors=_asked(pynvml.nvmlDeviceGetTotalEccErrors, handle, *errors) if ecc else None,
        slowdowns=tuple(words for bit, words in SLOWDOWNS.items() if reasons & bit),
        processes=_processes(handle),
    )


def _link(handle: Any) -> Link | None:
    generation = _asked(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle)
    width = _asked(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle)
    most_generation = _asked(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
    most_width = _asked(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
    own = _asked(pynvml.nvmlDeviceGetGpuMaxPcieLinkGeneration, handle)
    if not (generation and width and most_generation and most_width):
        return None
    return Link(generation, width, most_generation, most_width, own_generation=own or most_generation)


def _processes(handle: Any) -> tuple[GpuProcess, ...]:
    """Who uses a GPU besides this process, the largest first; a container's neighbours cannot be seen."""
    held: dict[int, int | None] = {}
    for question in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in _asked(question, handle) or ():
            held[process.pid] = process.usedGpuMemory
    held.pop(os.getpid(), None)
    found = [GpuProcess(pid, _process_name(pid), count) for pid, count in held.items()]
    return tuple(sorted(found, key=lambda process: -(process.bytes or 0)))


def _process_name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"


def _asked(question: Callable[..., Any], *arguments: Any) -> Any | None:
    """NVML's answer, or None where this driver or card has none to give."""
    try:
        return question(*arguments)
    except (pynvml.NVMLError, AttributeError):
        return None


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


def _own_group() -> str:
    with suppress(OSError):
        return Path("/proc/self/cgroup").read_text(encoding="utf-8")
    return ""


def _container(root: Path, groups: str) -> tuple[int, int]:
    """What a container or a service may use of RAM, and uses, in bytes; without a limit, no bound and 0.

    `groups` is this process's `/proc/self/cgroup`. Of the group and those above it the tightest counts. Cache that the
    kernel would drop is not counted as used (cgroup v2, then v1).
    """
    paths = {line.split(":")[1]: line.split(":", 2)[2] for line in groups.splitlines() if line.count(":") > 1}
    kinds = (
        (root, paths.get("", "/"), "memory.max", "memory.current", "inactive_file"),
        (
            root / "memory",
            paths.get("memory", "/"),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    )
    found = [(sys.maxsize, 0)]
    for base, path, limit_name, used_name, cache_name in kinds:
        folder = base / path.strip("/")
        for each in (folder, *folder.parents):
            with suppress(OSError, ValueError):
                limit = int((each / limit_name).read_text(encoding="ascii"))
                used = int((each / used_name).read_text(encoding="ascii"))
                stat = (each / "memory.stat").read_text(encoding="ascii").split()
                cache = int(stat[stat.index(cache_name) + 1]) if cache_name in stat else 0
                found.append((limit, max(0, used - cache)))
            if each == base:
                break
    return min(found, key=lambda pair: pair[0] - pair[1])


def _disk(folder: Path) -> tuple[int, int] | None:
    """Bytes of the file system below a folder, and those free; None where there is none."""
    with suppress(OSError):
        usage = shutil.disk_usage(folder)
        return usage.total, usage.free
    return None


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
