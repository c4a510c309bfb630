"""What of a streaming engine needs no DiffSynth: a store is found, and its blocks come while that is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from renderer.engine import device as placement
from renderer.engine import failures, libraries, slots, stores
from renderer.engine.block_source import BlockSource
from renderer.engine.device import Device
from renderer.engine.starting import Starting
from renderer.protocol import Setup
from renderer.weights.store import Store


@dataclass(frozen=True, slots=True)
class Beginning:
    """A store, and the blocks of it that pictures ride, on their way into host memory where there is room for them."""

    device: Device
    store: Store
    source: BlockSource
    starting: Starting


def begin(setup: Setup, report: Callable[[str], None], imports_s: float = 0.0) -> Beginning:
    """Find the setup's packed store, and have its blocks come. Raises `MachineError`, `ModelError`.

    `imports_s` are the seconds that what this needs took to be imported.
    """
    starting, failure = Starting(imports_s), None
    try:
        device = placement.choose_device(setup.profile)
        return of(stores.find(setup, report), device, starting, setup.ram_bytes)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
        failure = failures.explain_opening(error)
    raise failure


def of(store: Store, device: Device, starting: Starting | None = None, ram_bytes: int | None = None) -> Beginning:
    """The same with a store at hand; the blocks may take `ram_bytes` of host memory (None: all that is free)."""
    sections = store.family.network("transformer").sections
    files = [file for section in sections for file in store.section(section.name)]
    threads = slots.FILLING_THREADS if libraries.are_there() else slots.FEWER_THREADS
    source = slots.source_for(files, device, threads, ram_bytes)
    return Beginning(device, store, source, starting or Starting())
