"""`renderer status`: each picture is counted once, with the words of the summary; how the last run ended is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from renderer.cli import command
from renderer.errors import MachineError
from renderer.manifest.manifest import load
from renderer.outputs.summary import Summary
from renderer.supervisor import run
from renderer.supervisor.settings import Settings, StopRequests
from tests.fakes import InlineWorker
from tests.nights import make_night

MANIFEST = """\
name: night
defaults: {model: demo, size: 64x64, steps: 2, seed: 1, precision: bf16}
jobs: [a, fail, {model: Qwen/Qwen-Image, size: 1:1, precision: fp8, prompt: c}, d]
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("night.yaml")
    path.write_text(MANIFEST)
    return path


def render(path: Path, deadline: datetime | None = None, **changes: tuple[str, ...]) -> Summary:
    settings = Settings(outputs=Path("outputs"), hire=InlineWorker, retries=0, deadline=deadline, **changes)  # type: ignore[arg-type]
    (summary,) = run.render([load(path)], settings, lambda _: None, StopRequests())
    return summary


class TestStatus:
    def test_it_counts_as_the_summary_does(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What was refused is refused in both, and neither failed nor to do."""
        summary = render(path)
        assert (summary.rendered, summary.failed, summary.refused, summary.left) == (2, 1, 1, 0)
        assert command.main(["status", "night.yaml", "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)
        counts = {name: told[name] for name in ("done", "failed", "refused", "set_aside", "to_do")}
        assert counts == {"done": 2, "failed": 1, "refused": 1, "set_aside": 0, "to_do": 0}
        assert sum(counts.values()) == told["pictures"] == 4
        assert [each["state"] for each in told["trouble"]] == ["failed", "refused"]
        assert (told["last_run"]["ending"], told["last_run"]["refused"]) == ("complete", 1)
        assert command.main(["status", "night.yaml"]) == 0
        said = capsys.readouterr().out
        assert said.startswith("night: 2 done, 1 failed, 0 set aside, 1 refused, 0 to do of 4\n")
        assert "  refused: 003: Qwen/Qwen-Image needs an NVIDIA GPU" in said
        assert max(map(len, said.splitlines())) <= 80

    def test_what_was_refused_and_is_there_now_is_done(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Another machine has rendered it: each picture is counted once."""
        render(path)
        make_night(load(path), Path("outputs"), without=["001", "002", "004"])
        assert command.main(["status", "night.yaml", "--json"]) == 0
        (told,) = json.loads(capsys.readouterr().out)
        assert {name: told[name] for name in ("done", "failed", "refused", "to_do")} == {
            "done": 3, "failed": 1, "refused": 0, "to_do": 0,
        }  # fmt: skip
        assert [each["state"] for each in told["trouble"]] == ["failed"]

    def test_verify_reads_every_file(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A bit that has turned on the disk is seen by its sum alone."""
        render(path)
        picture = Path("outputs/night/001.png")
        data = bytearray(picture.read_bytes())
        data[-20] ^= 1
        picture.write_bytes(data)
        found = []
        for options in ([], ["--verify"]):
            command.main(["status", "night.yaml", "--json", *options])
            (told,) = json.loads(capsys.readouterr().out)
            found.append((told["done"], told["to_do"]))
        assert found == [(2, 0), (1, 1)]

    def test_it_says_how_the_last_run_ended(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The time was up, or an error: in words, and until a run is through."""
        render(path, deadline=datetime.now(UTC) - timedelta(seconds=1))
        command.main(["status", "night.yaml"])
        assert "the last run stopped at " in capsys.readouterr().out
        Path("outputs/night/journal.jsonl").mkdir()
        with pytest.raises(Exception, match=r"journal\.jsonl"):
            render(path)
        Path("outputs/night/journal.jsonl").rmdir()
        command.main(["status", "night.yaml"])
        said = " ".join(capsys.readouterr().out.split())
        assert "with an error: cannot read outputs/night/journal.jsonl" in said
        render(path)
        command.main(["status", "night.yaml"])
        assert "last run" not in capsys.readouterr().out

    def test_what_cannot_be_rendered_here_is_no_failure_of_the_others(self, path: Path) -> None:
        """With nothing else to do, that this machine cannot is what the command ends with."""
        with pytest.raises(MachineError, match="needs an NVIDIA GPU"):
            render(path, only=("003",))
