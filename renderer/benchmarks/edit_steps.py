"""Steps of edits, measured: `python -m renderer.benchmarks.edit_steps STORE CASE…`, a line of JSON each.

The store is an edit model's, with its vision tower: random weights are the same for pictures from text. A case is
rendered twice, and the second time counts, with its prompts encoded anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from renderer.benchmarks import bare
from renderer.benchmarks.edit_cases import EDIT_CASES, SMALL_EDITS, EditCase
from renderer.benchmarks.running import Figures
from renderer.benchmarks.streamed import BENCH_PROMPT, BenchListener, job_of, latents_of, setup_of, told
from renderer.catalog.data import QWEN_IMAGE, QWEN_IMAGE_EDIT_2511
from renderer.demo.tokenizer import IMAGE_TOKEN
from renderer.engine.calling import Rendering
from renderer.engine.inputs import Inputs, name_edited
from renderer.engine.streaming import StreamingEngine
from renderer.estimate.looking import told_tokens
from renderer.estimate.work import Work
from renderer.job import Edit, Input, Job
from renderer.protocol import Setup

EDITS = {QWEN_IMAGE.id: QWEN_IMAGE_EDIT_2511.id}
"""Whose weights a store of random ones stands for, where pictures are edited with it."""

PROMPT_COPIES = 4
"""Times that a picture from text has the prompt: about as many tokens as an edit's has with its picture."""


def main() -> None:
    """Measure the cases that are named: those of one model by one engine."""
    store, *names = sys.argv[1:]
    cases = {name: {**EDIT_CASES, **SMALL_EDITS}[name] for name in names}
    for edits in (True, False):
        some = {name: case for name, case in cases.items() if bool(case.edited) is edits}
        for name, found in zip(some, measured(Path(store), list(some.values())), strict=True) if some else ():
            print(json.dumps({"case": name, **found}), flush=True)  # noqa: T201
        bare.reset()


def measured(store: Path, cases: Sequence[EditCase]) -> list[Figures]:
    """The rows of cases that are all edits, or all from text."""
    setup = setup_of(store)
    if cases[0].edited:
        setup = setup.model_copy(update={"model": EDITS.get(setup.model, setup.model)})
    engine = bare.forgetful(StreamingEngine.open(setup.model_copy(update={"slots": 2, "in_flight": 1}), lambda _: None))
    bare.show_pictures_as(engine, IMAGE_TOKEN)
    return [_measure(engine, case) for case in cases]


def _measure(engine: StreamingEngine, case: EditCase) -> Figures:
    bare.unequip(engine)
    bare.equip(engine, engine.setup.model_copy(update={"slots": case.slots, "in_flight": 1}))
    job, given = _job(engine.setup, case)
    _render(engine, job.model_copy(update={"num_inference_steps": 2}), given)
    bare.empty(engine)
    with latents_of(bare.vae(engine)) as latents:
        picture = _render(engine, job, given)
    text = bare.tokens(engine, job.prompt) + told_tokens(job.edit)
    work = Work.of(job)
    found = {
        "width": case.width,
        "height": case.height,
        "edited": case.edited,
        "tokens": work.tokens + text,
        "text_tokens": text,
        "steps": case.steps,
        "guidance": case.guidance,
        "precision": job.precision,
        "latents": latents,
        **told(picture),
    }
    bare.empty(engine)
    return found


def _job(setup: Setup, case: EditCase) -> tuple[Job, Inputs]:
    """A picture, and what goes into it: noise."""
    prompt = BENCH_PROMPT if case.edited else " ".join([BENCH_PROMPT] * PROMPT_COPIES)
    job = job_of(setup, case.width, case.height, case.guidance, case.steps, 1, prompt)
    if not case.edited:
        return job, {}
    side = round(case.edited**0.5)
    known = Input(sha256="0" * 64, width=side, height=side)
    edit = Edit(images=(known,), pixels=case.edited, zero_cond_t=True)
    size, dice = edit.size_of(known), torch.Generator().manual_seed(2)
    noise = torch.randint(0, 256, (size.height, size.width, 3), generator=dice, dtype=torch.uint8)
    image = Image.frombytes("RGB", (size.width, size.height), noise.numpy().tobytes())
    return job.model_copy(update={"edit": edit}), {name_edited(known, edit): image}


def _render(engine: StreamingEngine, job: Job, given: Inputs) -> Rendering:
    tell = BenchListener()
    engine.take("0", job, given)
    while engine.busy:
        engine.advance(tell)
    return tell.pictures["0"]


if __name__ == "__main__":
    main()
