"""What this machine has: GPUs, memory, disk. Asks NVML and the system, so it answers in a blink and without torch.

What torch makes of it, and how fast it is, is asked in child processes (`ask`), for `doctor` and `rates`.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from renderer.machine import gpus, processor
from renderer.machine.gpus import LocalGpu
from renderer.system import children, folders

_PROBE_TIMEOUT_S = 180


@dataclass(frozen=True, slots=True)
class Machine:
    """The GPUs this process may use, the one that renders first, and the host's memory in bytes.

    RAM is what a container's limit leaves of it. `lockable_bytes` is the limit on locked memory, None without one;
    `cuda` the newest CUDA that the driver runs, as (major, minor). `gpu_troubles` says what of NVIDIA's does not
    answer; `chosen` whether there are other GPUs than the one that renders, `without_gpu` that none is to be used.
    `sharers` is how many workers have one copy of a model's blocks between them, each with its part of the free memory.
    """

    gpus: tuple[LocalGpu, ...]
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
    gpu_troubles: tuple[str, ...] = ()
    chosen: bool = False
    without_gpu: bool = False
    sharers: int = 1

    @property
    def gpu(self) -> LocalGpu | None:
        """The GPU that renders: the first one visible."""
        return self.gpus[0] if self.gpus else None

    @property
    def visible(self) -> str | None:
        """What CUDA_VISIBLE_DEVICES must be in a process that is to compute on `gpu`; None where it cannot but do so.

        NVML and CUDA count GPUs in different orders; by its UUID both mean the same one.
        """
        if self.without_gpu:
            return ""
        return (self.gpu.uuid or None) if self.gpu and self.chosen else None


def look() -> Machine:
    """This machine as it is now."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    limit, used = _container(Path("/sys/fs/cgroup"), _own_group())
    shm = _disk(Path("/dev/shm"))  # noqa: S108  # looked at, not written to
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    ram_bytes, ram_free_bytes = min(memory.total, limit), max(0, min(memory.available, limit - used))
    seen = gpus.look(ram_bytes, ram_free_bytes)
    if seen.gpus and seen.gpus[0].memory == "host":  # no byte is counted twice
        ram_free_bytes -= seen.gpus[0].free_bytes
    kernel = platform.release()
    return Machine(
        gpus=seen.gpus,
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1),
        ram_bytes=ram_bytes,
        ram_free_bytes=ram_free_bytes,
        swap_bytes=swap.total,
        swap_free_bytes=swap.free,
        shm_bytes=shm[0] if shm else None,
        shm_free_bytes=shm[1] if shm else None,
        lockable_bytes=None if soft == resource.RLIM_INFINITY else soft,
        kernel=kernel,
        wsl="microsoft" in kernel.lower(),
        cuda=seen.cuda,
        gpu_troubles=seen.troubles,
        chosen=seen.chosen,
    )


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, or that would once it is made."""
    return shutil.disk_usage(folders.nearest(folder)).free


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


def ask(module: str, here: Machine) -> dict[str, Any]:
    """What a module of ours that is run in a child process writes: a broken library cannot take us along.

    The child sees the GPU that renders, and no other. A child that writes nothing sensible is an `error` in words.
    """
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": here.visible} if here.visible else {})}
    processor.let_waiting_threads_sleep(environment)
    try:
        answer = children.ask([sys.executable, "-m", module], environment, _PROBE_TIMEOUT_S)
    except TimeoutError:
        return {"error": f"no answer within {_PROBE_TIMEOUT_S} s"}
    with suppress(ValueError):
        found = json.loads(answer.stdout)
        if isinstance(found, dict):
            return found
    last = answer.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return {"error": f"exit status {answer.status}: {' '.join(last)}"}
