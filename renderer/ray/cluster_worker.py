"""The supervisor's end of a worker on another machine: orders go out, and what it says is fetched, each on a thread.

A machine that vanishes, a network that breaks and an actor that is ended are all the same here: `Gone`, and nothing
that the worker held is to blame. What its process dies of, its actor tells.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from renderer import protocol
from renderer.errors import MachineError, PictureError, RendererError
from renderer.protocol import AnyEvent, AnyOrder, Failed, Opened, OpenFailed, Opening, Render
from renderer.ray import arrival, carried, connecting, node_memory
from renderer.ray.node_worker import Words
from renderer.supervisor.correspondence import Correspondence
from renderer.supervisor.worker import Gone, Heard

SIGN_OF_LIFE_S = 5.0
"""An actor that has nothing to tell says so as often."""

LOST_AFTER_S = 60.0
"""One that does not even do that is out of reach."""

ARRIVED_WITHIN_S = 180.0
"""So long one that has its place may take to say who it is: it imports, perhaps from a slow disk."""

_WAITING_S = 2.0
_ASK_EVERY = 5
"""Waits, of which the last has the cluster asked whether there is a place by now."""

_MOST_PAUSE_S = 60.0


class Hirer(Protocol):
    """What a worker asks of who hires it, on any thread. Machines are named by their ids in the cluster."""

    def begin(self) -> Any:
        """Begin an actor somewhere, and have it at once; it is there when it answers."""

    def memory_of(self, node_id: str) -> Any:
        """The actor that owns what workers share on a machine; None where there is but one."""

    def refuse(self, node_id: str) -> bool:
        """Begin no actor on a machine any more; whether there is another."""

    def check(self) -> None:
        """Raise `ClusterLostError` where the cluster's head is gone for good."""


class _ElsewhereError(Exception):
    """The worker is to be on another machine."""


class Backoff:
    """How long a fleet waits before one more is begun: longer with each in a row that vanished before it was there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_a_row = 0

    @property
    def seconds(self) -> float:
        return min(_MOST_PAUSE_S, 0.5 * 2.0 ** min(self._in_a_row, 10)) if self._in_a_row else 0.0

    def comes(self, *, well: bool) -> None:
        """One is there, or has vanished before it was."""
        with self._lock:
            self._in_a_row = 0 if well else self._in_a_row + 1


class ClusterWorker(Correspondence):
    """A worker on some machine of the cluster."""

    pid = None

    def __init__(self, log: Path, hirer: Hirer, pause: Backoff) -> None:
        """What it prints goes to the end of `log`; raises `DiskError` when that cannot be written."""
        super().__init__(log)
        self._hirer = hirer
        self._name = uuid4().hex
        self._memory: Any = None
        self._carried: set[tuple[str, str]] = set()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._actor: Any = None
        self._node = self._place = ""
        self._pause = pause
        self._ray = connecting.library()
        self._attending = threading.Thread(target=self._attend, name="events", daemon=True)
        self._attending.start()

    def hear(self, timeout_s: float) -> Heard | None:
        """The next event. Raises `ClusterLostError` where the cluster's head is gone for good."""
        self._hirer.check()
        return super().hear(timeout_s)

    def end(self) -> None:
        self.kill()

    def kill(self) -> None:
        self._over.set()
        self._no_more_orders()
        with self._lock:
            actor, self._actor = self._actor, None
            memory, self._memory = self._memory, None
        if actor is not None:
            threading.Thread(target=self._let_go, args=(actor, memory), name="letting go", daemon=True).start()

    def _let_go(self, actor: Any, memory: Any) -> None:
        """End the actor; Ray waits with that for the cluster's head, which may be gone."""
        with contextlib.suppress(Exception):  # and then so is the worker
            self._ray.kill(actor)
            if memory is not None:
                memory.left.remote(self._name)

    @property
    def is_attended(self) -> bool:
        """Whether it is still listened to."""
        return self._attending.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Wait until it is not listened to any more, at most so long."""
        self._attending.join(timeout_s)

    # -- on its threads --

    def _attend(self) -> None:
        """See it come, and fetch what it says until it is no more."""
        try:
            actor = self._arrive()
            threading.Thread(target=self._speak, args=(actor,), name="orders", daemon=True).start()
            while not self._over.is_set():
                words: Words = self._ray.get(actor.hear.remote(SIGN_OF_LIFE_S), timeout=LOST_AFTER_S)
                self._pass_on(words)
                if words.gone is not None:
                    return
        except RendererError as error:
            self._inbox.put((OpenFailed(message=error.message, hint=error.hint), b""))
        except Exception as error:  # noqa: BLE001  # whatever it is, that worker is of no more use
            self._inbox.put((self._gone(error), b""))
        finally:
            self._log.close()

    def _arrive(self) -> Any:
        """The actor, once it is on a machine that renders as this one says.

        Raises `_ElsewhereError` where that one does not, and `MachineError` where none does.
        """
        self._over.wait(self._pause.seconds)
        actor = self._hirer.begin()
        with self._lock:
            self._actor = actor
        if self._over.is_set():  # while it was begun
            self.kill()
        try:
            there = self._answer(actor)
        except self._ray.exceptions.RayActorError as error:
            if "No module named" not in str(error) and "creation task" not in str(error):
                raise
            message = f"no worker can be started on the cluster: {connecting.reason(error)}"
            raise MachineError(message, hint="every machine has the same renderer: docs/cluster.md") from error
        self._pause.comes(well=True)
        self._check_alike(there)
        self._node = there["node"]
        self._memory = self._hirer.memory_of(there["id"])
        try:
            start = actor.start.remote(partial(node_memory.ask, self._memory, self._name))
            self._ray.get(start, timeout=LOST_AFTER_S)
        except self._ray.exceptions.RayTaskError as error:
            raise MachineError(f"{self._node} cannot start a worker: {connecting.reason(error)}") from error
        return actor

    def _check_alike(self, there: arrival.Introduction) -> None:
        try:
            arrival.check(arrival.tell(), there)
        except MachineError as error:
            if not self._hirer.refuse(there["id"]):
                raise
            raise _ElsewhereError(error.message) from error

    def _answer(self, actor: Any) -> arrival.Introduction:
        """What the actor's machine tells. A place is waited for without an end, an answer from there is not.

        Raises `TimeoutError` where none comes: the process is frozen, or what it reads from is.
        """
        coming = actor.arrive.remote()
        turn, silent_s = 0, 0.0
        while not self._ray.wait([coming], timeout=_WAITING_S)[0]:
            if self._over.is_set():
                raise MachineError("it was let go before it was there")
            turn += 1
            if not self._place and turn % _ASK_EVERY == 0:
                self._place = connecting.place_of(actor)
            silent_s += _WAITING_S if self._place else 0.0
            if silent_s > ARRIVED_WITHIN_S:
                raise TimeoutError
            on_its_way = f"it starts on {self._place}" if self._place else "it waits for a place on the cluster"
            self._inbox.put((Opening(what=f"nothing yet: {on_its_way}", placed=False), b""))
        there: arrival.Introduction = self._ray.get(coming)
        return there

    def _speak(self, actor: Any) -> None:
        """Send orders, one after the other; whoever reads slowly holds up this thread alone."""
        with contextlib.suppress(Exception):  # what has become of the actor, the other thread says
            for order, payload in self._each_order():
                self._pass(actor, order, payload)
                del order, payload

    def _pass(self, actor: Any, order: AnyOrder, payload: bytes) -> None:
        """Send an order with its LoRAs; where these cannot be sent, its picture fails."""
        try:
            self._send_loras(actor, order)
        except RendererError as error:
            assert isinstance(order, Render)
            kind = PictureError.__name__
            self._inbox.put((Failed(key=order.key, kind=kind, message=error.message, hint=error.hint), b""))
            return
        self._ray.get(actor.order.remote(protocol.header_of(order), payload))

    def _send_loras(self, actor: Any, order: AnyOrder) -> None:
        """Send the LoRAs that an order names, each once."""
        for lora in carried.own_networks(order.job) if isinstance(order, Render) else ():
            key = lora.identity, Path(lora.source).name
            if key in self._carried:
                continue
            try:
                if not self._ray.get(actor.has.remote(lora)):
                    self._ray.get(actor.keep.remote(carried.read(lora)))
            except self._ray.exceptions.RayTaskError as error:
                raise PictureError(f"{self._node} cannot keep a LoRA: {connecting.reason(error)}") from error
            self._carried.add(key)

    def _pass_on(self, words: Words) -> None:
        if words.printed:
            self._log.add(words.printed)
        for header, payload in words.events:
            self._inbox.put((self._told(protocol.event_of(header)), payload))
        if words.gone is not None:
            self._inbox.put((words.gone, b""))

    def _told(self, event: AnyEvent) -> AnyEvent:
        """An event, with the machine's name where that tells more."""
        if isinstance(event, Opened):
            return event.model_copy(update={"notes": (*event.notes, f"on {self._node}")})
        if isinstance(event, OpenFailed):
            return event.model_copy(update={"message": f"{self._node}: {event.message}"})
        return event

    def _gone(self, error: Exception) -> Gone:
        exceptions = self._ray.exceptions
        if isinstance(error, _ElsewhereError):
            return Gone(-signal.SIGKILL, vanished=str(error))
        if isinstance(error, exceptions.OutOfMemoryError):
            return Gone(-signal.SIGKILL, out_of_memory=True)
        if not self._node and not self._over.is_set():
            self._pause.comes(well=False)
        where = self._node or self._place or "its machine"
        if isinstance(error, TimeoutError):
            waited_s = LOST_AFTER_S if self._node else ARRIVED_WITHIN_S
            return Gone(-signal.SIGKILL, vanished=f"{where} has not answered for {waited_s:.0f} s")
        return Gone(-signal.SIGKILL, vanished=f"{where} left the cluster, or its actor was ended")
