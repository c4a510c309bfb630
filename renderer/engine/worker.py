"""A worker process: `python -m renderer.engine.worker --events FD`.

It owns one device. Orders come in on stdin, events go out on the file descriptor FD, the log goes to stderr; whatever
prints, prints to stderr, so that nothing but frames is ever on a pipe. When stdin ends, the supervisor is gone, and
the process ends at once, also in the middle of a picture. Knows the engine and the events; nothing of files or runs.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from renderer.errors import DeviceLostError, MachineError, PictureError, RendererError
from renderer.job import Engine, Sharing
from renderer.machine import processor
from renderer.protocol import (
    AnyEvent,
    AnyOrder,
    Failed,
    Open,
    Opened,
    OpenFailed,
    Opening,
    Previewed,
    Render,
    Rendered,
    Setup,
    Started,
    Stepped,
    Withdraw,
    Withdrawn,
    read_order,
    write_frame,
)
from renderer.system import children, streams

if TYPE_CHECKING:
    from renderer.engine.calling import Rendering
    from renderer.engine.engines import RenderEngine
    from renderer.engine.inputs import Inputs
    from renderer.engine.previews import Preview

OrderIn = tuple[AnyOrder, "Inputs | PictureError"]
"""An order, and what goes in with it or why that cannot be had."""

_NOTHING: Inputs = MappingProxyType({})

LOG = logging.getLogger("renderer.engine.worker")

EXIT_ENDED = 0
EXIT_BROKEN = 70
"""The process is beyond use: a lost GPU, or a defect of our own. The supervisor starts another."""


GATHERING_S = 0.1
"""How long the next order is waited for, after one that ends idleness: more than writing it down takes."""


def main() -> None:
    """Take orders until stdin ends."""
    arguments = argparse.ArgumentParser(prog="python -m renderer.engine.worker", description=__doc__)
    arguments.add_argument("--events", type=int, required=True, metavar="FD", help="where events are written")
    arguments.add_argument(children.PARENT_OPTION, type=int, metavar="PID", help="the process to die with")
    options = arguments.parse_args()
    children.belong_to(options.parent)  # the supervisor says what becomes of the pictures
    descriptor = options.events
    processor.let_waiting_threads_sleep()
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # sizes differ: no holes between them
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    streams.settle()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    orders: queue.SimpleQueue[OrderIn] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, orders), name="orders", daemon=True).start()
    with os.fdopen(descriptor, "wb") as events:
        worker = WorkerLoop(events)
        try:
            while True:
                worker.obey_all(orders)
                worker.advance()
        except BrokenPipeError:
            _end(EXIT_ENDED)
        except Exception:
            LOG.exception("the worker gives up")
            _end(EXIT_BROKEN)


class WorkerLoop:
    """Answers orders with events."""

    def __init__(self, events: BinaryIO) -> None:
        self._events = events
        self._engine: RenderEngine | None = None
        self._load_s = 0.0

    @property
    def busy(self) -> bool:
        """Whether the engine has anything to go on with."""
        return self._engine is not None and self._engine.busy

    def obey_all(self, orders: queue.SimpleQueue[OrderIn]) -> None:
        """Answer the orders that are there; wait for some as long as there is nothing to go on with.

        Whoever had nothing to do waits a moment for the next, too, where jobs are taken together: the supervisor
        writes each down before it sends it, and the first is not to be prepared and to set out alone.
        """
        gathering = not self.busy
        while not (self.busy and orders.empty()):
            self.obey(*orders.get())
        while gathering and self._engine is not None and self._engine.capacity > 1:
            try:
                self.obey(*orders.get(timeout=GATHERING_S))
            except queue.Empty:
                return

    def obey(self, order: AnyOrder, given: Inputs | PictureError = _NOTHING) -> None:
        """Answer an order to open at once; a job is taken with what goes in, and answered as it goes on."""
        match order:
            case Open(setup=setup):
                self._open(setup)
            case Render(key=key, job=job, previews=previews):
                if self._engine is None:
                    self.failed(key, PictureError("there is no open pipeline"))
                elif isinstance(given, PictureError):
                    self.failed(key, given)
                else:
                    self._engine.take(key, job, given, previews)
            case Withdraw():
                self._tell(Withdrawn(keys=self._engine.give_back() if self._engine else ()))

    def advance(self) -> None:
        """Let the engine go on for a while. Raises whatever leaves this process beyond use.

        A model that turns out to be damaged is one that does not open: it is closed, with all that it was given.
        """
        if self._engine is None:
            return
        try:
            self._engine.advance(self)
        except MachineError as error:
            self._engine = None
            self._cannot(error)

    def _open(self, setup: Setup) -> None:
        began_s = time.perf_counter()
        self._tell(Opening(what="DiffSynth"))
        if self._engine is not None:
            self._engine = None
            gc.collect()  # it refers to itself, and its memory is the next one's
        if setup.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = setup.gpu  # before torch is imported: it asks but once
        try:
            self._engine = engine = self._opened(setup)
        except RendererError as error:
            self._cannot(error)
            return
        from renderer.engine import device, facts  # noqa: PLC0415  # torch, after the first sign of life

        self._load_s = time.perf_counter() - began_s
        self._tell(
            Opened(
                capacity=engine.capacity,
                load_s=self._load_s,
                engine=Engine(
                    name=engine.name,
                    profile=setup.profile,
                    device=engine.device,
                    arithmetic=device.arithmetic_of(engine.device),
                    formats=dict(engine.formats),
                ),
                software=facts.software(engine.device),
                gpu=facts.gpu(engine.device),
                notes=_notes(),
            )
        )

    def _cannot(self, error: RendererError) -> None:
        """Say that no picture can be rendered with this model here, and why."""
        LOG.error("%s", _detail(error))  # its own traceback says less than its note
        self._tell(OpenFailed(message=error.message, hint=error.hint))

    def _opened(self, setup: Setup) -> RenderEngine:
        """The open engine. Raises `MachineError` also where the libraries under it cannot be imported."""
        if setup.profile == "stream":
            return self._streaming(setup)
        with _importing():
            from renderer.engine.native import NativeEngine  # noqa: PLC0415  # torch, after the first sign of life
        return NativeEngine.open(setup, self._opening)

    def _streaming(self, setup: Setup) -> RenderEngine:
        """The engine that streams: its blocks come from the moment that torch is there, beside all other imports."""
        began_s = time.perf_counter()
        with _importing():
            from renderer.engine import beginning  # noqa: PLC0415  # as above
        begun = beginning.begin(setup, self._opening, time.perf_counter() - began_s)
        with _importing():
            from renderer.engine import libraries  # noqa: PLC0415

            libraries.load()
            from renderer.engine.streaming import StreamingEngine  # noqa: PLC0415
        begun.starting.lap("imports")
        return StreamingEngine.open(setup, self._opening, begun)

    def _opening(self, what: str) -> None:
        self._tell(Opening(what=what))

    # -- what the engine tells --

    def started(self, key: str) -> None:
        self._tell(Started(key=key))

    def stepped(self, key: str, step: int, steps: int) -> None:
        self._tell(Stepped(key=key, step=step, steps=steps))

    def previewed(self, key: str, preview: Preview) -> None:
        event = Previewed(key=key, step=preview.step, width=preview.width, height=preview.height)
        self._tell(event, preview.rgb)

    def rendered(self, key: str, rendering: Rendering) -> None:
        event = Rendered(
            key=key,
            width=rendering.width,
            height=rendering.height,
            layers=len(rendering.layers),
            timing=rendering.timing.model_copy(update={"load_s": self._load_s}),
            memory=rendering.memory,
            sharing=_told(rendering.sharing),
            warnings=rendering.warnings,
        )
        self._tell(event, b"".join((rendering.rgb, *rendering.layers)) if rendering.layers else rendering.rgb)

    def failed(self, key: str, error: RendererError) -> None:
        """Say why; then end, if this process can do no better next time."""
        detail = _detail(error)
        LOG.warning("%s failed: %s\n%s", key, error.message, detail)
        self._tell(Failed(key=key, kind=type(error).__name__, message=error.message, hint=error.hint, detail=detail))
        if isinstance(error, DeviceLostError):
            LOG.error("the device is lost; another process must go on")
            _end(EXIT_BROKEN)

    def _tell(self, event: AnyEvent, payload: bytes = b"") -> None:
        write_frame(self._events, event, payload)


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """What libraries raise while they are imported is the machine's."""
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        message = f"DiffSynth cannot be imported: {type(error).__name__}: {error}"
        raise MachineError(message, hint="`renderer doctor` says what is wrong here") from error


def _listen(stream: BinaryIO, orders: queue.SimpleQueue[OrderIn]) -> None:
    """Queue what comes in, with pictures decoded. At the end the supervisor is gone, and this process ends."""
    try:
        while True:
            order, payload = read_order(stream)
            orders.put((order, _unpacked(order, payload)))
    except EOFError:
        _end(EXIT_ENDED)
    except Exception:
        LOG.exception("not an order")
        _end(EXIT_BROKEN)


def _unpacked(order: AnyOrder, payload: bytes) -> Inputs | PictureError:
    """What goes in with an order, or why that cannot be had: whatever it is, it is that picture's failure alone."""
    if not isinstance(order, Render) or not order.files:
        return _NOTHING
    if len(payload) != sum(order.files):
        return PictureError("there is no memory left for what goes in", hint="export the pictures smaller")
    from renderer.engine import inputs  # noqa: PLC0415  # most jobs have none

    try:
        return inputs.unpack(order, payload)
    except PictureError as error:
        return error
    except Exception as error:  # what others hold in this process is not to go with it
        LOG.warning("what goes into %s cannot be opened", order.key, exc_info=True)
        return PictureError(f"what goes in cannot be opened: {type(error).__name__}: {error}".rstrip(": "))


def _notes() -> tuple[str, ...]:
    """What is not as it should be in this process, and takes nothing from a picture but time."""
    from renderer.engine import arithmetic, pinned  # noqa: PLC0415  # torch, after the first sign of life

    return tuple(filter(None, (pinned.unpinned(), arithmetic.refused())))


def _told(sharing: Sharing | None) -> Sharing | None:
    """How a picture shared the machine, with this process's notes."""
    return sharing and sharing.model_copy(update={"adjustments": (*sharing.adjustments, *_notes())})


def _detail(error: Exception) -> str:
    """The end of the traceback, for the log: an explained error carries that of what it explains as a note."""
    notes: list[str] = getattr(error, "__notes__", [])
    return "\n".join(notes) or "".join(traceback.format_exception(error))[-4000:]


def _end(code: int) -> NoReturn:
    """End here and now: not even a thread in the middle of a kernel is waited for."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    main()
