"""`renderer bench memory`: what was forecast of memory and time against what full-size random weights take.

Peaks by stage of the streaming engine and of DiffSynth's profiles; verdicts under caps; a mixed batch's seconds. Makes
a checkpoint, packs it, and measures each part in processes of its own. What is measured stands in the folder as
`memory.json`, and as lines in `memory.jsonl`, `verdicts.jsonl` and `time.jsonl`. Called again, it goes on with what is
missing. Imports no torch.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from renderer.benchmarks import running, times
from renderer.benchmarks.cases import PROCESSES
from renderer.benchmarks.cells import FROM_TEXT, WITH_INPUTS, cell, table
from renderer.benchmarks.input_cases import INPUT_CASES
from renderer.benchmarks.running import Figures
from renderer.text import GIB

_INPUTS = {"inputs": tuple(tuple(case.name for case in group) for group in INPUT_CASES)}

_PROCESSES = {**PROCESSES, **_INPUTS}

FORECAST_PARTS = (*_PROCESSES, "times")
"""What can be measured, in this order."""

_MODULES = {
    "cells": "renderer.benchmarks.peaks",
    "native": "renderer.benchmarks.peaks",
    "verdicts": "renderer.benchmarks.verdicts",
    "inputs": "renderer.benchmarks.input_peaks",
}


def measure(folder: Path, stores: Path, parts: Sequence[str]) -> Figures:
    """Measure `parts` that are not measured yet; the source is made in `folder`, the FP8 store in `stores`.

    Takes 60 GB in `folder`, and 30 in `stores`. Raises `UsageError` for a part there is not, `MachineError` when one
    fails.
    """
    notes = folder / "memory.json"
    found = running.begin(notes, stores, parts, FORECAST_PARTS)
    try:
        for part in parts:
            for cases in _PROCESSES.get(part, (times.TIME_CASES,)):
                if left := running.unmeasured(found, cases):
                    running.keep(notes, found, _measure(part, left, found, folder, stores))
    finally:
        write(found, folder)
    return found


_RECKONED = ("verdict", "right", "least_bytes", "seconds")


def write(found: Figures, folder: Path) -> None:
    """The rows as lines, a file a part: peaks that were held, verdicts without what is reckoned anew, and seconds."""
    parts = {
        "memory": [row for row in _of(found, ("cells", "native")) if not row.get("adjustments")],
        "inputs": [row for row in _of(found, _INPUTS) if not row.get("adjustments")],
        "verdicts": [
            {name: value for name, value in row.items() if name not in _RECKONED} for row in _of(found, ("verdicts",))
        ],
        "time": [row for case in times.TIME_CASES for row in found["rows"].get(case, ())],
    }
    for name, rows in parts.items():
        if rows:
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _measure(part: str, cases: Sequence[str], found: Figures, folder: Path, stores: Path) -> Iterator[Figures]:
    """The rows of one process's cases, or of its successors'."""
    store = running.store(folder, stores, "fp8", looking=part in _INPUTS)
    if part == "times":
        yield from (row for row in times.measure(folder, running.environment(folder, store)) if row["case"] in cases)
        return
    measured = partial(running.run, _MODULES[part], str(store))
    yield from running.in_processes(found, cases, lambda left: measured(*left))


def _of(found: Figures, parts: Iterable[str]) -> list[Figures]:
    """The rows of parts, in the order in which they are measured."""
    names = [name for part in parts for names in _PROCESSES[part] for name in names]
    return [row for name in names for row in found["rows"].get(name, ())]


# ---- the tables ------------------------------------------------------------------------------------------------------


def lines(found: Figures) -> list[str]:
    """The figures as tables of Markdown."""
    from_text, with_inputs = _of(found, ("cells", "native")), _of(found, _INPUTS)
    peaks = [*_peaks(from_text), *_peaks(with_inputs, WITH_INPUTS)]
    return [*peaks, *verdict_lines(_of(found, ("verdicts",))), *_times(found)]


def _peaks(rows: Sequence[Figures], columns: Sequence[str] = FROM_TEXT) -> Iterator[str]:
    measured = [row for row in rows if row["stages"]]
    held = [row for row in measured if not row.get("adjustments")]
    if held:
        cells = [cell(row) for row in held]
        yield from table(cells, columns)
        yield ""
        yield f"- Tensors: {_errors([each.allocated_error for each in cells])}."
        yield f"- Reserved: {_errors([each.reserved_error for each in cells])}."
    for row in measured:
        if changed := row.get("adjustments"):
            yield f"- {row['case']}: rendered with {', '.join(changed)}, and is in no table."
    if silent := len(rows) - len(measured):
        yield f"- {silent} cells have no figures of memory: there was no GPU."
    yield from _left(rows)
    if rows:
        yield ""


def _errors(errors: Sequence[float]) -> str:
    median = statistics.median(map(abs, errors))
    return (
        f"{len(errors)} cells, median error {100 * median:.1f} %, "
        f"at most {100 * max(errors):+.1f} and {100 * min(errors):+.1f} %"
    )


def verdict_lines(rows: Sequence[Figures]) -> Iterator[str]:
    """Verdicts beside what was done, as a table of Markdown."""
    if not rows:
        return
    yield "| case | least, GiB | allowed, GiB | verdict | what it did | reserved, GiB | |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        least, allowed, reserved = (_gib(row.get(f"{name}_bytes")) for name in ("least", "allowed", "reserved"))
        did = row["error"] or row["short"] or "rendered"
        right = {True: "right", False: "**WRONG**", None: "**no verdict**"}[row["right"]]
        verdict = "fits" if row["verdict"] else "does not fit"
        yield f"| {row['case']} | {least} | {allowed} | {verdict} | {did} | {reserved} | {right} |"
    yield ""
    judged = [row for row in rows if row["right"] is not None]
    yield f"- {sum(row['right'] for row in judged)} of {len(judged)} verdicts were right."
    if broken := len(rows) - len(judged):
        yield f"- {broken} cases failed for another reason than memory: their verdicts are not measured."
    yield from _left(rows)
    yield ""


def _left(rows: Iterable[Figures]) -> Iterator[str]:
    """Cases that leave memory behind are defects of their own; no other was measured on top of them."""
    for row in rows:
        if (left := row.get("left_bytes", 0)) > running.LEFT_BYTES:
            yield f"- {row['case']}: left {left / 2**20:.0f} MiB behind; a new process went on."


def _gib(count: int | None) -> str:
    return "" if count is None else f"{count / GIB:.2f}"


def _times(found: Figures) -> Iterator[str]:
    yield from time_lines([row for case in times.TIME_CASES for row in found["rows"].get(case, ())])


def time_lines(rows: Sequence[Figures]) -> Iterator[str]:
    """Seconds of a batch beside their forecast, as a table of Markdown."""
    if not rows:
        return
    yield "| a mixed batch | pictures | forecast, s | took, s | error |"
    yield "|---|---|---|---|---|"
    for row in rows:
        forecast, took = row["forecast_s"], row["took_s"]
        told = ("none", "") if forecast is None else (f"{forecast:.1f}", f"{100 * (forecast / took - 1):+.1f} %")
        yield f"| {row['case']} | {row['pictures']} | {told[0]} | {took:.1f} | {told[1]} |"
