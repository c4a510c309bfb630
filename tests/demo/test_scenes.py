"""What training shows, and what it keeps for the judge."""

from __future__ import annotations

import random

import pytest

from renderer.demo.train import phrases, placing, scenes
from renderer.demo.train.feed import Tokens
from renderer.demo.train.passes import TEXT_TOKENS, TRAINED_SIZES

SCENES = 400


@pytest.fixture
def rng() -> random.Random:
    return random.Random(2)  # noqa: S311  # no secrets here


def test_training_never_shows_what_is_held_out(rng: random.Random) -> None:
    """No scene for training has a held-out combination, and about a tenth or two of all scenes have one."""
    assert not any(scenes.is_held_out(scenes.draw_training_scene(rng)) for _ in range(SCENES))
    assert 0.05 < sum(scenes.is_held_out(scenes.draw_scene(rng)) for _ in range(SCENES)) / SCENES < 0.25


@pytest.mark.parametrize(("width", "height"), TRAINED_SIZES)
def test_everything_is_inside(rng: random.Random, width: int, height: int) -> None:
    """At every size, shapes and letters lie inside the picture, and letters on the grid of patches."""
    for _ in range(SCENES):
        scene = scenes.draw_scene(rng, placing.longest_word(width))
        numbers = placing.arrange(scene, width, height, rng)
        assert len(numbers) == placing.NUMBERS
        for part in placing.THINGS:
            shape, x, y, radius = numbers[part][:4]
            if shape >= 0:
                assert radius - 2 <= x <= width - radius + 2
                assert radius - 8 <= y <= height - radius + 8
        if scene.word is not None:
            left, top = placing.word_corner(scene, width, height)
            assert left % 16 == top % 16 == 0
            assert 0 <= left <= width - placing.CELL * len(scene.word.letters)
            assert 0 <= top <= height - placing.CELL


def test_prompts_say_what_is_there(rng: random.Random) -> None:
    """A whole prompt names each word, and each shape's colour in one of the two languages."""
    for _ in range(SCENES):
        scene = scenes.draw_scene(rng)
        prompt = phrases.phrase(scene, rng, whole=True)
        for thing in scene.things:
            names = (thing.colour, phrases.CHINESE_COLOURS[thing.colour], "gray" if thing.colour == "grey" else "\0")
            assert any(name in prompt.lower() for name in names), prompt
        assert scene.word is None or scene.word.letters in prompt


def test_prompts_fit(rng: random.Random) -> None:
    """Hardly any prompt is longer than the tokens that training has room for."""
    prompts = [phrases.phrase(scenes.draw_scene(rng), rng) for _ in range(SCENES)]
    tokens, lengths = Tokens().of([*prompts, ""])
    assert tokens.shape == (SCENES + 1, 34 + TEXT_TOKENS)
    assert (lengths == TEXT_TOKENS).float().mean() < 0.02
    assert lengths[-1] == 5
