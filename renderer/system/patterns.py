"""Which paths a pattern fits, by the rules of shells: `*`, `?`, `[a-z]`, and `**` for folders at any depth.

Python's own follows links around in a circle: with two of them in a folder it does not come to an end.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def fitting(pattern: str, folder: Path = Path()) -> list[str]:
    """The paths that a pattern fits, in the order of their names, as they are written from `folder`."""
    pattern += "/*" * (pattern == "**" or pattern.endswith("/**"))
    before, sign, after = pattern.partition("**/")
    if not sign or (before and not before.endswith("/")):
        found: Iterable[str] = glob.iglob(pattern, root_dir=folder)  # noqa: PTH207  # Path's has other rules
    else:
        tops = glob.iglob(before, root_dir=folder) if before else [""]  # noqa: PTH207  # as above
        found = {
            os.path.join(top, each, path)  # noqa: PTH118  # text, as it is written
            for top in tops
            for each in _folders_in(folder / top)
            for path in fitting(after, folder / top / each)
        }
    return sorted(found)


def _folders_in(top: Path) -> Iterator[str]:
    """A folder and all within but hidden ones, each once: what links lead to comes last, and no second time."""
    seen: set[tuple[int, int]] = set()
    waiting, links = [""], list[str]()
    while waiting or links:
        way = waiting.pop() if waiting else links.pop(0)
        try:
            found = os.stat(top / way)  # noqa: PTH116  # as scandir
            entries = sorted(os.scandir(top / way), key=lambda entry: entry.name)
        except OSError:  # it may not be looked into: shells pass it over
            continue
        if (found.st_dev, found.st_ino) in seen:
            continue
        seen.add((found.st_dev, found.st_ino))
        yield way
        for entry in entries:
            if not entry.name.startswith(".") and os.path.isdir(entry.path):  # noqa: PTH112  # it never raises
                (links if entry.is_symlink() else waiting).append(os.path.join(way, entry.name))  # noqa: PTH118
