"""The folders of a manifest that was cut for several machines: one for each part, beside the whole's, by their names.

Whose they are, `sharding` asks: a manifest may have the name of another one's part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from renderer.outputs.folder import OutputFolder

_CUT = "[0-9]{1,5}-of-[0-9]{1,5}"
_MARK = f"-(?:shard-{_CUT}|share-{_CUT}-[0-9a-f]{{8}})"


def part_name(manifest: str, number: int, count: int) -> str:
    """The name of a manifest's part, which its folder has."""
    return f"{manifest}-shard-{number}-of-{count}"


def whole_name(part: str) -> str:
    """The name of the manifest that a part is of."""
    return re.sub(f"{_MARK}$", "", part)


def folders(name: str, outputs: Path) -> Iterator[OutputFolder]:
    """The folders of a manifest's parts, however many it was cut into."""
    own = re.compile(re.escape(name) + _MARK)
    if outputs.is_dir():
        yield from (OutputFolder(path) for path in sorted(outputs.iterdir()) if own.fullmatch(path.name))
