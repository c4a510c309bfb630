"""Read every file of a model and hold it against its hash: of originals the hub's, of packed stores their index's.

Where nobody wrote a hash down, the header has to do; what was held against what is said. Imports torch to open stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from renderer import catalog
from renderer.catalog import Model
from renderer.errors import ModelError
from renderer.job import Stored
from renderer.system.files import sha256_of
from renderer.text import gb
from renderer.weights import places, readers
from renderer.weights.index import INDEX
from renderer.weights.prepare import Report
from renderer.weights.vouched import said_of


def verify(model: Model, report: Report) -> str:
    """Verify what is here of a model, and say what that was.

    Raises `ModelError`, which names each file that is not what it should be, and where nothing is here.
    """
    said, wrong = [], []
    files = dict(_hashes(model))
    with ThreadPoolExecutor() as pool:
        total, done, hashed = sum(path.stat().st_size for path in files), 0, 0
        for path, actual in zip(files, pool.map(sha256_of, files), strict=True):
            done += path.stat().st_size
            report("verifying", done, total)
            expected = files[path]
            hashed += expected is not None
            if expected is not None and actual != expected:
                wrong.append(f"{path}: damaged, its SHA-256 is {actual}, and must be {expected}")
            elif expected is None and path.suffix in catalog.TENSORS:
                wrong.extend(_header_trouble(path))
    if files:
        how = f"{hashed} by their hash, {len(files) - hashed} by their header alone"
        said.append(f"{len(files)} files, {gb(total)}: {how}")
    for precision, folder in stores(model):
        wrong.extend(_store_trouble(folder, report))
        said.append(f"packed store in {precision}")
    if not said:
        raise ModelError(f"{model.id} is not here", hint=f"fetch it: renderer models pull {model.reference}")
    if wrong:
        raise ModelError("\n".join(wrong), hint="remove what is damaged, and fetch or pack it again")
    return "\n  ".join([f"{model.id}: all is as it should be", *said])


def stores(model: Model) -> Iterator[tuple[Stored, Path]]:
    """The packed stores of a model that are here."""
    precisions: tuple[Stored, ...] = get_args(Stored)
    for precision in precisions:
        folder = places.packed_folder(model, precision)
        if (folder / INDEX).is_file():
            yield precision, folder


def _hashes(model: Model) -> Iterator[tuple[Path, str | None]]:
    """Each original file, and the SHA-256 it must have where that was written down."""
    for found in places.look(model).found:
        for path in places.files_below(found):
            yield path, said_of(found, path)


def _header_trouble(path: Path) -> list[str]:
    try:
        readers.read(path)
    except ModelError as error:
        return [error.message]
    return []


def _store_trouble(folder: Path, report: Report) -> list[str]:
    from renderer.weights.store import open_store  # noqa: PLC0415  # torch, only where there is a store

    try:
        open_store(folder).verify(lambda done, total, _name: report("verifying", done, total))
    except ModelError as error:
        return [error.message]
    return []
