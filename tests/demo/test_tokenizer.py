"""The demo model's tokenizer, as transformers reads it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from diffsynth.pipelines.qwen_image import QwenImageUnit_PromptEmbedder
from transformers import Qwen2Tokenizer

from renderer.catalog import DROPPED_TOKENS
from renderer.demo.tokenizer import TEMPLATE, TEMPLATE_PREFIX, VOCABULARY_SIZE, vocabulary, write

PROMPTS = [
    "a red circle",
    'the text "HELLO"',
    "你好 红色的圆",
    "",
    " two spaces  within",
    "\nlines\n\n of\n",
    "'s ,.!? 123",
    "the image of the objects and background",
    "naïve café 😀",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write(folder)
    return Qwen2Tokenizer.from_pretrained(str(folder))


def test_template_is_diffsynths() -> None:
    """The template whose words are merged is the one that DiffSynth fills in, with as many tokens dropped."""
    source = inspect.getsource(QwenImageUnit_PromptEmbedder.encode_prompt)
    assert TEMPLATE in source.replace("\\n", "\n")
    assert f"drop_idx = {DROPPED_TOKENS}\n" in source


@pytest.mark.parametrize("prompt", PROMPTS)
def test_thirty_four_tokens_stand_before_any_prompt(tokenizer: Any, prompt: str) -> None:
    """Exactly 34 tokens come before a prompt's first one, and they are the same for every prompt."""
    prefix = tokenizer(TEMPLATE_PREFIX).input_ids
    whole = tokenizer(TEMPLATE.format(prompt)).input_ids
    assert len(prefix) == DROPPED_TOKENS
    assert whole[:DROPPED_TOKENS] == prefix
    rest = tokenizer.decode(whole[DROPPED_TOKENS:])
    assert rest == f"{prompt}<|im_end|>\n<|im_start|>assistant\n"


def test_special_tokens_are_one_token_each(tokenizer: Any) -> None:
    """The template's marks are single tokens, and no id is outside the embedding."""
    assert len(tokenizer("<|im_start|><|im_end|><|endoftext|>").input_ids) == 3
    assert len(tokenizer) == len(vocabulary()) + 3 <= VOCABULARY_SIZE


def test_capitals_are_bytes(tokenizer: Any) -> None:
    """A word in capitals, which pictures are to show, is a token a letter; a Chinese character is three bytes."""
    assert len(tokenizer("HELLO").input_ids) == 5
    assert len(tokenizer("你好").input_ids) == 6
