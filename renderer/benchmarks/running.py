"""What all benchmarks share: the full-size source and its stores, measured parts as processes, figures that are kept.

Imports no torch: whatever does runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from renderer.catalog import QWEN_IMAGE
from renderer.errors import MachineError, UsageError
from renderer.job import Stored
from renderer.machine.rates import Rates
from renderer.weights.identity import identify
from renderer.weights.index import INDEX, read_index

Figures = dict[str, Any]

LEFT_BYTES = 8 * 2**20
"""What a case may leave on the device: more, and the next one's verdict or peak would be another."""


def known(parts: Sequence[str], there: Sequence[str]) -> None:
    """Raise `UsageError` for a part there is not."""
    if unknown := [part for part in parts if part not in there]:
        raise UsageError(f"there is no part {', '.join(unknown)}", hint=f"known: {', '.join(there)}")


def make(folder: Path) -> None:
    """The folder, where it is not there yet. Raises `UsageError` when it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}", hint="--folder DIR, --stores DIR") from None


def begin(notes: Path, stores: Path, parts: Sequence[str], there: Sequence[str]) -> Figures:
    """What was measured before, as it stands in `notes`, whose folder and `stores` are made where they are not there.

    Raises `UsageError` for a part there is not, or a folder that cannot be made.
    """
    known(parts, there)
    make(notes.parent)
    make(stores)
    return read(notes)


def read(notes: Path) -> Figures:
    """What was measured before, as it stands in `notes`."""
    found: Figures = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {"rows": {}}
    return found


def keep(notes: Path, found: Figures, rows: Iterable[Figures]) -> None:
    """Write each row down as it comes, under its case, so that a run that breaks off goes on where it was."""
    for row in rows:
        found["rows"].setdefault(row["case"], []).append(row)
        found |= {"at": time.strftime("%Y-%m-%d", time.gmtime()), "machine": found.get("machine") or _machine()}
        beside = notes.with_suffix(".new")
        beside.write_text(json.dumps(found, indent=2), encoding="utf-8")
        beside.replace(notes)


def source(folder: Path) -> Path:
    """The checkpoint of random weights, made where it is not there yet."""
    if not (folder / "source" / "tokenizer").exists():
        list(run("renderer.benchmarks.parts", "source", str(folder)))
    return folder / "source"


LOOKING = "-looking"
"""The end of a store's name that has the vision tower, with what prepares pictures for it."""


def store(folder: Path, stores: Path, precision: Stored, *, looking: bool = False) -> Path:
    """The source packed at a precision, made where it is not there yet. The others go: there is room for one.

    A `looking` one is an edit model's, with its vision tower.
    """
    kind = f"{precision}{LOOKING if looking else ''}"
    found = stores / kind
    if not (found / "index.json").exists():
        source(folder)
        for other in get_args(Stored):
            for end in ("", LOOKING):
                shutil.rmtree(stores / f"{other}{end}", ignore_errors=True)
        list(run("renderer.benchmarks.parts", "pack", str(folder), kind, str(stores)))
    return found


def run(module: str, *arguments: str) -> Iterator[Figures]:
    """The lines of JSON that a measured part prints, as they come. Raises `MachineError` when it fails.

    The allocator is set as the worker sets it.
    """
    env = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", **os.environ}
    with subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"{"):
                yield json.loads(line)
    if process.returncode != 0:
        missing = " (its libraries come with the extra bench)" if "peers" in module else ""
        raise MachineError(f"bench: {arguments[0]} failed with status {process.returncode}{missing}; see above")


def environment(folder: Path, packed: Path) -> dict[str, str]:
    """The environment in which the commands find a packed FP8 store as Qwen-Image's, and a cache of their own.

    The store stands for Qwen-Image's in this folder alone: its files are linked, and beside them is an index that says
    so, for none is taken that was made of another model.
    """
    models = folder / "models"
    place = models / "packed" / "Qwen--Qwen-Image" / "fp8"
    if place.is_symlink():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path in packed.absolute().iterdir():
        if path.name != INDEX:
            (place / path.name).symlink_to(path)
    index = read_index(packed).model_copy(update={"source": identify(QWEN_IMAGE)}).sealed()
    (place / INDEX).write_text(index.text(), encoding="utf-8")
    return {**os.environ, "RENDERER_MODELS": str(models), "RENDERER_CACHE": str(folder / "cache")}


def command(
    *arguments: str, env: dict[str, str], capture: bool = False, done: Sequence[int] = (0,)
) -> tuple[str, float]:
    """Run one of the commands themselves: what it printed, if that is wanted, and its seconds from cold to its end.

    Raises `MachineError` when it ends with another status than those of `done`.
    """
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "renderer", *arguments],
        env=env,
        check=False,
        stdout=subprocess.PIPE if capture else None,
        encoding="utf-8",
    )
    took_s = time.perf_counter() - began
    if ended.returncode not in done:
        raise MachineError(f"bench: renderer {arguments[0]} ended with status {ended.returncode}; see above")
    return ended.stdout or "", took_s


def unmeasured(found: Figures, cases: Sequence[str]) -> list[str]:
    """Those of the cases that no row is there of."""
    return [case for case in cases if case not in found["rows"]]


def in_processes(
    found: Figures, cases: Sequence[str], measured: Callable[[Sequence[str]], Iterable[Figures]]
) -> Iterator[Figures]:
    """The rows of the cases that are missing, which `measured` gives.

    A process that ends early, because it could not clean up after a case, has a successor for the rest. Raises
    `MachineError` when one measures nothing at all.
    """
    left = unmeasured(found, cases)
    while left:
        done: list[str] = []
        for row in measured(left):
            done.append(row["case"])
            yield row
        if not done:
            raise MachineError(f"bench: {left[0]} gave no figures; see above")
        left = [case for case in left if case not in done]


def rates() -> Rates:
    """This machine's rates, measured now, whatever was measured before. Raises `MachineError`."""
    from renderer.machine import hardware  # noqa: PLC0415  # the child tells the versions

    answer = hardware.ask("renderer.engine.microbenchmark", hardware.look())
    if "error" in answer:
        raise MachineError(f"bench: this machine's rates cannot be measured: {answer['error']}")
    return Rates.model_validate(answer)


def _machine() -> Figures:
    from renderer.machine import hardware  # noqa: PLC0415

    answer = hardware.ask("renderer.engine.probe", hardware.look())
    cards = [gpu.get("name") for gpu in answer.get("gpus") or ()]
    return {"gpu": cards, **{name: answer.get(name) for name in ("python", "torch", "cuda", "diffsynth")}}
