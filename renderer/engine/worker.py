"""A worker process: `python -m renderer.engine.worker --events FD`.

It owns one device. Orders come in on stdin, events go out on the file descriptor FD, the log goes to stderr; whatever
prints, prints to stderr, so that nothing but frames is ever on a pipe. When stdin ends, the supervisor is gone, and
the process ends at once, also in the middle of a picture. Knows the engine and the events; nothing of files or runs.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from renderer.errors import DeviceLostError, MachineError, PictureError, RendererError
from renderer.events import (
    AnyEvent,
    AnyOrder,
    Failed,
    Open,
    Opened,
    OpenFailed,
    Opening,
    Render,
    Rendered,
    Setup,
    Started,
    Stepped,
    read_order,
    write_frame,
)
from renderer.job import Engine

if TYPE_CHECKING:
    from renderer.engine.native import NativeEngine

LOG = logging.getLogger("renderer.engine.worker")

EXIT_ENDED = 0
EXIT_BROKEN = 70
"""The process is beyond use: a lost GPU, or a defect of our own. The supervisor starts another."""


def main() -> None:
    """Take orders until stdin ends."""
    arguments = argparse.ArgumentParser(prog="python -m renderer.engine.worker", description=__doc__)
    arguments.add_argument("--events", type=int, required=True, metavar="FD", help="where events are written")
    descriptor = arguments.parse_args().events
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor; it says what becomes of the picture
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    orders: queue.SimpleQueue[AnyOrder] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, orders), name="orders", daemon=True).start()
    with os.fdopen(descriptor, "wb") as events:
        worker = Worker(events)
        try:
            while True:
                worker.obey(orders.get())
        except BrokenPipeError:
            _end(EXIT_ENDED)
        except Exception:
            LOG.exception("the worker gives up")
            _end(EXIT_BROKEN)


class Worker:
    """Answers orders with events."""

    def __init__(self, events: BinaryIO) -> None:
        self._events = events
        self._engine: NativeEngine | None = None
        self._load_s = 0.0

    def obey(self, order: AnyOrder) -> None:
        """Answer one order. Raises whatever leaves this process beyond use, after the answer is out."""
        match order:
            case Open(setup=setup):
                self._open(setup)
            case Render():
                self._render(order)

    def _open(self, setup: Setup) -> None:
        began_s = time.perf_counter()
        self._tell(Opening(what="DiffSynth"))
        self._engine = None  # its memory is the next one's
        try:
            self._engine = engine = self._opened(setup)
        except RendererError as error:
            LOG.error("%s", _detail(error))  # noqa: TRY400  # its own traceback says less than its note
            self._tell(OpenFailed(message=error.message, hint=error.hint))
            return
        from renderer.engine import facts  # noqa: PLC0415  # torch, after the first sign of life

        self._load_s = time.perf_counter() - began_s
        self._tell(
            Opened(
                capacity=engine.capacity,
                load_s=self._load_s,
                engine=Engine(name=engine.name, profile=setup.profile, device=engine.device),
                software=facts.software(engine.device),
                gpu=facts.gpu(engine.device),
            )
        )

    def _opened(self, setup: Setup) -> NativeEngine:
        """The open engine. Raises `MachineError` also where the libraries under it cannot be imported."""
        try:
            from renderer.engine.native import NativeEngine  # noqa: PLC0415  # torch, after the first sign of life
        except (ImportError, OSError, RuntimeError) as error:
            message = f"DiffSynth cannot be imported: {type(error).__name__}: {error}"
            raise MachineError(message, hint="`renderer doctor` says what is wrong here") from error
        return NativeEngine.open(setup, lambda what: self._tell(Opening(what=what)))

    def _render(self, order: Render) -> None:
        key = order.key
        self._tell(Started(key=key))
        try:
            if self._engine is None:
                raise PictureError("there is no open pipeline")  # noqa: TRY301  # a failure like any other
            found = self._engine.render(
                order.job, lambda step, steps: self._tell(Stepped(key=key, step=step, steps=steps))
            )
        except RendererError as error:
            LOG.warning("%s failed: %s", key, error.message)
            self._fail(key, error)
            return
        except BrokenPipeError:
            raise
        except Exception as error:
            self._fail(key, error)
            raise
        rendered = Rendered(
            key=key,
            width=found.width,
            height=found.height,
            timing=found.timing.model_copy(update={"load_s": self._load_s}),
            memory=found.memory,
            warnings=found.warnings,
        )
        self._tell(rendered, found.rgb)

    def _fail(self, key: str, error: Exception) -> None:
        """Say why; then end, if this process can do no better next time."""
        message, hint = (error.message, error.hint) if isinstance(error, RendererError) else (str(error), "")
        self._tell(Failed(key=key, kind=type(error).__name__, message=message, hint=hint, detail=_detail(error)))
        if isinstance(error, DeviceLostError):
            LOG.error("the device is lost; another process must go on")
            _end(EXIT_BROKEN)

    def _tell(self, event: AnyEvent, payload: bytes = b"") -> None:
        write_frame(self._events, event, payload)


def _listen(stream: BinaryIO, orders: queue.SimpleQueue[AnyOrder]) -> None:
    """Queue what comes in. At the end of the stream the supervisor is gone, and this process ends."""
    try:
        while True:
            orders.put(read_order(stream))
    except EOFError:
        _end(EXIT_ENDED)
    except Exception:
        LOG.exception("not an order")
        _end(EXIT_BROKEN)


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
