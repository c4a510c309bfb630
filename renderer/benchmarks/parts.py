"""The measured parts of the weights' benchmark: `python -m renderer.benchmarks.parts PART FOLDER` prints JSON."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from renderer.benchmarks.running import LOOKING, Figures

_COPY_BYTES = 16 * 2**20
_COPIED_SHARE = 4  # a quarter of the source is read, and as much written, to learn what the disk does


def _source(folder: Path, layers: str = "60") -> Figures:
    from renderer.demo import tokenizer  # noqa: PLC0415  # torch, only in the part that needs it
    from renderer.weights import synthetic  # noqa: PLC0415

    count = synthetic.write(folder / "source", layers=int(layers))
    tokenizer.write(folder / "source" / "tokenizer")
    return {"bytes": count}


def _disk(folder: Path) -> Figures:
    """What plain reading and writing take here, as `dd` would do it: one thread, large pieces, synced at the end."""
    files = sorted((folder / "source").rglob("*.safetensors"))
    files = files[: max(1, len(files) // _COPIED_SHARE)]
    buffer, copied = bytearray(_COPY_BYTES), folder / "copied"
    count, read_s, write_s = 0, 0.0, 0.0
    with copied.open("wb", buffering=0) as out:
        for path in files:
            with path.open("rb", buffering=0) as stream:
                while True:
                    began = time.perf_counter()
                    size = stream.readinto(buffer)
                    read_s += time.perf_counter() - began
                    if not size:
                        break
                    began = time.perf_counter()
                    out.write(memoryview(buffer)[:size])
                    write_s += time.perf_counter() - began
                    count += size
        began = time.perf_counter()
        os.fsync(out.fileno())
        write_s += time.perf_counter() - began
    copied.unlink()
    return {"bytes": count, "read_s_per_byte": read_s / count, "write_s_per_byte": write_s / count}


def _pack(folder: Path, name: str = "fp8", stores: str = "") -> Figures:
    """The source as a store of this name: a precision, at whose end may stand that it has its vision tower."""
    from renderer import catalog  # noqa: PLC0415
    from renderer.demo import looks  # noqa: PLC0415
    from renderer.job import ModelIdentity, Stored  # noqa: PLC0415
    from renderer.weights import pack  # noqa: PLC0415

    source, processor = folder / "source", None
    precision = name.removesuffix(LOOKING)
    if precision != name:
        processor = source / "processor"
        looks.write(processor)
    files = {part.role: sorted(source.glob(part.files)) for part in catalog.NETWORK_FILES}
    identity = ModelIdentity(id="synthetic", revision="1")
    kind: Stored = next(each for each in get_args(Stored) if each == precision)
    index = pack.pack(files, source / "tokenizer", Path(stores or folder) / name, kind, identity, processor=processor)
    transformer = sum(file.bytes for file in index.files if file.network == "transformer")
    return {
        "bytes": index.bytes,
        "transformer_bytes": transformer,
        "median_error": index.median_error,
        "worst_error": index.worst_error[1] if index.worst_error else None,
    }


def _verify(folder: Path) -> Figures:
    from renderer.weights.store import open_store  # noqa: PLC0415

    store = open_store(folder / "fp8")
    store.verify()
    return {"bytes": store.index.bytes}


def _load(folder: Path, runs: str = "3") -> Figures:
    """A sweep's blocks into pinned memory: with their checksums, as an engine does it, and without, turn by turn.

    A file that was found sound in this process is not checked again; that is how checks are left out.
    """
    import torch  # noqa: PLC0415

    from renderer.engine.slots import HostMemory  # noqa: PLC0415
    from renderer.weights.store import open_store  # noqa: PLC0415

    files = open_store(folder / "fp8").blocks("transformer")
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    torch.zeros(1, device=device)  # the context is not the load's to pay for
    sound = {file.path for file in files}
    took: dict[bool, list[float]] = {True: [], False: []}
    for checked in (True, False) * int(runs):
        for file in files:
            if checked:
                file.sound.difference_update(sound)
            else:
                file.sound.update(sound)
        began = time.perf_counter()
        memory = HostMemory(files, device)
        memory.wait()
        took[checked].append(time.perf_counter() - began)
        del memory
    return {
        "bytes": sum(file.bytes for file in files),
        "blocks": len(files),
        "seconds": statistics.median(took[True]),
        "unchecked_s": statistics.median(took[False]),
        "runs_s": took[True],
        "unchecked_runs_s": took[False],
    }


PARTS: Mapping[str, Callable[..., Figures]] = MappingProxyType(
    {"source": _source, "disk": _disk, "pack": _pack, "verify": _verify, "load": _load}
)


def main() -> None:
    """Measure one part, and print its figures as JSON."""
    part, folder, *more = sys.argv[1:]
    began = time.perf_counter()
    found = PARTS[part](Path(folder), *more)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_rss_bytes": peak, **found}))  # noqa: T201


if __name__ == "__main__":
    main()
