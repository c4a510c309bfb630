"""A run with everybody who watches it: what of theirs fails is told, and all is rendered."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from renderer.cli import attended, console
from renderer.cli.manifests import Loaded
from renderer.cli.refusals import Refusals
from renderer.errors import DiskError, LeaseLostError, Problem
from renderer.outputs.folder import OutputFolder
from renderer.outputs.summary import Summary
from renderer.report import page
from renderer.supervisor import events
from renderer.supervisor.progress import never_begun
from renderer.supervisor.settings import Settings
from tests.driving import ROOT
from tests.fakes import InlineWorker
from tests.making import make_manifest


def render(outputs: Path, **options: Any) -> Summary:
    settings = Settings(outputs=outputs, hire=InlineWorker, deadline=options.pop("deadline", None))
    (summary,) = attended.render(Loaded((make_manifest(),)), settings, log_format="plain", **options)
    return summary


def test_a_port_that_is_taken_costs_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--live --port N` beside somebody else's server: a warning, another port, and all is rendered."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert render(tmp_path, live_port=taken.getsockname()[1]).rendered == 3
    said = capsys.readouterr().err
    assert "warning: cannot serve on 127.0.0.1, port" in said
    assert "to watch: http://127.0.0.1:" in said


def test_a_live_page_is_served_while_the_run_is_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its address is told."""
    assert render(tmp_path, live_port=0).rendered == 3
    assert "to watch: http://127.0.0.1:" in capsys.readouterr().err


def test_a_run_that_nobody_watches_imports_no_server() -> None:
    """`render` without `--live` starts without what serves its page."""
    script = "import sys, renderer.cli.attended; print({'starlette', 'uvicorn', 'anyio'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(5, "Input/output error"), "the page of test could not be written: [Errno 5] Input/output error"),
        (DiskError("no room"), "the page of test could not be written: no room"),
        (ZeroDivisionError("division by zero"), "division by zero"),
        (LeaseLostError("another has it"), ""),
    ],
    ids=repr,
)
def test_a_page_that_fails_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    """A disk's error or a fault of our own: a warning with its reason; none where whoever has the folder writes it."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(page, "write", fail)
    assert render(tmp_path).rendered == 3
    told = capsys.readouterr().err
    assert said in told
    assert ("warning" in told) is bool(said)
    assert OutputFolder(tmp_path / "test").summary.is_file()


def test_a_console_that_fails_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in what is said of a run: the run goes on in silence, and its page is there."""
    monkeypatch.setattr(console.Plain, "watch", lambda *_: 1 / 0)
    monkeypatch.setattr(console.Plain, "close", lambda *_: 1 / 0)
    assert render(tmp_path).rendered == 3
    assert OutputFolder(tmp_path / "test").page.is_file()


@pytest.mark.parametrize(("hours", "said"), [(9, False), (23.9, True)])
def test_a_deadline_that_is_a_day_away_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hours: float, *, said: bool
) -> None:
    """A timer that was missed begins in the morning, and `--until 07:00` is the next day's: that is said."""
    render(tmp_path, deadline=datetime.now(UTC) + timedelta(hours=hours))
    assert ("warning: this run may go on for 23 h 5" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, False),
        ({"ending": "deadline", "left": 3}, False),
        ({"ending": "signal", "left": 3}, False),
        ({"failed": 1}, True),
        ({"refused": 1}, True),
        ({"set_aside": 1}, True),
        ({"ending": "failures"}, True),
        ({"ending": "error"}, True),
    ],
    ids=str,
)
def test_what_is_a_failure_to_who_is_not_there(changes: dict[str, Any], failed: bool) -> None:  # noqa: FBT001
    """Whatever is wrong; not that there is more to do, because the time was up or somebody asked."""
    good = never_begun(make_manifest(), "complete").model_copy(update={"left": 0})
    assert attended._has_failed([good, good.model_copy(update=changes)], Refusals()) is failed


def test_a_manifest_that_was_not_rendered_is_a_failure() -> None:
    """Though all others are there."""
    refusals = Refusals()
    refusals.watch(events.ManifestProblem(Problem("m.yaml", 1, 1, "jobs", "wrong", "", warning=True)))
    assert not attended._has_failed([], refusals)
    refusals.watch(events.ManifestProblem(Problem("m.yaml", 1, 1, "jobs", "wrong", "")))
    assert attended._has_failed([], refusals)
