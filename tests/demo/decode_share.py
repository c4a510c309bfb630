"""How much of a picture's time its decode took, read off sidecars: `python -m tests.demo.decode_share FOLDER…`.

CI renders jobs/demo.yaml as a processor without bf16 units and looks at this, not at the clock: seconds are the
machine's mood, and a decode that multiplies zeros or emulates its numbers takes nearly all of them wherever it runs.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from renderer.job import Sidecar

MOST = 0.5
"""Of encoding, denoising and decoding, twelve steps: 0.15 are usual, and in emulated bf16 it was 0.95."""


def shares(folder: Path) -> dict[str, float]:
    """The decode's part of each picture's time, by id. Raises `ValueError` where there is no sidecar."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name == "summary.json" or path.name.startswith("."):
            continue
        sidecar = Sidecar.model_validate_json(path.read_bytes())
        timing = sidecar.timing
        parts = [timing.encode_s or 0.0, timing.denoise_s or 0.0, timing.decode_s or 0.0]
        found[sidecar.id] = parts[2] / sum(parts)
    if not found:
        raise ValueError(f"{folder}: no sidecars")
    return found


def main() -> int:
    """Print the shares' median, and say whether it is bounded."""
    worst = 0.0
    for folder in map(Path, sys.argv[1:]):
        found = shares(folder)
        middle = statistics.median(found.values())
        worst = max(worst, middle)
        told = f"the decode takes {middle:.0%} of a picture, of {len(found)}; {MOST:.0%} is the most"
        sys.stdout.write(f"{folder}: {told}\n")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
