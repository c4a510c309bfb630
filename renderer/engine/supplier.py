"""The supplier's process: `python -m renderer.engine.supplier`. It fetches a model and packs it, and can be stopped.

A need comes in on stdin as one line of JSON; the bill goes out on stdout, then it waits for a second line: whoever
asked has read the bill and wants it. Progress follows, and at last `Supplied` or `Refused`. When stdin ends, whoever
asked is gone, and so is this process. Whatever prints, prints to stderr. Knows the hubs' clients and torch, so that
nobody above has to.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from typing import IO

from renderer import catalog
from renderer.errors import RendererError
from renderer.system import children, streams
from renderer.weights import prepare, pull
from renderer.weights.needs import Bill, Need, Progress, Refused, Supplied
from renderer.weights.verify import verify

LOG = logging.getLogger("renderer.engine.supplier")

_TELL_EVERY_S = 0.2


def main() -> None:
    """Answer one need."""
    arguments = argparse.ArgumentParser(prog="python -m renderer.engine.supplier", description=__doc__)
    arguments.add_argument(children.PARENT_OPTION, type=int, metavar="PID", help="the process to die with")
    children.belong_to(arguments.parse_args().parent)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    streams.settle()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    supplier = _Supplier(answers)
    try:
        supplier.supply(Need.model_validate_json(sys.stdin.buffer.readline()))
    except RendererError as error:
        supplier.tell(Refused(error=type(error).__name__, message=error.message, hint=error.hint))
    except BrokenPipeError:
        pass
    except Exception as error:
        LOG.exception("the supplier gives up")
        supplier.tell(Refused(error="ModelError", message=f"{type(error).__name__}: {error}"))
    sys.stderr.flush()
    os._exit(0)  # a client's threads may still be waiting for a network


class _Supplier:
    """Answers a need, line by line."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers
        self._told_at = 0.0

    def supply(self, need: Need) -> None:
        model = catalog.find(need.model)
        if need.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = need.gpu  # before torch is imported: it asks but once
        if need.verify:
            self.tell(Supplied(note=verify(model, self._report)))
            return
        order = pull.sources(need.source)
        bill, offers = prepare.price(model, need.store, order)
        self.tell(bill)
        if not sys.stdin.buffer.readline():
            return
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        ready = prepare.prepare(
            model,
            store=need.store,
            offline=need.offline,
            order=order,
            discard_source=need.discard_source,
            report=self._report,
            offers=offers,
        )
        self.tell(Supplied(note=ready.note))

    def tell(self, answer: Bill | Progress | Supplied | Refused) -> None:
        self._answers.write(answer.model_dump_json() + "\n")
        self._answers.flush()

    def _report(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._told_at > _TELL_EVERY_S:
            self._told_at = now
            self.tell(Progress(what=what, done_bytes=done, total_bytes=total))


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
