"""What the documents have cron and systemd do, done: lines and units, in an environment as bare as theirs."""

from __future__ import annotations

import configparser
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from renderer.errors import EXIT_STOPPED
from renderer.supervisor.settings import Settings
from tests import driving, tools
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


class Home:
    """A home with a checkout in it that is set up: its renderer is the whole command with the fakes' worker."""

    def __init__(self, path: Path, *prompts: str) -> None:
        self.path = path
        self.checkout = path / "renderer"
        for folder in ("jobs", "outputs", "tools", ".venv/bin"):
            (self.checkout / folder).mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/set_up.py"):
            shutil.copy(ROOT / name, self.checkout / name)
        driving.write_manifest(self.checkout / "jobs", *prompts, name="posters")
        for name, module in (("python", ""), ("renderer", "-m tests.driving")):
            script = self.checkout / ".venv/bin" / name
            script.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}"\nexec "{sys.executable}" {module} "$@"\n')
            script.chmod(0o755)
        told = subprocess.run(
            ["make", "-n", "-p", "help"], cwd=self.checkout, env=self.environment, check=True, capture_output=True,
            text=True,
        ).stdout  # fmt: skip
        (self.checkout / told.split("\nREADY := ")[1].splitlines()[0]).touch()

    @property
    def environment(self) -> dict[str, str]:
        """What cron gives to a job. It is eleven at night, so that the deadline is far away."""
        offset = (datetime.now(UTC).hour - 23) % 24
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.path), "SHELL": "/bin/sh", "TZ": f"XXX{offset}"}

    def start(self, command: list[str], folder: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=folder, env=self.environment, stdin=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def log(self) -> str:
        return (self.checkout / "outputs/nightly.log").read_text()

    def pictures(self) -> list[str]:
        return driving.pictures(self.checkout, "posters")


def cron_line() -> list[str]:
    (line,) = (DEPLOY / "crontab").read_text().splitlines()
    return ["/bin/sh", "-c", line.split(maxsplit=5)[5]]


def unit(name: str) -> configparser.SectionProxy:
    reader = configparser.RawConfigParser(strict=False)
    reader.optionxform = str  # type: ignore[assignment,method-assign]
    reader.read_string((DEPLOY / name).read_text())
    return reader["Service" if name.endswith("service") else "Timer"]


def service(home: Home) -> list[str]:
    return shlex.split(unit("renderer.service")["ExecStart"].replace("%h", str(home.path)))


def test_the_documents_show_what_is_tried() -> None:
    """The crontab and the units stand in docs/operation.md as they stand in deploy/; its line in the README too."""
    operation = (ROOT / "docs/operation.md").read_text()
    for name in ("crontab", "renderer.service", "renderer.timer", "renderer-inbox.service"):
        assert (DEPLOY / name).read_text() in operation
    assert (DEPLOY / "crontab").read_text() in (ROOT / "README.md").read_text()


def test_crons_line_renders_from_anywhere(tmp_path: Path) -> None:
    """With cron's PATH, without a terminal, from the root folder: pictures and a log, in lines that can be read."""
    home = Home(tmp_path, "a", "b")
    assert home.start(cron_line(), "/").wait(60) == 0
    assert home.pictures() == ["001.png", "002.png"]
    assert "2 rendered, 0 already done, 0 failed" in home.log
    assert "\r" not in home.log


def test_crons_job_is_stopped_as_a_group(tmp_path: Path) -> None:
    """A machine that shuts down tells all of the job's processes: what was begun is finished, nothing has failed."""
    home = Home(tmp_path, *["slow"] * 20)
    job = home.start(cron_line(), "/")
    until(lambda: bool(home.pictures()))
    family = psutil.Process(job.pid).children(recursive=True)
    os.killpg(job.pid, signal.SIGTERM)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    job.wait(60)
    _, alive = psutil.wait_procs(family, 60)
    assert alive == []
    assert "stopped on request; the same command goes on from here" in home.log
    assert " 0 failed" in home.log


@pytest.mark.parametrize("all_of_them", [False, True])
def test_the_service_ends_well_when_it_is_stopped(tmp_path: Path, all_of_them: bool) -> None:  # noqa: FBT001
    """`systemctl stop`, by this unit's KillMode and by the usual one: its code is a success to the unit."""
    home = Home(tmp_path, *["slow"] * 20)
    process = home.start(service(home), home.checkout)
    until(lambda: bool(home.pictures()))
    told = psutil.Process(process.pid)
    for each in [told, *(told.children(recursive=True) if all_of_them else [])]:
        each.send_signal(signal.SIGTERM)
    assert process.wait(60) == EXIT_STOPPED
    assert str(EXIT_STOPPED) in unit("renderer.service")["SuccessExitStatus"].split()


def test_the_service_waits_longer_than_the_run() -> None:
    """Systemd kills what is left after its own patience: that has to be more than what the run grants its pictures."""
    found = unit("renderer.service")
    assert float(found["TimeoutStopSec"]) >= Settings(outputs=Path("outputs")).grace_s + 15
    assert found["KillMode"] == "mixed"
    assert found["Type"] == "oneshot"  # which has no limit on how long it takes to start, and a night is a start


def test_its_set_up_is_a_moment(tmp_path: Path) -> None:
    """What the service does first says and changes nothing where all is ready."""
    home = Home(tmp_path, "a")
    command = shlex.split(unit("renderer.service")["ExecStartPre"])
    ran = subprocess.run(command, cwd=home.checkout, env=home.environment, check=True, capture_output=True)
    assert (ran.stdout, ran.stderr) == (b"", b"")


@tools.needs("systemd")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about them."""
    home = Home(tmp_path, "a")
    units = tmp_path / ".config/systemd/user"
    units.mkdir(parents=True)
    for name in ("renderer.service", "renderer.timer"):
        shutil.copy(DEPLOY / name, units)
    command = ["systemd-analyze", "verify", "--user", "--man=no", *map(str, sorted(units.iterdir()))]
    environment = {**home.environment, "XDG_RUNTIME_DIR": str(tmp_path)}
    ran = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
