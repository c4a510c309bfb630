"""How a run is to behave, and the wish to stop it. Values; knows nothing of what a run does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from renderer.job import Profile
from renderer.manifest.manifest import NO_OVERRIDES, Overrides
from renderer.outputs.summary import Ending
from renderer.supervisor.fleet import Fleet
from renderer.supervisor.worker import Hire
from renderer.system.leases import STALE_S
from renderer.text import duration

_SAME_WISH_S = 0.5
_CROSSING_S = 1.0


AT_ONCE = 2
"""Somebody who has asked to stop so often does not wait."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms models are fetched: `most_bytes` to download without consent (None: any), which hub first."""

    offline: bool = False
    source: str | None = None
    most_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run behaves. Seconds; `deadline` is a moment with its time zone, `ends_s` one of `uptime_s`.

    `gpus` names the devices that render (`machine.devices`; None: one that suits). `hire` is how it gets workers (None:
    processes on this machine), `fleet` where those are (None: on this machine). A lease that is not renewed for
    `stale_s` seconds may be taken. Manifests that are put into `watch_folder` are rendered as they come, with
    `overrides`. With `same_bits` all pictures are of one kind of card.
    """

    outputs: Path = Path("outputs")
    only: tuple[str, ...] = ()
    force: bool = False
    profile: Profile | None = None
    vram_bytes: int | None = None
    gpus: str | None = None
    terms: Terms = field(default_factory=Terms)
    retries: int = 2
    max_failures: int = 10
    strict: bool = False
    stuck_after_s: float = 900.0
    grace_s: float = 60.0
    deadline: datetime | None = None
    ends_s: float | None = None
    hire: Hire | None = None
    fleet: Fleet | None = None
    stale_s: float = STALE_S
    watch_folder: Path | None = None
    overrides: Overrides = NO_OVERRIDES
    same_bits: bool = False

    @property
    def left_s(self) -> float | None:
        """In how many seconds nothing more is to begin; None where that is never."""
        left = [self.ends_s - uptime_s()] if self.ends_s is not None else []
        if self.deadline is not None:
            left.append((self.deadline - datetime.now(UTC)).total_seconds())
        return min(left, default=None)


def uptime_s() -> float:
    """Seconds by a clock that nobody puts forward or back; where it can, it goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class StopRequests:
    """How often somebody has asked to stop: once to end well, twice to end now. `asked_s` is when that was, last."""

    requests: int = 0
    asked_s: float = float("-inf")

    def request(self, now_s: float | None = None) -> None:
        """Ask to stop, at this moment of the monotonic clock (None: now).

        What comes within half a second of a request that counted is the same wish. A service manager, `timeout` and a
        terminal that goes away send signals in pairs: to the process and to its group, or one kind after the other.
        """
        now_s = time.monotonic() if now_s is None else now_s
        if now_s - self.asked_s >= _SAME_WISH_S:
            self.asked_s = now_s
            self.requests += 1

    def comes(self) -> bool:
        """Whether somebody has asked, or does within a second: a signal for many processes reaches one of them last."""
        until = time.monotonic() + _CROSSING_S
        while not self.requests and time.monotonic() < until:
            time.sleep(0.01)
        return self.requests > 0


@dataclass(slots=True)
class Pause:
    """Whether somebody wants nothing to begin for a while, and for how many seconds workers are kept meanwhile."""

    is_on: bool = False
    keeps_s: float = 60.0

    @property
    def told(self) -> str:
        """What becomes of the GPU's memory, for people."""
        return f"the GPU's memory is given back {duration(self.keeps_s)} later"


def asked_to_end(settings: Settings, stop: StopRequests) -> Ending | None:
    """Why no work of any kind is to begin, if so: somebody asked to stop, or the time is up."""
    if stop.requests:
        return "signal"
    return "deadline" if settings.left_s is not None and settings.left_s < 0 else None
