"""What helps where a text is no YAML: the parser says what it expected, this what the writer most likely meant.

One table, read from the top: the first row that fits gives the hint. Knows the parser's words, the line in which the
trouble shows and the one in which what it belongs to begins; nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trouble:
    """A syntax error. `before` and `after` are its line, parted where it shows; `begun` is where its part begins."""

    message: str
    before: str
    after: str
    begun: str


@dataclass(frozen=True, slots=True)
class _Row:
    """A hint for messages that hold `message`, where the lines fit their patterns."""

    message: str
    hint: str
    before: str = ""
    after: str = ""
    begun: str = ""

    def fits(self, trouble: Trouble) -> bool:
        return (
            re.search(self.message, trouble.message) is not None
            and re.search(self.before, trouble.before) is not None
            and re.search(self.after, trouble.after) is not None
            and re.search(self.begun, trouble.begun) is not None
        )


def syntax_hint(trouble: Trouble) -> str:
    """What to do about a syntax error; an empty string where nothing is known."""
    return next((row.hint for row in _ROWS if row.fits(trouble)), "")


_NEAR = 500


def line_at(text: str, index: int) -> tuple[str, str]:
    """The line of a letter, parted before it. Only what is near is looked at: a line may be millions of letters."""
    before, after = text[max(0, index - _NEAR) : index], text[index : index + _NEAR]
    return re.split("[\r\n]", before)[-1], re.split("[\r\n]", after, maxsplit=1)[0]


_MORE = r"did not find expected (key|'-' indicator)|expected <block end>"
"""Something stands where the line should have ended: libyaml's words, and those of PyYAML's own parser."""

_UNCLOSED = r"expected ',' or"
_NO_KEY = r"could not find expected ':'"

_ROWS = (
    _Row(
        _MORE, "write an apostrophe within '…' twice, or put double quotes around the text", before="'$", after=r"^\w"
    ),
    _Row(
        _MORE,
        'write \\" for a quotation mark within "…", or put single quotes around the text',
        before='"$',
        after=r"^\w",
    ),
    _Row(
        _MORE,
        "quote the whole text, like '\"OPEN\" in neon'; or write it in the next line, below >-",
        before="[\"'] +$",
    ),
    _Row(_MORE, "quote text that begins with [ or {", before=r"[\]}] *$"),
    _Row(_MORE, "indent alike what stands side by side"),
    _Row(_UNCLOSED, 'quote text that holds " #", which begins a comment', begun=r"\s#"),
    _Row(_UNCLOSED, "put a comma between the parts, or quotes around the whole text", after=r"^\S"),
    _Row(_UNCLOSED, "close the bracket"),
    _Row(_NO_KEY, "write a plain colon and a space behind a key", begun="\uff1a"),
    _Row(_NO_KEY, "write a space behind the colon", begun=r"^[\s-]*[\w\"']+:\S"),
    _Row(_NO_KEY, "indent text that goes on; a line with # in it ended the text before"),
    _Row("tab character|'\\\\t'", "indent with spaces"),
    _Row("cannot start any token", "indent with spaces", after="^\t"),
    _Row("cannot start any token", "quote text that begins with @, ` or %"),
    _Row("mapping values are not allowed", "indent the key like the one above it", before=r"^\s*\w+$"),
    _Row("mapping values are not allowed", 'quote text that holds ": "'),
    _Row("sequence entries are not allowed", "begin a list in a line of its own; quote text that begins with -"),
    _Row("alphabetic or numeric", "quote text that begins with * or &"),
    _Row("undefined tag handle", "quote text that begins with !"),
    _Row("invalid Unicode character escape", "write the character itself"),
    _Row("escape", r"write \\ for a backslash, or put single quotes around the text"),
    _Row("unexpected end of stream", "close the quotation mark"),
    _Row("comment or (a )?line break", "begin the text in the next line"),
)
