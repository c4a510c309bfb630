"""The GPUs of this machine as NVML describes them, each answer taken for itself: what is not told is left open.

NVML tells some of it, on some machines, of some cards. A card that is lost costs itself and no other; one whose memory
is the host's has the host's; the parts of one that is split (MIG) are GPUs of their own, and the whole is none. Names
come in any encoding. NVML counts by the bus, CUDA the fastest first: whoever computes is told the UUID. No torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import pynvml

from renderer.errors import shorten

SLOWDOWNS = {
    0x04: "its power limit",
    0x08: "a hardware slowdown",
    0x20: "its temperature",
    0x40: "its temperature, by the hardware",
    0x80: "the power supply's brake",
}
"""NVML's reasons for running below the clock that was asked for, those that somebody can do something about."""

MemoryKind = Literal["own", "host", "assumed"]
"""Whose a GPU's memory is: its own, the host's too (unified memory), or a part's whose size nobody tells."""

BF16_CAPABILITY = (8, 0)
"""The first compute capability that multiplies bf16."""

_SMALLEST_PART = 8
"""Of a split card's memory the smallest part has so much: an eighth (NVIDIA, MIG User Guide, A100 to B200)."""

_FIRST_PART = re.compile(r"[0-9a-f]{8}")
_LEGACY_PART = re.compile(r"MIG-(GPU-[0-9a-f-]+)/(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Link:
    """A GPU's PCIe link: generation and lanes now and at most. An idle link falls back to an older generation.

    `most_generation` is what card and slot do together, `own_generation` what the card does in a slot to match.
    """

    generation: int
    width: int
    most_generation: int
    most_width: int
    own_generation: int


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes or draws on a GPU, and the bytes it holds there, where the driver tells."""

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class CardPeaks:
    """What a card's clocks and units come to: cores times clocks a second, and bytes a second of its memory."""

    cores_hz: float
    memory_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class LocalGpu:
    """One NVIDIA GPU, or a part of one that is split. Bytes; the compute capability as (major, minor).

    `index` is NVML's number of the card, `uuid` the name by which CUDA finds it, `mig` whether it is a part. What a
    driver does not tell is None, or empty; a capability that it does not tell is (0, 0).
    """

    index: int
    name: str
    uuid: str
    total_bytes: int
    free_bytes: int
    driver: str
    compute_capability: tuple[int, int]
    link: Link | None = None
    ecc: bool | None = None
    mig: bool | None = None
    uncorrected_errors: int | None = None
    slowdowns: tuple[str, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    memory: MemoryKind = "own"
    peaks: CardPeaks | None = None

    @property
    def short_uuid(self) -> str:
        """The first part of its UUID, which tells it from others of its machine; empty where there is none."""
        found = _FIRST_PART.search(self.uuid)
        return found[0] if found else ""

    @property
    def described(self) -> str:
        """Its name, and which of several it is."""
        return f"{self.name} ({self.short_uuid})" if self.short_uuid else self.name


@dataclass(frozen=True, slots=True)
class Seen:
    """The GPUs that this process may use, the one that renders first.

    `cuda` is the newest CUDA that the driver runs, `troubles` what did not answer, in words. `chosen` says whether
    there are others, so that a process which is told nothing might compute on another one.
    """

    gpus: tuple[LocalGpu, ...] = ()
    cuda: tuple[int, int] | None = None
    troubles: tuple[str, ...] = ()
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class _Card:
    """A GPU, how fast it is beside others (cores times clock; 0: not told), and the names of a part in older style."""

    gpu: LocalGpu
    speed: int = 0
    alias: str = ""


@dataclass(frozen=True, slots=True)
class _Host:
    """The host's memory, for GPUs that share it."""

    total_bytes: int
    free_bytes: int


def look(ram_bytes: int, ram_free_bytes: int, environment: Mapping[str, str] = os.environ) -> Seen:
    """The GPUs that CUDA would let this process see; none where there is no driver.

    A GPU without memory of its own has the host's, in bytes, and half of what is free there: the other half holds what
    the host needs to bring to it. `environment` holds CUDA's variables.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = isinstance(error, pynvml.NVMLError_LibraryNotFound | pynvml.NVMLError_DriverNotLoaded)
        return Seen(troubles=() if absent else (f"NVIDIA's driver does not answer: {error}",))
    try:
        return _look(_Host(ram_bytes, ram_free_bytes), environment)
    finally:
        _asked(pynvml.nvmlShutdown)


def _look(host: _Host, environment: Mapping[str, str]) -> Seen:
    driver = _text(pynvml.nvmlSystemGetDriverVersion)
    newest = _asked(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    cuda = (newest // 1000, newest % 1000 // 10) if newest else None
    cards: list[_Card] = []
    split: list[LocalGpu] = []
    troubles: list[str] = []
    try:
        count = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        return Seen((), cuda, (f"NVIDIA's driver does not count its GPUs: {error}",))
    for index in range(count):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            whole = _gpu(handle, index, driver, host)
        except pynvml.NVMLError as error:
            troubles.append(f"GPU {index} does not answer: {error}")
            continue
        if whole.mig:
            split.append(whole)
            parts = list(_parts(handle, whole))
            cards += parts
            if not parts and "MIG-" not in environment.get("CUDA_VISIBLE_DEVICES", ""):
                troubles.append(f"GPU {index} is split (MIG), and shows none of its parts")
        else:
            cards.append(_Card(whole, round(whole.peaks.cores_hz) if whole.peaks else 0))
    fastest = sorted(cards, key=lambda card: (-card.speed, *_worth(card.gpu)))
    setting = environment.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        gpus = tuple(card.gpu for card in sorted(fastest, key=_fitness))
    else:
        by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        gpus = _visible(cards if by_bus else fastest, split, setting)
    return Seen(gpus, cuda, tuple(troubles), chosen=count > 1 or bool(split))


def _fitness(card: _Card) -> tuple[bool, bool, int]:
    """What renders comes first: bf16 before none, a whole card before parts, the largest of these; else the fastest."""
    gpu = card.gpu
    return gpu.compute_capability < BF16_CAPABILITY, bool(gpu.mig), -gpu.total_bytes if gpu.mig else 0


def _worth(gpu: LocalGpu) -> tuple[int, int, int]:
    """How cards of one speed are ordered, or of none that is told; parts of a card stay as they are."""
    return -gpu.compute_capability[0], -gpu.compute_capability[1], 0 if gpu.mig else -gpu.total_bytes


def _peaks(handle: Any) -> CardPeaks | None:
    """What its clocks and units come to. CUDA's own order is said to go by cores times clock."""
    cores = _asked(pynvml.nvmlDeviceGetNumGpuCores, handle) or 0
    clock = _asked(pynvml.nvmlDeviceGetMaxClockInfo, handle, 1) or 0  # 1: the multiprocessors' clock, in MHz
    lines = _asked(pynvml.nvmlDeviceGetMemoryBusWidth, handle) or 0
    memory_clock = _asked(pynvml.nvmlDeviceGetMaxClockInfo, handle, 2) or 0  # 2: the memory's, two transfers each
    return CardPeaks(cores * clock * 1e6, lines / 8 * memory_clock * 2e6) if cores and clock else None


# ---- one GPU ---------------------------------------------------------------------------------------------------------


def _gpu(handle: Any, index: int, driver: str, host: _Host) -> LocalGpu:
    """A card. Raises `NVMLError` for one whose memory cannot be asked: such a one is lost."""
    total, free, memory = _memory(handle, host)
    capability = _asked(pynvml.nvmlDeviceGetCudaComputeCapability, handle) or (0, 0)
    ecc = _asked(pynvml.nvmlDeviceGetCurrentEccMode, handle)
    mig = _asked(pynvml.nvmlDeviceGetMigMode, handle)
    reasons = _asked(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
    errors = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
    return LocalGpu(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName, handle) or f"NVIDIA GPU of compute capability {_dotted(capability)}",
        uuid=_text(pynvml.nvmlDeviceGetUUID, handle),
        total_bytes=total,
        free_bytes=free,
        driver=driver,
        compute_capability=(int(capability[0]), int(capability[1])),
        link=_link(handle),
        ecc=None if ecc is None else bool(ecc),
        mig=None if mig is None else bool(mig[0]),
        uncorrected_errors=_asked(pynvml.nvmlDeviceGetTotalEccErrors, handle, *errors) if ecc else None,
        slowdowns=tuple(words for bit, words in SLOWDOWNS.items() if reasons & bit),
        processes=_processes(handle),
        memory=memory,
        peaks=_peaks(handle),
    )


def _memory(handle: Any, host: _Host) -> tuple[int, int, MemoryKind]:
    """Bytes in all, bytes free, and whose they are: a GPU that has none of its own says that it is not supported."""
    try:
        found = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return host.total_bytes, host.free_bytes // 2, "host"
    return int(found.total), int(found.free), "own"


def _link(handle: Any) -> Link | None:
    generation = _asked(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle)
    width = _asked(pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle)
    most_generation = _asked(pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
    most_width = _asked(pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
    own = _asked(pynvml.nvmlDeviceGetGpuMaxPcieLinkGeneration, handle)
    if not (generation and width and most_generation and most_width):
        return None
    return Link(generation, width, most_generation, most_width, own_generation=own or most_generation)


def _processes(handle: Any) -> tuple[GpuProcess, ...]:
    """Who uses a GPU besides this process, the largest first; a container's neighbours cannot be seen."""
    held: dict[int, int | None] = {}
    for question in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in _asked(question, handle) or ():
            held[process.pid] = process.usedGpuMemory
    held.pop(os.getpid(), None)
    found = [GpuProcess(pid, _process_name(pid), count) for pid, count in held.items()]
    return tuple(sorted(found, key=lambda process: -(process.bytes or 0)))


def _process_name(pid: int) -> str:
    try:
        return shorten(psutil.Process(pid).name())
    except psutil.Error:
        return "?"


def _asked(question: Callable[..., Any], *arguments: Any) -> Any | None:
    """NVML's answer, or None where this driver or card has none to give."""
    try:
        return question(*arguments)
    except (pynvml.NVMLError, AttributeError, UnicodeError):
        return None


def _text(question: Callable[..., Any], *arguments: Any) -> str:
    """NVML's answer in letters that can be shown; empty where there is none, or none that is text."""
    found = _asked(question, *arguments)
    text = found.decode(errors="replace") if isinstance(found, bytes) else str(found or "")
    return "" if "\ufffd" in shorten(text) else text


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# ---- parts -----------------------------------------------------------------------------------------------------------


def _parts(handle: Any, whole: LocalGpu) -> Iterator[_Card]:
    """The parts of a split card that the driver shows; without rights, or in a container, it may show none."""
    for number in range(_asked(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _asked(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is None:
            continue
        memory = _asked(pynvml.nvmlDeviceGetMemoryInfo, part)
        places = (
            _asked(question, part)
            for question in (pynvml.nvmlDeviceGetGpuInstanceId, pynvml.nvmlDeviceGetComputeInstanceId)
        )
        yield _Card(
            _part(
                whole,
                _text(pynvml.nvmlDeviceGetUUID, part),
                name=_text(pynvml.nvmlDeviceGetName, part),
                sizes=None if memory is None else (int(memory.total), int(memory.free)),
            ),
            alias=f"MIG-{whole.uuid}/{'/'.join(map(str, places))}",
        )


def _part(whole: LocalGpu, uuid: str, *, name: str = "", sizes: tuple[int, int] | None = None) -> LocalGpu:
    """A part of a split card. What holds for the whole, as its link and its errors, holds for it."""
    smallest = whole.total_bytes // _SMALLEST_PART
    total, free = sizes or (smallest, smallest)
    return LocalGpu(
        index=whole.index,
        name=name if "MIG" in name else f"{name or whole.name} (a MIG part)",
        uuid=uuid,
        total_bytes=total,
        free_bytes=free,
        driver=whole.driver,
        compute_capability=whole.compute_capability,
        link=whole.link,
        ecc=whole.ecc,
        mig=True,
        uncorrected_errors=whole.uncorrected_errors,
        slowdowns=whole.slowdowns,
        memory="own" if sizes else "assumed",
        peaks=_part_of(whole.peaks, total / whole.total_bytes),
    )


def _part_of(peaks: CardPeaks | None, share: float) -> CardPeaks | None:
    """Units are shared out about as memory is."""
    return CardPeaks(peaks.cores_hz * share, peaks.memory_bytes_per_s * share) if peaks is not None else None


# ---- which are visible -----------------------------------------------------------------------------------------------


def _visible(counted: Sequence[_Card], split: Sequence[LocalGpu], setting: str) -> tuple[LocalGpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order. `counted` are all, as CUDA counts them.

    Like CUDA, it stops at the first name that it cannot find or that means several, and shows none where one is named
    twice.
    """
    chosen: list[LocalGpu] = []
    for name in (part.strip() for part in setting.split(",")):
        found = _named(counted, split, name)
        if found is None:
            break
        chosen.append(found)
    uuids = [gpu.uuid for gpu in chosen if gpu.uuid]
    return () if len(set(uuids)) < len(uuids) else tuple(chosen)


def _named(counted: Sequence[_Card], split: Sequence[LocalGpu], name: str) -> LocalGpu | None:
    """The GPU of a number, or of a UUID's beginning; of a part that the driver does not show, what must be so."""
    if name.isdecimal():
        return counted[int(name)].gpu if int(name) < len(counted) else None
    if not name.startswith(("GPU-", "MIG-")):
        return None
    found = [card.gpu for card in counted if card.gpu.uuid.startswith(name) or card.alias == name]
    if found:
        return found[0] if len(found) == 1 else None
    if not name.startswith("MIG-") or not split:
        return None
    legacy = _LEGACY_PART.fullmatch(name)
    wholes = [gpu for gpu in split if legacy is None or gpu.uuid == legacy[1]]
    return _part(min(wholes, key=lambda gpu: gpu.total_bytes), name) if wholes else None
