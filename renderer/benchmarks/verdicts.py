"""Fits or not, under a cap: `python -m renderer.benchmarks.verdicts STORE CASE…`, a line of JSON each.

What the arithmetic admits has to render as it is, and what it refuses has to run out of memory when it is forced. All
cases of one call are under the first one's cap, each in an engine that has been emptied; one that leaves memory behind
ends the process. Whatever fails for another reason than memory is no verdict, and is told as an error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from renderer.benchmarks import bare, streamed
from renderer.benchmarks.cases import CASES, WARM, CappedCase
from renderer.benchmarks.running import LEFT_BYTES, Figures
from renderer.benchmarks.streamed import BENCH_PROMPT, MIXED, BenchListener
from renderer.catalog import MOST_TOKENS
from renderer.engine import failures
from renderer.errors import OutOfMemoryError, RendererError
from renderer.estimate import Work, decide
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.estimate.memory import TURNING_SLOTS
from renderer.job import Job
from renderer.machine import hardware
from renderer.planning import fitting, placement
from renderer.protocol import Setup
from renderer.text import GIB

VERDICT_STEPS = 2
MIXED_SHAPES = MIXED
_HOST_WORDS = ("DefaultCPUAllocator", "allocate memory", "bad_alloc", "bad allocation")
"""In messages of the host's memory running out, of which a cap says nothing."""


def main() -> None:
    """Try the cases that are named."""
    store, *names = sys.argv[1:]
    choices = [choice for choice in map(CASES.__getitem__, names) if isinstance(choice, CappedCase)]
    for row in judged(Capped(Path(store), choices[0].cap_gib * GIB), choices):
        print(json.dumps(row), flush=True)  # noqa: T201


def judged(capped: Capped, choices: Sequence[CappedCase]) -> Iterator[Figures]:
    """The cases' rows, up to the first that leaves memory behind."""
    for choice in choices:
        row = capped.judge(choice)
        yield row
        if row["left_bytes"] > LEFT_BYTES:
            return


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case: pictures that rendered, what memory was short for, and what else went wrong."""

    wanted: int
    pictures: int = 0
    short: str = ""
    error: str = ""
    slots: int | None = None
    in_flight: int = 0
    reserved_bytes: int | None = None

    @property
    def rendered(self) -> bool:
        """Whether all of it rendered unchanged."""
        return self.pictures == self.wanted and not self.short and not self.error

    def right(self, verdict: bool) -> bool | None:  # noqa: FBT001  # the verdict is what it is asked of
        """Whether a verdict was right; None where this says nothing of memory."""
        return None if self.error else self.rendered == verdict


def outcome_of(
    jobs: Sequence[Job], tell: Attempt, raised: Exception | None = None, forced: tuple[int, int] | None = None
) -> Outcome:
    """What came of an attempt at `jobs`; `forced` are the slots and the pictures in flight that it was to have."""
    sharings = [picture.sharing for picture in tell.pictures.values() if picture.sharing is not None]
    went_wrong: list[Exception] = [*tell.failures.values(), *([raised] if raised else [])]
    others = [error for error in went_wrong if not _is_short(error)]
    short = [_words(error) for error in went_wrong if _is_short(error)]
    short += [f"out of memory: now {change}" for sharing in sharings for change in sharing.adjustments]
    slots = min((sharing.slots for sharing in sharings), default=None)
    flying = max((round(sharing.mean_in_flight) for sharing in sharings), default=0)
    error = _words(others[0]) if others else ""
    if not error and not short:
        if len(tell.pictures) < len(jobs):
            error = f"{len(jobs) - len(tell.pictures)} pictures were neither rendered nor failed"
        elif forced and (slots, flying) != forced:
            error = f"{slots} slots and {flying} in flight, not {forced[0]} and {forced[1]} as was forced"
    reserved = [picture.memory.peak_reserved_bytes or 0 for picture in tell.pictures.values()]
    return Outcome(
        wanted=len(jobs),
        pictures=len(tell.pictures),
        short="; ".join(dict.fromkeys(short)),
        error=error,
        slots=slots,
        in_flight=flying,
        reserved_bytes=max(reserved, default=None),
    )


@dataclass(slots=True)
class Attempt(BenchListener):
    """Keeps failures as well: they are what is asked for."""

    failures: dict[str, RendererError] = field(default_factory=dict)

    def failed(self, key: str, error: RendererError) -> None:
        self.failures[key] = error


class Capped:
    """An engine in a process that has so much of the GPU and no more; each case has slots and a budget of its own."""

    def __init__(self, store: Path, cap_bytes: int, warm: tuple[int, int, float] = WARM) -> None:
        self._here = hardware.look()  # before this process has anything there
        self._cap_bytes = cap_bytes
        self.allowed_bytes = cap_bytes - CONTEXT_BYTES
        self._bound()
        self._setup = streamed.setup_of(store)
        least = {"slots": TURNING_SLOTS, "in_flight": 1}
        self._engine = bare.forgetful(streamed.open_engine(store, **least))
        streamed.render(self._engine, [streamed.job_of(self._setup, *warm, VERDICT_STEPS, 1)])
        self._before = bare.unequip(self._engine)

    def judge(self, choice: CappedCase) -> Figures:
        """One case's row: the verdict, what became of it, and what it left behind."""
        began = time.perf_counter()
        row = self._planned() if choice.slots is None else self._forced(choice)
        left = bare.unequip(self._engine) - self._before
        took_s = time.perf_counter() - began
        return {"case": choice.name, "cap_bytes": self._cap_bytes, **row, "left_bytes": left, "seconds": took_s}

    def _planned(self) -> Figures:
        """A mixed batch as the plan would have it: what it admits has to render unchanged, what it refuses to fail."""
        jobs = [
            streamed.job_of(self._setup, *shape, VERDICT_STEPS, seed)
            for seed, shape in enumerate(MIXED_SHAPES, start=1)
        ]
        setup = placement.setup_for(jobs, self._here, "stream", self._cap_bytes)
        setup = setup.model_copy(update={"store": self._setup.store, "identity": self._setup.identity})
        refused = fitting.refusals(jobs, setup, self._here)
        admitted = [job for job in jobs if job not in refused]
        row = _row(self.attempt(setup, admitted), verdict=True)
        least = self._setup.model_copy(update={"slots": TURNING_SLOTS, "in_flight": 1})
        for job in refused:
            bare.unequip(self._engine)
            forced = self.attempt(least, [job])
            if forced.error or forced.rendered:
                said = forced.error or "renders, and was refused"
                return {**row, "right": None if forced.error else False, "error": f"{job.width}x{job.height}: {said}"}
        return {"refused": len(refused), **row}

    def _forced(self, choice: CappedCase) -> Figures:
        """What was chosen, whatever the budget would say, and what the arithmetic says of it."""
        assert choice.slots is not None
        slots = min(choice.slots, bare.blocks(self._engine))
        shape = (choice.side, choice.side, 4.0)
        prompt = " ".join([BENCH_PROMPT] * choice.copies)
        jobs = [
            streamed.job_of(self._setup, *shape, VERDICT_STEPS, 1 + seed, prompt) for seed in range(choice.pictures)
        ]
        tokens = min(MOST_TOKENS, bare.tokens(self._engine, prompt))
        works = [replace(Work.of(job), prompt_tokens=tokens) for job in jobs]
        streaming = replace(fitting.streaming_of(self._setup, self._here), slots=slots)
        least = decide.least(streaming, works)
        setup = self._setup.model_copy(update={"slots": slots, "in_flight": choice.pictures, "vram_bytes": None})
        found = _row(self.attempt(setup, jobs, (slots, choice.pictures)), verdict=least <= self.allowed_bytes)
        return {"least_bytes": least, "allowed_bytes": self.allowed_bytes, "prompt_tokens": tokens, **found}

    def attempt(self, setup: Setup, jobs: Sequence[Job], forced: tuple[int, int] | None = None) -> Outcome:
        """Render jobs by an engine that has been emptied."""
        self._bound()  # a budget that knows its limit moves it
        tell, raised = Attempt(), None
        try:
            bare.equip(self._engine, setup)
            for number, job in enumerate(jobs):
                self._engine.take(str(number), job)
            while self._engine.busy:
                self._engine.advance(tell)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told
            raised = error.with_traceback(None)  # which would hold what it had
        return outcome_of(jobs, tell, raised, forced)

    def _bound(self) -> None:
        if torch.cuda.is_available():
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self.allowed_bytes / total))


def _row(outcome: Outcome, *, verdict: bool) -> Figures:
    return {
        "verdict": verdict,
        "rendered": outcome.rendered,
        "right": outcome.right(verdict),
        "short": outcome.short,
        "error": outcome.error,
        "pictures": outcome.pictures,
        "slots": outcome.slots,
        "in_flight": outcome.in_flight,
        "reserved_bytes": outcome.reserved_bytes,
    }


def _is_short(error: Exception) -> bool:
    """Whether the GPU's memory ran out, and not the host's."""
    if not isinstance(error, OutOfMemoryError) and not failures.is_out_of_memory(error):
        return False
    return not isinstance(error, MemoryError) and not any(words in str(error) for words in _HOST_WORDS)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:160]


if __name__ == "__main__":
    main()
