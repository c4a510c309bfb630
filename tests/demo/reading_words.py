"""The reader against the judge: the demo model's words on held-out prompts, and how often both say the same.

`python -m tests.demo.reading_words --count 300` renders pictures with words alone, has the judge say whether each word
is right, and the reader what it reads, as a night does. `--manifest 150 > words.json` writes a manifest instead: of so
many words of six to eight letters, each with three retakes, for `renderer render words.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from PIL import Image
from torch import Tensor

from renderer.demo.judge import read_word
from renderer.job import Lettering
from renderer.lettering.asking import LetterReader
from renderer.lettering.scores import compare
from tests.demo.judging import Case, make_cases, open_engine, render

SHORT = 5
"""Letters of a short word at most."""


def words(count: int) -> list[Case]:
    """Held-out cases that have a word."""
    return [case for case in make_cases(4 * count) if case.scene.word is not None][:count]


def manifest(count: int, steps: int) -> str:
    """Held-out words of six to eight letters, to be taken up to four times."""
    cases = [case for case in words(12 * count) if case.scene.word and len(case.scene.word.letters) > SHORT][:count]
    jobs = [
        {
            "prompt": case.prompt,
            "lettering": [case.scene.word.letters],
            "size": f"{case.width}x{case.height}",
            "seed": 100 * number,
        }
        for number, case in enumerate(cases)
        if case.scene.word
    ]
    return json.dumps({"defaults": {"model": "demo", "precision": "bf16", "steps": steps, "retake": 3}, "jobs": jobs})


def main() -> None:
    """Render, judge and read, and print how often they agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--manifest", type=int, default=0, help="print a manifest of so many long words")
    options = parser.parse_args()
    if options.manifest:
        sys.stdout.write(manifest(options.manifest, options.steps) + "\n")
        return
    cases, found, reader = words(options.count), Counter[str](), LetterReader()
    engine = open_engine("demo", "stream", "bf16")
    with tempfile.TemporaryDirectory() as folder:
        for case, picture in zip(cases, render(engine, cases, steps=options.steps, cfg_scale=4.0), strict=True):
            assert case.scene.word is not None
            letters = case.scene.word.letters
            path = Path(folder, "picture.png")
            as_image(picture).save(path)
            judged = read_word(picture)[0]
            read = compare(Lettering(texts=(letters,)), reader.read(path).lines, "").texts[0]
            right, same = judged == letters, read.score >= 1
            found["agree"] += right == same
            found["judge right"] += right
            found["reader right"] += same
            if right != same:
                sys.stdout.write(f'{letters}: the judge read "{judged}", the reader "{read.read}" ({read.score:.2f})\n')
                sys.stdout.flush()
    reader.close()
    for what, number in found.items():
        sys.stdout.write(f"{what}: {number} of {len(cases)}, {number / len(cases):.1%}\n")


def as_image(picture: Tensor) -> Image.Image:
    """A picture from 0 to 1, 3 x height x width, as Pillow has it."""
    pixels = (picture * 255).round().byte().permute(1, 2, 0).contiguous()
    return Image.frombytes("RGB", (picture.shape[2], picture.shape[1]), bytes(pixels.numpy().tobytes()))


if __name__ == "__main__":
    main()
