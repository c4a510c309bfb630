from __future__ import annotations

from renderer.supervisor.pool import Silence
from renderer.supervisor.settings import StopRequests


def test_silence_is_counted_while_somebody_listens() -> None:
    """Four looks a second, and nothing said: the seconds add up, until something is said."""
    silence = Silence(100.0)
    looked = [silence.look(100.0 + tick / 4) for tick in range(1, 41)]
    assert looked[-1] == 10.0
    silence.broken()
    assert silence.look(110.25) == 0.25


def test_a_loop_that_was_away_blames_nobody() -> None:
    """Stopped for an hour (Ctrl-Z, a frozen group, a machine that was paused), it counts at most a second of it."""
    silence = Silence(0.0)
    silence.look(0.25)
    assert silence.look(3600.0) <= 1.25
    assert silence.look(3600.25) <= 1.5


def test_a_loop_that_is_slow_still_counts() -> None:
    """Half a second a look, on a busy machine: a stuck worker is found all the same."""
    silence = Silence(0.0)
    assert [silence.look(tick / 2) for tick in range(1, 101)][-1] == 50.0


def test_signals_in_pairs_are_one_wish() -> None:
    """Within half a second of one that counted it is the same; a person who asks again later means it."""
    stop = StopRequests()
    for moment in (100.0, 100.002, 100.4):
        stop.request(moment)
    assert stop.requests == 1
    stop.request(100.5)
    stop.request(100.6)
    assert stop.requests == 2
