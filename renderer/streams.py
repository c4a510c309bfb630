r"""What is printed gets out, whatever encoding the stream has: a letter it lacks is escaped, and never an error.

The escape is that of JSON (`\u4f60`), so that JSON stays JSON. Names of files that are not UTF-8 are printed so too.
"""

from __future__ import annotations

import codecs
import io
import sys

_ERRORS = "renderer.escaped"


def settle() -> None:
    """Let what this process prints be escaped where its streams cannot say it."""
    codecs.register_error(_ERRORS, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """The letters that cannot be encoded, as UTF-16 has them: what JSON writes, also of halves of a letter."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    found = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(f"\\u{unit:04x}" for unit in found), error.end
