"""A mixed batch's seconds: what is forecast of it, and what `renderer render` then takes. Imports no torch.

Twice: all of it by `renderer plan`, when the machine's rates are all that is known; and what is left of it by the run
itself, as `renderer status` shows it, when five pictures are done.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from renderer.benchmarks import running
from renderer.benchmarks.running import Figures
from renderer.errors import EXIT_DONE, EXIT_MACHINE
from renderer.machine import hardware
from renderer.outputs import status
from renderer.outputs.folder import OutputFolder
from renderer.outputs.status import RunStatus

TIME_CASES = ("all, after the probe", "the others, after five pictures")

MANIFEST = """\
version: 1
defaults: {model: Qwen/Qwen-Image, precision: fp8, steps: 20}
jobs:
  - {id: a, prompt: "A poster that says HELLO", size: 1328x1328, count: 4}
  - {id: b, prompt: "A bilingual sign, neon, rain", size: 1664x928, count: 4}
  - {id: c, prompt: "A lighthouse", size: 1024x1024, cfg_scale: 1, count: 3}
  - {id: d, prompt: "A market square at noon", size: 768x768, count: 4}
  - {id: e, prompt: "A map of an island", size: 1472x1104, count: 2}
"""

FIRST = 5

_EVERY_S = 0.1


def measure(folder: Path, env: dict[str, str], manifest: str = MANIFEST) -> Iterator[Figures]:
    """The two rows, from a folder of outputs that is empty. Measures the machine's rates first, where it has a GPU."""
    outputs, written = folder / "outputs-mixed", folder / "mixed.yaml"
    shutil.rmtree(outputs, ignore_errors=True)
    written.write_text(manifest, encoding="utf-8")
    rates = None
    if hardware.look().gpu is not None:
        told, _ = running.command("doctor", "--json", env=env, capture=True, done=(EXIT_DONE, EXIT_MACHINE))
        rates = json.loads(told)["rates"]
    where = (str(written), "--outputs", str(outputs))
    told, _ = running.command("plan", *where, "--json", env=env, capture=True)
    plan = json.loads(told)
    forecast, count = plan["forecast"], len(plan["manifests"][0]["pictures"])
    with _watching(outputs / written.stem) as seen:
        _, took_s = running.command("render", *where, "--offline", "--log-format", "plain", env=env)
    groups = [{name: group[name] for name in ("slots", "in_flight", "seconds")} for group in forecast["groups"]]
    rendered = sorted(_sidecars(outputs / written.stem), key=lambda each: each["timing"]["ended_at"])
    yield {
        "case": TIME_CASES[0],
        "pictures": count,
        "forecast_s": forecast["seconds"],
        "took_s": took_s,
        "groups": groups,
        "rates": rates,
        "rendered": [_kept(each) for each in rendered],
    }
    if seen:
        now = seen[0]
        rest_s = (_last(outputs / written.stem) - now.at).total_seconds()
        yield {"case": TIME_CASES[1], "pictures": count - now.done, "forecast_s": now.left_s, "took_s": rest_s}
    shutil.rmtree(outputs)


@contextmanager
def _watching(folder: Path) -> Iterator[list[RunStatus]]:
    """What the run into `folder` says of itself when the first pictures are done; nothing where that went too fast."""
    seen: list[RunStatus] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_S) and not seen:
            now = status.read(OutputFolder(folder))
            if now is not None and now.done >= FIRST:
                seen.append(now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _last(folder: Path) -> datetime:
    """When the last picture was rendered."""
    return max(datetime.fromisoformat(each["timing"]["ended_at"]) for each in _sidecars(folder))


def _sidecars(folder: Path) -> list[Any]:
    told: list[Any] = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return [each for each in told if "timing" in each]


_TIMING = ("load_s", "encode_s", "decode_s", "total_s", "began_at", "ended_at")
_SHARING = ("share_s", "mean_in_flight", "slots")


def _kept(sidecar: Any) -> Figures:
    """Of a sidecar, what a forecast learns from it."""
    job, timing, sharing = sidecar["job"], sidecar["timing"], sidecar["sharing"]
    found = {name: job[name] for name in ("prompt", "width", "height", "cfg_scale", "num_inference_steps")}
    found |= {name: timing[name] for name in _TIMING}
    return found | {name: sharing[name] for name in _SHARING}
