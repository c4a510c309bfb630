"""Tokens of a prompt, held against what Qwen's own vocabulary makes of prices, phone numbers, codes, Chinese, emoji."""

from __future__ import annotations

import json

import pytest

from renderer.estimate import count_tokens
from tests.estimate.real_tokens import FILE

REAL: dict[str, int] = json.loads(FILE.read_text(encoding="utf-8"))
USUAL = ("A quiet harbour", "A poster that", "A cinematic", "一幅宁静", "Открытие", "営業中")


@pytest.mark.parametrize("text", REAL)
def test_never_fewer(text: str) -> None:
    """No fewer tokens than the real tokenizer's: memory for a prompt is there."""
    assert count_tokens(text) >= REAL[text]


@pytest.mark.parametrize("text", [text for text in REAL if text.startswith(USUAL)])
def test_not_many_more(text: str) -> None:
    """Of what people write in sentences, at most 2.3 times as many: T is a small part of a picture's rows."""
    assert count_tokens(text) <= 2.3 * REAL[text]


def test_nothing_is_nothing() -> None:
    assert count_tokens("") == 0


def test_a_digit_is_a_token() -> None:
    """However they are grouped: Qwen cuts between all of them."""
    assert count_tokens("1234567890") == 10


def test_composed_and_decomposed_letters_are_one() -> None:
    """As the tokenizer, which composes them first."""
    assert count_tokens("e\u0301") == count_tokens("é") == 1
