"""A power cut, simulated: what a program asked of the disk, and what of it may be left when the power goes.

`Recorder` listens to every call that changes files below a folder. `Disk` replays the calls on a disk of the meanest
kind that POSIX allows: a file's bytes last only once the file was synced, and a name (made, renamed or removed) only
once its folder was. What was not synced may be there or not, each for itself.
"""

from __future__ import annotations

import os
import random
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest


@dataclass(frozen=True, slots=True)
class Call:
    """One thing asked of the disk, or a `mark`: something that the program has told the world by now.

    `file` is the number of an opened file or folder, `name` and `other` are paths below the root.
    """

    what: Literal["open", "write", "sync", "mkdir", "move", "link", "remove", "mark"]
    name: str = ""
    other: str = ""
    file: int = -1
    data: bytes = b""


class Killed(BaseException):
    """The process died here."""


class Recorder:
    """Every call that changes something below `root`, in order. `unseen` are files that were opened past it."""

    def __init__(self, root: Path) -> None:
        self.calls: list[Call] = []
        self.unseen: list[str] = []
        self.kill_at: int | None = None
        self._root = str(root)
        self._lock = threading.RLock()
        self._files: dict[int, int] = {}
        self._opened = 0
        self._ours = False

    def mark(self, name: str) -> None:
        with self._lock:
            self.calls.append(Call("mark", name))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record what this process does to files. Python's own `open` does not pass here: it is `unseen`."""
        with pytest.MonkeyPatch.context() as patch:
            for name in (
                "open",
                "close",
                "write",
                "fsync",
                "mkdir",
                "replace",
                "rename",
                "link",
                "unlink",
                "remove",
                "rmdir",
            ):
                patch.setattr(os, name, self._wrap(name, getattr(os, name)))
            for name in ("fdatasync", "truncate", "ftruncate", "pwrite", "writev", "symlink", "sendfile"):
                patch.setattr(os, name, self._refuse(name, getattr(os, name)))
            _listeners.append(self._audit)
            try:
                yield
            finally:
                _listeners.remove(self._audit)

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            with self._lock:
                self._ours, before = True, self._ours
                try:
                    result = real(*args, **more)
                finally:
                    self._ours = before
                getattr(self, f"_{name}")(result, *args)
                return result

        return call

    def _refuse(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            inside = (self._files.get(args[0]) if isinstance(args[0], int) else self._below(args[0])) is not None
            assert not inside, f"the recorder does not know os.{name}"
            return real(*args, **more)

        return call

    def _audit(self, path: object, flags: int) -> None:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes and not self._ours and isinstance(path, str | bytes) and self._below(os.fsdecode(path)) is not None:
            self.unseen.append(os.fsdecode(path))

    def _below(self, path: Any) -> str | None:
        whole = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links are not to be followed
        return os.path.relpath(whole, self._root) if f"{whole}/".startswith(f"{self._root}/") else None

    def _say(self, call: Call) -> None:
        self.calls.append(call)
        if self.kill_at is not None and len(self.calls) >= self.kill_at:
            raise Killed

    def _open(self, descriptor: int, path: Any, flags: int, *_: Any) -> None:
        self._files.pop(descriptor, None)
        name = self._below(path)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if name is not None and (writes or stat.S_ISDIR(os.fstat(descriptor).st_mode)):
            assert not flags & os.O_TRUNC, "the recorder does not know O_TRUNC"
            self._opened += 1
            self._files[descriptor] = self._opened
            self._say(Call("open", name, "append" if flags & os.O_APPEND else "", self._opened))

    def _close(self, _: None, descriptor: int) -> None:
        self._files.pop(descriptor, None)

    def _write(self, count: int, descriptor: int, data: Any) -> None:
        if (file := self._files.get(descriptor)) is not None:
            self._say(Call("write", file=file, data=bytes(data)[:count]))

    def _fsync(self, _: None, descriptor: int) -> None:
        if (file := self._files.get(descriptor)) is not None:
            self._say(Call("sync", file=file))

    def _mkdir(self, _: None, path: Any, *__: Any) -> None:
        if (name := self._below(path)) is not None:
            self._say(Call("mkdir", name))

    def _replace(self, _: None, one: Any, other: Any) -> None:
        if (name := self._below(one)) is not None:
            self._say(Call("move", name, self._below(other) or ""))

    _rename = _replace

    def _link(self, _: None, one: Any, other: Any) -> None:
        if (name := self._below(one)) is not None:
            self._say(Call("link", name, self._below(other) or ""))

    def _unlink(self, _: None, path: Any) -> None:
        if (name := self._below(path)) is not None:
            self._say(Call("remove", name))

    _remove = _rmdir = _unlink


_listeners: list[Callable[[object, int], None]] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        for listener in _listeners:
            listener(args[0], args[2])


sys.addaudithook(_hook)  # it cannot be taken off again, and costs nothing while nobody listens


# ---- the disk --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class File:
    """Bytes as they are, and as they would be after a cut."""

    now: bytes = b""
    kept: bytes = b""


@dataclass(slots=True, eq=False)
class Folder:
    """Names as they are, those that would be left after a cut, and the changes between the two, in order."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    kept: dict[str, File | Folder] = field(default_factory=dict)
    changes: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def change(self, change: dict[str, File | Folder | None]) -> None:
        _apply(self.now, change)
        self.changes.append(change)

    def sync(self) -> None:
        self.kept, self.changes = dict(self.now), []


def _apply(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> None:
    for name, entry in change.items():
        if entry is None:
            names.pop(name, None)
        else:
            names[name] = entry


Cut = Literal["lost", "torn", "reordered", "mixed"]
"""What a cut leaves of what was not synced.

`lost`: nothing. `torn`: half of each file's bytes, the first half of each folder's changes. `reordered`: all names and
no bytes. `mixed`: some of each, drawn for each file and folder.
"""

Tree = dict[str, bytes | None]
"""Files by their paths, and their bytes; folders have None."""


class Disk:
    """A disk that keeps only what it was told to."""

    def __init__(self) -> None:
        self._root = Folder()
        self._open: dict[int, tuple[File | Folder, bool]] = {}

    def do(self, call: Call) -> None:
        match call.what:
            case "open":
                folder, name = self._find(call.name)
                if name and name not in folder.now:
                    folder.change({name: File()})
                self._open[call.file] = (folder.now[name] if name else folder), call.other == "append"
            case "write":
                file, _ = self._open[call.file]
                assert isinstance(file, File)
                file.now += call.data  # a new file, or one that is added to: no other kind is written here
            case "sync":
                self._sync(call.file)
            case "mkdir":
                folder, name = self._find(call.name)
                folder.change({name: Folder()})
            case "move":
                self._move(call)
            case "link":
                folder, name = self._find(call.other)
                there, old = self._find(call.name)
                folder.change({name: there.now[old]})
            case "remove":
                folder, name = self._find(call.name)
                folder.change({name: None})

    def _sync(self, number: int) -> None:
        entry, _ = self._open[number]
        if isinstance(entry, File):
            entry.kept = entry.now
        else:
            entry.sync()

    def _move(self, call: Call) -> None:
        (before, old), (after, new) = self._find(call.name), self._find(call.other)
        if before is after:  # one change, that is there or not
            before.change({new: before.now[old], old: None})
        else:
            after.change({new: before.now[old]})
            before.change({old: None})

    def _find(self, path: str) -> tuple[Folder, str]:
        """The folder that a path's last part stands in, and that part; it is empty for the root itself."""
        if path == ".":
            return self._root, ""
        *above, name = path.split("/")
        folder = self._root
        for each in above:
            entry = folder.now[each]
            assert isinstance(entry, Folder)
            folder = entry
        return folder, name

    def left(self, cut: Cut, seed: int) -> Tree:
        """What is there when the power comes back."""
        dice = random.Random(seed)  # noqa: S311

        def share() -> float:
            return {"lost": 0.0, "torn": 0.5, "reordered": 1.0, "mixed": dice.choice((0.0, 0.5, 1.0))}[cut]

        def names(folder: Folder) -> dict[str, File | Folder]:
            found = dict(folder.kept)
            for change in folder.changes[: int(len(folder.changes) * share())]:
                _apply(found, change)
            return found

        def walk(folder: Folder, path: str) -> Iterator[tuple[str, bytes | None]]:
            for name, entry in sorted(names(folder).items()):
                if isinstance(entry, Folder):
                    yield f"{path}{name}", None
                    yield from walk(entry, f"{path}{name}/")
                else:
                    part = 0.0 if cut == "reordered" else share()
                    more = int((len(entry.now) - len(entry.kept)) * part)
                    yield f"{path}{name}", entry.now[: len(entry.kept) + more]

        return dict(walk(self._root, ""))


def put(tree: Tree, root: Path) -> None:
    """Make files and folders of it."""
    root.mkdir()
    for name, data in tree.items():
        if data is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)
