"""What a plan or an estimate takes the machine to be: this one, or another that the command line describes."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from renderer.catalog import cards
from renderer.cli import arguments
from renderer.errors import UsageError
from renderer.machine import devices, hardware, rates
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates
from renderer.planning.forecast import Assumptions


def assumptions(options: argparse.Namespace) -> Assumptions:
    """The machine that is planned for: this one, or another where `--gpu` or `--ram` say so."""
    asked = vars(options)
    here = hardware.look()
    profile = asked.get("profile")
    there, known = described(here, asked.get("gpu"), asked.get("vram"), asked.get("ram"))
    named = arguments.gpus_of(options)
    if asked.get("gpus") is not None and there != here:
        raise UsageError("--gpus names devices of this machine, and --gpu or --ram another one", hint="leave one out")
    chosen = devices.choose(named, here) if there == here and "gpus" in asked else ()
    if len(chosen) == 1:
        there = chosen[0].machine
        known = rates.known(there)
    return Assumptions(
        machine=there,
        profile=None if profile in (None, "auto") else profile,
        vram_bytes=asked.get("vram"),
        rates=known,
        ready=there != here and not chosen,
        devices=tuple((device, rates.known(device.machine)) for device in chosen) if len(chosen) > 1 else (),
    )


def described(
    here: Machine, name: str | None, vram_bytes: int | None, ram_bytes: int | None
) -> tuple[Machine, Rates | None]:
    """A machine with another card or other memory than this one, and its rates, if they are known.

    Raises `UsageError` for a card that nobody knows.
    """
    there = here if ram_bytes is None else replace(here, ram_bytes=ram_bytes, ram_free_bytes=ram_bytes)
    if name is not None:
        match = cards.find(name)
        if match.note:
            print(f"note: {name}: {match.note}", file=sys.stderr)
        card = match.card
        size = vram_bytes if vram_bytes is not None else card.memory_bytes
        gpu = LocalGpu(0, card.name, "", size, size, "", card.compute_capability)
        return replace(there, gpus=(gpu,)), rates.of_card(card)
    if here.gpu is None and vram_bytes is not None:
        return replace(there, gpus=(LocalGpu(0, "some GPU", "", vram_bytes, vram_bytes, "", (8, 9)),)), None
    if here.gpu is None:  # a CPU's rates, measured at a large model's shapes, tell nothing of the demo model
        return there, None
    return there, rates.known(here)
