"""How many tokens a prompt will be, without its tokenizer: by Qwen's rules for cutting, and never fewer.

Qwen cuts a text before it looks into its vocabulary: a word with the blank before it, a run of signs, and every digit
by itself are pieces, and no token reaches beyond one. What a piece then is depends on 151,643 entries. Here each
character counts what it takes alone in that vocabulary, at most three tokens; only words that can be spoken count a
token to three letters. `tests/estimate/tokens.json` has what the vocabulary itself gives.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_PIECE = re.compile(r"(?P<word> ?(?<![0-9])[A-Za-z]+(?![A-Za-z0-9]))|(?P<code> ?[A-Za-z]+)|[^A-Za-z]")

_SPOKEN = re.compile(r"(?!.*[^aeiouy]{4})(?!.*[aeiou]{4})(?=.*[aeiouy])(?!.*q[^u])(?!.*[jvxz][bcdfgjkmpqtvwxz])[a-z]+")
"""What could be a word of a language, and no code: vowels and consonants in turns, and no pair that nobody speaks."""

_LETTERS_A_TOKEN = 3

_GB2312_LEVEL_2 = 0xD8  # first bytes from here on: the rarer half of its characters

_ONE = (
    *((0x80, 0x171), (0x386, 0x64A)),  # letters of Europe and of the Near East
    *((0x2013, 0x2014), (0x2018, 0x2019), (0x201C, 0x201D), (0x2026, 0x2026)),  # dashes, quotation marks, the ellipsis
    *((0x3001, 0x3002), (0x3008, 0x3011), (0xFF01, 0xFF5E)),  # Chinese punctuation
    *((0x3041, 0x3093), (0x30A1, 0x30FC), (0xFE0F, 0xFE0F)),  # kana; what makes a sign an emoji
)
"""Ranges whose characters are a token each, but for a few."""

_TWO = ((0x172, 0x7FF), (0x900, 0xEFF), (0x1E00, 0x20CF), (0x2100, 0x27FF), (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F6FF))
"""Ranges whose characters are one or two: rarer letters, scripts of South Asia, signs, most emoji."""


@lru_cache(maxsize=2**15)
def count_tokens(text: str) -> int:
    """Tokens of a prompt: 1.2 to 2.3 times as many as there are in sentences, hardly more in prices.

    Only letters thrown together at random that look like a word may be a few more.
    """
    return sum(map(_of_piece, _PIECE.finditer(unicodedata.normalize("NFC", text))))


def _of_piece(piece: re.Match[str]) -> int:
    text = piece[0]
    letters = text.lstrip(" ") if len(text) > 1 else text
    if piece["word"] and (len(letters) == 1 or letters[1:].islower()) and _SPOKEN.fullmatch(letters.lower()):
        return -(-len(letters) // _LETTERS_A_TOKEN)
    return len(letters) if text.isascii() else _of_character(text)


def _of_character(character: str) -> int:
    code = ord(character)
    if any(first <= code <= last for first, last in _ONE):
        return 1
    if any(first <= code <= last for first, last in _TWO):
        return 2
    for codec, most in (("gb2312", 0), ("big5", 2), ("euc_kr", 2)):
        try:
            found = character.encode(codec)
        except UnicodeEncodeError:
            continue
        return most or (1 if found[0] < _GB2312_LEVEL_2 else 2)
    return 3
