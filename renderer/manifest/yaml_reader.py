"""YAML or JSON bytes to plain values, strictly, and where each of them was written.

Scalars are read by YAML 1.2's core schema, so `16:9` and `no` are text and `0123` is 123. What makes YAML surprising or
dangerous is a problem: repeated keys, keys that are not text, anchors, aliases, tags beyond the core ones, several
documents, control characters, deep nesting, more bytes or values than anybody means. PyYAML reads the text, and
`json_reader` what is JSON; the values are put together here, in one loop without recursion. Knows nothing of manifests:
it does not care what a key means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from renderer.errors import Problem, shorten
from renderer.manifest import json_reader
from renderer.manifest.decoding import decode, forbidden
from renderer.manifest.document import MAX_PROBLEMS, TOO_MANY, Document, Mark, Route, spell
from renderer.manifest.json_reader import JsonError
from renderer.manifest.scalars import MAX_NUMBER_LENGTH, resolve

MAX_VALUES = 10**6
"""Keys are not counted. A million take half a gigabyte while they are read, and are more than any manifest may hold."""

MAX_DEPTH = 20


def read(data: bytes, file: str) -> Document:
    """What a file of one document says; `file` is what problems call it. Never raises: see `Document.problems`.

    What is JSON from its first letter to its last is read as JSON, whatever the file is called. A file that is called
    `.json` and is not gets JSON's problem.
    """
    text, problems = decode(data, file)
    if problems:
        return Document(file=file, problems=problems)
    named_json = file.lower().endswith(".json")
    if named_json or text.lstrip().startswith("{"):
        try:
            return _Composer(file, text).compose(json_reader.events(text))
        except JsonError as error:
            if named_json or error.lines:
                hint = 'put the lines into {"jobs": [ ]}, with commas between them' if error.lines else ""
                problem = Problem(file, error.line, error.column, "", f"this is not JSON: {error.message}", hint)
                return Document(file=file, problems=[problem])
    return _Composer(file, text).compose(_events(text))


# ---- events to values ------------------------------------------------------------------------------------------------


class _StopReadingError(Exception):
    """Raised where going on would only produce noise; the problem is already written down."""


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is being read.

    A mapping takes turns: a key is set aside in `key` until its value comes. `kept` is false inside what was refused:
    it is still read and checked, but leaves no marks. `keeps_value` says so of the value that `key` waits for.
    """

    route: Route
    value: dict[str, Any] | list[Any]
    kept: bool
    is_key: bool = False
    key: str | None = None
    keeps_value: bool = True

    @property
    def awaits_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None

    @property
    def next_route(self) -> Route:
        step = len(self.value) if isinstance(self.value, list) else self.key
        return (*self.route, "?" if step is None else step)

    def take(self, value: Any) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        elif self.key is not None:
            if self.keeps_value:
                self.value[self.key] = value
            self.key, self.keeps_value = None, True


class _Composer:
    """Puts one document together from PyYAML's events; `text` is what they come from."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.problems: list[Problem] = []
        self.keys: dict[Route, Mark] = {}
        self.values: dict[Route, Mark] = {}
        self.sources: dict[Route, str] = {}
        self.cuts: dict[Route, Mark] = {}
        self.broken: set[Route] = set()
        self.stack: list[_Frame] = []
        self.top: Any = None
        self.documents = 0
        self.values_count = 0

    def compose(self, events: Iterable[yaml.Event]) -> Document:
        """The document of these events, which may raise what PyYAML does."""
        complete = False
        try:
            for event in events:
                self._handle(event)
            complete = True
        except _StopReadingError:
            pass
        except yaml.MarkedYAMLError as error:
            self._report_syntax(error)
        except (yaml.YAMLError, ValueError) as error:
            # PyYAML's own scanner, used where libyaml is missing, lets chr() fail on \U00110000.
            self.problems.append(Problem(self.file, 1, 1, "", f"this is not YAML: {shorten(str(error))}"))
        return Document(
            file=self.file,
            problems=self.problems,
            value=self.top if complete else None,
            complete=complete,
            keys=self.keys,
            values=self.values,
            sources=self.sources,
            cuts=self.cuts,
            broken=frozenset(self.broken),
        )

    def _handle(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._begin_document(event)
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor is not None and not isinstance(event, yaml.AliasEvent):
                self._report(event, self._route(), f"the anchor &{shorten(event.anchor)} is not allowed", _NO_ANCHOR)
            if self.stack and self.stack[-1].awaits_key:
                self._take_key(self.stack[-1], event)
            else:
                self._take_value(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()

    def _begin_document(self, event: yaml.DocumentStartEvent) -> None:
        self.documents += 1
        if self.documents > 1:
            self._report(event, (), "a second document begins here", "keep one document a file")
            raise _StopReadingError
        if event.version not in (None, (1, 2)):
            self._report(event, (), "only YAML 1.2 is read here", "remove the %YAML line")

    def _take_key(self, frame: _Frame, event: yaml.NodeEvent) -> None:
        route = frame.route
        if isinstance(event, yaml.CollectionStartEvent):
            self._report(event, route, "a key must be text, not a list or mapping")
            self._open(event, _Frame(route, _container(event), kept=False, is_key=True))
            return
        frame.key, frame.keeps_value = "?", False
        if isinstance(event, yaml.AliasEvent):
            self._report_alias(event, route)
            return
        assert isinstance(event, yaml.ScalarEvent)
        key = self._resolve(event, route)
        if not isinstance(key, str):
            self._report(event, route, f"the key {shorten(event.value) or 'without a name'} is not text", "quote it")
        elif isinstance(frame.value, dict) and key in frame.value:
            first = self.keys.get((*route, key), Mark(1, 1))
            self._report(event, (*route, key), f"repeated key; it already stands in line {first.line}", "keep one")
        else:
            frame.key, frame.keeps_value = key, True
            if frame.kept:
                self.keys[(*route, key)] = _mark(event)

    def _take_value(self, event: yaml.NodeEvent) -> None:
        route, kept = self._route(), self._keeps()
        self.values_count += 1
        if self.values_count > MAX_VALUES:
            self._report(event, (), f"the file has more than {MAX_VALUES:,} values", "split it")
            raise _StopReadingError
        if kept:
            self.values[route] = _mark(event)
        if isinstance(event, yaml.CollectionStartEvent):
            self._check_collection_tag(event, route)
            self._open(event, _Frame(route, _container(event), kept=kept))
        elif isinstance(event, yaml.AliasEvent):
            self._report_alias(event, route)
            self._refuse_value(route, kept=kept)
        else:
            assert isinstance(event, yaml.ScalarEvent)
            self._take_scalar(event, route, kept=kept)

    def _take_scalar(self, event: yaml.ScalarEvent, route: Route, *, kept: bool) -> None:
        problems_before = len(self.problems)
        value = self._resolve(event, route)
        if len(self.problems) > problems_before:
            self._refuse_value(route, kept=kept)
            return
        if kept and not isinstance(value, str):
            self.sources[route] = event.value
        elif kept and not event.style:
            self._note_comment(event, route)
        self._place(value)

    def _note_comment(self, event: yaml.ScalarEvent, route: Route) -> None:
        """Remember a comment that cuts off a text without quotes; one with a space behind # is meant as a comment."""
        assert event.end_mark is not None
        found = _CUTTING_COMMENT.match(self.text, event.end_mark.index)
        if found:
            self.cuts[route] = Mark(event.end_mark.line + 1, event.end_mark.column + len(found[0]))

    def _resolve(self, event: yaml.ScalarEvent, route: Route) -> Any:
        """A scalar's value; problems with it are reported, and then the value means nothing."""
        text = event.value
        if wrong := next(forbidden(text.replace("\r", "\0")), None):
            name = f"U+{ord(text[wrong.start()]):04X}"
            self._report(event, route, f"the character {name} is not allowed")
        if event.tag is None and event.implicit[0]:
            value, kind = resolve(text)
        elif event.tag in {None, "!", _CORE + "str"}:
            value, kind = text, "str"
        else:
            value, kind = self._resolve_tagged(event, route)
        if kind in {"int", "float"} and len(text) > MAX_NUMBER_LENGTH:
            hint = "quote it if it is text"
            self._report(event, route, f"a number of more than {MAX_NUMBER_LENGTH} characters", hint)
        return value

    def _resolve_tagged(self, event: yaml.ScalarEvent, route: Route) -> tuple[Any, str]:
        wanted = str(event.tag).removeprefix(_CORE)
        value, kind = resolve(event.value)
        if event.tag not in _SCALAR_TAGS:
            self._report(event, route, f"the tag {_spell_tag(event.tag)} is not allowed", _NO_TAG)
        elif wanted == "float" and kind == "int":
            # Too long for a float, it is reported by the caller; converting it would overflow.
            return (float(value) if len(event.value) <= MAX_NUMBER_LENGTH else value), "float"
        elif wanted != kind:
            self._report(event, route, f"{shorten(event.value)} is not of the tag's kind !!{wanted}", "remove the tag")
        return value, kind

    def _check_collection_tag(self, event: yaml.CollectionStartEvent, route: Route) -> None:
        own = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
        if event.tag not in {None, "!", _CORE + own}:
            self._report(event, route, f"the tag {_spell_tag(event.tag)} is not allowed here", "remove it")

    def _open(self, event: yaml.Event, frame: _Frame) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._report(event, frame.route[:3], f"nested more than {MAX_DEPTH} levels deep")
            raise _StopReadingError
        self.stack.append(frame)

    def _close(self) -> None:
        frame = self.stack.pop()
        if frame.is_key:
            self.stack[-1].key, self.stack[-1].keeps_value = "?", False
        else:
            self._place(frame.value)

    def _place(self, value: Any) -> None:
        if self.stack:
            self.stack[-1].take(value)
        else:
            self.top = value

    def _refuse_value(self, route: Route, *, kept: bool) -> None:
        if kept:
            self.broken.add(route)
        self._place(None)

    def _route(self) -> Route:
        return self.stack[-1].next_route if self.stack else ()

    def _keeps(self) -> bool:
        return not self.stack or (self.stack[-1].kept and self.stack[-1].keeps_value)

    def _report_alias(self, event: yaml.AliasEvent, route: Route) -> None:
        hint = "write the value out, or put it into defaults; quote text that begins with *"
        self._report(event, route, f"the alias *{shorten(event.anchor or '')} is not allowed", hint)

    def _report(self, event: yaml.Event, route: Route, message: str, hint: str = "") -> None:
        mark = _mark(event)
        self.problems.append(Problem(self.file, mark.line, mark.column, spell(route), message, hint))
        if len(self.problems) >= MAX_PROBLEMS:
            self.problems.append(Problem(self.file, mark.line, mark.column, "", TOO_MANY))
            raise _StopReadingError

    def _report_syntax(self, error: yaml.MarkedYAMLError) -> None:
        from renderer.manifest.yaml_hints import Trouble, line_at, syntax_hint  # noqa: PLC0415

        begun = error.context_mark
        mark = error.problem_mark or begun
        message = str(error.problem or "this is not YAML")
        if begun and "could not find expected ':'" in message:
            mark = begun  # the parser notices at the end of the next line, or of the file
        elif begun and error.context:
            message += f", {error.context} that begins in line {begun.line + 1}"
        if mark is None:
            self.problems.append(Problem(self.file, 1, 1, "", message))
            return
        begins = begun or mark
        trouble = Trouble(message, *line_at(self.text, mark.index), begun="".join(line_at(self.text, begins.index)))
        self.problems.append(Problem(self.file, mark.line + 1, mark.column + 1, "", message, syntax_hint(trouble)))


_CUTTING_COMMENT = re.compile(r"[ \t]+#(?=[^\s#])")


def _events(text: str) -> Iterator[yaml.Event]:
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=loader)
    return events


def _container(event: yaml.CollectionStartEvent) -> dict[str, Any] | list[Any]:
    return {} if isinstance(event, yaml.MappingStartEvent) else []


def _mark(event: yaml.Event) -> Mark:
    assert event.start_mark is not None
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


_CORE = "tag:yaml.org,2002:"
_NO_ANCHOR = "remove it; quote text that begins with &"
_NO_TAG = "remove it; quote text that begins with !"
_SCALAR_TAGS = frozenset(_CORE + kind for kind in ("null", "bool", "int", "float"))


def _spell_tag(tag: str | None) -> str:
    tag = tag or ""
    return shorten("!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag)
