"""Make a packed store from a downloaded checkpoint, with no more than a few pieces of tensors in memory.

Several threads each take a file of the store and bring it from reading to the disk, a piece at a time; so reading,
converting, hashing and writing overlap, and memory is bounded by their number. Everything goes into `<target>.part`,
which is renamed when every hash has been checked. What is whole in there is kept by the next attempt. Knows nothing of
hubs and command lines.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import torch
from pydantic import ValidationError

from renderer import __version__
from renderer.catalog import Role
from renderer.errors import DiskError, LockedError, ModelError
from renderer.job import ModelIdentity, Stored, Value, canonical
from renderer.machine import hardware
from renderer.system import lock
from renderer.system.files import write_whole
from renderer.weights import originals, settle
from renderer.weights.adapters.fusing import ToFuse
from renderer.weights.checkpoint import Checkpoint, open_together, with_additions
from renderer.weights.convert import Maker
from renderer.weights.headers import disk_error, encode_header, write_file
from renderer.weights.index import (
    FORMAT_VERSION,
    INDEX,
    PROCESSOR_FOLDER,
    TOKENIZER_FOLDER,
    CopiedFile,
    Index,
    StoredFile,
)
from renderer.weights.layout import PackedFile, plan_files
from renderer.weights.settle import PROGRESS
from renderer.weights.store import FileReport, open_store, sha256_or_nothing, verify

_MAX_THREADS = 8
_MAX_COPIED_BYTES = 2**26
_SPARE_BYTES = 2**24  # for the index, folders, and what a file system needs


class _Done(Value):
    """A file of the store that is whole, and the errors of its tensors."""

    file: StoredFile
    errors: dict[str, float]


class _Progress(Value):
    """What an attempt has made so far, and of what: another source, precision or format is another `plan`."""

    plan: str
    done: tuple[_Done, ...] = ()


def plan_pack(
    source: Mapping[Role, Sequence[Path]], tokenizer: Path, precision: Stored, processor: Path | None = None
) -> int:
    """The bytes a store would take on the disk, from the source's headers. Raises `ModelError` as `pack` does."""
    files = _plan(_open_source(source, edits=processor is not None), precision)
    return sum(map(_file_bytes, files)) + sum(path.stat().st_size for path in _copies(tokenizer, processor).values())


def pack(
    source: Mapping[Role, Sequence[Path]],
    tokenizer: Path,
    target: Path,
    precision: Stored,
    identity: ModelIdentity,
    report: FileReport | None = None,
    device: str | None = None,
    processor: Path | None = None,
    said: Mapping[Path, str] = MappingProxyType({}),
    fused: ToFuse = (),
) -> Index:
    """Make the store `target` from each network's files and the tokenizer's folder, and return its index.

    `processor` is the folder of what prepares pictures for the vision tower, where a model has one. LoRAs that are
    `fused` are added to the DiT's weights before they are quantised; `identity` names them, and was asked for
    after they were found.

    `report` hears of bytes written, then of bytes verified. `device` is where weights are quantised: the GPU if there
    is one, unless said otherwise; the bits are the same. A store at `target` stays until the new one is whole. An
    interrupted pack goes on at the files it was in. Meanwhile the source is hashed, and held against the SHA-256 that
    were `said` of its files.

    Raises `ModelError` when the source is not a whole Qwen-Image model or not what was said of it, `DiskError` when the
    disk does not hold the store, `LockedError` when another process makes the same one.
    """
    checkpoints = _open_source(source, edits=processor is not None)
    checkpoints["transformer"] = with_additions(checkpoints["transformer"], fused)
    files = _plan(checkpoints, precision)
    copies = _copies(tokenizer, processor)
    part, plan = settle.part_of(target), _fingerprint(checkpoints, precision, identity, fused)
    with _locked(target):
        settle.settle(target)
        _check_part(part)
        work = _Work(part, plan, files, checkpoints, report, device)
        work.check_room(sum(path.stat().st_size for path in copies.values()))
        with originals.Hashing(source) as hashing:
            work.write_files()
            sources = hashing.sources(said) + originals.sources_of_fused(fused, said)
        copied = tuple(_copy(path, part, name) for name, path in copies.items())
        for path, each in zip(copies.values(), copied, strict=True):
            originals.check(path, each.sha256, said)
        index = Index(
            source=identity,
            precision=precision,
            created_at=datetime.now(UTC),
            renderer=__version__,
            files=tuple(work.done[file.name].file for file in files),
            copies=copied,
            sources=sources,
            formats={role: checkpoint.form for role, checkpoint in checkpoints.items() if checkpoint.form},
            turned=_turned(files, checkpoints),
            family=checkpoints["transformer"].family.name,
            errors={name: error for file in files for name, error in work.done[file.name].errors.items()},
        ).sealed()
        write_whole(part / INDEX, index.text().encode())
        open_store(part)
        verify(part, index, report)
        settle.put(target)
    return index


# ---- the files of a store --------------------------------------------------------------------------------------------


class _Work:
    """One attempt: which files are done, and the threads that make the others."""

    def __init__(
        self,
        part: Path,
        plan: str,
        files: Sequence[PackedFile],
        checkpoints: Mapping[Role, Checkpoint],
        report: FileReport | None,
        device: str | None,
    ) -> None:
        self._part, self._plan, self._files, self._checkpoints = part, plan, files, checkpoints
        self._report = report
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._all_bytes = sum(map(_file_bytes, files))
        self.done = _take_up(part, plan, {file.name for file in files})
        self._bytes = sum(done.file.bytes for done in self.done.values())

    def check_room(self, more_bytes: int) -> None:
        """Raise `DiskError` when the disk does not hold what is still to be written."""
        needed = self._all_bytes - self._bytes + more_bytes + _SPARE_BYTES
        free = hardware.free_disk_bytes(self._part)
        if free < needed:
            message = f"the store {self._part.with_suffix('')} needs {needed / 1e9:.1f} GB more"
            raise DiskError(f"{message}, and the disk has {free / 1e9:.1f} GB free", hint="free some space there")

    def write_files(self) -> None:
        """Write every file that is not done, the largest first; the first that fails stops the others."""
        waiting = sorted((file for file in self._files if file.name not in self.done), key=_file_bytes, reverse=True)
        threads = min(_MAX_THREADS, hardware.look().cpus)
        with ExitStack() as stack:
            stack.enter_context(_one_thread_each())
            sources = stack.enter_context(_opened(self._checkpoints.values()))
            pool = stack.enter_context(ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)))
            futures = [pool.submit(self._write_file, file, sources) for file in waiting]
            try:
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
            finally:
                self._stopped.set()
                pool.shutdown(cancel_futures=True)

    def _write_file(self, file: PackedFile, sources: Mapping[Path, int]) -> None:
        errors: dict[str, float] = {}
        maker = Maker(self._checkpoints[file.network], sources, self._device, errors)
        planned = [tensor.planned for tensor in file.tensors]
        crc32 = _Crc32(self._counted(file, maker.pieces(file)))
        written = write_file(self._part / file.name, planned, _metadata(file), crc32)
        entry = StoredFile(
            name=file.name,
            bytes=written.bytes,
            sha256=written.sha256,
            header_sha256=written.header_sha256,
            crc32=crc32.value,
            network=file.network,
            kind=file.kind,
            number=file.number,
        )
        with self._lock:
            self.done[file.name] = _Done(file=entry, errors=errors)
            progress = _Progress(plan=self._plan, done=tuple(self.done.values()))
            write_whole(self._part / PROGRESS, progress.model_dump_json().encode())

    def _counted(self, file: PackedFile, pieces: Iterator[memoryview]) -> Iterator[memoryview]:
        """The pieces as they pass, reported; a stopped attempt ends here."""
        with self._lock:
            self._bytes += _file_bytes(file) - sum(tensor.bytes for tensor in file.tensors)  # the header
        for piece in pieces:
            if self._stopped.is_set():
                raise _StoppedError
            yield piece
            with self._lock:
                self._bytes += len(piece)
                if self._report is not None:
                    self._report(self._bytes, self._all_bytes, file.name)


class _Crc32:
    """Pieces as they pass, and in the end their CRC-32."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self.value = 0

    def __iter__(self) -> Iterator[memoryview]:
        for piece in self._pieces:
            self.value = zlib.crc32(piece, self.value)
            yield piece


class _StoppedError(Exception):
    """Another thread failed, or somebody pressed Ctrl-C."""


def _metadata(file: PackedFile) -> dict[str, str]:
    """Says in each file which one it is, so that no two have the same header."""
    number = {} if file.number is None else {"number": str(file.number)}
    return {"format": "pt", "store": str(FORMAT_VERSION), "network": file.network, "kind": file.kind, **number}


def _turned(files: Sequence[PackedFile], checkpoints: Mapping[Role, Checkpoint]) -> dict[int, int]:
    """By the widths of matrices, how many of their columns are turned together; nothing where none are."""
    firsts = ((file, tensor) for file in files for tensor in file.tensors if tensor.is_first)
    found: dict[int, int] = {}
    for file, tensor in firsts:
        if not tensor.codec.is_plain:
            columns = checkpoints[file.network].shapes[tensor.source][1]
            found[columns] = tensor.codec.turned(columns)
    return dict(sorted(found.items())) if any(found.values()) else {}


def _file_bytes(file: PackedFile) -> int:
    header = encode_header([tensor.planned for tensor in file.tensors], _metadata(file))
    return len(header) + sum(tensor.bytes for tensor in file.tensors)


# ---- before and after ------------------------------------------------------------------------------------------------


def _open_source(source: Mapping[Role, Sequence[Path]], *, edits: bool) -> dict[Role, Checkpoint]:
    return open_together({role: source.get(role, ()) for role in get_args(Role)}, edits=edits)


def _plan(checkpoints: Mapping[Role, Checkpoint], precision: Stored) -> tuple[PackedFile, ...]:
    family = next(iter(checkpoints.values())).family
    return plan_files(family, {role: each.shapes for role, each in checkpoints.items()}, precision)


def _copies(tokenizer: Path, processor: Path | None) -> dict[str, Path]:
    """The small files that are copied as they are, by their names in the store. Raises `ModelError`."""
    copies = {f"{TOKENIZER_FOLDER}/{path.name}": path for path in _small_files(tokenizer)}
    names = {path.name for path in copies.values()}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise ModelError(f"{tokenizer}: has neither tokenizer.json nor vocab.json and merges.txt")
    return copies | {f"{PROCESSOR_FOLDER}/{path.name}": path for path in (_small_files(processor) if processor else ())}


def _small_files(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {error.strerror or error}") from error
    for path in files:
        if path.stat().st_size > _MAX_COPIED_BYTES:
            raise ModelError(f"{path}: too large for a part of a tokenizer")
    return files


def _fingerprint(
    checkpoints: Mapping[Role, Checkpoint], precision: Stored, identity: ModelIdentity, fused: ToFuse
) -> str:
    parts = [str(FORMAT_VERSION), precision, canonical(identity)]
    parts += [f"{role} {checkpoint.fingerprint}" for role, checkpoint in sorted(checkpoints.items())]
    parts += [f"lora {each.content} {each.weight!r}" for each in fused]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _check_part(part: Path) -> None:
    """Raise `ModelError` when what is to be filled, and emptied of what does not belong there, is not a folder of ours.

    A link is not followed: it may lead to somebody's home.
    """
    if part.is_symlink() or (part.exists() and not part.is_dir()):
        leads = f"a link to {part.resolve()}" if part.is_symlink() else "not a folder"
        raise ModelError(f"{part} is {leads}, and a store is not made there", hint="move it away")


def _take_up(part: Path, plan: str, wanted: Collection[str]) -> dict[str, _Done]:
    """The files of an earlier attempt that are whole, read and hashed again; everything else in there is removed.

    `wanted` are the names of the store's files: an attempt may have been at more, of a model that edits.
    """
    _remove_links(part)
    try:
        progress = _Progress.model_validate_json((part / PROGRESS).read_bytes())
    except (OSError, ValidationError):
        progress = _Progress(plan="")
    kept: dict[str, _Done] = {}
    if progress.plan == plan:
        with ThreadPoolExecutor() as pool:
            there = [done for done in progress.done if done.file.name in wanted]
            hashes = pool.map(sha256_or_nothing, [part / done.file.name for done in there])
            whole = zip(there, hashes, strict=True)
            kept = {done.file.name: done for done, found in whole if found == done.file.sha256}
    try:
        for path in part.rglob("*"):
            if path.is_file() and path.relative_to(part).as_posix() not in {*kept, PROGRESS}:
                path.unlink()
    except OSError as error:
        raise disk_error(part, error) from error
    return kept


def _remove_links(part: Path) -> None:
    """Remove the links in a folder of ours, where we made none: what they lead to stays."""
    try:
        for path in part.rglob("*"):
            if path.is_symlink():
                path.unlink()
    except OSError as error:
        raise disk_error(part, error) from error


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.held(settle.lock_of(target)))
        except LockedError:
            raise LockedError(f"another process is packing {target}", hint="wait for it; nothing was changed") from None
        yield


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """The threads here are ours; torch's own would multiply with them, and are given back afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _opened(checkpoints: Iterable[Checkpoint]) -> Iterator[dict[Path, int]]:
    """A descriptor for each file of the source."""
    found: dict[Path, int] = {}
    try:
        for path in {path for checkpoint in checkpoints for each in checkpoint.tensors.values() for path in each.paths}:
            try:
                found[path] = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
        yield found
    finally:
        for descriptor in found.values():
            os.close(descriptor)


def _copy(source: Path, part: Path, name: str) -> CopiedFile:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ModelError(f"{source}: cannot be read: {error.strerror or error}") from error
    write_whole(part / name, data)
    return CopiedFile(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
