"""Scalars without quotes, by YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema).

`16:9` and `no` are text here, and `0123` is 123. Knows nothing of documents.
"""

from __future__ import annotations

import re
from typing import Any

MAX_NUMBER_LENGTH = 100
"""Longer numbers mean nothing here, and Python refuses to convert digits by the thousand."""

_PLAIN = re.compile(
    r"""(?P<null>null|Null|NULL|~|)
    |(?P<bool>true|True|TRUE|false|False|FALSE)
    |(?P<int>[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)
    |(?P<float>[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))""",
    re.VERBOSE,
)


def resolve(text: str) -> tuple[Any, str]:
    """The value of a scalar without quotes, and the name of its kind; 0 for a number that is too long to mean one."""
    found = _PLAIN.fullmatch(text)
    kind = found.lastgroup if found else None
    if kind == "null":
        return None, kind
    if kind == "bool":
        return text.lower() == "true", kind
    if kind in {"int", "float"}:
        if len(text) > MAX_NUMBER_LENGTH:
            return 0, kind
        return (_whole(text) if kind == "int" else _real(text)), kind
    return text, "str"


def _whole(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _real(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
