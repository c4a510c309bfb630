"""AUTOMATIC1111's `parameters`, which many tools write: Forge, SD.Next, Civitai, Fooocus by choice, and this program.

The prompt, the negative one after `Negative prompt:`, and one line of settings that begins with `Steps:`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from renderer.manifest.labels import told
from renderer.manifest.labels.told import COMMENT, MAX_PROMPT, Texts, Told

_KEY = re.compile(r"\s{0,20}(\w[\w /+-]{0,80}):[ \t]{0,20}")
_MAX_ROUNDS = 400
"""How many pairs of a line are looked at: a value that is tried as JSON, and is none, costs what the line is long."""

_READ = ("Steps", "CFG scale", "Seed", "Size", "Model", "Precision", "Sampler", "Schedule type", "Scheduler")
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
    bare = [(prompt[:MAX_PROMPT].strip(), []) if ours else _without_tags(prompt) for prompt in prompts]
    tags = [tag for _, tags in bare for tag in tags]
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
        left_out=told.cut([*tags, *_left_out(settings, tagged=bool(tags))]),
    )


def _without_tags(prompt: str) -> tuple[str, list[str]]:
    return told.without_tags(prompt[:MAX_PROMPT].strip())


def _left_out(settings: Mapping[str, str], *, tagged: bool) -> list[str]:
    """All that the settings say and no job has. A LoRA's hash says nothing that its tag does not."""
    silent = {key for key in settings if key in _NO_MATTER or key.endswith(" hash")}
    silent |= {"Lora hashes"} if tagged else set()
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
