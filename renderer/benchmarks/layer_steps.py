"""Pictures that are taken apart, measured: `python -m renderer.benchmarks.layer_steps FOLDER`, a line of JSON a case.

Random weights of Qwen-Image-Layered's widths, of a few blocks: steps cost what so many blocks do. The streaming engine
through few slots and with all blocks there, at bf16 and at fp8; DiffSynth's own call beside it at bf16, whose bits are
to be the same; and the peaks that are forecast. Ends by itself.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from renderer import catalog
from renderer.benchmarks.running import Figures
from renderer.benchmarks.streamed import BENCH_PROMPT, BenchListener, job_of, peaks
from renderer.demo import tokenizer
from renderer.engine.calling import Rendering
from renderer.engine.inputs import Inputs
from renderer.engine.native import NativeEngine
from renderer.engine.streaming import StreamingEngine
from renderer.estimate import Native, Streaming
from renderer.estimate.work import Work
from renderer.job import Input, Job, ModelIdentity, Profile, Stored
from renderer.protocol import Setup
from renderer.weights import pack, synthetic

LAYER_CASES = ((640, 4), (256, 2))
"""Sides and layers: as its authors recommend, and one so small that its launches are recorded."""

_IDENTITY = ModelIdentity(id="synthetic", revision="1")


def main() -> None:
    """Make the weights, unless they are there, and measure."""
    asked = argparse.ArgumentParser(prog="python -m renderer.benchmarks.layer_steps")
    asked.add_argument("folder", type=Path)
    asked.add_argument("--blocks", type=int, default=12, help="of 60: 12 take 25 GB as they are, and 25 as a store")
    asked.add_argument("--seconds", type=int, default=540, help="after which it ends, whatever is done")
    options = asked.parse_args()
    signal.alarm(options.seconds)
    source = _source(options.folder, options.blocks)
    for row in _rows(options.folder, source, options.blocks):
        print(json.dumps(row), flush=True)  # noqa: T201


def _source(folder: Path, blocks: int) -> Path:
    found = folder / "layered"
    if not (found / "tokenizer").exists():
        synthetic.write(found, layers=blocks, layered=True)
        (found / "transformer" / "config.json").write_text(json.dumps({"use_layer3d_rope": True}))
        tokenizer.write(found / "tokenizer")
    return found


def _rows(folder: Path, source: Path, blocks: int) -> Iterator[Figures]:
    shape = replace(catalog.QWEN_IMAGE_ARCHITECTURE, layers=blocks)
    for precision in ("fp8", "bf16"):
        store = _packed(folder, source, precision)
        for slots in (3, blocks):
            choices: dict[str, Any] = {"profile": "stream", "store": str(store), "slots": slots, "in_flight": 1}
            setup = Setup(model=str(source), identity=_IDENTITY, precision=precision, **choices)
            engine = StreamingEngine.open(setup, lambda _: None)
            for side, layers in LAYER_CASES:
                job, given = _job(setup, side, layers)
                expected = Streaming(shape, precision, slots).estimate([Work.of(job)])
                told = {"case": f"{precision}-{slots}-slots", "forecast_bytes": expected.allocated}
                yield {**told, **_told(_twice(engine, job, given), job)}
            del engine
            _forget()
        shutil.rmtree(store)
    profile: Profile = "resident" if torch.cuda.is_available() else "cpu"
    setup = Setup(model=str(source), precision="bf16", profile=profile, offline=True)
    native = NativeEngine.open(setup, lambda _: None)
    for side, layers in LAYER_CASES:
        job, given = _job(setup, side, layers)
        native.render(job, lambda *_: None, given)
        picture = native.render(job, lambda *_: None, given)
        expected = Native(shape, "bf16", "resident", None).estimate(Work.of(job))
        yield {"case": "diffsynth-bf16", "forecast_bytes": expected.allocated, **_told(picture, job)}


def _packed(folder: Path, source: Path, precision: Stored) -> Path:
    files = {part.role: sorted(source.glob(part.files)) for part in catalog.NETWORK_FILES}
    store = folder / f"layered-{precision}"
    shutil.rmtree(store, ignore_errors=True)
    pack.pack(files, source / "tokenizer", store, precision, _IDENTITY)
    return store


def _job(setup: Setup, side: int, layers: int) -> tuple[Job, Inputs]:
    """A picture of noise, taken apart."""
    dice = torch.Generator().manual_seed(2)
    noise = torch.randint(0, 256, (side, side, 4), generator=dice, dtype=torch.uint8)
    image = Image.frombytes("RGBA", (side, side), noise.numpy().tobytes())
    known = Input(sha256="0" * 64, width=side, height=side)
    job = job_of(setup, side, side, 4.0, 6, 1, BENCH_PROMPT)
    return job.model_copy(update={"layer_input_image": known, "layer_num": layers}), {known.sha256: image}


def _twice(engine: StreamingEngine, job: Job, given: Inputs) -> Rendering:
    """The second time counts."""
    tell = BenchListener()
    for number in range(2):
        engine.take(str(number), job, given)
        while engine.busy:
            engine.advance(tell)
    return tell.pictures["1"]


def _told(picture: Rendering, job: Job) -> Figures:
    work = Work.of(job)
    return {
        "side": job.width,
        "tokens": work.tokens,
        "layers": len(picture.layers),
        "step_s": picture.timing.step_median_s,
        "decode_s": picture.timing.decode_s,
        "whole": hashlib.sha256(picture.rgb).hexdigest()[:16],
        "bits": hashlib.sha256(b"".join(picture.layers)).hexdigest()[:16],
        **peaks([picture]),
    }


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
