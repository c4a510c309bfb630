"""A Qwen2 tokenizer of 256 bytes and a few merges, and the folder transformers reads it from.

DiffSynth puts every prompt into a template and drops the embeddings of the template's first 34 tokens. With Qwen's own
vocabulary each word of that template is one token; so it must be here. The words that the model learns to draw are
merged too, which makes prompts short. Capitals stay single bytes: a word's spelling is what the model sees. Knows
nothing of torch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
"""DiffSynth's template for text to picture (`QwenImageUnit_PromptEmbedder.encode_prompt`)."""

TEMPLATE_PREFIX = TEMPLATE.partition("{}")[0]

EDIT_TEMPLATE_PREFIX = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n"
)
"""What DiffSynth's template for edits begins with (`encode_prompt_edit`): 64 of Qwen's own tokens."""

IMAGE_TOKEN = 501
"""A picture's own, of the tokenizer that has the template of edits: what the demo's text encoder takes for one."""

PICTURE_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Of edits, besides; a picture's own is `IMAGE_TOKEN`."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

VOCABULARY_SIZE = 768
"""Rows of the embedding: bytes, merges and special tokens, and room for more."""


def _pieces_of(template: str, pattern: str) -> list[str]:
    return re.findall(pattern, re.sub(r"<\|\w+\|>", "", template))


_WORDS = _pieces_of(TEMPLATE, r" ?[A-Za-z]+")
"""The template's words as Qwen's pre-tokenizer cuts them: with the space before them."""

_PIECE = r"'s| ?[A-Za-z]+| ?[^\sA-Za-z]+"
"""One of another template: signs that stand together are one, too."""

_LEARNED_WORDS = (
    "a an in on at of to with and that from by side background red orange yellow green blue purple pink brown black "
    "white grey gray cyan plain gradient horizontal vertical fades stripes dots checks circle square triangle star "
    "ring cross heart crescent moon small tiny little large big huge left right top bottom centre center middle "
    "corner above over below under sign says saying word letters picture image poster"
)
"""Of `train/phrases.py`; so are the characters."""

_LEARNED_CHARACTERS = (
    "红橙黄绿蓝紫粉棕黑白灰青色背景上的下面左右边侧中间央方顶底部角在有一个大小圆形正三星环十字心爱月牙块写着文"
    "从到渐变水平条纹和点格子加牌，“”"  # noqa: RUF001  # as Chinese writes it
)


_EDIT_WORDS = (
    "make change turn paint remove erase delete replace move put add draw write into by with to the of it and is "
    "text word letters sign says say saying shape background change colour color plain instead new everything keep "
    "red orange yellow green blue purple pink brown black white grey gray cyan "
    "circle square triangle star ring cross heart crescent moon small tiny large big left right top bottom centre "
    "center middle corner above below in on at a an side"
)
"""Of `train/edits.py`, in English alone, and learned after the template of edits and its special tokens."""

_EDIT_VERBS = "make change turn remove replace move put add"
"""With these an edit begins: without a space before them."""


def byte_characters() -> dict[int, str]:
    """GPT-2's table: each byte as one printable character, in the order of its token ids."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable}
    return characters | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


def merges(template: str = TEMPLATE) -> list[tuple[str, str]]:
    """Pairs to merge, in order: each word of the templates grows from its left, a character at a time.

    Learned words and characters come last: a pair of the template's is always merged before any of theirs. A tokenizer
    for another template as well has the words of edits instead, for want of room.
    """
    return [*_merges_of(template), *(_edit_merges() if template != TEMPLATE else ())]


def _merges_of(template: str) -> dict[tuple[str, str], None]:
    characters = byte_characters()
    pairs: dict[tuple[str, str], None] = {}
    learned = [*_spaced(_LEARNED_WORDS), *_LEARNED_CHARACTERS]
    pieces = [] if template == TEMPLATE else _pieces_of(template, _PIECE)
    for word in [*_WORDS, *(pieces or learned)]:
        _grow(word, pairs)
        if word[0] == " " and word[1:] in pieces:  # one that stands without a space, too, is merged first
            symbols = [characters[byte] for byte in word.encode()]
            pairs.setdefault((symbols[0], "".join(symbols[1:])))
    return pairs


def _edit_merges() -> list[tuple[str, str]]:
    before = _merges_of(EDIT_TEMPLATE_PREFIX)
    pairs = dict(before)
    for word in [*_spaced(_EDIT_WORDS), *_EDIT_VERBS.split()]:
        _grow(word, pairs)
    return list(pairs)[len(before) :]


def _spaced(words: str) -> list[str]:
    return [f" {word}" for word in words.split()]


def _grow(word: str, pairs: dict[tuple[str, str], None]) -> None:
    """Add the pairs by which a word grows from its left, a character at a time."""
    characters = byte_characters()
    symbols = [characters[byte] for byte in word.encode()]
    for length in range(1, len(symbols)):
        pairs.setdefault(("".join(symbols[:length]), symbols[length]))


def vocabulary(template: str = TEMPLATE) -> dict[str, int]:
    """Token to id: bytes first, then what the merges make; with the words of edits, after the special tokens."""
    tokens = [*byte_characters().values(), *("".join(pair) for pair in _merges_of(template))]
    if template != TEMPLATE:
        tokens += [*SPECIAL_TOKENS, *PICTURE_TOKENS, *("".join(pair) for pair in _edit_merges())]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def write(folder: Path, template: str = TEMPLATE) -> None:
    """Write the tokenizer's files into `folder`, which is made if need be. Raises `OSError`.

    That of edits has `template`'s words, and tokens for pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary(template)
    more = SPECIAL_TOKENS if template == TEMPLATE else (*SPECIAL_TOKENS, *PICTURE_TOKENS)
    special = {str(tokens.get(content, len(tokens) + place)): content for place, content in enumerate(more)}
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {
            number: {
                "content": content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for number, content in special.items()
        },
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "bos_token": None,
        "model_max_length": 131072,
    }
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges(template))]
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
