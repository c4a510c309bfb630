"""The judge before pictures whose truth is known: those that the data code draws."""

from __future__ import annotations

import os
import random

import pytest
import torch
from torch import Tensor

from renderer.demo.judge import judge
from renderer.demo.train import placing, scenes
from renderer.demo.train.draw import Atlas, draw
from renderer.demo.train.scenes import Scene
from tests.demo.judging import SIZES

COUNT = int(os.environ.get("RENDERER_JUDGED", "90"))
"""How many pictures; 1,000 in the benchmark of tests/benchmarks/demo-model.md."""


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, Tensor]]:
    """Scenes of all kinds and sizes, drawn."""
    rng, atlas, found = random.Random(3), Atlas.make(), []  # noqa: S311  # no secrets here
    for number in range(COUNT):
        width, height = SIZES[number % len(SIZES)]
        scene = scenes.draw_scene(rng, placing.longest_word(width))
        numbers = torch.tensor([placing.arrange(scene, width, height, rng)])
        found.append((scene, draw(numbers, width, height, atlas)[0]))
    return found


def verdicts(picture: Tensor, scene: Scene) -> list[bool]:
    """What the judge says, without what it was not asked."""
    found = judge(picture, scene)
    answers = (found.background, found.shape, found.colour, found.place, found.relation, found.word)
    return [answer for answer in answers if answer is not None]


def test_right_on_drawn_pictures(drawn: list[tuple[Scene, Tensor]]) -> None:
    """Of drawn pictures, the judge finds at least 99 of 100 right in all that it is asked."""
    right = sum(all(verdicts(picture, scene)) for scene, picture in drawn)
    assert right >= 0.99 * len(drawn) - 1


def test_no_on_shuffled_ones(drawn: list[tuple[Scene, Tensor]]) -> None:
    """Asked for another picture's scene, it finds hardly any right."""
    scenes_of_others = [scene for scene, _ in drawn[1:]] + [drawn[0][0]]
    pairs = zip(scenes_of_others, drawn, strict=True)
    right = sum(all(verdicts(picture, scene)) for scene, (own, picture) in pairs if scene != own)
    assert right <= 0.02 * len(drawn)


def test_no_on_noise_and_blanks(drawn: list[tuple[Scene, Tensor]]) -> None:
    """In noise and in an empty picture there are neither shapes nor words."""
    noise = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0))
    for scene, _ in drawn[:30]:
        if scene.things or scene.word:
            assert not all(verdicts(noise, scene))
            assert not all(verdicts(torch.full((3, 256, 256), 0.98), scene))
