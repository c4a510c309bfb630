"""How a capture that fails is left: pools, the generator and the graph put right, in their order."""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import Any

import pytest
import torch

from renderer.engine.recorded import CudaRecorder

WIDTH, HALF_HEAD = 8, 2


class Graph:
    """Stands for a CUDA graph: says what is asked of it, and fails where it is told to."""

    def __init__(self, said: list[str], fails: str) -> None:
        self._said, self._fails = said, fails

    def capture_begin(self, *, pool: Any, capture_error_mode: str) -> None:
        assert (pool, capture_error_mode) == ((0, 1), "thread_local")
        self._say("begin")

    def capture_end(self) -> None:
        self._say("end")

    def replay(self) -> None:
        self._say("replay")

    def reset(self) -> None:
        self._say("reset")

    def _say(self, what: str) -> None:
        self._said.append(what)
        if what in self._fails.split():
            raise RuntimeError(f"{what} failed")


class Dice:
    """torch's random generator of a GPU: it draws, unless its state is in a capture that never ended."""

    def __init__(self, state: str) -> None:
        self.state = state

    def clone_state(self) -> Dice:
        return Dice(f"a copy of {self.state}")

    def graphsafe_set_state(self, other: Dice) -> None:
        self.state = other.state


class Capturing:
    """A recorder, and what it asks of CUDA and torch's allocator."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: str = "") -> None:
        self.said: list[str] = []
        self.graphs: list[weakref.ref[Graph]] = []
        patch.setattr(torch.cuda, "CUDAGraph", lambda: self._graph(fails))
        patch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        self.dice = Dice("seed 5")
        patch.setattr(torch.cuda, "default_generators", (self.dice,))
        for call in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            patch.setattr(torch.cuda.memory, call, lambda *_, call=call: self._say(call, fails))
        self.recorder = CudaRecorder()
        self.recorder._stream = object()

    def _graph(self, fails: str) -> Graph:
        found = Graph(self.said, fails)
        self.graphs.append(weakref.ref(found))
        return found

    def _say(self, call: str, fails: str) -> None:
        self.said.append(call)
        if "recording" in fails:
            raise RuntimeError("not currently recording to mempool_id")


PUT_RIGHT = ["reset", "_cuda_endAllocateToPool", "_cuda_releasePool"]


class TestCapturing:
    def test_a_whole_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is collected while launches are recorded, and after it as before."""
        capturing, collecting = Capturing(monkeypatch), []
        play = capturing.recorder.record(lambda: collecting.append(gc.isenabled()), (0, 1))
        play()
        assert capturing.said == ["begin", "end", "replay"]
        assert collecting == [False]
        assert gc.isenabled()

    @pytest.mark.parametrize(
        ("fails", "said"),
        [
            ("begin", ["begin", *PUT_RIGHT]),
            ("end", ["begin", "end", *PUT_RIGHT]),
            ("launch end", ["begin", "end", *PUT_RIGHT]),  # as after a synchronisation within: CUDA ends nothing
            ("launch", ["begin", "end"]),
            ("end recording", ["begin", "end", *PUT_RIGHT[:2]]),  # torch had done it: not twice
            ("end reset", ["begin", "end", *PUT_RIGHT]),
        ],
    )
    def test_neither_allocator_nor_generator_stays_in_it(
        self, monkeypatch: pytest.MonkeyPatch, fails: str, said: list[str]
    ) -> None:
        """Whatever fails, the pool is ended, once, the generator has a state that draws, and the first error is heard.

        torch 2.15 ends the pool when the graph is reset: were it ended before that, it would fail as the graph dies.
        """
        first = fails.split(maxsplit=1)[0]

        def launch() -> None:
            if first == "launch":
                raise RuntimeError("launch failed")

        capturing = Capturing(monkeypatch, fails)
        with pytest.raises(RuntimeError, match=f"{first} failed"):
            capturing.recorder.record(launch, (0, 1))
        assert capturing.said == said
        assert gc.isenabled()
        gc.collect()
        (graph,) = capturing.graphs
        left_open = "reset" in said
        assert (graph() is not None) == left_open  # the host's allocator may still ask it
        assert capturing.dice.state == ("a copy of seed 5" if left_open else "seed 5")
