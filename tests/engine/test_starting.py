from __future__ import annotations

from types import SimpleNamespace

import pytest

from renderer.engine import meter, starting
from renderer.engine.meter import Span
from renderer.engine.starting import Starting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that goes on when it is told to."""
    found = SimpleNamespace(now_s=100.0)
    for module in (starting, meter):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: found.now_s))
    return found


def test_a_start_is_told_in_its_parts(clock: SimpleNamespace) -> None:
    """What counts as no part is in the whole alone; what comes after the first step is in nothing."""
    found = Starting(imports_s=3.0)
    clock.now_s += 2
    found.lap("imports")
    clock.now_s += 1
    found.lap("slots")
    clock.now_s += 10
    found.lap()
    clock.now_s += 4
    found.lap("prompts")
    sweep = Span("cpu")
    clock.now_s += 6
    sweep.stop()
    found.swept(sweep)
    first = found.told(blocks_s=7.5)
    clock.now_s += 50
    found.lap("prompts")
    found.swept(sweep)
    assert found.told(blocks_s=7.5) == first
    assert first.model_dump(exclude_none=True) == {
        "imports_s": 5.0,
        "slots_s": 1.0,
        "prompts_s": 4.0,
        "first_sweep_s": 6.0,
        "blocks_s": 7.5,
        "first_step_s": 26.0,
    }
