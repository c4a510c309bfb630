from __future__ import annotations

import io
import json
import os
import re
import sys
import termios
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tqdm.utils import disp_len

from renderer.cli import console
from renderer.cli.problems import print_error
from renderer.errors import MachineError
from renderer.job import Memory
from renderer.outputs.describe import describe_night, describe_summary
from renderer.outputs.status import InFlight, RunStatus
from renderer.outputs.summary import Failure, Summary
from renderer.supervisor import events, run
from renderer.supervisor.settings import Settings, StopRequests
from renderer.system import streams
from renderer.text import duration
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


@pytest.mark.parametrize("kind", [console.Plain, console.Terminal, console.Json])
def test_every_console_tells_of_a_whole_run(
    kind: type[console.Console], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the format: finished pictures, failures and the end are told, on standard error alone."""
    screen = kind()
    run.render(
        [make_manifest(("a", "fail helped"))],
        Settings(outputs=tmp_path, hire=InlineWorker, retries=1),
        screen.watch,
        StopRequests(),
    )
    screen.watch(events.WorkerLost("it died", ()))
    screen.watch(events.Stopping(1, 60.0))
    screen.close()
    said = capsys.readouterr()
    assert said.out == ""
    assert "p000" in said.err
    assert "one flat colour" in said.err
    assert "it died" in said.err
    if isinstance(screen, console.Json):
        told = [json.loads(line) for line in said.err.splitlines()]
        failures = [line for line in told if line["event"] == "picture-failed"]
        assert [(line["message"], line["hint"], line["kind"], line["again"]) for line in failures] == [
            ("one flat colour", "look at the prompt", "BadPictureError", True),
            ("one flat colour", "look at the prompt", "BadPictureError", False),
        ]
        assert all(line["detail"] == "Traceback: in decode" for line in failures)
        assert {line["reason"] for line in told if line["event"] == "worker-lost"} == {"it died"}
    else:
        assert "1 rendered, 0 already done, 1 failed, 0 left of 2" in said.err


def test_failures_are_annotations_in_github_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group a batch; a failure that is final is an error at its manifest's line; no text of ours is a command."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    screen = console.open_console("auto")
    run.render(
        [make_manifest(("a", "fail"))],
        Settings(outputs=tmp_path, hire=InlineWorker, retries=1),
        screen.watch,
        StopRequests(),
    )
    for forged in ("::add-mask::a", " \t::add-mask::a", "##[add-mask]a", "so ##[add-mask]a"):
        for line_end in ("\n", "\r", "\r\n"):
            screen.watch(events.WorkerLost(f"it died{line_end}{forged}", ()))
            screen.watch(events.Remark(f"{line_end}{forged}"))
            print_error(MachineError(f"it died{line_end}{forged}", hint=f"no{line_end}{forged}"))
    assert os.environ["GITHUB_ACTIONS"] == "true"
    lines = re.split(r"\r\n|\r|\n", capsys.readouterr().err)
    assert not [line for line in lines if "##[" in line]
    assert [line for line in lines if line.lstrip().startswith("::")] == [
        "::group::test",
        "::warning file=jobs/test.yaml,line=2,title=p001::one flat colour",
        "::error file=jobs/test.yaml,line=2,title=p001::one flat colour",
        "::endgroup::",
    ]
    assert console._escape("50%: a,\nb", ":,") == "50%25%3A a%2C%0Ab"


def test_a_machine_s_lines_stay_json_and_are_no_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """`##[name]` is a command to a CI job's runner wherever it stands in a line: it comes back from JSON alone."""
    console.Json().watch(events.Remark("so ##[add-mask]a\n::add-mask::b"))
    said = capsys.readouterr().err
    assert "##[" not in said
    assert said.count("\n") == 1
    assert json.loads(said)["text"] == "so ##[add-mask]a\n::add-mask::b"


def test_what_a_dead_worker_said_and_what_helps_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Its last three lines, and the hint."""
    console.Plain().watch(events.WorkerLost("it died", (), "buy memory", "one\ntwo\nthree\nfour"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("it died; starting another (buy memory)")
    assert lines[1:] == ["  it said: two", "  it said: three", "  it said: four"]


def test_a_long_silence_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is a heartbeat, so that a log shows the run alive."""
    screen = console.Plain()
    screen._spoke_at -= 61
    screen.watch(events.Tick())
    assert "opening the model" in capsys.readouterr().err
    screen.watch(events.Tick())
    assert capsys.readouterr().err == ""
    screen._spoke_at -= 61
    screen.watch(events.Tick(status()))
    said = capsys.readouterr().err[len("00:00:00 ") :]
    assert said == "3 of 12 done; 1 failed; 10 min 00 s left; 54 pictures/h; 2 in flight, furthest b at step 6 of 8\n"


def test_a_machine_gets_the_heartbeat_too(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, once a minute, with all that is known; nothing before a batch has begun."""
    screen = console.Json()
    screen.watch(events.Tick(status()))
    screen._stood_at -= 61
    screen.watch(events.Tick())
    assert capsys.readouterr().err == ""
    screen.watch(events.Tick(status()))
    screen.watch(events.Tick(status()))
    (line,) = capsys.readouterr().err.splitlines()
    told = RunStatus.model_validate_json(json.dumps(json.loads(line)["standing"]))
    assert (told.done, told.left_s, [one.step for one in told.in_flight]) == (3, 600.0, [2, 6])


def status(**changes: object) -> RunStatus:
    now = datetime.now(UTC)
    flying = [InFlight(id=key, step=step, steps=8, attempt=1, since=now) for key, step in (("a", 2), ("b", 6))]
    values = {
        "name": "night", "phase": "rendering", "began_at": now, "at": now, "pid": 1, "to_render": 12, "done": 3,
        "failed": 1, "queued": 4, "in_flight": tuple(flying), "pictures_per_hour": 54.0, "left_s": 600.0,
    }  # fmt: skip
    return RunStatus(**{**values, **changes})


class OnTerminal:
    """A terminal of some width, and what is written to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ours, theirs = os.openpty()
        monkeypatch.setattr(sys, "stderr", os.fdopen(theirs, "w"))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
        self.resize(100)

    def resize(self, columns: int, rows: int = 24) -> None:
        termios.tcsetwinsize(self._ours, (rows, columns))

    def written(self) -> str:
        os.set_blocking(self._ours, False)
        return os.read(self._ours, 2**16).decode().replace("\r\n", "\n")


CLEAR = "\r\x1b[J"


class TestTerminal:
    def test_two_lines_say_how_the_batch_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The batch: done of all, failures, time left, rate. What is in flight: how many, the furthest and its step."""
        terminal = OnTerminal(monkeypatch)
        screen = console.open_console("auto")
        screen.watch(events.Tick(status()))
        first, second = terminal.written().removeprefix(CLEAR).removesuffix("\x1b[1A\r").split("\n")
        assert first.startswith("night: 3 of 12 done |")
        assert first.endswith("|, 1 failed, 10 min 00 s left, 54 pictures/h")
        assert second.startswith("2 in flight, furthest b: step 6 of 8 |")
        screen.watch(events.Tick(status(phase="stopping", in_flight=())))
        assert terminal.written().endswith("\nstopping; waiting\x1b[1A\r")

    @pytest.mark.parametrize(("rows", "lines"), [(24, 2), (3, 2), (2, 1), (1, 1)])
    def test_they_leave_a_row_for_the_log(self, monkeypatch: pytest.MonkeyPatch, rows: int, lines: int) -> None:
        """In a terminal that is hardly higher: else each painting would push the last one up."""
        terminal = OnTerminal(monkeypatch)
        screen = console.open_console("auto")
        terminal.resize(100, rows)
        screen.watch(events.Tick(status()))
        assert terminal.written().count("\n") == lines - 1

    @pytest.mark.parametrize("columns", [120, 80, 40, 17, 2, 1])
    def test_they_are_never_wider_than_the_terminal(self, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        """Painted for the width that it has at that moment, Chinese letters taking two columns each."""
        terminal = OnTerminal(monkeypatch)
        screen = console.open_console("auto")
        screen.watch(events.Tick(status(name="海报" * 5)))
        terminal.written()
        terminal.resize(columns)
        screen.watch(events.Tick(status(name="海报" * 5)))
        lines = terminal.written().removeprefix(CLEAR).removesuffix("\r").removesuffix("\x1b[1A").split("\n")
        assert all(disp_len(line) <= max(1, columns - 1) for line in lines), lines

    def test_a_terminal_of_another_encoding_gets_bars_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In ASCII: no letter is missing, none is an error, and no line is wider than the terminal."""
        terminal = OnTerminal(monkeypatch)
        assert isinstance(sys.stderr, io.TextIOWrapper)
        sys.stderr.reconfigure(encoding="ascii")
        streams.settle()
        screen = console.open_console("auto")
        screen.watch(events.Tick(status(name="\u6d77\u62a5" * 12)))
        lines = terminal.written().removeprefix(CLEAR).removesuffix("\x1b[1A\r").split("\n")
        assert lines[0].startswith("\\u6d77\\u62a5")
        assert "#" in lines[1]
        assert "\\u258" not in lines[1]
        assert all(len(line) <= 99 for line in lines)

    def test_the_log_scrolls_by_above_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line of the log takes the place of the two, which are painted again below it; at the end they are gone."""
        terminal = OnTerminal(monkeypatch)
        screen = console.open_console("auto")
        screen.watch(events.Tick(status()))
        painted = terminal.written()
        screen.watch(events.WorkerLost("it died", ()))
        assert terminal.written() == f"{CLEAR}it died; starting another\n{painted.removeprefix(CLEAR)}"
        screen.close()
        assert terminal.written() == CLEAR

    def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """TERM=dumb is what editors' shells say."""
        OnTerminal(monkeypatch)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(console.open_console("auto"), console.Plain)


def test_a_summary_says_how_it_ended() -> None:
    """Counts, reasons, and what to do when the run was cut short."""
    lines = describe_summary(summary(ending="deadline"))
    assert lines[0].startswith("night: 2 rendered, 0 already done, 1 failed, 0 left of 3, in 1 h 01 min")
    assert lines[1] == "  failed: p: one flat colour (look at the prompt)"
    assert "the same command goes on" in lines[2]


def test_a_night_takes_no_less_than_its_manifests() -> None:
    """The clock was put back by an hour meanwhile."""
    began = datetime.now(UTC)
    told = describe_night([summary(began_at=began, ended_at=began - timedelta(hours=1)) for _ in range(2)])
    assert told.endswith("of 6, in 1 h 01 min")


def test_an_error_is_followed_by_what_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """The message first, then the hint."""
    print_error(MachineError("no GPU", hint="plug one in"))
    assert capsys.readouterr().err == "error: no GPU\n  hint: plug one in\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.44, "0.4 s"), (59.4, "59.4 s"), (60, "1 min 00 s"), (25500, "7 h 05 min"), (-7e3, "0.0 s")]
)
def test_durations_read_well(seconds: float, said: str) -> None:
    """Seconds, minutes, hours, as people say them."""
    assert duration(seconds) == said


def test_what_was_chosen_is_no_warning(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever looks for warnings of a night finds none of them."""
    for kind in (console.Plain, console.Terminal, console.Json):
        screen = kind()
        screen.watch(events.Note("precision auto: demo at bf16"))
        screen.close()
        said = capsys.readouterr().err
        assert "precision auto: demo at bf16" in said
        assert "warning" not in said
