"""The demo's edit model before the judge: held-out edits, rendered through the engine, in a table.

`python -m tests.demo.editing` (or `make judge-edits`) renders 200 of them; the tests render a few.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from renderer import catalog
from renderer.demo.edit_judge import changes, judge_edit
from renderer.demo.train import edits, keep, phrases
from renderer.demo.train.draw import Atlas, draw
from renderer.demo.train.edit_phrases import EditKind
from renderer.demo.train.edits import EDIT_SIZES, DrawnEdit
from renderer.engine.inputs import Inputs, name_edited
from renderer.engine.native import NativeEngine
from renderer.engine.streaming import StreamingEngine
from renderer.job import Input, Job, ScheduleKind, Shift
from renderer.manifest.pictures_in import edit_of
from renderer.protocol import Setup
from tests.demo.judging import Gathered, open_engine

TRAINED_BY = 20261126
"""Of the edits that training looks at in its end."""

SEED = 20261127
"""Other edits than those."""

LEAST_DB = 25.0
"""Of the rest: what an edit may change of it."""

_TOLD = 20
"""Edits after which it is said how far it has come."""

SAYABLE = tuple(kind for kind in edits.EDIT_KINDS if kind != "add")
"""Kinds after which the whole picture can be said in a prompt: of two shapes that stand anywhere it cannot."""


@dataclass(frozen=True, slots=True)
class EditCase:
    """An edit that training never showed, at a size."""

    edit: DrawnEdit
    width: int
    height: int


@dataclass(slots=True)
class EditScore:
    """How many of how many edits of each kind were right; what the rest was like; which were wrong."""

    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    rests: list[float] = field(default_factory=list)
    wrong: list[tuple[EditCase, str]] = field(default_factory=list)

    def add(self, case: EditCase, picture: Tensor, atlas: Atlas, touched: Tensor | None = None) -> None:
        """Judge a picture of a case; all that is `touched` may be drawn anew."""
        verdict = judge_edit(picture, case.edit, atlas, touched)
        kind = case.edit.kind
        self.asked[kind] += 1
        self.right[kind] += verdict.right
        if not verdict.right:
            self.wrong.append((case, kind))
        if verdict.rest_db is not None:
            self.rests.append(verdict.rest_db)
            if verdict.rest_db < LEAST_DB:
                self.wrong.append((case, f"rest {verdict.rest_db:.1f} dB"))

    @property
    def share(self) -> float:
        """The share of edits that were right."""
        return self.right.total() / self.asked.total()

    @property
    def kept(self) -> float:
        """The share of pictures whose rest stayed."""
        return sum(each >= LEAST_DB for each in self.rests) / len(self.rests)

    def __str__(self) -> str:
        rests = sorted(self.rests)
        rows = [f"| {kind} | {self.right[kind]} of {self.asked[kind]} |" for kind in sorted(self.asked)]
        kept = sum(each >= LEAST_DB for each in rests)
        return "\n".join(
            [
                *rows,
                f"| all | {self.right.total()} of {self.asked.total()}, {self.share:.1%} |",
                f"the rest, in PSNR: {kept} of {len(rests)} at least {LEAST_DB:g} dB",
                f"median {median(rests):.1f}, a tenth below {rests[len(rests) // 10]:.1f}, least {rests[0]:.1f}",
            ]
        )


def make_edit_cases(count: int, kinds: Sequence[EditKind] = (), seed: int = SEED) -> list[EditCase]:
    """`count` held-out edits; half of them of 256x256, the rest of the sizes that wide and tall pictures become.

    Of as many as possible of `kinds` in turn, where there are some.
    """
    rng = random.Random(seed)  # noqa: S311  # no secrets here
    found = []
    for number in range(count):
        width, height = EDIT_SIZES[0 if number % 2 else number // 2 % len(EDIT_SIZES)]
        wanted = (kinds[number % len(kinds)],) if kinds else ()
        found.append(EditCase(edits.draw_held_out_edit(rng, width, height, wanted), width, height))
    return found


def drawn(case: EditCase, atlas: Atlas) -> Image.Image:
    """The picture that is edited."""
    pixels = (draw(torch.tensor([case.edit.numbers]), case.width, case.height, atlas)[0] * 255).round().byte()
    return Image.frombytes("RGB", (case.width, case.height), bytes(pixels.permute(1, 2, 0).flatten().tolist()))


def rendered(engine: NativeEngine | StreamingEngine, asked: Iterable[tuple[Job, Inputs]]) -> Iterator[Tensor]:
    """Jobs' pictures from 0 to 1, in their order: all are taken at once, as a worker takes them."""
    gathered, jobs = Gathered(), []
    for number, (job, given) in enumerate(asked):
        engine.take(str(number), job, given)
        jobs.append(job)
    for number, job in enumerate(jobs):
        while str(number) not in gathered.found:
            engine.advance(gathered)
        pixels = torch.frombuffer(bytearray(gathered.found.pop(str(number)).rgb), dtype=torch.uint8)
        yield pixels.view(job.height, job.width, 3).permute(2, 0, 1).float() / 255


def mask_of(case: EditCase, atlas: Atlas) -> Tensor:
    """A box around what an edit changes: height x width, true where it may be drawn anew."""
    before, after = draw(torch.tensor([case.edit.numbers, case.edit.wanted]), case.width, case.height, atlas)
    changed = changes(before, after)
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    mask = torch.zeros_like(changed)
    mask[int(rows[0]) // 8 * 8 : int(rows[-1]) + 8, int(columns[0]) // 8 * 8 : int(columns[-1]) + 8] = True
    return mask


def draw_over(
    engine: NativeEngine | StreamingEngine,
    cases: Iterable[EditCase],
    *,
    steps: int,
    cfg_scale: float,
    strength: float | None = None,
) -> Iterator[Tensor]:
    """The same by the model that draws from text: it is told the whole picture as it is to be.

    It draws within a mask; or, with a `strength`, over all of the picture.
    """
    return rendered(engine, _drawn_over(engine.setup, cases, steps, cfg_scale, strength))


def _drawn_over(
    setup: Setup, cases: Iterable[EditCase], steps: int, cfg_scale: float, strength: float | None
) -> Iterator[tuple[Job, Inputs]]:
    atlas = Atlas.make()
    rng = random.Random(SEED)  # noqa: S311  # no secrets here
    for number, case in enumerate(cases):
        image, white = drawn(case, atlas), mask_of(case, atlas)
        mask = Image.frombytes("L", image.size, bytes((white.byte() * 255).flatten().tolist())).convert("RGB")
        known, masked = (
            Input(sha256=hashlib.sha256(each.tobytes()).hexdigest(), width=case.width, height=case.height)
            for each in (image, mask)
        )
        job = Job(
            model=setup.model,
            precision=setup.precision,
            prompt=phrases.phrase(case.edit.after, rng, whole=True),
            negative_prompt="",
            cfg_scale=cfg_scale,
            num_inference_steps=steps,
            width=case.width,
            height=case.height,
            seed=number,
            input_image=known,
            denoising_strength=strength or 1.0,
            inpaint_mask=None if strength else masked,
        )
        yield job, {known.sha256: image, masked.sha256: mask}


def render_edits(
    engine: NativeEngine | StreamingEngine,
    cases: Iterable[EditCase],
    *,
    steps: int,
    cfg_scale: float,
    schedule: ScheduleKind | Shift = "qwen-image",
) -> Iterator[Tensor]:
    """Pictures from 0 to 1 of edits, each with a seed of its own."""
    return rendered(engine, _edits(engine.setup, cases, steps, cfg_scale, schedule))


def _edits(
    setup: Setup, cases: Iterable[EditCase], steps: int, cfg_scale: float, schedule: ScheduleKind | Shift
) -> Iterator[tuple[Job, Inputs]]:
    editing, atlas = catalog.DEMO_EDIT.editing, Atlas.make()
    assert editing is not None
    for number, case in enumerate(cases):
        image = drawn(case, atlas)
        known = Input(sha256=hashlib.sha256(image.tobytes()).hexdigest(), width=case.width, height=case.height)
        edit = edit_of([known], editing)
        job = Job(
            model=setup.model,
            precision=setup.precision,
            prompt=case.edit.prompt,
            negative_prompt="",
            cfg_scale=cfg_scale,
            num_inference_steps=steps,
            width=case.width,
            height=case.height,
            seed=number,
            schedule=schedule,
            edit=edit,
        )
        yield job, {name_edited(known, edit): image}


def main() -> None:
    """Render and judge, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=catalog.DEMO_EDIT.steps)
    parser.add_argument("--cfg-scale", type=float)
    parser.add_argument("--shift", type=float, help="of the schedule, in place of the model's own; not with --over")
    parser.add_argument("--profile", choices=("cpu", "stream"), default="stream", help="native engine, or streaming")
    parser.add_argument("--over", choices=("mask", "image"), help="draw over, with the model that draws from text")
    parser.add_argument("--strength", type=float, default=0.8, help="of --over image")
    parser.add_argument(
        "--seed", type=int, default=SEED, help=f"which edits; training has judged those of {TRAINED_BY}"
    )
    parser.add_argument("--kind", action="append", default=[], choices=edits.EDIT_KINDS)
    parser.add_argument("--sheet", type=Path, help="write pictures before and after, in pairs, on one PNG")
    parser.add_argument("--all", action="store_true", help="on the sheet; else what went wrong")
    options = parser.parse_args()
    model = catalog.DEMO if options.over else catalog.DEMO_EDIT
    engine = open_engine(model.id, options.profile, "bf16")
    kinds = options.kind or (SAYABLE if options.over else ())
    cases, score, atlas = make_edit_cases(options.count, kinds, options.seed), EditScore(), Atlas.make()
    sheet: list[Tensor] = []
    cfg_scale = model.cfg_scale if options.cfg_scale is None else options.cfg_scale
    given: Any = {"steps": options.steps, "cfg_scale": cfg_scale}
    began = time.monotonic()
    if options.over:
        pictures = draw_over(engine, cases, **given, strength=options.strength if options.over == "image" else None)
    else:
        schedule: ScheduleKind | Shift = "qwen-image" if options.shift is None else Shift(shift=options.shift)
        pictures = render_edits(engine, cases, **given, schedule=schedule)
    for number, (case, picture) in enumerate(zip(cases, pictures, strict=True), 1):
        before = len(score.wrong)
        score.add(case, picture, atlas, mask_of(case, atlas) if options.over == "mask" else None)
        if options.all or len(score.wrong) > before:
            sheet += [draw(torch.tensor([case.edit.numbers]), case.width, case.height, atlas)[0], picture]
        if number % _TOLD == 0:
            sys.stderr.write(f"{number} of {len(cases)}, {score.right.total()} right\n")
    seconds = (time.monotonic() - began) / options.count
    sys.stdout.write(
        f"{engine.name}, {options.steps} steps, guidance {cfg_scale}, {seconds:.2f} s each, with the judge\n{score}\n"
    )
    for case, what in score.wrong:
        sys.stdout.write(f"{what}: {case.width}x{case.height} {case.edit.prompt}\n")
    if options.sheet and sheet:
        keep.save_sheet(sheet, options.sheet)


if __name__ == "__main__":
    main()
