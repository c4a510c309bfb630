from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from renderer import console, news, run
from renderer.errors import MachineError
from renderer.job import Failure, Memory, Summary
from renderer.settings import Settings, Stop
from tests.fakes import InlineWorker
from tests.making import make_manifest


def summary(**changes: object) -> Summary:
    now = datetime.now(UTC)
    values = {
        "name": "night", "manifest": "night.yaml", "ending": "complete", "began_at": now, "ended_at": now,
        "pictures": 3, "rendered": 2, "skipped": 0, "failed": 1, "left": 0, "elapsed_s": 3700.0, "rendering_s": 3000.0,
        "pictures_per_hour": 2.0, "memory": Memory(),
        "failures": (Failure(id="p", message="one flat colour", hint="look at the prompt"),),
    }  # fmt: skip
    return Summary(**{**values, **changes})


@pytest.mark.parametrize("screen", [console.Plain(), console.Terminal(), console.Json()])
def test_every_console_tells_of_a_whole_run(
    screen: console.Console, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the format: finished pictures, failures and the end are told, on standard error alone."""
    run.render(
        [make_manifest(("a", "fail"))], Settings(outputs=tmp_path, hire=InlineWorker, retries=1), screen.watch, Stop()
    )
    screen.watch(news.WorkerLost("it died", ()))
    screen.watch(news.Stopping(1, 60.0))
    screen.close()
    said = capsys.readouterr()
    assert said.out == ""
    assert "p000" in said.err
    assert "one flat colour" in said.err
    assert "it died" in said.err
    if isinstance(screen, console.Json):
        assert [json.loads(line)["event"] for line in said.err.splitlines()].count("picture-failed") == 2
    else:
        assert "1 rendered, 0 already done, 1 failed, 0 left of 2" in said.err


def test_failures_are_annotations_in_github_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group a batch; a failure that is final is an error at its manifest's line; no text of ours is a command."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    screen = console.open_console("auto")
    run.render(
        [make_manifest(("a", "fail"))], Settings(outputs=tmp_path, hire=InlineWorker, retries=1), screen.watch, Stop()
    )
    screen.watch(news.WorkerLost("it died\n::set-output name=x::y", ()))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("::")] == [
        "::group::test",
        "::warning file=jobs/test.yaml,line=2,title=p001::one flat colour",
        "::error file=jobs/test.yaml,line=2,title=p001::one flat colour",
        "::endgroup::",
    ]
    assert console._escape("50%: a,\nb", ":,") == "50%25%3A a%2C%0Ab"


def test_a_long_silence_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is a heartbeat, so that a log shows the run alive."""
    screen = console.Plain()
    screen._spoke_at -= 61
    screen.watch(news.Tick())
    assert "opening the model" in capsys.readouterr().err
    screen.watch(news.Tick())
    assert capsys.readouterr().err == ""


def test_a_summary_says_how_it_ended() -> None:
    """Counts, reasons, and what to do when the run was cut short."""
    lines = console.describe_summary(summary(ending="deadline"))
    assert lines[0].startswith("night: 2 rendered, 0 already done, 1 failed, 0 left of 3, in 1 h 01 min")
    assert lines[1] == "  failed: p: one flat colour (look at the prompt)"
    assert "the same command goes on" in lines[2]


def test_an_error_is_followed_by_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """The message first, then the hint."""
    console.print_error(MachineError("no GPU", hint="plug one in"))
    assert capsys.readouterr().err == "error: no GPU\n  try: plug one in\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.44, "0.4 s"), (59.4, "59.4 s"), (60, "1 min 00 s"), (25500, "7 h 05 min")]
)
def test_durations_read_well(seconds: float, said: str) -> None:
    """Seconds, minutes, hours, as people say them."""
    assert console.duration(seconds) == said
