"""`renderer bench engine`: the streaming engine at full size, and others on the same weights, in one table.

Makes a checkpoint of random weights, packs it, and measures each part in a process of its own. What is measured stands
in the folder as `engine.json`; called again, it goes on with what is missing. Imports no torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from renderer.benchmarks import running
from renderer.benchmarks.running import GIB, Figures

CASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fp8": ("3-slots", "2-slots", "3-slots-8-small", "resident", "resident-small"),
        "caps": tuple(f"cap-{gib}" for gib in (6, 8, 10, 12, 16, 24)),
        "bf16": ("bf16-3-slots", "bf16-3-slots-small"),
    }
)
"""Our own, by part: measured in one process, so that the memory of the first alone is what a process takes."""

PEERS = (
    "diffsynth-bf16",
    "diffsynth-fp8-24",
    "diffsynth-fp8-16",
    "diffsynth-fp8-10",
    "diffusers-bf16",
    "diffusers-group-offload",
)
PARTS = ("fp8", "caps", "batch", "bf16", *PEERS)
"""What can be measured, in this order: everything of the FP8 store first, then the bf16 store, then the others."""

FULL_SIDE = 1328

FLOOR_S = 0.245
"""1328x1328, CFG 4, FP8 on an H200: 187 TFLOP of linear layers and 73 of attention at the rates its libraries reach."""

BATCH = """\
defaults: {model: Qwen/Qwen-Image, precision: fp8, size: 1328x1328, steps: 40}
jobs: [a harbour, a forest, a city, a desert, a lake, a bridge, a market, a garden]
"""


def measure(folder: Path, stores: Path, parts: Sequence[str]) -> Figures:
    """Measure `parts` that are not measured yet; the source is made in `folder`, packed stores in `stores`.

    Takes 60 GB in `folder`, and 60 in `stores`. Raises `UsageError` for a part there is not, `MachineError` when one
    fails.
    """
    notes = folder / "engine.json"
    found = running.begin(notes, stores, parts, PARTS)
    for part in parts:
        if cases := running.unmeasured(found, CASES.get(part, (part,))):
            running.keep(notes, found, _measure(part, cases, folder, stores))
    return found


def _measure(part: str, cases: Sequence[str], folder: Path, stores: Path) -> Iterator[Figures]:
    """The rows of a part's cases, each as soon as it is measured."""
    if part in PEERS:
        yield from running.run("renderer.benchmarks.peers", part, str(running.source(folder)))
        return
    store = running.store(folder, stores, "bf16" if part == "bf16" else "fp8")
    if part == "batch":
        yield _batch(folder, store)
    else:
        yield from running.run("renderer.benchmarks.streamed", str(store), *cases)


def _batch(folder: Path, store: Path) -> Figures:
    """Eight pictures of 40 steps by the command itself, from a cold process to the last file."""
    outputs, manifest = folder / "outputs", folder / "batch.yaml"
    shutil.rmtree(outputs, ignore_errors=True)
    manifest.write_text(BATCH, encoding="utf-8")
    rendering = ("render", str(manifest), "--outputs", str(outputs), "--offline", "--vram", "10GiB")
    _, took_s = running.command(*rendering, "--log-format", "plain", env=running.environment(folder, store))
    sidecars = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((outputs / "batch").glob("*.json"))]
    pictures = [sidecar for sidecar in sidecars if "timing" in sidecar]
    return {
        "case": "batch",
        "pictures": len(pictures),
        "seconds": took_s,
        "step_s": min(picture["timing"]["step_median_s"] for picture in pictures),
        "reserved_bytes": max(picture["memory"]["peak_reserved_bytes"] for picture in pictures),
        "rss_bytes": max(picture["memory"]["peak_rss_bytes"] for picture in pictures),
    }


# ---- the table -------------------------------------------------------------------------------------------------------


def lines(found: Figures) -> list[str]:
    """The figures as tables of Markdown."""
    rows = found["rows"]
    caps = [row for case in CASES["caps"] for row in rows.get(case, [])]
    return [*_steps(rows), "", *_caps(caps), *_remarks(rows)]


def _steps(rows: dict[str, list[Figures]]) -> Iterator[str]:
    yield "| what renders | size | pictures | s/step a picture | peak reserved, GiB | host memory, GB | decode, s |"
    yield "|---|---|---|---|---|---|---|"
    ours = [("renderer, ", row) for part in ("fp8", "bf16") for case in CASES[part] for row in rows.get(case, [])]
    others = [("", row) for part in PEERS for row in rows.get(part, [])]
    for prefix, row in (*ours, *others):
        step = f"{row['step_s']:.3f}"
        after = row.get("decode_s") or row.get("after_s") or 0.0
        host = f"{row['rss_bytes'] / 1e9:.1f}" if row.get("rss_bytes") else ""
        memory = f"{row['reserved_bytes'] / GIB:.2f} | {host}"
        name = prefix + row["case"]
        yield f"| {name} | {row['side']}² | {row.get('pictures', 1)} | {step} | {memory} | {after:.2f} |"


def _caps(rows: Sequence[Figures]) -> Iterator[str]:
    if not rows:
        return
    yield f"Mixed pictures, 512x512 to 2048x2048, with and without CFG, {rows[0]['steps']} steps each:"
    yield ""
    yield "| cap, GiB | pictures | slots | in flight | peak reserved, GiB | pictures an hour | changed |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        slots = "-".join(map(str, dict.fromkeys(row["slots"])))
        changed = ", ".join(row["adjustments"]) or "nothing"
        yield (
            f"| {row['cap_bytes'] / GIB:.0f} | {row['pictures']} | {slots} | {row['in_flight']:.1f} "
            f"| {row['reserved_bytes'] / GIB:.2f} | {row['pictures_per_hour']:.0f} | {changed} |"
        )
    yield ""


def _remarks(rows: dict[str, list[Figures]]) -> Iterator[str]:
    fp8 = {case: rows[case][0] for case in CASES["fp8"] if case in rows}
    if resident := fp8.get("resident"):
        yield f"- All resident: {FLOOR_S / resident['step_s']:.0%} of the floor of {FLOOR_S} s."
    whole = [row["sha256"] for row in fp8.values() if row["side"] == FULL_SIDE]
    if len(whole) > 1:
        same = "the same bits" if len(set(whole)) == 1 else "NOT the same bits"
        yield f"- fp8 at {FULL_SIDE}², with {len(whole)} numbers of slots: {same}."
    for name in ("resident", "3-slots"):
        if idle := fp8.get(name, {}).get("idle"):
            yield f"- {name}: the GPU waits for {idle['waiting']:.2%} of the sweeps, {idle['all']:.2%} with launches."
    if fp8:
        compiled = sum(row["kernels_compiled"] for row in fp8.values())
        again = sum(row["kernels_compiled_after_the_first_picture"] for row in fp8.values())
        took = sum(row["compile_s"] for row in fp8.values())
        yield f"- Kernels compiled in a process: {compiled}, in {took:.1f} s; after a case's first picture: {again}."
    for row in rows.get("batch", []):
        peaks = f"{row['reserved_bytes'] / GIB:.1f} GiB of the GPU, {row['rss_bytes'] / 1e9:.1f} GB of host memory"
        yield f"- {row['pictures']} pictures of 40 steps, cold process to last file: {row['seconds']:.0f} s; {peaks}."
    yield from _latents(rows)


def _latents(rows: dict[str, list[Figures]]) -> Iterator[str]:
    """Ours beside DiffSynth's: pixels are not compared, for two VAEs make them, which differ in the last place."""
    ours = {row["side"]: row.get("latents") for case in CASES["bf16"] for row in rows.get(case, [])}
    for row in rows.get("diffsynth-bf16", []):
        if (wanted := row.get("latents")) and (found := ours.get(row["side"])):
            same = "the same bits as" if found == wanted else "NOT the bits of"
            yield f"- bf16 at {row['side']}²: latents are {same} DiffSynth's own call."
