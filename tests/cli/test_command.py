from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from renderer.cli import command as cli
from renderer.cli import render
from renderer.outputs.summary import Summary
from renderer.planning.plan import make_plan
from tests.making import make_manifest
from tests.nights import make_night

ROOT = Path(__file__).resolve().parents[2]

SMALL = """\
defaults: {model: demo, size: 64x64, steps: 2, seed: 1, precision: bf16}
jobs:
"""


def manifest(folder: Path, *prompts: str, name: str = "night") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(SMALL + "".join(f"  - {json.dumps(prompt)}\n" for prompt in prompts), encoding="utf-8")
    return path


def renderer(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "renderer", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=240)


def pictures_in(folder: Path) -> set[str]:
    return {found.name for found in folder.rglob("*.png")} - {"contact-sheet.png"}


class TestReading:
    def test_problems_go_to_standard_error_and_the_code_is_2(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every problem of every manifest named, each with its place, and nothing on standard output."""
        (tmp_path / "a.yaml").write_text("jobs: [{prompt: x, stpes: 3}]\n")
        (tmp_path / "b.yaml").write_text("jobs: []\n")
        monkeypatch.chdir(tmp_path)
        assert cli.main(["validate", "a.yaml", "b.yaml"]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert 'a.yaml:1:20 jobs[0].stpes: unknown key (did you mean "steps"?)' in said.err
        assert "b.yaml:1:" in said.err
        assert said.err.endswith("\n2 problems\n")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["validate", "none.yaml"], "none.yaml"),
            (["validate", "none-*.yaml"], "no manifest matches none-*.yaml"),
            (["plan", "night.yaml", "--only", "nobody"], "has no picture or job nobody"),
            (["validate", "night.yaml", "copy/night.yaml"], "both named night"),
        ],
    )
    def test_what_cannot_be_asked_ends_with_2(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        said: str,
    ) -> None:
        """A wrong name on the command line is said in a sentence, not in a traceback."""
        manifest(tmp_path, "a")
        (tmp_path / "copy").mkdir()
        manifest(tmp_path / "copy", "b")
        monkeypatch.chdir(tmp_path)
        assert cli.main(arguments) == 2
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize("of", [[], ["manifest"], ["sidecar"], ["summary"]])
    def test_schema_prints_a_schema(self, of: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """`renderer schema` prints the manifest's, or the one that is named."""
        assert cli.main(["schema", *of]) == 0
        assert json.loads(capsys.readouterr().out)["type"] == "object"

    def test_plan_as_json_names_every_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`plan --json` lists pictures with state, file and job."""
        manifest(tmp_path, "a", "b")
        monkeypatch.chdir(tmp_path)
        assert cli.main(["plan", "night.yaml", "--json"]) == 0
        (batch,) = json.loads(capsys.readouterr().out)["manifests"]
        assert [picture["state"] for picture in batch["pictures"]] == ["to do", "to do"]
        assert batch["pictures"][1]["job"]["prompt"] == "b"
        assert batch["pictures"][1]["file"] == "outputs/night/002.png"

    def test_a_plan_of_a_thousand_done_pictures_takes_under_a_second(self, tmp_path: Path) -> None:
        """Planning looks at sidecars, not at pixels."""
        manifest = make_manifest([str(number) for number in range(1000)])
        make_night(manifest, tmp_path, same_picture=True)
        began = time.process_time()
        plan = make_plan(manifest, tmp_path)
        assert plan.count("done") == 1000
        assert time.process_time() - began < 1


@pytest.mark.usefixtures("berlin")
class TestArguments:
    def options(self, *arguments: str) -> argparse.Namespace:
        return cli.parser().parse_args(["render", "x.yaml", *arguments])

    @pytest.mark.parametrize(
        ("now", "until", "end"),
        [
            ("2026-11-21T23:00:00+01:00", "07:00", "2026-11-22T07:00:00+01:00"),
            ("2026-11-21T06:00:00+01:00", "07:00", "2026-11-21T07:00:00+01:00"),
            ("2026-11-21T07:00:00+01:00", "07:00", "2026-11-22T07:00:00+01:00"),
            ("2026-11-21T07:01:00+01:00", "07:00", "2026-11-22T07:00:00+01:00"),
            ("2026-03-28T23:00:00+01:00", "07:00", "2026-03-29T07:00:00+02:00"),
            ("2026-10-24T23:00:00+02:00", "07:00", "2026-10-25T07:00:00+01:00"),
            ("2026-10-24T23:00:00+02:00", "02:30", "2026-10-25T02:30:00+02:00"),
            ("2026-10-25T02:40:00+02:00", "02:30", "2026-10-25T02:30:00+01:00"),
            ("2026-10-25T02:40:00+01:00", "02:30", "2026-10-26T02:30:00+01:00"),
            ("2026-03-28T23:00:00+01:00", "02:30", "2026-03-29T01:30:00+00:00"),
            ("2026-03-28T22:00:00+00:00", "07:00", "2026-03-29T05:00:00+00:00"),
        ],
    )
    def test_until_is_the_next_such_hour(self, now: str, until: str, end: str) -> None:
        """On this machine's clock, today or tomorrow, also in a night in which the clocks are changed."""
        found = render.next_moment(self.options("--until", until).until, datetime.fromisoformat(now))
        assert found == datetime.fromisoformat(end)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--until", "25:00"),
            ("--max-hours", "-1"),
            ("--max-hours", "nan"),
            ("--retries", "-1"),
            ("--profile", "fast"),
            ("--vram", "10 apples"),
        ],
    )
    def test_a_wrong_value_ends_with_2(self, arguments: tuple[str, ...]) -> None:
        """The option is named, and what it takes."""
        with pytest.raises(SystemExit) as left:
            self.options(*arguments)
        assert left.value.code == 2


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


class TestRendering:
    """The real thing: the demo model on the CPU, through the command."""

    def test_sigterm_ends_resumably(self, tmp_path: Path) -> None:
        """SIGTERM while rendering: exit code 4, whole pictures only, no process left, and the next run completes."""
        path = manifest(tmp_path, *(f"picture {number}" for number in range(40)))
        command = [sys.executable, "-m", "renderer", "render", str(path), "--log-format", "json"]
        run = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
        )
        assert run.stderr is not None
        for line in run.stderr:
            if json.loads(line)["event"] == "picture-done":
                break
        workers = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGTERM)
        run.stderr.read()
        assert run.wait(60) == 4
        assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
        summary = Summary.model_validate_json((tmp_path / "outputs/night/summary.json").read_text())
        assert summary.ending == "signal"
        assert summary.rendered + summary.left == 40
        assert renderer("render", path, cwd=tmp_path).returncode == 0

    def test_a_killed_supervisor_takes_its_worker_along(self, tmp_path: Path) -> None:
        """SIGKILL on the supervisor: the worker notices and leaves, and no lock is left behind."""
        path = manifest(tmp_path, *(f"picture {number}" for number in range(40)))
        command = [sys.executable, "-m", "renderer", "render", str(path), "--log-format", "json"]
        run = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
        )
        assert run.stderr is not None
        for line in run.stderr:
            if json.loads(line)["event"] == "picture-done":
                break
        (worker,) = psutil.Process(run.pid).children()
        run.kill()
        run.wait()
        worker.wait(10)
        assert renderer("render", path, "--only", "001", cwd=tmp_path).returncode == 0

    def test_a_bad_picture_among_good_ones(self, project: Path) -> None:
        """A picture over its limits fails with code 1 and its reason; the others are there."""
        path = project / "limits.yaml"
        path.write_text(
            SMALL + "  - {id: a, prompt: a}\n  - {id: b, prompt: b, expect: {ram: 1MB}}\n  - {id: c, prompt: c}\n"
        )
        done = renderer("render", path, cwd=project)
        assert done.returncode == 1
        assert "bytes of host memory" in done.stderr
        assert pictures_in(project / "outputs/limits") == {"a.png", "c.png"}

    def test_a_model_this_machine_cannot_run_ends_with_3(self, project: Path) -> None:
        """Qwen-Image without a GPU: code 3, what is missing, and nothing written."""
        path = project / "real.yaml"
        path.write_text("jobs: [a poster]\n")
        done = renderer("render", path, cwd=project)
        assert done.returncode == 3
        assert "needs an NVIDIA GPU" in done.stderr
        assert not list((project / "outputs/real").glob("*.png"))

    def test_doctor_says_what_this_machine_is(self, project: Path) -> None:
        """For machines; what people read of it, `tests/cli/test_doctor.py` looks at."""
        done = renderer("doctor", "--json", cwd=project)
        found = json.loads(done.stdout)
        assert found["torch"]["torch"]
        assert found["profiles"]["demo bf16"].startswith("stream")
