"""The demo model's folder on this machine: found, or made at first use.

It lies in `$RENDERER_CACHE`, else `$XDG_CACHE_HOME/renderer`, else `~/.cache/renderer`. It is made in a folder beside
it and renamed, under a lock: two processes at once make it once, and one that is killed leaves nothing that is taken
for a model. `made.json` holds each file's SHA-256, so that a damaged model is noticed and made again. Imports torch
only when it has to make one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from renderer.catalog import DEMO
from renderer.demo import tokenizer
from renderer.errors import MachineError
from renderer.machine import cache_folder

_RECORD = "made.json"


def folder() -> Path:
    """The demo model's folder, in Qwen-Image's layout, with every file checked; made in under a second if need be.

    Raises `MachineError` where it cannot be written.
    """
    place = cache_folder() / f"demo-{DEMO.revision}"
    if is_whole(place):
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not is_whole(place):  # another process may have made it while this one waited
                _make(place)
    except (OSError, SafetensorError) as error:  # safetensors has its own word for a full disk
        message = f"the demo model cannot be written to {place}: {error}"
        raise MachineError(message, hint="make room there, or point RENDERER_CACHE at a folder with 20 MB") from error
    return place


def is_whole(place: Path) -> bool:
    """Whether `place` holds exactly what was once made there: each recorded file, with its SHA-256."""
    try:
        record: dict[str, str] = json.loads((place / _RECORD).read_text(encoding="utf-8"))
        return bool(record) and all(_sha256(place / name) == digest for name, digest in record.items())
    except (OSError, ValueError, AttributeError):
        return False


def _make(place: Path) -> None:
    """Make the model beside `place` and put it there, in place of a damaged one. Only for who holds the lock."""
    from renderer.demo import weights  # noqa: PLC0415  # torch, only where there is something to make

    for leftover in place.parent.glob(f"{place.name}.*.tmp"):  # of a maker that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"{place.name}.", suffix=".tmp", dir=place.parent))
    try:
        made = work / "new"
        weights.write(made)
        tokenizer.write(made / "tokenizer")
        record = {str(path.relative_to(made)): _sha256(path) for path in sorted(made.rglob("*")) if path.is_file()}
        (made / _RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        if place.exists():
            place.rename(work / "old")
        made.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
