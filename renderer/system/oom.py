"""What the kernel tells of processes that it ended because memory ran out. Reads its counters; knows nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

OOM_HINT = "give it more host memory: close other programs, raise the container's or service's limit, or render smaller"
UNSURE = "the kernel does that when memory runs out: `journalctl -k | grep -i oom` or `dmesg` says whether it did"

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def kills(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """How many processes the kernel has ended for want of memory; None where it does not say.

    Of this process's control group (version 2, else version 1) where that counts; else of the whole machine.
    """
    for path in [*_of_own_group(proc, cgroups), proc / "vmstat"]:
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return None


def _of_own_group(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The files that count for the control group of this process, wherever that is mounted."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            yield cgroups / group.lstrip("/") / "memory.events"
            yield cgroups / "unified" / group.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            yield cgroups / "memory" / group.lstrip("/") / "memory.oom_control"
            yield cgroups / "memory" / "memory.oom_control"
