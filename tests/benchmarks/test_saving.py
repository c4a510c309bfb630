"""The benchmark of writing, on small pictures; and what it is there to watch."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from renderer.benchmarks import saving
from renderer.outputs import picture_files
from renderer.outputs.encode import Labels, Pixels, encode


@pytest.mark.parametrize("kept_as", ["png", "webp", "jpeg"])
def test_a_line_of_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str], kept_as: str) -> None:
    """All pictures are written by a real supervisor, and nothing is left of them."""
    saving.main(["--pictures", "5", "--side", "64", "--format", kept_as, "--folder", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert (found["pictures"], found["side"], found["format"]) == (5, 64, kept_as)
    assert found["pictures_per_s"] > 0
    assert found["longest_away_s"] > 0
    assert not list(tmp_path.iterdir())


def test_the_loop_is_not_away_while_a_picture_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes: half a second here, where a busy machine may keep the loop for a tenth."""

    def slowly(pixels: Pixels, _: str, labels: Labels) -> bytes:
        time.sleep(0.5)
        return encode(pixels, "png", labels)

    monkeypatch.setattr(picture_files, "encode", slowly)
    found = saving.measure(tmp_path, pictures=3, side=64)
    assert found["pictures"] == 3
    assert found["longest_away_s"] < 0.25


def test_a_photograph_is_as_hard_to_pack_as_one() -> None:
    """Its PNG takes half its bytes or more, as photographs' do, and is the same each time."""
    pixels = saving.photograph(128)
    assert len(pixels) == 128 * 128 * 3
    assert pixels == saving.photograph(128)
    assert 0.5 < len(encode(Pixels(128, 128, pixels))) / len(pixels) < 0.9
