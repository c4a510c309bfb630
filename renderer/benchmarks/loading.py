"""`renderer bench weights`: make 58 GB of checkpoint, pack it, verify it, load a sweep; seconds, rates and peaks.

Imports no torch: each part is measured in a process of its own (`parts.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from renderer.benchmarks.running import Figures
from renderer.errors import MachineError

LOADING_PARTS = ("source", "disk", "pack", "verify", "load")


def measure(folder: Path, layers: int) -> Figures:
    """Run every part in `folder`, which takes up to 90 GB, and say what each took. Raises `MachineError`."""
    found: Figures = {"layers": layers, "at": time.strftime("%Y-%m-%d", time.gmtime())}
    for part in LOADING_PARTS:
        command = [sys.executable, "-m", "renderer.benchmarks.parts", part, str(folder)]
        if part == "source":
            command.append(str(layers))
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise MachineError(f"bench weights: {part} failed with status {done.returncode}; see above")
        found[part] = json.loads(done.stdout)
    packed = found["pack"]
    limit_s = found["disk"]["read_s_per_byte"] * found["source"]["bytes"]
    limit_s += found["disk"]["write_s_per_byte"] * packed["bytes"]
    packed["times_of_reading_and_writing"] = round(packed["seconds"] / limit_s, 2)
    return found


def lines(found: Figures) -> list[str]:
    """The figures as a table."""
    rows = [f"{'part':8} {'GB':>7} {'seconds':>8} {'GB/s':>6} {'peak RSS, GB':>13}"]
    for part in ("source", "pack", "verify", "load"):
        row = found[part]
        rate = row["bytes"] / row["seconds"] / 1e9
        rows.append(
            f"{part:8} {row['bytes'] / 1e9:7.2f} {row['seconds']:8.1f} {rate:6.2f} {row['peak_rss_bytes'] / 1e9:13.2f}"
        )
    packed, load = found["pack"], found["load"]
    rows.append(f"checksums make loading {load['seconds'] / load['unchecked_s'] - 1:+.1%} longer")
    rows.append(f"packing took {packed['times_of_reading_and_writing']} times reading the source and writing the store")
    rows.append(f"error of the fp8 weights: median {packed['median_error']:.4f}, worst {packed['worst_error']:.4f}")
    rows.append(
        f"the sweep: {load['blocks']} blocks, {load['bytes'] / 1e9:.2f} GB of {packed['transformer_bytes'] / 1e9:.2f}"
    )
    return rows
