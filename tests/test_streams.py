"""Whatever a stream's encoding is, what is printed gets out."""

from __future__ import annotations

import io
import json
import sys

import pytest

from renderer import streams

TEXT = "▶ é 你好 \U0001f600 \udcff"
"""A sign, letters, one beyond 16 bits, and a byte of a file name that is not UTF-8."""


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "▶ é 你好 \U0001f600 \\udcff"),
        ("ascii", "\\u25b6 \\u00e9 \\u4f60\\u597d \\ud83d\\ude00 \\udcff"),
        ("iso-8859-1", "\\u25b6 é \\u4f60\\u597d \\ud83d\\ude00 \\udcff"),
        ("gbk", "\\u25b6 é 你好 \\ud83d\\ude00 \\udcff"),
    ],
)
def test_letters_that_a_stream_lacks_are_escaped(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it can say it says, the rest is escaped as in JSON: a JSON text stays one."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    streams.settle()
    sys.stdout.write(json.dumps(TEXT, ensure_ascii=False))
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert text == f'"{shown}"'
    assert json.loads(text) == TEXT
