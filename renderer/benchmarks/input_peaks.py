"""Cells with pictures that go in: `python -m renderer.benchmarks.input_peaks STORE CASE…`, a line of JSON each.

The store is an edit model's, with its vision tower; random weights are the same for pictures from text. All cases of
one call are edits or none, under one limit. ControlNets of random weights are written beside the store, once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from renderer import catalog
from renderer.benchmarks import bare, control_steps, peaks
from renderer.benchmarks.edit_steps import EDITS
from renderer.benchmarks.input_cases import INPUT_CASES, InputCase, PixelSize
from renderer.benchmarks.running import LEFT_BYTES, Figures
from renderer.benchmarks.streamed import BENCH_PROMPT, job_of, render, setup_of
from renderer.demo.tokenizer import IMAGE_TOKEN
from renderer.engine.inputs import Inputs, name_edited
from renderer.engine.streaming import StreamingEngine
from renderer.estimate.looking import told_tokens
from renderer.estimate.work import BEHIND, Work
from renderer.job import ControlNet, Edit, Input, Job, Region
from renderer.planning.riding import riding
from renderer.protocol import Setup
from renderer.text import GIB
from renderer.weights import control_files


def main() -> None:
    """Measure the cells that are named."""
    store, *names = sys.argv[1:]
    cases = {case.name: case for group in INPUT_CASES for case in group}
    for row in measured(Path(store), [cases[name] for name in names]):
        print(json.dumps(row), flush=True)  # noqa: T201


def measured(store: Path, cases: Sequence[InputCase], warm: PixelSize = (512, 512)) -> Iterator[Figures]:
    """The rows of cases, up to the first that leaves memory behind."""
    setup = setup_of(store)
    limit = cases[0].limit_gib
    setup = setup.model_copy(update={"vram_bytes": None if limit is None else limit * GIB})
    if cases[0].edited:
        setup = setup.model_copy(update={"model": EDITS.get(setup.model, setup.model)})
    nets = [control_steps.network(store, setup, number) for number in range(max(case.nets for case in cases))]
    most = max(case.company for case in cases)
    engine = bare.forgetful(StreamingEngine.open(setup.model_copy(update={"slots": 2, "in_flight": most}), _unheard))
    bare.show_pictures_as(engine, IMAGE_TOKEN)
    render(engine, [job_of(engine.setup, *warm, 4.0, 2, 1)])
    before = bare.unequip(engine)
    for case in cases:
        bare.equip(engine, setup.model_copy(update={"slots": case.slots, "in_flight": case.company}))
        row = _measure(engine, case, nets)
        row["left_bytes"] = bare.unequip(engine) - before
        yield row
        if row["left_bytes"] > LEFT_BYTES:
            return


def _unheard(_: str) -> None:
    """What an engine says as it opens is of no interest here."""


def _measure(engine: StreamingEngine, case: InputCase, nets: Sequence[Path]) -> Figures:
    asked = [_job(engine.setup, case, nets, number) for number in range(case.company)]
    jobs = [job for job, _ in asked]
    row = peaks.staged(engine, asked)
    works = [_work(engine, job) for job in jobs]
    limit = engine.setup.vram_bytes
    room = None if limit is None else limit - bare.reckoned(engine, works)
    return {
        "case": case.name,
        "works": [asdict(work) for work in works],
        "ridden_bytes": riding(jobs, catalog.find(engine.setup.model)).on_gpu(room),
        "limit_bytes": limit,
        **row,
    }


def _work(engine: StreamingEngine, job: Job) -> Work:
    """What a job asks for, with the tokens that its texts really are."""
    told = told_tokens(job.edit)
    return replace(
        Work.of(job),
        prompt_tokens=bare.tokens(engine, job.prompt) + told,
        negative_tokens=bare.tokens(engine, job.negative_prompt) + told,
        region_tokens=sum(bare.tokens(engine, region.prompt) + BEHIND for region in job.regions),
    )


def _job(setup: Setup, case: InputCase, nets: Sequence[Path], number: int) -> tuple[Job, Inputs]:
    """One of a case's pictures, each with inputs of its own: noise, and halves for masks."""
    job = job_of(setup, *case.size, case.guidance, case.steps, 1 + number, f"{number} {BENCH_PROMPT}")
    given: dict[str, Image.Image] = {}

    def known(size: PixelSize, image: Image.Image) -> Input:
        found = Input(sha256=f"{number}{len(given)}".rjust(64, "0"), width=size[0], height=size[1])
        given[found.sha256] = image
        return found

    whole, half = known(case.size, _noise(case.size, number)), known(case.size, _half(case.size))
    changes: dict[str, Any] = {
        "input_image": whole if case.drawn_over else None,
        "denoising_strength": 0.8 if case.drawn_over else 1.0,
        "inpaint_mask": half if case.masked else None,
        "controlnets": tuple(
            ControlNet(source=str(path), identity=control_files.identity_of_file(path), image=whole)
            for path in nets[: case.nets]
        ),
        "regions": tuple(Region(prompt=f"a red ball {place}", mask=half) for place in range(case.regions)),
        "context_image": whole if case.context else None,
    }
    if case.edited:
        shown = [known(size, _noise(size, number + place)) for place, size in enumerate(case.edited, 1)]
        edit = Edit(images=tuple(shown), pixels=1024 * 1024, numbered=True, zero_cond_t=True)
        changes["edit"] = edit
        for each in shown:
            size = edit.size_of(each)
            given[name_edited(each, edit)] = given.pop(each.sha256).resize((size.width, size.height))
    return job.model_copy(update=changes), given


def _noise(size: PixelSize, seed: int) -> Image.Image:
    dice = torch.Generator().manual_seed(seed)
    return Image.frombytes(
        "RGB", size, torch.randint(0, 256, (*size, 3), generator=dice, dtype=torch.uint8).numpy().tobytes()
    )


def _half(size: PixelSize) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


if __name__ == "__main__":
    main()
