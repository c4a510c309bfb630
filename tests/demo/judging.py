"""The demo model before the judge: held-out prompts, rendered through the engine, in a table.

`python -m tests.demo.judging` (or `make judge`) renders 300 of them; the tests render a few.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from renderer.demo.judge import is_blueprint, judge
from renderer.demo.train import keep, phrases, placing, scenes
from renderer.demo.train.scenes import Scene
from renderer.engine.calling import Rendering
from renderer.engine.native import NativeEngine
from renderer.engine.previews import Preview
from renderer.engine.streaming import StreamingEngine
from renderer.errors import RendererError
from renderer.job import Job, Lora, Precision, Profile, Stored
from renderer.weights.adapters.whereabouts import FoundLora, find_lora
from tests.engine.conftest import no_report
from tests.engine.making import make_setup

SIZES = ((256, 256), (256, 256), (256, 256), (320, 208), (224, 304), (336, 192))
SEED = 1


@dataclass(frozen=True, slots=True)
class Case:
    """A scene that training never showed, in words, at a size."""

    scene: Scene
    prompt: str
    width: int
    height: int


@dataclass(slots=True)
class Score:
    """How many of how many were right, by what was asked for; which cases were wrong in what."""

    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[Case, str]] = field(default_factory=list)

    def add(self, case: Case, picture: Tensor) -> None:
        """Judge a picture of a case."""
        verdict = judge(picture, case.scene)
        for name in ("background", "shape", "colour", "place", "relation", "word"):
            if (is_right := getattr(verdict, name)) is None:
                continue
            what = name
            if name == "word":
                assert case.scene.word is not None
                what = "word of 3 to 5" if len(case.scene.word.letters) <= 5 else "word of 6 to 8"
            self.asked[what] += 1
            self.right[what] += is_right
            if not is_right:
                self.wrong.append((case, what))

    def share(self, what: str) -> float:
        """The share of cases that were right in `what`."""
        return self.right[what] / self.asked[what]

    def __str__(self) -> str:
        return "\n".join(
            f"| {what} | {self.right[what]} of {self.asked[what]} | {self.share(what):.1%} |"
            for what in sorted(self.asked)
        )


def make_cases(count: int) -> list[Case]:
    """`count` held-out cases; of each ten, four single shapes, three pairs, three words, of which one is long."""
    rng = random.Random(SEED)  # noqa: S311  # no secrets here
    found = []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        scene = _held_out(_drawer(number % 10, width, rng))
        found.append(Case(scene, phrases.phrase(scene, rng, whole=True), width, height))
    return found


def _drawer(kind: int, width: int, rng: random.Random) -> Callable[[], Scene]:
    if kind < 4:
        return lambda: scenes.draw_single(rng)
    if kind < 7:
        return lambda: scenes.draw_pair(rng)
    lengths = range(3, 6) if kind < 9 else range(6, placing.longest_word(width) + 1)

    def word() -> Scene:
        letters = ""
        while len(letters) not in lengths or (len(letters) > 5) != (kind == 9):
            scene = scenes.draw_word(rng, max(lengths))
            assert scene.word is not None
            letters = scene.word.letters
        return scene

    return word


def _held_out(drawn: Callable[[], Scene]) -> Scene:
    while not scenes.is_held_out(scene := drawn()):
        pass
    return scene


@dataclass(slots=True)
class Gathered:
    """What an engine tells: pictures, by their keys."""

    found: dict[str, Rendering] = field(default_factory=dict)

    def started(self, key: str) -> None:
        """Nobody listens."""

    def stepped(self, key: str, step: int, steps: int) -> None:
        """Nobody listens."""

    def previewed(self, key: str, preview: Preview) -> None:
        """Nobody asked."""

    def rendered(self, key: str, rendering: Rendering) -> None:
        """Keep it."""
        self.found[key] = rendering

    def failed(self, key: str, error: RendererError) -> None:
        """Give up."""
        raise AssertionError(key) from error


def open_engine(model: str, profile: Profile, precision: Precision) -> NativeEngine | StreamingEngine:
    """The engine that a worker would open."""
    setup = make_setup(model, profile=profile, precision=precision)
    return (StreamingEngine if profile == "stream" else NativeEngine).open(setup, no_report)


def render(
    engine: NativeEngine | StreamingEngine,
    cases: Iterable[Case],
    *,
    steps: int,
    cfg_scale: float,
    loras: Sequence[FoundLora] = (),
    weight: float = 1.0,
) -> Iterator[Tensor]:
    """Pictures from 0 to 1 of cases, each with a seed of its own, and all with the same LoRAs and their schedule."""
    schedule = next((found.row.schedule for found in loras if found.row), "qwen-image")
    for number, case in enumerate(cases):
        job = Job(
            model=engine.setup.model,
            precision=engine.setup.precision,
            prompt=case.prompt,
            negative_prompt="",
            cfg_scale=cfg_scale,
            num_inference_steps=steps,
            width=case.width,
            height=case.height,
            seed=number,
            schedule=schedule,
            loras=tuple(Lora(source=each.source, identity=each.identity, weight=weight) for each in loras),
        )
        gathered = Gathered()
        engine.take("picture", job)
        while engine.busy:
            engine.advance(gathered)
        pixels = torch.frombuffer(bytearray(gathered.found["picture"].rgb), dtype=torch.uint8)
        yield pixels.view(case.height, case.width, 3).permute(2, 0, 1).float() / 255


def psnr_db(one: Tensor, other: Tensor) -> float:
    """How alike two pictures from 0 to 1 are."""
    return float(-10 * (one - other).square().mean().clamp(min=1e-10).log10())


def main() -> None:
    """Render and judge, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cfg-scale", type=float, default=4.0)
    parser.add_argument("--precision", choices=get_args(Stored), default="bf16")
    parser.add_argument("--lora", action="append", default=[], help="an id of the catalogue, or a file")
    parser.add_argument("--weight", type=float, default=1.0, help="of each LoRA")
    parser.add_argument("--model", default="demo", help="or a folder")
    parser.add_argument("--profile", choices=("cpu", "stream"), default="cpu", help="native engine, or streaming")
    parser.add_argument("--against", choices=get_args(Stored), help="compare with the native engine's at a precision")
    parser.add_argument("--sheet", type=Path, help="write what went wrong on one PNG")
    options = parser.parse_args()
    precision: Precision = options.precision
    engine = open_engine(options.model, options.profile, precision)
    cases, score, began = make_cases(options.count), Score(), time.monotonic()
    loras = [find_lora(reference, Path()) for reference in options.lora]
    given: Any = {"steps": options.steps, "cfg_scale": options.cfg_scale, "loras": loras, "weight": options.weight}
    pictures = list(render(engine, cases, **given))
    seconds = (time.monotonic() - began) / options.count
    for case, picture in zip(cases, pictures, strict=True):
        score.add(case, picture)
    sys.stdout.write(
        f"{engine.name}, {precision}, {options.steps} steps, guidance {options.cfg_scale}, {seconds:.2f} s each\n"
        f"{score}\n"
        f"blueprints: {sum(map(is_blueprint, pictures))} of {len(pictures)}\n"
    )
    for case, what in score.wrong:
        sys.stdout.write(f"{what}: {case.width}x{case.height} {case.prompt}\n")
    if options.sheet:
        wrong = {id(case) for case, _ in score.wrong}
        keep.save_sheet([one for case, one in zip(cases, pictures, strict=True) if id(case) in wrong], options.sheet)
    if options.against:
        other = open_engine(options.model, "cpu", options.against)
        others = render(other, cases, **given)
        found = sorted(psnr_db(one, two) for one, two in zip(pictures, others, strict=True))
        tenth, middle = found[len(found) // 10], found[len(found) // 2]
        sys.stdout.write(f"PSNR against {options.against}: median {middle:.1f} dB, a tenth below {tenth:.1f} dB\n")


if __name__ == "__main__":
    main()
