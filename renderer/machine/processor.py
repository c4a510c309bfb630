"""Which numbers this machine's processor multiplies fast, and how its cores are shared with others.

bf16 where there are units for it, float32 everywhere else: without them a product in bf16 is emulated, and a
convolution takes tens of times as long. Asks the system's list of the processor's abilities, and the two variables by
which torch and oneDNN are told to use fewer of them; so it answers in a blink and without torch. Knows no engines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from renderer.job import DeviceArithmetic

ABILITIES = Path("/proc/cpuinfo")

X86_UNITS = frozenset({"avx512_bf16", "amx_bf16"})
ARM_UNITS = frozenset({"bf16"})

_BELOW = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})

CAPS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "ATEN_CPU_CAPABILITY": frozenset({"DEFAULT", "AVX2"}),
        "ONEDNN_MAX_CPU_ISA": _BELOW,
        "DNNL_MAX_CPU_ISA": _BELOW,
    }
)
"""Variables with their values that keep torch's kernels, or oneDNN's, which multiply for it, below bf16 units."""


SPINS = "1000"
"""How often a thread looks whether the others are there before it sleeps: microseconds, where libgomp's own figure is
milliseconds. With it a picture of the demo took 0.33 s and, beside two busy processes, 1.4 s, and without 0.30 s and
more than 30: a thread that spins holds the core which the other one waits for. This was taken on two cores with a load
of 4 to 6 already on them, and tells how the two compare, not how fast a picture is on quiet cores."""


def let_waiting_threads_sleep(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for one another leave their cores to whoever is at work. To be called before torch comes.

    Who has said by a variable how they are to wait is obeyed.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


@dataclass(frozen=True, slots=True)
class Processor:
    """Whether it multiplies bf16 by itself, and the variable, if any, that keeps torch from using that."""

    bf16_units: bool
    capped_by: str = ""

    @property
    def arithmetic(self) -> DeviceArithmetic:
        """What a CPU computes in: the type that this processor multiplies fast."""
        return "bf16" if self.bf16_units and not self.capped_by else "float32"

    @property
    def words(self) -> str:
        """What it has and what follows from that, for people."""
        if not self.bf16_units:
            return "this processor has no bf16 units: the CPU computes in float32"
        if self.capped_by:
            return f"{self.capped_by} keeps this processor's bf16 units unused: the CPU computes in float32"
        return "this processor has bf16 units: the CPU computes in bf16"


WITH_UNITS = Processor(bf16_units=True)


def look() -> Processor:
    """This machine's; without units where the system does not tell."""
    return Processor(_units(ABILITIES), _cap())


def arithmetic() -> DeviceArithmetic:
    """What a CPU computes in here."""
    return look().arithmetic


def _cap() -> str:
    for name, caps in CAPS.items():
        if (value := os.environ.get(name, "")).upper() in caps:
            return f"{name}={value}"
    return ""


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
