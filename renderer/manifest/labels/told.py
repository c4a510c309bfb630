"""What readers are given, and what they give: the texts of one place in a picture, and what they tell of its making.

A reader is a function of one tool's way of writing: it takes `Texts`, and answers with what they tell, or with None
where that tool did not write them. Everything here comes from strangers: values are bounded, and nothing is a path.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from renderer.errors import shorten
from renderer.job import ControlNet, Input, Region, ScheduleKind, Shift, Software

COMMENT = "UserComment"
"""Under which key a comment stands: EXIF's, XMP's or JPEG's, which have no keys of their own."""

MAX_TEXT = 2**20
"""Bytes of one label that are looked at; a manifest's prompts are a hundred times shorter."""

MAX_PROMPT = 20_000
"""Characters of a prompt that are taken; a manifest refuses half as many."""

MAX_NAME = 300
"""Characters of a file's name that are taken, the last ones."""

MAX_SIDE = 999_999
_MAX_WHOLE = 2**64
_MAX_LEFT_OUT = 24
_MAX_FIELDS = 1000


@dataclass(frozen=True, slots=True)
class ToldLora:
    """A LoRA that a picture was made with: its name, and the hash of its data or our identity where they are told."""

    name: str
    weight: float = 1.0
    file_hash: str = ""
    identity: str = ""

    @property
    def words(self) -> str:
        """What it is called, for people."""
        return f"LoRA {shorten(self.name)} at {self.weight:g}"


@dataclass(frozen=True, slots=True)
class Told:
    """What a picture or sidecar tells of its making; None where it does not say.

    `by` is who wrote it down: "sidecar", "renderer", or another tool. `left_out` is what it tells and no job here has,
    a few words each: a LoRA, a second pass, a sampler.
    """

    by: str
    prompt: str
    negative_prompt: str = ""
    model: str | None = None
    precision: str | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    fingerprint: str | None = None
    software: Software | None = None
    loras: tuple[ToldLora, ...] = ()
    schedule: ScheduleKind | Shift | None = None
    image: Input | None = None
    mask: Input | None = None
    strength: float | None = None
    mask_blur: int | None = None
    images: tuple[Input, ...] = ()
    layers: int | None = None
    controlnets: tuple[ControlNet, ...] = ()
    regions: tuple[Region, ...] = ()
    context: Input | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts that stand in one place of a picture, by key.

    What was read as JSON last is kept, so that readers who ask for the same text cost nothing; and nothing else is, for
    memory's sake.
    """

    by_key: Mapping[str, str]
    _last: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def get(self, *keys: str) -> str:
        """The first text that stands under one of these keys, or an empty one."""
        return next((self.by_key[key] for key in keys if key in self.by_key), "")

    def fields(self, *keys: str) -> Mapping[str, Any]:
        """What the text under the first of these keys holds as a JSON object; nothing where it is none."""
        text = self.get(*keys)
        if not text:
            return {}
        if text not in self._last:
            self._last.clear()
            self._last[text] = read_object(text)
        return self._last[text]


LabelReader = Callable[[Texts], Told | None]


def read_object(text: str) -> Mapping[str, Any]:
    """A text as a JSON object; an empty one where it is something else."""
    if not text.lstrip().startswith("{"):
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# ---- values ----------------------------------------------------------------------------------------------------------


def words(value: object) -> str:
    """A text as it can stand in a prompt; empty for what is no text."""
    return value[:MAX_PROMPT].strip() if isinstance(value, str) else ""


def whole(value: object, highest: int = _MAX_WHOLE) -> int | None:
    """A whole number from 0 to `highest`, however it is written."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value.strip()):
        value = int(value.strip())
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest
    return value if isinstance(value, int) and fits else None


def number(value: object) -> float | None:
    """A finite number from 0, however it is written."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,20})?", value.strip()):
        value = float(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e6:  # noqa: PLR2004
        return None
    return float(value) if math.isfinite(value) else None


def size(value: object) -> tuple[int | None, int | None]:
    """Width and height out of `512x768`, `(512, 768)` or `[512, 768]`, written out or not."""
    if isinstance(value, list | tuple) and len(value) >= 2:  # noqa: PLR2004
        return whole(value[0], MAX_SIDE), whole(value[1], MAX_SIDE)
    found = re.fullmatch(r"\s*[(\[]?\s*([0-9]{1,6})\s*[x×,]\s*([0-9]{1,6})\s*[)\]]?\s*", value[:40]) if (  # noqa: RUF001
        isinstance(value, str)
    ) else None  # fmt: skip
    return (int(found[1]), int(found[2])) if found else (None, None)


_REFERENCE = re.compile("&(?:#x([0-9a-fA-F]{1,6})|#([0-9]{1,7})|(lt|gt|amp|quot|apos));")
_NAMED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}


def unescape(text: str) -> str:
    """A text out of XML, with its references resolved; one that means no character stays as it is."""

    def resolve(found: re.Match[str]) -> str:
        if found[3]:
            return _NAMED[found[3]]
        point = int(found[1], 16) if found[1] else int(found[2])
        return chr(point) if point < 0xD800 or 0xDFFF < point < 0x110000 else found[0]  # noqa: PLR2004

    return _REFERENCE.sub(resolve, text)


# ---- what is left out ------------------------------------------------------------------------------------------------

_TAG = re.compile(r"<(lora|lyco|lycoris|hypernet):([^<>]{1,200})>", re.IGNORECASE)


_GAP = re.compile("(^)?(?<![ \t,])[ \t,]*+(?:\0[ \t,]*+)++($)?", re.MULTILINE)
"""Where tags were, with the spaces and commas around them: looked for only where those begin, or a run of them would
be gone through once for each."""


def without_tags(prompt: str) -> tuple[str, list[str]]:
    """A prompt without the tags that load a LoRA in other tools, and what they loaded.

    Only the spaces and commas around a tag go with it.
    """
    tags = [f"{_kind(kind)} {shorten(named)}" for kind, named in _TAG.findall(prompt)]
    if not tags:
        return prompt, []
    return _GAP.sub(_close_gap, _TAG.sub("\0", prompt)).strip(), tags


_LORA_TAG = re.compile(
    r"<(?:lora|lyco|lycoris):([^<>:]{1,200}):(-?(?:[0-9]{1,4}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}))(?::[^<>]{0,200})?>",
    re.IGNORECASE,
)


def with_loras(prompt: str) -> tuple[str, list[ToldLora], list[str]]:
    """A prompt without its tags, the LoRAs that they load with a weight, and in words what the other tags do."""
    loras = [ToldLora(name.strip(), float(weight)) for name, weight in _LORA_TAG.findall(prompt)]
    _, others = without_tags(_LORA_TAG.sub("", prompt))
    return without_tags(prompt)[0], loras, others


def _close_gap(gap: re.Match[str]) -> str:
    """What stands between the words on both sides of tags; nothing where there are words on one side alone."""
    at_edge = gap[1] is not None or gap[2] is not None
    return "" if at_edge else ", " if "," in gap[0] else " "


def _kind(tag: str) -> str:
    return "hypernetwork" if tag.casefold() == "hypernet" else "LoRA"


def loras(named: Iterable[tuple[object, object]]) -> tuple[list[ToldLora], list[str]]:
    """LoRAs by their files or names and strengths, which are 1 where none is told; in words, those that say neither."""
    found, unclear = [], []
    for name, strength in named:
        weight = 1.0 if strength is None else _signed(strength)
        if isinstance(name, str) and name and weight is not None:
            found.append(ToldLora(re.split(r"[\\/]", name[-MAX_NAME:])[-1].removesuffix(".safetensors"), weight))
        else:
            unclear.append(f"LoRA {shorten(str(name))}")
    return found, unclear


def _signed(value: object) -> float | None:
    """A finite number of either sign, however it is written."""
    if isinstance(value, str) and value.strip().startswith("-"):
        found = number(value.strip()[1:])
        return None if found is None else -found
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        found = number(-value)
        return None if found is None else -found
    return number(value)


def sampler(name: object, schedule: object = "") -> list[str]:
    """A sampler that is left out, in words; nothing for the one that renders here, whatever it is called."""
    written = " ".join(str(each) for each in (name, schedule) if isinstance(each, str) and each)
    plain = {"euler", "k_euler", "euler simple", "euler normal", "euler automatic", "renderer"}
    return [] if not written or written.casefold() in plain else [f"sampler {shorten(written, 40)}"]


def others(fields: Mapping[str, Any], *known: str) -> list[str]:
    """What fields say that nobody here reads, in words: those that hold a text, a number or a yes."""
    return [
        f"{shorten(key, 40)} {shorten(str(value), 40)}"
        for key, value in islice(fields.items(), _MAX_FIELDS)
        if key not in known and isinstance(value, str | int | float) and value not in ("", 0, False, "None", "none")
    ]


def cut(left_out: Iterable[str]) -> tuple[str, ...]:
    """What is left out, each once, and no more of it than anybody reads."""
    each = list(dict.fromkeys(left_out))
    more = len(each) - _MAX_LEFT_OUT
    return tuple(each) if more <= 0 else (*each[:_MAX_LEFT_OUT], f"{more} more")
