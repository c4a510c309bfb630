"""Names of files that a locale, or UTF-8, cannot say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from renderer import catalog
from renderer.errors import ModelError
from renderer.weights.identity import identify
from tests.weights import tiny

ROOT = Path(__file__).resolve().parents[2]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale in which Python takes the names of files for ASCII, as it takes them for ISO-8859-1 in others."""

MANIFEST = "version: 1\ndefaults: {model: demo, size: 64x64, steps: 2}\njobs: [{id: 你好, prompt: é}]\n"


def plan(folder: Path, *arguments: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    (folder / "m.yaml").write_text(MANIFEST, encoding="utf-8")
    command = [os.fsencode(sys.executable), b"-m", b"renderer", b"plan", b"m.yaml", *arguments]
    known = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, env=known, capture_output=True, check=False)


def test_a_locale_without_the_letters(tmp_path: Path) -> None:
    """Pictures have the names that the manifest gives them; the terminal gets what it can show."""
    done = plan(tmp_path, **ASCII)
    assert done.returncode == 0, done.stderr
    assert b"\\u4f60\\u597d" in done.stdout
    assert done.stdout.isascii()


def test_a_mode_that_cannot_be_had(tmp_path: Path) -> None:
    """Whoever forbids UTF-8 on Python's own command line is not started again for ever."""
    (tmp_path / "m.yaml").write_text("jobs: [{prompt: a}]", encoding="utf-8")
    command = [sys.executable, "-X", "utf8=0", "-m", "renderer", "validate", "m.yaml"]
    known = {**os.environ, "PYTHONPATH": str(ROOT), **ASCII}
    done = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("environment", [{}, ASCII])
def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path, environment: dict[str, str]) -> None:
    """Its bytes are kept, and it is printed as JSON can say it."""
    done = plan(tmp_path, b"--outputs", b"caf\xe9", b"--json", **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifests"][0]["folder"].startswith("caf\udce9")


def test_a_model_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    """It would stand in sidecars, which are UTF-8: refused. A file in the folder may have any name."""
    with pytest.raises(ModelError, match="is not UTF-8") as caught:
        catalog.find(os.fsdecode(b"caf\xe9"))
    assert "rename it" in caught.value.hint
    source = tiny.make(tmp_path / "model")
    (Path(os.fsdecode(os.fsencode(source.tokenizer) + b"/\xff"))).write_bytes(b"")
    assert identify(catalog.find(str(source.folder))).content_sha256
