"""Fetching from a hub, with the hub's own client: what it has, how many bytes are to come, the files, verified.

Both clients take up a connection that broke. After their process has died, files that were whole are kept; ModelScope's
client also goes on within a file, Hugging Face's (since 1.0) begins it anew. Afterwards every file must have the size
and the hash that the hub told beforehand; a record of that stays in the folder, for `verify`. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from renderer.errors import ModelError, UsageError, shorten
from renderer.system import lock
from renderer.weights import hubs
from renderer.weights.hashes import file_hashes
from renderer.weights.places import hugging_face_blob
from renderer.weights.record import Record, Verified, read_record, write_record

LOG = logging.getLogger(__name__)

HubName = Literal["huggingface", "modelscope"]

_LOCK = ".renderer.system.lock"
_LEFTOVERS = ".cache/huggingface/download/**/*.incomplete"  # of a client that was killed: no other ever reads them
_TICK_S = 0.5

OnBytes = Callable[[int], None]
"""Hears, several times a second, how many bytes have come."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be fetched: files of a repository that match any pattern, into a folder of the same layout.

    `revision` is the catalogue's or a manifest's; it is a Hugging Face commit unless the manifest says otherwise.
    `pinned` is the manifest's: it then holds for every hub.
    """

    repository: str
    revision: str | None
    patterns: tuple[str, ...]
    folder: Path
    pinned: bool = False

    def asks_for(self, name: str) -> bool:
        """Whether a file of the repository is among those that are to be fetched."""
        return any(fnmatch(name, pattern) for pattern in self.patterns)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a hub has for an errand, at which revision; `to_fetch` of it is not in the folder yet.

    `note` is what whoever fetches it should know.
    """

    source: HubName
    revision: str
    files: tuple[hubs.RemoteFile, ...]
    to_fetch: tuple[hubs.RemoteFile, ...]
    note: str = ""

    @property
    def bytes(self) -> int:
        """How many bytes are to come."""
        return sum(file.bytes for file in self.to_fetch)


def sources(wanted: str | None = None) -> tuple[HubName, ...]:
    """The hubs in the order they are asked: the wanted one (or `$RENDERER_SOURCE`, or DiffSynth's), then the other.

    Without a wish it is Hugging Face, whose commits the catalogue pins. Raises `UsageError` for one that is unknown.
    """
    name = wanted or os.environ.get("RENDERER_SOURCE") or os.environ.get("DIFFSYNTH_DOWNLOAD_SOURCE") or "huggingface"
    known: tuple[HubName, ...] = get_args(HubName)
    chosen = [source for source in known if source == name.lower()]
    if not chosen:
        raise UsageError(f'"{name}" is not a source of models', hint=f"known: {', '.join(known)}")
    return (*chosen, *(source for source in known if source not in chosen))


def ask(errand: Errand, order: Sequence[HubName]) -> Offer:
    """What the first hub that has an errand's files offers. Raises `ModelError` with what each hub said."""
    refusals: list[ModelError] = []
    for source in order:
        try:
            return _offer(errand, source)
        except ModelError as error:
            LOG.warning("%s: %s", source, error.message)
            refusals.append(error)
    told = "; ".join(refusal.message for refusal in refusals)
    raise ModelError(f"{errand.repository} cannot be fetched: {told}", hint=refusals[0].hint)


def fetch(errand: Errand, offer: Offer, on_bytes: OnBytes) -> None:
    """Download what an offer has and the folder has not, verify all of it, and write the record.

    Raises `ModelError` (the hub, the network, a file that is not what the hub said) and `DiskError`; what has come
    stays, and the next call goes on from it. A file of the wrong content is removed.
    """
    with lock.waited(errand.folder / _LOCK):  # who waits here finds what the other has fetched
        _make_way(errand, offer)
        _expect(errand, offer)
        _download(errand, offer, on_bytes)
        hashes = _verify(errand, offer)
        _record(errand, offer, hashes)


def _make_way(errand: Errand, offer: Offer) -> None:
    """Remove what is of another revision, or cut: no client is to take it for what it fetches."""
    for file in offer.files:
        _check_place(file, errand.folder)
    for file in offer.files:
        if not _is_here(file, errand.folder):
            (errand.folder / file.name).unlink(missing_ok=True)


def _download(errand: Errand, offer: Offer, on_bytes: OnBytes) -> None:
    for file in offer.files:
        if not _is_here(file, errand.folder) and (blob := _cached(errand, file)):
            _link(blob, file, errand.folder)
    names = [file.name for file in offer.files if not _is_here(file, errand.folder)]
    if names:
        for leftover in errand.folder.glob(_LEFTOVERS):
            leftover.unlink(missing_ok=True)
        with _Scale(errand.folder, on_bytes):
            hubs.HUBS[offer.source].download(errand.repository, offer.revision, names, errand.folder)


# ---- before ----------------------------------------------------------------------------------------------------------


def _offer(errand: Errand, source: HubName) -> Offer:
    revision = errand.revision if source == "huggingface" or errand.pinned else None
    found = hubs.HUBS[source].list_files(errand.repository, revision)
    files = tuple(file for file in found.files if errand.asks_for(file.name))
    lacking = [pattern for pattern in errand.patterns if not any(fnmatch(file.name, pattern) for file in files)]
    if lacking:
        raise ModelError(f"{source} has no {', '.join(lacking)} in {errand.repository} at {found.revision}")
    for file in files:
        _check_name(file.name, source, errand.repository)
    to_fetch = tuple(file for file in files if not _is_here(file, errand.folder) and not _cached(errand, file))
    return Offer(source, found.revision, files, to_fetch, found.note)


def _check_name(name: str, source: HubName, repository: str) -> None:
    """Raise `ModelError` for a name that is not one of a file below a folder, on any system: nothing of it is touched.

    Whoever answers for a hub chooses the names, and files are written and removed by them.
    """
    parts = name.split("/")
    odd = any(part in ("", ".", "..") or part.startswith("~") for part in parts) or "\\" in name or ":" in name
    if odd or not name.isprintable() or PurePosixPath(name).is_absolute():
        message = f'{source} lists "{shorten(name)}" in {repository}, which is not a name of a file in its folder'
        raise ModelError(
            message,
            hint="ask the hub itself and not a mirror (HF_ENDPOINT, MODELSCOPE_ENDPOINT), or the other hub: --source",
        )


def _check_place(file: hubs.RemoteFile, folder: Path) -> None:
    """Raise `ModelError` where a file is to be fetched, and a link leads out of its folder: it is not followed."""
    path = folder / file.name
    if not _is_here(file, folder) and not _is_inside(path, folder):
        message = f"{path} leads to {path.resolve()}, and nothing is fetched into places outside of {folder}"
        raise ModelError(message, hint="remove the link; RENDERER_MODELS may name a folder on another disk")


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a file lies below a folder, when all links have been followed."""
    return path.resolve().is_relative_to(folder.resolve())


def _is_here(file: hubs.RemoteFile, folder: Path) -> bool:
    """Whether a file is there in its full size, and is not known to be of other content."""
    path = folder / file.name
    if not path.is_file() or path.stat().st_size != file.bytes:
        return False
    known = read_record(folder).files.get(file.name)
    if known is None or known.sha256 is None:
        return True
    if file.sha256 is not None:
        return file.sha256 == known.sha256
    return file.git_id is None or file.git_id == _git_id(path)


def _cached(errand: Errand, file: hubs.RemoteFile) -> Path | None:
    """The same file in the Hugging Face cache, of another commit or of half a download, on the folder's own disk."""
    blob = hugging_face_blob(errand.repository, file.sha256) if file.sha256 else None
    try:
        if blob is None or blob.stat().st_size != file.bytes or blob.stat().st_dev != _device(errand.folder):
            return None
    except OSError:
        return None
    return blob


def _device(folder: Path) -> int:
    """The disk that holds a folder, or that will once it is made."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder.stat().st_dev


def _link(blob: Path, file: hubs.RemoteFile, folder: Path) -> None:
    """Let a cached file be this one as well, without a copy; one that is damaged, or cannot be linked, is fetched."""
    path = folder / file.name
    if file_hashes([blob]) != [file.sha256]:
        LOG.warning("%s is damaged", blob)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.link(blob, path)
    except OSError as error:
        LOG.warning("%s cannot be linked: %s", blob, error)


# ---- meanwhile -------------------------------------------------------------------------------------------------------


class _Scale:
    """Weighs a folder while it is being filled: both clients write below it, and neither tells the same way."""

    def __init__(self, folder: Path, on_bytes: OnBytes) -> None:
        self._folder = folder
        self._on_bytes = on_bytes
        self._before = _weight(folder)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="scale", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_TICK_S):
            self._on_bytes(max(0, _weight(self._folder) - self._before))


def _weight(folder: Path) -> int:
    """Bytes on the disk below a folder; of a file that is being filled only what is there."""
    weight = 0
    for path in folder.rglob("*"):
        try:
            stat = path.lstat()
        except OSError:  # renamed meanwhile
            continue
        weight += min(stat.st_size, stat.st_blocks * 512)
    return weight


# ---- afterwards ------------------------------------------------------------------------------------------------------


def _verify(errand: Errand, offer: Offer) -> list[str]:
    """Hold every file against what the hub said of it, and return their SHA-256."""
    for file in offer.files:
        path = errand.folder / file.name
        there = path.stat().st_size if path.is_file() else None
        if there != file.bytes:
            what = "did not come" if there is None else f"has {there} bytes, and {offer.source} says {file.bytes}"
            raise ModelError(f"{path} {what}", hint="run the same command again: what is whole is kept")
    paths = [errand.folder / file.name for file in offer.files]
    hashes = file_hashes(paths)
    for file, path, found in zip(offer.files, paths, hashes, strict=True):
        if file.sha256:
            said, what = file.sha256, "SHA-256"
        elif file.git_id:
            said, what, found = file.git_id, "git id", _git_id(path)  # noqa: PLW2901  # the hash that was told
        else:
            continue
        if found != said:
            hint = "remove it, and run the same command again; its link leads out of the folder, so it was left"
            if _is_inside(path, errand.folder):
                path.unlink(missing_ok=True)
                hint = "run the same command again (the file was removed), or ask the other hub: --source"
            message = f"{path} is not what {offer.source} says it is: its {what} is {found}, and must be {said}"
            raise ModelError(message, hint=hint)
    return hashes


def _git_id(path: Path) -> str:
    """The name git has for a file's content (`git hash-object`)."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _expect(errand: Errand, offer: Offer) -> None:
    """Write down what is to come before it comes; what an earlier fetch has verified stays in the record.

    Of the files that were asked for, those of another revision do not; others are other fetches'. Raises `DiskError`.
    """
    before = read_record(errand.folder)
    sound = {
        file.name
        for file in offer.files
        if (known := before.files.get(file.name)) is not None
        and known.wanted == errand.revision
        and _is_here(file, errand.folder)
    }
    files = {name: each for name, each in before.files.items() if name in sound or not errand.asks_for(name)}
    coming = {name for name in before.coming if not errand.asks_for(name)}
    coming |= {file.name for file in offer.files} - sound
    write_record(errand.folder, Record(offer.source, offer.revision, files, frozenset(coming)))


def _record(errand: Errand, offer: Offer, hashes: Sequence[str]) -> None:
    """Write down that files have come, and were verified. Raises `DiskError`."""
    before = read_record(errand.folder)
    fresh = {
        file.name: Verified(file.bytes, found, errand.revision) for file, found in zip(offer.files, hashes, strict=True)
    }
    record = replace(before, files={**before.files, **fresh}, coming=before.coming - fresh.keys())
    write_record(errand.folder, record)
