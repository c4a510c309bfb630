"""The reader before words whose truth is known: those that the demo model's data code draws."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from renderer.demo.train import placing, scenes
from renderer.demo.train.draw import Atlas, draw
from renderer.job import Lettering
from renderer.lettering.asking import LetterReader
from renderer.lettering.scores import compare
from tests.demo.reading_words import as_image

COUNT = 16


def test_words_are_read(tmp_path: Path) -> None:
    """Of drawn words nearly all are read as they are; `python -m tests.demo.reading_words` has the model draw them."""
    rng, atlas, reader, right = random.Random(5), Atlas.make(), LetterReader(), 0  # noqa: S311  # no secrets here
    for _ in range(COUNT):
        scene = scenes.draw_word(rng, 6)
        assert scene.word is not None
        numbers = torch.tensor([placing.arrange(scene, 256, 256, rng)])
        as_image(draw(numbers, 256, 256, atlas)[0]).save(tmp_path / "word.png")
        lines = reader.read(tmp_path / "word.png").lines
        right += compare(Lettering(texts=(scene.word.letters,)), lines, "").score == 1
    reader.close()
    assert right >= COUNT - 2
