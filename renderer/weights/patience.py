"""A server that is busy is asked again: a few times, further and further apart, and not when it says it will take long.

Knows nothing of what is asked, and of no client: whoever calls says what an error means.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

LOG = logging.getLogger(__name__)

PatientAnswer = TypeVar("PatientAnswer")

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP's statuses for "not now" (RFC 9110, 6585, 8470)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error said: HTTP's status (None: the connection broke), the pause it asks for, the server's own words."""

    status: int | None
    pause_s: float | None = None
    words: str = ""

    @property
    def transient(self) -> bool:
        """Whether it may be otherwise in a moment."""
        return self.status is None or self.status in TRANSIENT


@dataclass(frozen=True, slots=True)
class Patience:
    """How often is asked, the first pause (each is twice the one before) and the longest, in seconds."""

    tries: int = 5
    first_s: float = 1.0
    longest_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def ask(
        self, question: Callable[[], PatientAnswer], refusal: Callable[[Exception], Refusal | None]
    ) -> PatientAnswer:
        """The answer to a question that is put again while its refusals are transient; the last refusal is raised.

        `refusal` says what an error means, None for one that no second try helps.
        """
        pause_s = self.first_s
        for left in range(self.tries - 1, -1, -1):
            try:
                return question()
            except Exception as error:
                told = refusal(error)
                if told is None or not told.transient or not left or (told.pause_s or 0.0) > self.longest_s:
                    raise
                wait_s = max(pause_s, told.pause_s or 0.0)
                LOG.warning("asked again in %.0f s: %s", wait_s, error)
            self.sleep(wait_s)
            pause_s *= 2
        raise AssertionError("the last try returns or raises")


def pause(retry_after: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a `Retry-After` asks for: a number, or a date (RFC 9110, 10.2.3); None where it says nothing."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isdecimal():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
