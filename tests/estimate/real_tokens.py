"""How many tokens Qwen's own vocabulary makes of texts in which tokens are easily under-counted: `tokens.json`.

    python -m tests.estimate.real_tokens qwen.tiktoken

counts the texts in that file anew. The vocabulary (151,643 entries, the same from Qwen to Qwen2.5) is in the wheel of
`dashscope`, under `dashscope/resources`. Texts are cut as `transformers` cuts them for Qwen2.
"""

from __future__ import annotations

import base64
import json
import sys
import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, pre_tokenizers  # type: ignore[import-untyped]

CUTS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Of `transformers.models.qwen2`."""

FILE = Path(__file__).parent / "tokens.json"
"""Texts, and how many tokens each is."""


def read(path: Path) -> dict[bytes, int]:
    """Each token's bytes, and its rank."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def count(text: str, ranks: Mapping[bytes, int]) -> int:
    """Tokens of a text."""
    cuts = pre_tokenizers.Split(Regex(CUTS), behavior="isolated", invert=False)
    pieces = cuts.pre_tokenize_str(unicodedata.normalize("NFC", text))
    return sum(len(_merged(piece.encode(), ranks)) for piece, _ in pieces)


def _merged(piece: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Byte-pair encoding: the pair that comes first in the vocabulary is merged, until none is in it."""
    parts = [piece[place : place + 1] for place in range(len(piece))]
    while len(parts) > 1:
        pairs = [ranks.get(one + other, len(ranks)) for one, other in pairwise(parts)]
        first = pairs.index(min(pairs))
        if pairs[first] == len(ranks):
            break
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts


if __name__ == "__main__":
    vocabulary = read(Path(sys.argv[1]))
    texts: dict[str, int] = json.loads(FILE.read_text(encoding="utf-8"))
    counted = {text: count(text, vocabulary) for text in texts}
    FILE.write_text(json.dumps(counted, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
