"""`renderer again`: which pictures are rendered once more, as what, and what is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderer.cli import command
from renderer.outputs.folder import OutputFolder
from renderer.planning.plan import make_plan
from tests.making import finished
from tests.nights import make_night
from tests.reading import load_text

TEXT = """\
name: m
defaults: {model: demo, precision: bf16, size: 64x64, steps: 2}
jobs:
  - {id: moon, prompt: a moon, seed: 1}
  - {id: star, prompt: a star, seed: 2}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text(TEXT)
    make_night(load_text(TEXT), tmp_path / "outputs", without=["star"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cfg-scale", "0.5"], "--cfg-scale 0.5 is out of range"),
        (["--cfg-scale", "31"], "--cfg-scale 31 is out of range"),
        (["--steps", "3", "--only", "sun"], "has no picture or job sun"),
        (["--steps", "3", "--only", "@failed"], "no picture was chosen"),
        ([], "nothing is to be different"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    """Before a worker is begun."""
    assert command.main(["again", "m.yaml", *options]) == 2
    assert said in capsys.readouterr().err
    assert not Path("outputs/m-again").exists()


def test_what_is_chosen_is_rendered_beside_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are there already, once more with what is different; the others are left out."""
    assert command.main(["again", "m.yaml", "--only", "@done", "--steps", "3", "--cfg-scale", "1"]) == 0
    assert "1 rendered" in capsys.readouterr().err
    folder = OutputFolder(Path("outputs/m-again"))
    assert [path.name for path in folder.path.glob("*.png") if path != folder.contact_sheet] == ["moon-3steps-cfg1.png"]
    (moon, _) = make_plan(load_text(TEXT), Path("outputs")).items
    assert finished(OutputFolder(Path("outputs/m")), "moon", moon.fingerprint, thorough=True)
