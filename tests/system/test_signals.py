"""Real signals to real processes: the command with the fakes' worker, alone and as a group."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from renderer.outputs.summary import Summary
from tests import driving

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Run:
    """The command as a leader of its own group, with a log for machines."""

    def __init__(self, folder: Path, *arguments: str, fake: str = "", **options: Any) -> None:
        self.folder = folder
        command = ("render", "m.yaml", "--log-format", "json", *arguments)
        self.process = driving.start(
            *command, cwd=folder, fake=fake, stderr=subprocess.PIPE, process_group=0, **options
        )
        self.heard: list[dict[str, Any]] = []

    def lines(self) -> Iterator[dict[str, Any]]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.heard.append(json.loads(line))
            yield self.heard[-1]

    def until(self, event: str) -> None:
        """Read its log up to the first line of a kind."""
        assert any(line["event"] == event for line in self.lines()), self.heard

    def worker(self) -> psutil.Process:
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def end(self) -> int:
        """Its exit code, once it has ended; the rest of its log is heard."""
        list(self.lines())
        return self.process.wait(60)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.heard if line["event"] == event]

    def summary(self) -> Summary:
        return Summary.model_validate_json((self.folder / "outputs/m/summary.json").read_text())

    def journal(self) -> str:
        return (self.folder / "outputs/m/journal.jsonl").read_text()


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_to_every_process_ends_resumably(tmp_path: Path, number: signal.Signals) -> None:
    """To the group and to the worker, as a service manager does: what was begun is finished, the rest is left, 4."""
    driving.write_manifest(tmp_path, *["slow"] * 20)
    run = Run(tmp_path, fake="--capacity 8")
    run.until("picture-began")
    worker = run.worker()
    worker.send_signal(number)
    os.killpg(run.process.pid, number)
    assert run.end() == 4
    summary = run.summary()
    assert (summary.ending, summary.failed) == ("signal", 0)
    assert summary.rendered >= 1
    assert summary.rendered + summary.left == 20
    assert run.of("worker-lost") == []
    assert "crashed" not in run.journal()
    assert not worker.is_running()


def test_signals_in_pairs_are_one_request(tmp_path: Path) -> None:
    """SIGTERM and at once SIGHUP, or SIGTERM twice: the picture in flight has its grace, and is finished."""
    driving.write_manifest(tmp_path, *["slow"] * 20)
    run = Run(tmp_path)
    run.until("picture-began")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
        os.kill(run.process.pid, number)
    assert run.end() == 4
    assert run.summary().rendered >= 1


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_that_comes_at_the_end_changes_no_exit_code(tmp_path: Path, number: signal.Signals) -> None:
    """All is done, and the interpreter is ending: a script that asks for the code has what the run had to say."""
    script = (
        "import atexit, os, sys\n"
        "from renderer.__main__ import main\n"
        f"atexit.register(lambda: os.kill(os.getpid(), {int(number)}))\n"
        "sys.exit(main())\n"
    )
    command, environment = (
        [sys.executable, "-c", script, "validate", "none.yaml"],
        {**os.environ, "PYTHONPATH": str(driving.ROOT)},
    )
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_request_ends_it_at_once(tmp_path: Path) -> None:
    """Half a second after the first, whoever asks again means it: nobody waits for a picture that hangs."""
    driving.write_manifest(tmp_path, "hang", "b")
    run = Run(tmp_path, "--grace", "600")
    run.until("picture-began")
    os.kill(run.process.pid, signal.SIGINT)
    run.until("stopping")
    time.sleep(0.6)  # what comes sooner is the same request
    os.kill(run.process.pid, signal.SIGINT)
    assert run.end() == 4
    assert (run.summary().rendered, run.summary().left) == (0, 2)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_what_was_ignored_stays_ignored(tmp_path: Path, number: signal.Signals) -> None:
    """`nohup` and a script's `&` start it so: the signal is nothing to it, and another one ends it."""
    driving.write_manifest(tmp_path, *["slow"] * 20)
    run = Run(tmp_path, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
    run.until("picture-began")
    os.killpg(run.process.pid, number)
    run.until("picture-done")
    run.until("picture-done")
    assert run.of("stopping") == []
    os.kill(run.process.pid, signal.SIGTERM)
    assert run.end() == 4


def test_a_run_that_was_stopped_and_goes_on_blames_nobody(tmp_path: Path) -> None:
    """Ctrl-Z and `fg`: for longer than a worker may be silent, nobody listened to it."""
    driving.write_manifest(tmp_path, "slow slow", "b")
    run = Run(tmp_path, "--stuck-after", "3")
    run.until("picture-began")
    worker = run.worker()
    run.process.send_signal(signal.SIGSTOP)
    worker.send_signal(signal.SIGSTOP)  # so that there is nothing to hear at the first look
    time.sleep(3.5)
    run.process.send_signal(signal.SIGCONT)
    time.sleep(0.6)
    worker.send_signal(signal.SIGCONT)
    assert run.end() == 0
    assert run.of("worker-lost") == []


def test_a_closed_terminal_ends_resumably(tmp_path: Path) -> None:
    """Ssh drops: SIGHUP comes and the terminal is gone. What was begun is finished, summary and page are there."""
    driving.write_manifest(tmp_path, *["slow"] * 20)
    pid, ours = os.forkpty()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(  # noqa: S606  # its terminal is to be a real one
            sys.executable,
            [*driving.COMMAND, "render", "m.yaml"],
            {**os.environ, "PYTHONPATH": str(driving.ROOT), "FAKE": "", "TERM": "xterm"},
        )
    seen = b""
    while b"step 1 of 4" not in seen:
        seen += os.read(ours, 4096)
    os.close(ours)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 4
    folder = tmp_path / "outputs/m"
    summary = Summary.model_validate_json((folder / "summary.json").read_text())
    assert summary.ending == "signal"
    assert summary.rendered >= 1
    assert (folder / "index.html").is_file()


@pytest.mark.parametrize(
    "arguments", [("plan", "m.yaml"), ("status", "m.yaml"), ("validate", "m.yaml"), ("doctor",), ("models", "list")]
)
def test_ctrl_c_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """In any command, wherever it is just then: 130, and no traceback."""
    driving.write_manifest(tmp_path, "a")
    script = (
        "import os, signal, sys\n"
        "from renderer import cli\n"
        "from renderer.cli import command, manifests, models\n"
        "from renderer.machine import hardware\n"
        "def interrupt(*_, **__):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    import time; time.sleep(10)\n"
        "manifests.load = hardware.look = interrupt\n"
        "models._list = interrupt\n"
        "sys.exit(cli.main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(driving.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
