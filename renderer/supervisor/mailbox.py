"""What is asked of a night from other terminals: to pause, go on, stop, and take in manifests. Heard on a thread.

Where that cannot be, the night goes on without, and says so. Knows nothing of pictures.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

from renderer.errors import DiskError, LockedError
from renderer.manifest.manifest import Overrides
from renderer.outputs import nights
from renderer.outputs.nights import NightAnswer, NightFile, NightFolder, Wish
from renderer.supervisor import events
from renderer.supervisor.events import Watch
from renderer.supervisor.joining import AddedManifest
from renderer.supervisor.settings import Pause, StopRequests

_LOOK_S = 0.2
_TRIES = 3


class Mailbox:
    """One night's. As a context, it is there for others as long as that lasts."""

    def __init__(
        self,
        outputs: Path,
        names: Iterable[str],
        stop: StopRequests,
        pause: Pause,
        watch: Watch,
        add: Callable[[AddedManifest], None],
    ) -> None:
        """`names` are its manifests'; `add` hears of those that are to join."""
        self._outputs = outputs
        self._add = add
        self._stop = stop
        self._pause = pause
        self._watch = watch
        self._folder = NightFolder.of_process(outputs, os.getpid())
        self._night = NightFile(
            pid=os.getpid(), machine=nights.this_machine(), began_at=datetime.now(UTC), names=tuple(names)
        )
        self._ends = threading.Event()
        self._changing = threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="mailbox", daemon=True)
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        nights.sweep(self._outputs)
        for left in reversed(range(_TRIES)):
            try:
                self._held.enter_context(self._folder.opened())
                self._folder.post(self._night)
            except (DiskError, LockedError) as error:  # another night that ends takes the folder of all away
                self._held.close()
                if not left:
                    self._watch(events.Remark(f"other terminals cannot pause or stop this run: {error.message}"))
            else:
                self._thread.start()
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join()
        self._held.close()

    def _listen(self) -> None:
        while not self._ends.wait(_LOOK_S):
            for mark, wish in self._folder.wishes():
                if wish.what == "add":
                    self._add(_addition(wish, partial(self._folder.answer, mark)))
                else:
                    self._folder.answer(mark, self._fulfil(wish))

    def joined_by(self, name: str) -> None:
        """The night renders one manifest more."""
        if name not in self._night.names:
            self._change(names=(*self._night.names, name))

    def _change(self, **changes: object) -> None:
        with self._changing, contextlib.suppress(DiskError):
            self._night = self._night.model_copy(update=changes)
            if self._thread.is_alive():
                self._folder.post(self._night)

    def _fulfil(self, wish: Wish) -> NightAnswer:
        match wish.what:
            case "pause" | "resume":
                return self._pauses(paused=wish.what == "pause")
            case "stop":
                self._stop.request()
                return NightAnswer(text="it stops: what is in flight may finish; stop it once more to end at once")
            case "add":
                raise AssertionError(wish)

    def _pauses(self, *, paused: bool) -> NightAnswer:
        before, self._pause.is_on = self._pause.is_on, paused
        if before == paused:
            return NightAnswer(text="it is paused already" if paused else "it is not paused")
        self._change(paused=paused)
        if paused:
            return NightAnswer(text=f"it pauses: what is in flight finishes; {self._pause.told}")
        return NightAnswer(text="it goes on")


def _addition(wish: Wish, answer: Callable[[NightAnswer], None]) -> AddedManifest:
    defaults = Path(wish.defaults) if wish.defaults is not None else None
    overrides = Overrides(wish.model, wish.precision, proof=wish.proof, defaults=defaults, fields=wish.fields)
    return AddedManifest(Path(wish.manifest), overrides, wish.only, wish.priority, answer)
