"""JSON that somebody sent, as values that can be written again: in an answer, in a file, and as UTF-8.

Python reads what JSON has not (NaN), numbers that become infinite, and halves of letters (one surrogate alone), which
fail where they are written, long after; so does what is nested deeper than some of those that write. Knows no HTTP.
"""

from __future__ import annotations

import json
import math
from typing import Any

from renderer.errors import shorten

_MOST_DEPTH = 64
"""Lists and objects within one another; nothing that is asked for has ten."""

_MOST_DIGITS = 400
"""Of a whole number: more than any that is not infinite as another number has."""

_TOO_LARGE = "a number is too large"


def read_json(data: bytes) -> Any:
    """The value. Raises `ValueError` that says what is wrong, and `RecursionError` for what is nested too deeply."""
    text = data.decode(json.detect_encoding(data))
    value = json.loads(
        text.removeprefix("\ufeff"),
        object_pairs_hook=_once,
        parse_constant=_none,
        parse_float=_finite,
        parse_int=_whole,
    )
    _check_depth(value)
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            said = f"\\u{ord(error.object[error.start]):04x} is half of a letter: the other half is missing"
            raise ValueError(said) from None
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MOST_DEPTH + 1):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return
        level = [each for one in level for each in (one.values() if isinstance(one, dict) else one)]
    raise RecursionError


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f'the key "{shorten(twice)}" is there twice')
    return found


def _none(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(_TOO_LARGE)
    return number


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(_TOO_LARGE)
    return int(text)
