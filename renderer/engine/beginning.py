"""What of a streaming engine needs no DiffSynth: a store is found, and its blocks come while that is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from renderer.engine import device as placement
from renderer.engine import failures, libraries, shared_blocks, slots, stores
from renderer.engine.block_source import BlockSource
from renderer.engine.device import Device
from renderer.engine.starting import Starting
from renderer.protocol import HostCopy, Setup
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
        return of(stores.find(setup, report), device, starting, setup.ram_bytes, setup.host_copy)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is explained
        failure = failures.explain_opening(error)
    raise failure


def of(
    store: Store,
    device: Device,
    starting: Starting | None = None,
    ram_bytes: int | None = None,
    shared: HostCopy | None = None,
) -> Beginning:
    """The same with a store at hand; the blocks may take `ram_bytes` of host memory (None: all that is free).

    Where other workers have the same blocks, all have the copy that is `shared`.
    """
    sections = store.family.network("transformer").sections
    files = [file for section in sections for file in store.section(section.name)]
    threads = slots.FILLING_THREADS if libraries.are_there() else slots.FEWER_THREADS
    there = shared_blocks.open_for(files, shared) if shared is not None else None
    source = slots.source_for(files, device, threads, ram_bytes, there)
    return Beginning(device, store, source, starting or Starting())
