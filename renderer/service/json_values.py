"""JSON that somebody sent, as values that can be written again: in an answer, in a file, and as UTF-8.

Python reads what JSON has not (NaN), numbers that become infinite, and halves of letters (one surrogate alone), which
fail where they are written, long after. Knows no HTTP.
"""

from __future__ import annotations

import json
import math
from typing import Any


def read_json(data: bytes) -> Any:
    """The value. Raises `ValueError` that says what is wrong, and `RecursionError` for what is nested too deeply."""
    text = data.decode(json.detect_encoding(data))
    value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_once, parse_constant=_none, parse_float=_finite)
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            said = f"\\u{ord(error.object[error.start]):04x} is half of a letter: the other half is missing"
            raise ValueError(said) from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _none(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
