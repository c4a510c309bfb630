"""Which numbers this machine's processor multiplies fast, and how its cores are shared with others.

bf16 where there are units for it, float32 everywhere else: without them a product in bf16 is emulated, and a
convolution takes a hundred times as long. Asks the system's list of the processor's abilities, and the two variables by
which torch and oneDNN are told to use fewer of them; so it answers in a blink and without torch. Knows no engines.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from renderer.job import DeviceArithmetic

ABILITIES = Path("/proc/cpuinfo")

X86_UNITS = frozenset({"avx512_bf16", "amx_bf16"})
ARM_UNITS = frozenset({"bf16"})

ATEN_CAPS = frozenset({"default", "avx2"})
"""Values of ATEN_CPU_CAPABILITY that keep torch's own kernels below bf16 units."""

ONEDNN_CAPS = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Values of ONEDNN_MAX_CPU_ISA that keep oneDNN, which multiplies and convolves for torch, below them."""


SPINS = "1000"
"""How often a thread looks whether the others are there before it sleeps: microseconds, where libgomp's own figure is
milliseconds. With it a picture of the demo took 0.33 s on two quiet cores and 1.4 s beside two busy processes, and
without 0.30 s and more than 30: a thread that spins holds the core which the other one waits for."""


def let_waiting_threads_sleep() -> None:
    """Let threads that wait for one another leave their cores to whoever is at work. To be called before torch comes.

    Who has said by a variable how they are to wait is obeyed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def arithmetic() -> DeviceArithmetic:
    """What a CPU computes in here: the type that this processor multiplies fast."""
    return "bf16" if has_bf16_units() and not is_capped() else "float32"


def has_bf16_units() -> bool:
    """Whether this processor multiplies bf16 by itself; False where the system does not tell."""
    return _units(ABILITIES)


def is_capped() -> bool:
    """Whether the environment keeps torch or oneDNN from using such units."""
    aten = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    onednn = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    return aten in ATEN_CAPS or onednn in ONEDNN_CAPS


@lru_cache(maxsize=4)
def _units(abilities: Path) -> bool:
    try:
        with abilities.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:  # of the first core alone: there may be hundreds
                name, _, words = line.partition(":")
                if name.strip() == "flags":
                    return not X86_UNITS.isdisjoint(words.split())
                if name.strip() == "Features":
                    return not ARM_UNITS.isdisjoint(words.split())
    except OSError:
        return False
    return False
