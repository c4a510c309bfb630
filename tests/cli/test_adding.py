"""`add` from another terminal: the real command on a run with the fakes' worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import JournalEntry
from tests import driving
from tests.cli.test_pausing import Say, running, say, stands
from tests.waiting import until

__all__ = ["say"]


def test_a_manifest_joins_a_night(tmp_path: Path, say: Say) -> None:
    """With a priority it comes before what waits; it has its own folder and summary, and the last line counts both."""
    one, two = (
        driving.write_manifest(tmp_path, *prompts, name=name) for name, prompts in (("m", ["slow"] * 12), ("n", "ab"))
    )
    with running(tmp_path, one) as process:
        say("pause")
        code, told = say("add", two, "--priority", "2")
        assert (code, told.startswith("n joins: 2 to render, 0 done")) == (0, True)
        until(lambda: (found := stands(tmp_path)) is not None and found.night is not None)
        assert (found := stands(tmp_path)) is not None
        assert found.night is not None
        assert (found.night.manifests, found.night.to_render) == (2, 14)
        say("resume")
        until(lambda: len(driving.pictures(tmp_path, "n")) == 2)
        say("pause")
        assert len(driving.pictures(tmp_path)) < 12
        until((tmp_path / "outputs/n/summary.json").exists)
        (tmp_path / two).write_text((tmp_path / two).read_text() + "  - {prompt: c, seed: 9}\n")
        assert say("add", two)[1].startswith("n joins: 1 to render, 2 done")  # once more, with what is new in it
        say("resume")
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "2 manifests together: 13 rendered, 2 already done, 0 failed, 0 left of 15" in said.decode()
    entries = (tmp_path / "outputs/n/journal.jsonl").read_text().splitlines()
    done = [entry.id for entry in map(JournalEntry.model_validate_json, entries) if entry.what == "done"]
    assert done == ["001", "002", "003"]


def test_a_folder_that_the_night_holds_is_still_its_manifest_s(tmp_path: Path, say: Say) -> None:
    """Another file of the same name, when the first is through and another is rendered: it would write over it."""
    one, two = driving.write_manifest(tmp_path, "a"), driving.write_manifest(tmp_path, *["slow"] * 40, name="n")
    (tmp_path / one).write_text(f"priority: 1\n{(tmp_path / one).read_text()}")
    (tmp_path / "other").mkdir()
    driving.write_manifest(tmp_path / "other", "z")
    with running(tmp_path, two, one):
        until((tmp_path / "outputs/m/summary.json").exists)
        code, told = say("add", "other/m.yaml")
        assert (code, "outputs/m holds the pictures of m.yaml" in told) == (1, True)


def test_what_cannot_join_is_said_and_costs_the_night_nothing(
    tmp_path: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No night, a broken one, one that is on its way, one whose folder another run holds, a picture it has not."""
    one, two = (driving.write_manifest(tmp_path, *["slow"] * 40, name=name) for name in ("m", "n"))
    code, told = say("add", one)
    assert code == 2
    assert told == "error: no run is on in outputs\n  hint: begin one: renderer render m.yaml\n"
    with running(tmp_path, one) as process:
        (tmp_path / "broken.yaml").write_text("jobs: [{promt: a}]")
        code, told = say("add", "broken.yaml")
        assert (code, 'did you mean "prompt"?' in told) == (2, True)
        code, told = say("add", one)
        assert (code, "error: m is being rendered by this run" in told) == (1, True)
        with OutputFolder(tmp_path / "outputs/n").locked():
            code, told = say("add", two)
            assert (code, "another run is rendering into outputs/n" in told) == (1, True)
        code, told = say("add", two, "--only", "p9")
        assert (code, "p9" in told) == (1, True)
        assert say("add", two, "--only", "001")[1].startswith("n joins: 1 to render")
        assert say("stop")[0] == 0
        process.communicate(timeout=60)
    assert process.returncode == 4
    monkeypatch.undo()
