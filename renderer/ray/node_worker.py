"""The actor on a machine of the cluster: it holds a worker's process, and passes on what is said.

What kills the worker leaves the actor, which tells of it; and with the actor goes the worker. It sees to what only that
machine knows: which device is the worker's, how much memory is free, where models lie. Knows no Ray but the machine's
share of it.
"""

from __future__ import annotations

import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from renderer import catalog, protocol
from renderer.errors import PictureError, RendererError
from renderer.job import ExtraNetwork
from renderer.machine import devices, hardware
from renderer.planning import placement
from renderer.protocol import AnyOrder, Failed, Open, OpenFailed, Opening, Previewed, Render, Setup, Started, Stepped
from renderer.ray import arrival, carried, connecting, node_memory
from renderer.supervisor import provision
from renderer.supervisor.inbox import Inbox
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.settings import Terms
from renderer.supervisor.worker import Gone, Heard
from renderer.system import folders
from renderer.text import gb
from renderer.weights.needs import Need, Progress
from renderer.weights.places import packed_folder

if TYPE_CHECKING:
    from renderer.ray.arrival import Introduction
    from renderer.ray.carried import CarriedLora

MOST_BYTES_AT_ONCE = 2**26
"""Of pictures that are told together, before the next ones."""

_MOST_PRINTED_BYTES = 2**20
_TELL_EVERY_S = 1.0
_ALIVE_EVERY_S = 5.0

ENDS_TOO_WITHIN_S = 1.0
"""Ray ends what an actor has started before the actor: a worker that was killed is told of only by one that stays."""

_GATHERING_S = 0.2
"""So long what only tells how far a picture is waits for more of it: each answer costs both ends some milliseconds."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a worker has said since it was asked last: events with their payloads, what it printed, and its end.

    `is_urgent` says that something is to follow from it.
    """

    events: Sequence[tuple[bytes, bytes]] = ()
    printed: bytes = b""
    gone: Gone | None = None
    is_urgent: bool = False

    def and_then(self, more: Words) -> Words:
        """These, and those that came later."""
        urgent = self.is_urgent or more.is_urgent
        return Words((*self.events, *more.events), self.printed + more.printed, more.gone, urgent)


@dataclass(frozen=True, slots=True)
class Posting:
    """What an actor is told by who begins it.

    `threads` is OMP_NUM_THREADS there (None: not set), for a processor's bits may depend on it: Ray sets its own.
    `models` is the folder of models there, which the machine has too if it is shared. `vram_bytes` is what a worker may
    take of a GPU (None: all). `command` starts one.
    """

    terms: Terms = field(default_factory=Terms)
    threads: str | None = None
    models: str = ""
    vram_bytes: int | None = None
    command: tuple[str, ...] | None = None

    @classmethod
    def here(cls, terms: Terms, vram_bytes: int | None, command: tuple[str, ...] | None = None) -> Self:
        """By this process."""
        models = str(folders.models_folder().absolute())
        return cls(terms, os.environ.get("OMP_NUM_THREADS"), models, vram_bytes, command)

    def settle(self) -> None:
        """Have this process, and the workers that it starts, as it says. Changes environment variables."""
        folders.settle()
        if self.threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = self.threads
        if not os.environ.get("RENDERER_MODELS") and not os.environ.get("DIFFSYNTH_MODEL_BASE_PATH"):
            shared = Path(self.models)
            os.environ["RENDERER_MODELS"] = str(shared if shared.is_dir() else folders.cache_folder() / "models")


Share = Callable[[Setup], Setup]
"""What a worker opens, with its part of a machine's memory."""


def _alone(setup: Setup) -> Setup:
    return setup


class NodeWorker:
    """One worker's process on this machine. Its methods are called from several threads."""

    def __init__(self, posting: Posting) -> None:
        self._posting = posting
        self._inbox = Inbox()
        self._bell = threading.Event()
        self._orders: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
        self._log: IO[bytes] | None = None
        self._starter = ThreadPoolExecutor(1)  # a worker dies with the thread that has started it
        self._worker: LocalWorker | None = None
        self._share: Share = _alone

    def arrive(self) -> Introduction:
        """Say what this machine is, and which one of the cluster."""
        connecting.end_with_node()
        return {**arrival.tell(), "id": connecting.this_node().id}

    def start(self, share: Share) -> None:
        """Start the worker; of the machine's memory it gets its `share`.

        Raises `DiskError` where nothing can be kept on this machine.
        """
        self._share = share
        self._posting.settle()
        with tempfile.TemporaryDirectory(prefix="renderer-", ignore_cleanup_errors=True) as folder:
            log = Path(folder) / "printed.log"
            worker = self._starter.submit(LocalWorker, log, self._posting.command).result()
            self._log = log.open("rb")  # and nothing is left of it when this process ends, however it does
        self._worker = worker
        self._inbox.ring(self._bell.set)
        worker.ring(self._bell.set)
        threading.Thread(target=self._obey, args=(worker,), name="orders", daemon=True).start()

    def order(self, header: bytes, payload: bytes) -> None:
        """Take an order, as it would go through a pipe."""
        self._orders.put((header, payload))

    def has(self, extra: ExtraNetwork) -> bool:
        """Whether a LoRA or ControlNet need not be sent."""
        return carried.is_kept(extra)

    def keep(self, lora: CarriedLora) -> None:
        """Keep a LoRA that orders will name. Raises `DiskError`."""
        carried.keep(lora)

    def hear(self, timeout_s: float) -> Words:
        """What the worker says, as soon as it says something; nothing where it does not within so many seconds."""
        until = time.monotonic() + timeout_s
        found = Words()
        while True:
            self._bell.clear()  # before it is asked: what comes later rings
            found = found.and_then(self._heard())
            now = time.monotonic()
            if found.gone and found.gone.status == -signal.SIGKILL:
                time.sleep(ENDS_TOO_WITHIN_S)
            if found.is_urgent or found.gone or now >= until:
                return found
            if found.events:
                until = min(until, now + _GATHERING_S)
            self._bell.wait(until - now)

    # -- on its machine --

    def _obey(self, worker: LocalWorker) -> None:
        """Pass orders on, one after the other, as this machine's worker can take them."""
        while True:
            header, payload = self._orders.get()
            order = protocol.order_of(header)
            try:
                worker.send(self._here(order), payload)
            except RendererError as error:
                self._refuse(order, error)
            except Exception as error:  # noqa: BLE001  # whoever waits for it is told
                self._refuse(order, RendererError(f"{type(error).__name__}: {error}"))

    def _refuse(self, order: AnyOrder, error: RendererError) -> None:
        if isinstance(order, Render):
            failed = Failed(key=order.key, kind=PictureError.__name__, message=error.message, hint=error.hint)
            self._inbox.put((failed, b""))
        else:
            self._inbox.put((OpenFailed(message=error.message, hint=error.hint), b""))

    def _here(self, order: AnyOrder) -> AnyOrder:
        """An order as it is to be followed on this machine, once all is here that it takes. Raises `RendererError`."""
        match order:
            case Open(setup=setup):
                setup = self._setup_here(setup)
                self._obtain(provision.needs_of([setup], self._posting.terms))
                return Open(setup=setup)
            case Render(job=job):
                for each in job.extra_networks:
                    self._obtain(provision.needs_of_extra(each.source, self._posting.terms))
                return order.model_copy(update={"job": carried.as_kept(job)})
        return order

    def _setup_here(self, setup: Setup) -> Setup:
        """The setup by this machine's device, memory and folders. Raises `MachineError`, `ModelError`."""
        model = catalog.find(setup.model)
        machine = hardware.look()
        if setup.gpu == devices.NO_GPU:
            machine = replace(machine, gpus=(), without_gpu=True)
        bound = placement.bound_of(machine, self._posting.vram_bytes)
        choice = placement.choose_profile(model, setup.precision, machine, setup.profile, bound)
        here = setup.model_copy(
            update={
                "gpu": machine.visible if machine.visible is not None else os.environ.get("CUDA_VISIBLE_DEVICES"),
                "store": setup.store and str(packed_folder(model, setup.stored).absolute()),
                "ram_bytes": node_memory.free_bytes(machine),
                "vram_bytes": choice.vram_bytes,
                "host_copy": None,  # the supervisor's machine has that one
            }
        )
        return self._share(here)

    def _obtain(self, wanted: Sequence[Need]) -> None:
        """Have models on this machine: its first worker fetches and packs them, and the others wait for that."""
        told_s = time.monotonic()

        def say(what: str, every_s: float) -> None:
            nonlocal told_s
            if time.monotonic() - told_s > every_s:
                told_s = time.monotonic()
                self._inbox.put((Opening(what=what), b""))

        def tell(need: Need, what: provision.SupplyEvent | None) -> None:
            if isinstance(what, Progress):
                say(f"{need.model}: {what.what} {gb(what.done_bytes)} of {gb(what.total_bytes)}", _TELL_EVERY_S)

        def stopped() -> bool:
            say("the model, which another worker may be fetching", _ALIVE_EVERY_S)
            return False

        provision.obtain(wanted, self._posting.terms, tell, stopped)

    # -- what it says --

    def _heard(self) -> Words:
        events: list[tuple[bytes, bytes]] = []
        total = 0
        urgent = False
        while total < MOST_BYTES_AT_ONCE and (heard := self._next()) is not None:
            event, payload = heard
            if isinstance(event, Gone):
                return Words(tuple(events), self._printed(), event)
            urgent = urgent or not isinstance(event, Opening | Started | Stepped | Previewed)
            events.append((protocol.header_of(event), payload))
            total += len(payload)
        return Words(tuple(events), self._printed(), None, urgent)

    def _next(self) -> Heard | None:
        return self._inbox.hear(0.0) or (self._worker.hear(0.0) if self._worker is not None else None)

    def _printed(self) -> bytes:
        """What the worker has printed since."""
        return self._log.read(_MOST_PRINTED_BYTES) if self._log is not None else b""
