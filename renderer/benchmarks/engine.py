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

from renderer.benchmarks import edit_cases, few, lora_cases, running, served, share_cases
from renderer.benchmarks.running import Figures
from renderer.catalog import QWEN_IMAGE_ARCHITECTURE
from renderer.estimate import Streaming, Work, duration
from renderer.job import Stored
from renderer.machine.rates import Rates
from renderer.text import GIB

CASES_OF_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fp8": (
            "3-slots",
            "2-slots",
            "3-slots-small",
            "3-slots-8-small",
            "3-slots-768",
            "3-slots-1024",
            "3-slots-1024-unguided",
            "3-slots-4-of-1024",
            "3-slots-2048",
            "resident",
            "resident-small",
            "resident-small-unrecorded",
            "resident-8-small",
            "resident-8-small-unguided",
            "resident-768",
            "resident-1024",
        ),
        "caps": tuple(f"cap-{gib}" for gib in (6, 8, 10, 12, 16, 24)),
        "few": tuple(few.FEW_CASES),
        "loras": tuple(lora_cases.LORA_CASES),
        "edits": tuple(edit_cases.EDIT_CASES),
        "shares": tuple(share_cases.SHARE_CASES),
        "slow-bus": ("slow-bus-1-small", "slow-bus-8-small"),
        "int8": (
            *("int8-3-slots", "int8-resident", "int8-3-slots-small", "int8-resident-8-small"),
            *("int8-slow-bus-1-small", "int8-slow-bus-8-small"),
        ),
        "int4": (
            *("int4-3-slots", "int4-resident", "int4-3-slots-small", "int4-resident-8-small"),
            *("int4-slow-bus-1-small", "int4-slow-bus-8-small"),
        ),
        "bf16": ("bf16-3-slots", "bf16-3-slots-small"),
    }
)
"""Our own, by part: measured in one process, so that the memory of the first alone is what a process takes."""

PEER_PARTS = (
    "diffsynth-bf16",
    "diffsynth-fp8-24",
    "diffsynth-fp8-16",
    "diffsynth-fp8-10",
    "diffsynth-edit-bf16",
    "diffusers-bf16",
    "diffusers-group-offload",
)
RESIDENT_PEER = PEER_PARTS[0]
"""The one whose steps are forecast, too: all its weights are on the GPU, as with our profile `resident`."""

ENGINE_PARTS = (
    "fp8",
    "caps",
    "batch",
    "few",
    "served",
    "loras",
    "edits",
    "shares",
    "slow-bus",
    "int8",
    "int4",
    "bf16",
    *PEER_PARTS,
)
"""What can be measured, in this order: everything of the FP8 store, then the other stores, then the others."""

STORE_OF_PARTS: Mapping[str, Stored] = MappingProxyType({"int8": "int8", "int4": "int4", "bf16": "bf16"})
"""Parts that are of another store than FP8's."""

FULL_SIDE = 1328

OLD_TOKENS = 62
"""Of the benchmarks' prompt."""

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
    found = running.begin(notes, stores, parts, ENGINE_PARTS)
    for part in parts:
        if cases := running.unmeasured(found, CASES_OF_PARTS.get(part, (part,))):
            if part in CASES_OF_PARTS and "rates" not in found:
                found["rates"] = running.rates().model_dump()
            running.keep(notes, found, _measure(part, cases, folder, stores))
    return found


def _measure(part: str, cases: Sequence[str], folder: Path, stores: Path) -> Iterator[Figures]:
    """The rows of a part's cases, each as soon as it is measured."""
    if part in PEER_PARTS:
        yield from running.run("renderer.benchmarks.peers", part, str(running.source(folder)))
        return
    store = running.store(folder, stores, STORE_OF_PARTS.get(part, "fp8"), looking=part == "edits")
    if part == "batch":
        yield _batch(folder, store)
    elif part == "few":
        yield from few.measure(folder, running.environment(folder, store), cases)
    elif part == served.SERVED:
        yield from served.measure(folder, running.environment(folder, store))
    elif part == "loras":
        yield from running.run("renderer.benchmarks.lora_steps", str(store), *cases)
    elif part == "edits":
        yield from running.run("renderer.benchmarks.edit_steps", str(store), *cases)
    elif part == "shares":
        yield from running.run("renderer.benchmarks.share_steps", str(store), *cases)
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
    caps = [row for case in CASES_OF_PARTS["caps"] for row in rows.get(case, [])]
    many = [row for case in CASES_OF_PARTS["few"] for row in rows.get(case, [])]
    with_loras = [row for case in CASES_OF_PARTS["loras"] for row in rows.get(case, [])]
    edits = [row for case in CASES_OF_PARTS["edits"] for row in rows.get(case, [])]
    parts = [row for case in CASES_OF_PARTS["shares"] for row in rows.get(case, [])]
    crowds = rows.get(served.SERVED, [])
    return [
        *_steps(found),
        "",
        *_caps(caps),
        *few.lines(many),
        *served.lines(crowds),
        *lora_cases.lines(with_loras),
        *edit_cases.lines(edits),
        *share_cases.lines(parts),
        *_remarks(rows),
    ]


def ours(found: Figures) -> Iterator[Figures]:
    """Rows of our own cases but caps, in the table's order."""
    yield from (
        row
        for part in ("fp8", "slow-bus", "int8", "int4", "bf16")
        for case in CASES_OF_PARTS[part]
        for row in found["rows"].get(case, [])
    )


def _steps(found: Figures) -> Iterator[str]:
    """Seconds a step stand beside what is forecast at the rates that were measured, and beside the floor."""
    columns = ("what renders", "size", "guidance", "pictures", "s/step a picture", "forecast", "floor")
    more = ("encode, s", "decode, s", "peak reserved, GiB", "host memory, GB")
    yield f"| {' | '.join((*columns, *more))} |"
    yield "|---" * len((*columns, *more)) + "|"
    rates = Rates.model_validate(found["rates"]) if "rates" in found else None
    others = [("", row) for part in PEER_PARTS for row in found["rows"].get(part, [])]
    for prefix, row in (*(("renderer, ", row) for row in ours(found)), *others):
        pictures = row.get("pictures", 1)
        told = ["", ""]
        if rates is not None and (prefix or row["case"] == RESIDENT_PEER):
            told = [f"{seconds / pictures:.3f}" for seconds in (forecast(row, rates).seconds, floor_s(row, rates))]
        encode = f"{row['encode_s']:.2f}" if "encode_s" in row else ""
        after = row.get("decode_s") or row.get("after_s") or 0.0
        host = f"{row['rss_bytes'] / 1e9:.1f}" if row.get("rss_bytes") else ""
        guided = f"{row.get('guidance', 4.0):.0f}"
        cells = [prefix + row["case"], f"{row['side']}²", guided, str(pictures), f"{row['step_s']:.3f}", *told]
        cells += [encode, f"{after:.2f}", f"{row['reserved_bytes'] / GIB:.2f}", host]
        yield f"| {' | '.join(cells)} |"


def forecast(row: Figures, rates: Rates) -> duration.SweepTime:
    """What is forecast of one step of all a case's pictures, at a machine's rates."""
    return duration.sweep(*_asked(row), _over_its_bus(row, rates))


def floor_s(row: Figures, rates: Rates) -> float:
    """The least that such a step could take at these rates."""
    return duration.least_seconds(*_asked(row), _over_its_bus(row, rates))


def _over_its_bus(row: Figures, rates: Rates) -> Rates:
    """A machine's rates with the bus that a case had, where its blocks were copied several times."""
    copies = row.get("copies", 1)
    if copies == 1 or rates.pinned_bytes_per_s is None:
        return rates
    return rates.model_copy(update={"pinned_bytes_per_s": rates.pinned_bytes_per_s / copies})


def _asked(row: Figures) -> tuple[Streaming, list[Work]]:
    """A case for the arithmetic, ours or that of DiffSynth with all weights on the GPU, which records no launches.

    Rows of old have no guidance, precision or tokens: 4, their case's name, and 62; and none went together.
    """
    peer = row["case"] == RESIDENT_PEER
    precision: Stored = row.get("precision") or ("bf16" if "bf16" in row["case"] else "fp8")
    slots = QWEN_IMAGE_ARCHITECTURE.layers if peer else row["slots"]
    recording, together = not peer and row.get("recorded", True), row.get("together", 0)
    streaming = Streaming(QWEN_IMAGE_ARCHITECTURE, precision, slots, recording=recording, together=together)
    side, tokens = row["side"], row.get("prompt_tokens", OLD_TOKENS)
    work = Work(side, side, tokens, guided=row.get("guidance", 4.0) != 1.0)
    return streaming, [work] * row.get("pictures", 1)


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
    fp8 = {case: rows[case][0] for case in CASES_OF_PARTS["fp8"] if case in rows}
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
    ours = {row["side"]: row.get("latents") for case in CASES_OF_PARTS["bf16"] for row in rows.get(case, [])}
    for row in rows.get("diffsynth-bf16", []):
        if (wanted := row.get("latents")) and (found := ours.get(row["side"])):
            same = "the same bits as" if found == wanted else "NOT the bits of"
            yield f"- bf16 at {row['side']}²: latents are {same} DiffSynth's own call."
