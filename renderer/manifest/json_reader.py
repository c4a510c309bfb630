"""JSON text to the events that YAML would give, each with its place.

JSON is YAML 1.2, but not to libyaml: it refuses the surrogate pairs by which `json.dumps` writes an emoji. Strings and
their escapes are the standard library's; no recursion, so that no depth is a danger. Knows nothing of what is allowed
in a manifest: repeated keys and long numbers are for whoever takes the events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder

import yaml

from renderer.manifest.decoding import count_lines

_SPACE = re.compile(r"[ \t\r\n]*")
_STRINGS = JSONDecoder()
_LITERAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![^\s,\]}])|true\b|false\b|null\b")


class JsonError(Exception):
    """The text is not JSON. `line` and `column` count from 1 and say where.

    `lines` tells that it is JSON, and more JSON: a document in each line.
    """

    def __init__(self, message: str, mark: yaml.Mark, *, lines: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.line = mark.line + 1
        self.column = mark.column + 1
        self.lines = lines


def events(text: str) -> Iterator[yaml.NodeEvent | yaml.CollectionEndEvent]:
    """The events of one JSON document. Raises `JsonError` where it stops being one."""
    return _Reader(text).read()


class _Reader:
    """One text, read from left to right. `open` are the brackets that still have to be closed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = self.line = self.line_begins = 0
        self.open: list[str] = []

    def read(self) -> Iterator[yaml.NodeEvent | yaml.CollectionEndEvent]:
        self._skip_space()
        yield from self._value()
        while self.open:
            if self._take(self.open[-1]):
                yield self._close()
                continue
            if not self._take(","):
                raise self._error(f'expected "," or "{self.open[-1]}"')
            if self.open[-1] == "}":
                yield self._key()
            yield from self._value()
        if self.at < len(self.text):
            lines = self.text.startswith("{", self.at)
            raise JsonError("there is more behind the end of the document", self._mark(), lines=lines)

    def _value(self) -> Iterator[yaml.NodeEvent | yaml.CollectionEndEvent]:
        """A scalar, or the beginning of a list or mapping up to its first scalar."""
        while True:
            mark = self._mark()
            if self._take("["):
                yield yaml.SequenceStartEvent(None, None, True, mark, mark, flow_style=True)  # noqa: FBT003
                self.open.append("]")
            elif self._take("{"):
                yield yaml.MappingStartEvent(None, None, True, mark, mark, flow_style=True)  # noqa: FBT003
                self.open.append("}")
            else:
                yield self._scalar()
                return
            if self._take(self.open[-1]):
                yield self._close()
                return
            if self.open[-1] == "}":
                yield self._key()

    def _key(self) -> yaml.ScalarEvent:
        if not self.text.startswith('"', self.at):
            raise self._error("expected a key in double quotes")
        key = self._string()
        if not self._take(":"):
            raise self._error('expected ":" after the key')
        return key

    def _scalar(self) -> yaml.ScalarEvent:
        if self.text.startswith('"', self.at):
            return self._string()
        found = _LITERAL.match(self.text, self.at)
        if found is None:
            raise self._error("expected a value")
        mark = self._mark()
        self.at = found.end()
        self._skip_space()
        return yaml.ScalarEvent(None, None, (True, False), found[0], mark, mark)

    def _string(self) -> yaml.ScalarEvent:
        mark = self._mark()
        try:
            value, self.at = _STRINGS.raw_decode(self.text, self.at)
        except JSONDecodeError as error:
            self.at = min(error.pos, len(self.text))
            raise self._error(error.msg[:1].lower() + error.msg[1:].removesuffix(" at")) from error
        self._skip_space()
        return yaml.ScalarEvent(None, None, (False, True), value, mark, mark, style='"')

    def _close(self) -> yaml.CollectionEndEvent:
        mark = self._mark()
        kind = yaml.SequenceEndEvent if self.open.pop() == "]" else yaml.MappingEndEvent
        return kind(mark, mark)

    def _take(self, letter: str) -> bool:
        """Whether this letter comes next; it and the space behind it are then left behind."""
        if not self.text.startswith(letter, self.at):
            return False
        self.at += 1
        self._skip_space()
        return True

    def _skip_space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        space = found[0]
        if "\n" in space or "\r" in space:
            lines, column = count_lines(space)
            self.line += lines
            self.line_begins = found.end() - column
        self.at = found.end()

    def _mark(self) -> yaml.Mark:
        return yaml.Mark("", self.at, self.line, self.at - self.line_begins, None, self.at)

    def _error(self, message: str) -> JsonError:
        return JsonError(message, self._mark())
