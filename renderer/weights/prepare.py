"""See to it that a model is here: fetch what is missing, and make the packed store where one is wanted.

`price` asks the hubs and says what that will cost; `prepare` does it. Both may be called in a worker as well as in the
supplier's process. Imports torch only to pack.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from renderer.catalog import Model, Part
from renderer.errors import DiskError
from renderer.job import Stored
from renderer.system import folders
from renderer.system.files import write_whole
from renderer.text import gb
from renderer.weights import comfyui_has, needs, originals, places, pull, settle, vouched
from renderer.weights.adapters.fusing import files_to_fuse
from renderer.weights.checkpoint import open_checkpoint
from renderer.weights.identity import identify
from renderer.weights.needs import Bill
from renderer.weights.places import ModelFiles, Whereabouts
from renderer.weights.pull import Errand, HubName, Offer

LOG = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
"""Hears what is being done, and how many bytes of how many; from any thread, one at a time."""

_RATES = "model-rates.json"
_SHORTEST_S = 1.0  # a rate that was measured over less says nothing


@dataclass(frozen=True, slots=True)
class Ready:
    """A model that is here: its own files (None where only the store is left of them), and its store, if wanted."""

    files: ModelFiles | None
    store: Path | None
    note: str = ""


def no_report(_what: str, _done: int, _total: int) -> None:
    """Nobody listens."""


# ---- what it costs ---------------------------------------------------------------------------------------------------


def price(model: Model, store: Stored | None, order: Sequence[HubName]) -> tuple[Bill, list[tuple[Errand, Offer]]]:
    """What it will cost to have a model here, and the offers that say so. Raises `ModelError` when no hub has it."""
    offers = [] if _has_store(model, store) else [(each, pull.ask(each, order)) for each in errands(places.look(model))]
    download = sum(offer.bytes for _, offer in offers)
    packed = _store_bytes(model, store) if store and not _has_store(model, store) else 0
    lacking = [lack.part for lack in places.look(model).lacking] if offers else []
    notes = [*(offer.note for _, offer in offers), comfyui_has.in_other_forms(lacking)]
    bill = Bill(
        model=model.id,
        source=offers[0][1].source if offers else None,
        download_bytes=download,
        store_bytes=packed,
        free_bytes=needs.free_bytes(),
        folder=str(folders.models_folder()),
        seconds=_expected_s(download, packed),
        note="; ".join(dict.fromkeys(note for note in (_replaced(model, store), *notes) if note)),
    )
    return bill, offers


def _replaced(model: Model, store: Stored | None) -> str:
    """That a store of another revision makes way for the one to come; empty where there is none."""
    other = places.stranger(model, store) if store and not model.is_embedded else None
    return f"the packed store that is here is of {other}, and is replaced" if other else ""


def _store_bytes(model: Model, store: Stored) -> int:
    """What a store will take: from the headers where the files are here, from the catalogue where they are not."""
    whereabouts = places.look(model)
    if whereabouts.lacking:
        return model.gpu_bytes.get(store, 0)
    from renderer.weights import pack  # noqa: PLC0415  # torch, only where there is something to pack

    files = places.collect(whereabouts)
    return pack.plan_pack(files.networks, files.tokenizer, store, files.processor)


def errands(whereabouts: Whereabouts) -> list[Errand]:
    """What has to be fetched, one errand a repository and revision. Raises `ModelError` where no hub has it."""
    model = whereabouts.model
    if whereabouts.lacking and not model.parts:
        raise places.lacks(whereabouts, "")
    patterns: dict[tuple[str, str | None, Path, bool], list[str]] = {}
    for lack in whereabouts.lacking:
        patterns.setdefault(_origin(model, lack.part), []).append(_pattern(lack.part))
    return [
        Errand(repository, revision, tuple(found), folder, pinned)
        for (repository, revision, folder, pinned), found in patterns.items()
    ]


def _origin(model: Model, part: Part) -> tuple[str, str | None, Path, bool]:
    folder = places.fetch_folder(model, part)
    if part.repository is not None:
        return part.repository, part.revision, folder, False
    return model.id, model.revision, folder, model.pinned


def _pattern(part: Part) -> str:
    return f"{part.files}*" if part.files.endswith("/") else part.files


# ---- doing it --------------------------------------------------------------------------------------------------------


def prepare(
    model: Model,
    *,
    store: Stored | None = None,
    offline: bool = False,
    order: Sequence[HubName] | None = None,
    discard_source: bool = False,
    report: Report = no_report,
    offers: Sequence[tuple[Errand, Offer]] | None = None,
) -> Ready:
    """Have a model here: its files, and its packed store where `store` says at which precision.

    `offers` are those that `price` got. With `offline` no network is asked. With `discard_source` the model's own
    files, as far as they lie in the models folder, are deleted once the store is verified.

    Raises `ModelError` when files are missing and cannot be fetched, or are not what they should be; `DiskError`;
    `LockedError` when another process packs the same store.
    """
    if store is not None and _has_store(model, store):
        settle.sweep(places.packed_folder(model, store))
        if discard_source and places.originals(model):
            folder = places.packed_folder(model, store) if store else None
            return Ready(None, folder, _discard(model, folder, report))
        whereabouts = places.look(model)
        files = None if whereabouts.lacking else places.collect(whereabouts)
        return Ready(files, places.packed_folder(model, store) if store else None)
    whereabouts = places.look(model)
    if whereabouts.lacking:
        if offline:
            raise places.lacks(whereabouts, "and this run is offline")
        _fetch(offers if offers is not None else price(model, store, order or pull.sources())[1], report)
        whereabouts = places.look(model)
    if model.is_extra:
        return Ready(None, None)
    files = places.collect(whereabouts)
    check(files)
    if store is None:
        return Ready(files, None)
    folder, note = _pack(model, whereabouts, files, store, report)
    if discard_source:
        note += "\n  " + _discard(model, None, report)
        return Ready(None, folder, note)
    return Ready(files, folder, note)


def check(files: ModelFiles) -> None:
    """Raise `ModelError`, naming the file, unless each network's files are whole by their headers, and its own."""
    for role, paths in files.networks.items():
        open_checkpoint(role, paths)


def _has_store(model: Model, store: Stored | None) -> bool:
    return store is not None and places.has_store(model, store)


def _fetch(offers: Sequence[tuple[Errand, Offer]], report: Report) -> None:
    total = sum(offer.bytes for _, offer in offers)
    done = 0
    began = time.monotonic()
    for errand, offer in offers:
        before = done
        report("downloading", before, total)

        def hear(count: int, before: int = before) -> None:
            report("downloading", min(total, before + count), total)

        pull.fetch(errand, offer, hear)
        done += offer.bytes
    report("downloading", total, total)
    _remember_rate("download", total, time.monotonic() - began)


def _pack(model: Model, whereabouts: Whereabouts, files: ModelFiles, store: Stored, report: Report) -> tuple[Path, str]:
    """Make the store, and say how near it is to what it was made of."""
    from renderer.weights import pack  # noqa: PLC0415  # torch, only where there is something to pack

    fused = files_to_fuse(model)
    identity = identify(model)
    folder = places.packed_root(identity) / store
    began = time.monotonic()
    index = pack.pack(
        files.networks,
        files.tokenizer,
        folder,
        store,
        identity,
        report=lambda done, total, _name: report("packing", done, total),
        processor=files.processor,
        said=vouched.all_said(whereabouts),
        fused=fused,
    )
    _remember_rate("pack", index.bytes, time.monotonic() - began)
    if index.worst_error is None or index.median_error is None:
        return folder, f"{model.id} is packed: {gb(index.bytes)}, bit for bit"
    name, worst = index.worst_error
    error = f"error of a layer's weights {index.median_error:.4f}, at most {worst:.4f}"
    return folder, f"{model.id} is packed: {gb(index.bytes)}\n  {error}\n  ({name})"


def _discard(model: Model, store: Path | None, report: Report) -> str:
    """Delete a model's originals, and say how much that was; where `store` is given, it is read whole before.

    Raises `ModelError`, and nothing is deleted, when the store is not what its index says.
    """
    from renderer.weights.store import open_store  # noqa: PLC0415  # as above

    paths = places.originals(model)
    if not paths:
        return "no originals of ours to discard"
    if store is not None:
        open_store(store).verify(lambda done, total, _name: report("verifying", done, total))
    return f"{gb(originals.discard_source(paths, folders.models_folder()))} of originals discarded"


# ---- rates -----------------------------------------------------------------------------------------------------------


def _expected_s(download_bytes: int, store_bytes: int) -> float | None:
    """Seconds at the rates measured here before; None where one is not known."""
    rates = _read_rates()
    total = 0.0
    for what, count in (("download", download_bytes), ("pack", store_bytes)):
        if count and what not in rates:
            return None
        total += count / rates[what] if count else 0.0
    return total


def _remember_rate(what: str, count: int, seconds: float) -> None:
    """Keep bytes a second for the next estimate; where the cache cannot be written, there is none."""
    if seconds < _SHORTEST_S or not count:
        return
    path = folders.cache_folder() / _RATES
    try:
        write_whole(path, json.dumps({**_read_rates(), what: count / seconds}).encode())
    except DiskError:
        LOG.warning("rates could not be written to %s", path)


def _read_rates() -> dict[str, float]:
    try:
        found = json.loads((folders.cache_folder() / _RATES).read_bytes())
        return {str(what): float(rate) for what, rate in found.items() if float(rate) > 0}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
