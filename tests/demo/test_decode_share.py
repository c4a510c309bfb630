"""The check that CI makes of a decode's share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from renderer.job import Sidecar
from tests.demo import decode_share
from tests.making import make_manifest
from tests.nights import make_night


def write(folder: Path, *decodes_s: float) -> Path:
    """A night with a picture for each decode, beside a second of other work; its folder."""
    make_night(make_manifest([f"prompt {decode_s} {number}" for number, decode_s in enumerate(decodes_s)]), folder)
    paths = sorted((folder / "test").glob("*.json"))
    for path, decode_s in zip(paths, decodes_s, strict=True):
        sidecar = Sidecar.model_validate_json(path.read_bytes())
        parts = {"encode_s": 0.1, "denoise_s": 0.9, "decode_s": decode_s}
        timing = sidecar.timing.model_copy(update=parts)
        path.write_text(sidecar.model_copy(update={"timing": timing}).model_dump_json())
    (folder / "test" / "summary.json").write_text("{}")
    return folder / "test"


def check(*folders: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.demo.decode_share", *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)


def test_a_share_is_of_the_picture_s_work(tmp_path: Path) -> None:
    """Beside a second of other work, a second is half."""
    (share,) = decode_share.shares(write(tmp_path, 1.0)).values()
    assert share == pytest.approx(0.5)


def test_a_decode_that_takes_nearly_all_fails(tmp_path: Path) -> None:
    """By the median of a folder, of whichever folder is worst; one slow picture is the machine's mood."""
    good, bad = write(tmp_path / "good", 0.1, 0.1, 9.0), write(tmp_path / "bad", 0.1, 9.0, 9.0)
    assert check(good).returncode == 0
    found = check(good, bad)
    assert found.returncode == 1
    assert "the decode takes 90% of a picture" in found.stdout


def test_nothing_rendered_is_not_well(tmp_path: Path) -> None:
    """Without a sidecar there is nothing to be content with."""
    assert check(tmp_path).returncode != 0
