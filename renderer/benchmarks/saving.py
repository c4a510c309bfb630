"""How many pictures one supervisor writes a second: `python -m renderer.benchmarks.saving`, a line of JSON.

A worker that does nothing but send pixels, as fast as a pipe takes them, and the real supervisor, which encodes and
writes them into a folder, with sidecars and journal. `longest_away_s` is the longest time for which its loop did not
listen. The picture is as hard to pack as a photograph: clouds of colour, and noise of four bits. Imports no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image, ImageChops

from renderer import protocol
from renderer.benchmarks.running import Figures
from renderer.job import Engine, Format, Job, Keep, Memory, Picture, Place, Software, Timing, Weights
from renderer.manifest.manifest import Manifest
from renderer.planning.deployment import Deployment
from renderer.planning.plan import make_plan
from renderer.supervisor import events
from renderer.supervisor.local_worker import LocalWorker
from renderer.supervisor.night import Night
from renderer.supervisor.pool import WorkerPool
from renderer.supervisor.rendering import Batches
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.writing import cores
from renderer.system import children

_COMMAND = (sys.executable, "-m", "renderer.benchmarks.saving", "--sends")
_CAPACITY = 4
_CLOUDS = 24
"""Patches of colour a side."""


def measure(folder: Path, *, pictures: int = 40, side: int = 1328, file_format: Format = "png") -> Figures:
    """Write so many pictures of `side` x `side` into `folder`: how many a second, and how long the loop was away."""
    manifest = _manifest(pictures, side, file_format)
    settings = Settings(outputs=folder)
    setup = protocol.Setup(model="demo", precision="bf16", profile="cpu")
    deployments = {Weights.of(manifest.pictures[0].job): Deployment({0: setup})}
    opened_s = ended_s = 0.0

    def watch(what: events.Event) -> None:
        nonlocal opened_s, ended_s
        if isinstance(what, events.WorkerOpened):
            opened_s = time.monotonic()
        elif isinstance(what, events.PictureDone):
            ended_s = time.monotonic()

    hire = functools.partial(LocalWorker, command=(*_COMMAND, str(side)))
    with WorkerPool(hire, watch) as pool:
        night = Night(settings, deployments, {}, {}, None, pool, watch, StopRequests())
        rendering = Batches([make_plan(manifest, folder)], night)
        rendering.render()
    if rendering.error is not None:
        raise rendering.error
    seconds = ended_s - opened_s
    return {
        "what": "saving",
        "format": file_format,
        "side": side,
        "cores": cores(),
        "pictures": pictures,
        "seconds": round(seconds, 2),
        "pictures_per_s": round(pictures / seconds, 2),
        "longest_away_s": round(rendering.longest_away_s, 4),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say so; or, as the child of that, send pixels."""
    parser = argparse.ArgumentParser(description="How many pictures one supervisor writes a second.")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--side", type=int, default=1328)
    parser.add_argument("--format", choices=("png", "webp", "jpeg"), default="png")
    parser.add_argument("--folder", type=Path, help="on the disk that is meant; otherwise among the temporary files")
    parser.add_argument("--sends", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, help=argparse.SUPPRESS)
    parser.add_argument(children.PARENT_OPTION, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.sends is not None:
        children.belong_to(options.parent)
        _send(options.events, options.sends)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(Path(folder), pictures=options.pictures, side=options.side, file_format=options.format)
    sys.stdout.write(json.dumps(found) + "\n")


def photograph(side: int) -> bytes:
    """RGB of `side` x `side`, the same each time."""
    dice = random.Random(side)  # noqa: S311 - colours, no secrets
    clouds = Image.frombytes("RGB", (_CLOUDS, _CLOUDS), dice.randbytes(_CLOUDS * _CLOUDS * 3))
    noise = Image.frombytes("RGB", (side, side), dice.randbytes(side * side * 3))
    noise = noise.point([level // 16 for level in range(256)] * 3)
    return ImageChops.add(clouds.resize((side, side), Image.Resampling.BICUBIC), noise).tobytes()


def _manifest(pictures: int, side: int, file_format: Format) -> Manifest:
    def picture(index: int) -> Picture:
        job = Job(
            model="demo",
            precision="bf16",
            prompt="a photograph",
            negative_prompt="",
            cfg_scale=1.0,
            num_inference_steps=4,
            width=side,
            height=side,
            seed=index,
        )
        place = Place(manifest="saving.yaml", line=1, job_id="p", index=index)
        return Picture(id=f"p{index}", output=f"p{index}", job=job, place=place, keep=Keep(format=file_format))

    return Manifest("saving.yaml", "saving", tuple(map(picture, range(pictures))))


def _send(channel: int, side: int) -> None:
    """Be the worker: each order is answered at once, with the same pixels."""
    pixels = photograph(side)
    engine = Engine(name="native", profile="cpu", device="cpu")
    software = Software(renderer="", python="", diffsynth="", torch="", transformers="")
    opened = protocol.Opened(capacity=_CAPACITY, load_s=0.0, engine=engine, software=software, gpu=None)
    with os.fdopen(channel, "wb") as out, contextlib.suppress(EOFError):
        while True:
            order = protocol.read_order(sys.stdin.buffer)[0]
            if isinstance(order, protocol.Open):
                protocol.write_frame(out, opened)
            elif isinstance(order, protocol.Render):
                protocol.write_frame(out, protocol.Started(key=order.key))
                protocol.write_frame(out, _rendered(order.key, side), pixels)


def _rendered(key: str, side: int) -> protocol.Rendered:
    now = datetime.now(UTC)
    timing = Timing(encode_s=0.0, denoise_s=0.0, decode_s=0.0, began_at=now, ended_at=now)
    return protocol.Rendered(key=key, width=side, height=side, timing=timing, memory=Memory())


if __name__ == "__main__":
    main()
