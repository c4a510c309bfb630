"""One GPU beside all of a host: `python -m renderer.benchmarks.several --folder DIR`, a line of JSON a case.

As many pictures for each GPU, through `renderer render --gpus`: pictures an hour, from the first one's beginning to
the last one's end; when each worker was ready; and by how much the host's memory was fuller at most. With --ray it is
all beside as many workers of a Ray cluster that is begun on this host. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from renderer.benchmarks import running
from renderer.benchmarks.running import Figures
from renderer.errors import MachineError
from renderer.machine import hardware

_EVERY_S = 0.2

_MANIFEST = """\
version: 1
defaults: {{model: {model}, precision: fp8, size: {size}, steps: {steps}}}
jobs:
  - {{id: a, prompt: "A harbour at dusk, with a sign that says WELCOME", count: {count}}}
"""


@dataclass(frozen=True, slots=True)
class PicturesEach:
    """What each GPU renders: so many that a start which is a second longer is no part of the figure."""

    pictures: int = 16
    steps: int = 6
    size: str = "1328x1328"
    model: str = "Qwen/Qwen-Image"


@dataclass(frozen=True, slots=True)
class CaseOfSeveral:
    """How many devices, with how much GPU memory (None: all), and whether they share one copy of the blocks.

    With `ray` they are workers of a cluster, begun here.
    """

    devices: int
    limit: str | None = None
    shared: bool = True
    ray: bool = False

    @property
    def name(self) -> str:
        return f"{self.devices}-{self.limit or 'resident'}{'' if self.shared else '-own'}{'-ray' * self.ray}"

    @property
    def program(self) -> tuple[str, ...]:
        """The renderer, as Python is told of it."""
        return ("-m", "renderer") if self.shared else ("-c", _WITHOUT_SHARING)


_WITHOUT_SHARING = """\
import sys
from renderer.cli.command import main
from renderer.system import shared_memory
shared_memory.is_possible = lambda: False
sys.exit(main())
"""


def measure(
    folder: Path,
    env: Mapping[str, str],
    devices: Sequence[str],
    cases: Sequence[CaseOfSeveral] | None = None,
    load: PicturesEach = PicturesEach(),
) -> Iterator[Figures]:
    """A row a case (None: the usual ones); the first is what the others are compared with. Raises `MachineError`."""
    alone: Figures | None = None
    for case in usual(len(devices)) if cases is None else cases:
        row = _case(folder, env, devices[: case.devices], case, load)
        alone = alone or row
        yield {
            **row,
            "times_one": round(row["pictures_per_hour"] / alone["pictures_per_hour"], 3),
            "more_host_bytes": row["host_bytes"] - alone["host_bytes"],
            "last_ready_s": round(row["ready_s"][-1] - row["ready_s"][0], 1),
        }


def usual(devices: int) -> list[CaseOfSeveral]:
    """One device and all, with all blocks on each; the same with copies in host memory for each; and little memory."""
    return [
        CaseOfSeveral(1),
        CaseOfSeveral(devices),
        CaseOfSeveral(devices, shared=False),
        CaseOfSeveral(devices, "10GiB"),
    ]


def by_ray(devices: int) -> list[CaseOfSeveral]:
    """All devices by the pool and by a cluster, with all blocks on each, and with little memory."""
    return [CaseOfSeveral(devices, limit, ray=ray) for limit in (None, "10GiB") for ray in (False, True)]


def _case(
    folder: Path, env: Mapping[str, str], devices: Sequence[str], case: CaseOfSeveral, load: PicturesEach
) -> Figures:
    outputs, written = folder / "outputs-several", folder / "several.yaml"
    shutil.rmtree(outputs, ignore_errors=True)
    count = load.pictures * len(devices)
    text = _MANIFEST.format(model=load.model, size=load.size, steps=load.steps, count=count)
    written.write_text(text, encoding="utf-8")
    limited = () if case.limit is None else ("--vram", case.limit)
    where = ("--cluster", f"local:{len(devices)}") if case.ray else ("--gpus", ",".join(devices))
    command = (str(written), "--outputs", str(outputs), *where, "--offline", *limited)
    began_s = time.time()
    with _fullest() as fullest:
        ended = subprocess.run(
            [sys.executable, *case.program, "render", *command, "--log-format", "json"],
            env=dict(env), check=False, stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
    if ended.returncode != 0:
        raise MachineError(
            f"render --gpus {','.join(devices)} ended with {ended.returncode}", hint=ended.stderr[-2000:]
        )
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    ready = [_seconds(line["at"]) - began_s for line in lines if line["event"] == "worker-opened"]
    sidecars = [line["sidecar"] for line in lines if line["event"] == "picture-done"]
    began = min(_seconds(each["timing"]["began_at"]) for each in sidecars)
    took_s = max(_seconds(each["timing"]["ended_at"]) for each in sidecars) - began
    sharings = [each["sharing"] for each in sidecars if each["sharing"]]
    found = {
        "case": case.name,
        "devices": [sidecars[0]["gpu"] and sidecars[0]["gpu"]["name"], len(devices)],
        "pictures": len(sidecars),
        "steps": load.steps,
        "size": load.size,
        "took_s": round(took_s, 2),
        "pictures_per_hour": round(3600 * len(sidecars) / took_s, 1),
        "ready_s": [round(each, 1) for each in sorted(ready)],
        "host_bytes": fullest[0],
        "slots": sorted({each["slots"] for each in sharings}),
        "in_flight": sorted({round(each["mean_in_flight"], 1) for each in sharings}),
        "starts": [each["timing"]["start"] for each in sidecars if each["timing"]["start"]][: len(devices) + 1],
        "load_s": sorted({round(each["timing"]["load_s"] or 0.0, 1) for each in sidecars}),
    }
    shutil.rmtree(outputs)
    return found


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


@contextmanager
def _fullest() -> Iterator[list[int]]:
    """By how many bytes the host's memory is fuller at most than now; what the kernel would drop is not counted."""
    before, most = _used(), [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_S):
            most[0] = max(most[0], _used() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def _used() -> int:
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make full-size weights in a folder, and measure; leave out what does not begin within --seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="takes 60 GB, in which there is the source")
    parser.add_argument("--stores", type=Path, help="another place for the packed store, 29 GB")
    parser.add_argument("--seconds", type=float, default=420.0, help="begin no case later")
    parser.add_argument("--ray", action="store_true", help="a Ray cluster of this host beside the pool, and no others")
    options = parser.parse_args(arguments)
    began_s = time.monotonic()
    uuids = [gpu.uuid for gpu in hardware.look().gpus]
    running.make(options.folder)
    packed = running.store(options.folder, options.stores or options.folder, "fp8")
    _say({"case": "made", "seconds": round(time.monotonic() - began_s, 1), "gpus": uuids})
    env = running.environment(options.folder, packed)
    _case(
        options.folder, env, uuids, CaseOfSeveral(len(uuids)), PicturesEach(pictures=1, steps=2)
    )  # kernels are compiled once
    rows = measure(options.folder, env, uuids, by_ray(len(uuids)) if options.ray else None)
    while time.monotonic() - began_s < options.seconds and (row := next(rows, None)) is not None:
        _say(row)


def _say(row: Figures) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
