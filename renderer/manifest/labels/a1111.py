"""AUTOMATIC1111's `parameters`, which many tools write: Forge, SD.Next, Civitai, Fooocus by choice, and this program.

The prompt, the negative one after `Negative prompt:`, and one line of settings that begins with `Steps:`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace

from renderer.job import ScheduleKind, Shift
from renderer.manifest.labels import told
from renderer.manifest.labels.told import COMMENT, MAX_PROMPT, Texts, Told, ToldLora

_KEY = re.compile(r"\s{0,20}(\w[\w /+-]{0,80}):[ \t]{0,20}")
_MOST_TAGS, _MOST_TAG = 16, 250
"""Tags of ours behind a prompt, and the characters of one."""

_MAX_ROUNDS = 400
"""How many pairs of a line are looked at: a value that is tried as JSON, and is none, costs what the line is long."""

_READ = (
    *("Steps", "CFG scale", "Seed", "Size", "Model", "Precision", "Sampler", "Schedule type", "Scheduler"),
    *("Schedule", "Lora hashes", "LoRAs"),
)
_NO_MATTER = frozenset({"Model hash", "Model revision", "Version", "Hashes", "App", "Parser", "Metadata scheme"})


def read(texts: Texts) -> Told | None:
    """What a text in this form tells, under whichever key it stands."""
    return parse(texts.get("parameters", COMMENT))


def parse(text: str) -> Told | None:
    """What a text in this form tells; None when it is no such text."""
    lines = text.replace("\r\n", "\n").split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith("Steps:")]
    settings = _parse_settings(lines[starts[-1]]) if starts else {}
    if not settings:
        return None
    above = lines[: starts[-1]]
    split = next((number for number, line in enumerate(above) if line.startswith("Negative prompt:")), len(above))
    width, height = told.size(settings.get("Size"))
    ours = settings.get("Version", "").startswith("renderer ")
    prompts = ["\n".join(above[:split]), "\n".join(above[split:]).removeprefix("Negative prompt:")]
    tagged = told.whole(settings.get("LoRAs"), _MOST_TAGS) or 0
    bare = [
        _without_last_tags(prompt, tagged if first else 0) if ours else told.with_loras(prompt[:MAX_PROMPT].strip())
        for first, prompt in zip((True, False), prompts, strict=True)
    ]
    hashes = _hashes(settings.get("Lora hashes", ""))
    loras = [replace(lora, file_hash=hashes.get(lora.name, "")) for _, found, _ in bare for lora in found]
    tags = [tag for _, _, tags in bare for tag in tags]
    return Told(
        by="parameters",
        prompt=bare[0][0],
        negative_prompt=bare[1][0],
        model=settings.get("Model"),
        precision=settings.get("Precision"),
        steps=told.whole(settings.get("Steps")),
        cfg_scale=told.number(settings.get("CFG scale")),
        width=width,
        height=height,
        seed=told.whole(settings.get("Seed")),
        loras=tuple(loras),
        schedule=_schedule(settings.get("Schedule", "")) if ours else None,
        left_out=told.cut([*tags, *_left_out(settings)]),
    )


def _without_last_tags(prompt: str, count: int) -> tuple[str, list[ToldLora], list[str]]:
    """A prompt of ours without the tags that we have put behind it; all others are its own text."""
    text, loras = prompt[: MAX_PROMPT + count * _MOST_TAG].strip(), list[ToldLora]()
    for _ in range(count):
        at = text.rfind("<lora:")
        _, found, _ = told.with_loras(text[at:]) if at >= 0 else ("", [], [])
        if not found:
            break
        text, loras = text[:at].rstrip(" "), [*found, *loras]
    return text[:MAX_PROMPT], loras, []


def _hashes(text: str) -> Mapping[str, str]:
    """What `name: hash, name: hash` says."""
    return {name.strip(): found for name, found in re.findall(r"([^:,]{1,200}):\s*([0-9a-fA-F]{4,64})", text)}


def _schedule(text: str) -> ScheduleKind | Shift | None:
    if text == "lightning":
        return "lightning"
    shift = told.number(text.removeprefix("shift ")) if text.startswith("shift ") else None
    return Shift(shift=shift) if shift else None


def _left_out(settings: Mapping[str, str]) -> list[str]:
    """All that the settings say and no job has."""
    silent = {key for key in settings if key in _NO_MATTER or key.endswith(" hash")}
    schedule = settings.get("Schedule type", settings.get("Scheduler", ""))
    return [*told.sampler(settings.get("Sampler"), schedule), *told.others(settings, *_READ, *silent)]


def _parse_settings(line: str) -> Mapping[str, str]:
    """Pairs of `key: value`; a value is JSON, or goes to the next comma. The first of a key counts."""
    settings: dict[str, str] = {}
    at = 0
    for _ in range(_MAX_ROUNDS):
        if at >= len(line):
            break
        found = _KEY.match(line, at)
        if found is None:
            at = _after_comma(line, at)
            continue
        at = found.end()
        value, end = None, at
        if line[at : at + 1] in {'"', "{", "["}:
            value, end = _parse_json(line, at)
        after = _after_comma(line, end)
        settings.setdefault(found[1].strip(), line[at:after].rstrip(", ") if value is None else value)
        at = after
    return settings


def _after_comma(line: str, at: int) -> int:
    comma = line.find(",", at)
    return len(line) if comma < 0 else comma + 1


def _parse_json(line: str, at: int) -> tuple[str | None, int]:
    try:
        value, end = json.JSONDecoder().raw_decode(line, at)
    except (ValueError, RecursionError):
        return None, at
    return (value if isinstance(value, str) else line[at:end]), end
