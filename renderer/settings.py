"""How a run is to behave, and the wish to stop it. Values; knows nothing of what a run does."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from renderer.job import Profile
from renderer.supplies import Terms
from renderer.workers import Hire, LocalWorker


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run behaves. Seconds; `deadline` is a moment with its time zone."""

    outputs: Path = Path("outputs")
    only: tuple[str, ...] = ()
    force: bool = False
    profile: Profile | None = None
    vram_bytes: int | None = None
    terms: Terms = field(default_factory=Terms)
    retries: int = 2
    max_failures: int = 10
    stuck_after_s: float = 900.0
    grace_s: float = 60.0
    deadline: datetime | None = None
    hire: Hire = LocalWorker


@dataclass(slots=True)
class Stop:
    """How often somebody has asked to stop: once to end well, twice to end now."""

    requests: int = 0

    def request(self) -> None:
        self.requests += 1
