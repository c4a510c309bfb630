"""The reader, as a process: it reads real letters, and what becomes of it is this picture's alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image, ImageDraw

from renderer.errors import MachineError
from renderer.lettering import installed
from renderer.lettering.asking import LetterReader, ReadingError
from renderer.text import installing


def lettered(path: Path, text: str) -> Path:
    image = Image.new("RGB", (320, 96), "white")
    ImageDraw.Draw(image).text((20, 24), text, fill="black", font_size=40)
    image.save(path)
    return path


@pytest.fixture(scope="module")
def reader() -> Iterator[LetterReader]:
    opened = LetterReader()
    yield opened
    opened.close()


def test_letters_are_read_and_where_they_stand(reader: LetterReader, tmp_path: Path) -> None:
    answer = reader.read(lettered(tmp_path / "a.png", "HELLO42"))
    (line,) = answer.lines
    assert line.text == "HELLO42"
    assert 0 < line.box.left < 30
    assert 10 < line.box.top < line.box.bottom < 80
    assert answer.reader.startswith("rapidocr 3.")
    assert psutil.Process(reader._child.pid).nice() == 19  # type: ignore[union-attr]


def test_a_file_that_is_no_picture_fails_alone(reader: LetterReader, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ReadingError, match=r"b\.png could not be read: UnidentifiedImageError"):
        reader.read(tmp_path / "b.png")
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "c.png")
    assert reader.read(tmp_path / "c.png").lines == ()


def test_a_reader_that_dies_or_hangs_is_ended_and_begun_anew(tmp_path: Path) -> None:
    dies = LetterReader([sys.executable, "-c", "import os; os._exit(3)"])
    with pytest.raises(ReadingError, match="the reader ended"):
        dies.read(tmp_path / "a.png")
    hangs = LetterReader([sys.executable, "-c", "import time; time.sleep(60)"], patience_s=0.2)
    with pytest.raises(ReadingError, match="no answer within"):
        hangs.read(tmp_path / "a.png")
    assert hangs._child is None


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "_NEEDED", ("rapidocr", "no_such_runtime"))
    with pytest.raises(MachineError, match="no_such_runtime is not installed") as caught:
        installed.check_installed()
    assert installing("lettering") in caught.value.hint
