"""How other tools read a picture's metadata: their rules, told again for tests.

`sd_prompt_reader` was held against the package of that name (1.3.5), which cannot be installed beside this project's
Pillow; `civitai` follows what `automatic.metadata.ts` does with such a text.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image


class Read(NamedTuple):
    """What a tool takes a picture's prompts and settings to be."""

    prompt: str
    negative_prompt: str
    settings: dict[str, str]


def find_text(path: Path) -> str:
    """Where both tools look: `parameters` in a PNG, EXIF's UserComment (UTF-16, big-endian) elsewhere."""
    with Image.open(path) as image:
        assert "prompt" not in image.info, "would be taken for ComfyUI's graph"
        if image.format == "PNG":
            return str(image.info["parameters"])
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert isinstance(comment, bytes)
        assert comment.startswith(b"UNICODE\0")
        # Bytes of another type than "undefined" are not read at all: tag, type, in one entry.
        assert b"\x92\x86\x00\x07" in image.info["exif"]
        return comment[8:].decode("utf-16-be")


def sd_prompt_reader(text: str) -> Read:
    """The first line that begins with `Steps:` ends the prompts; `Negative prompt:` begins a line or is not there."""
    at = text.find("\nSteps:")
    positive, negative, settings = text[:at].strip(), "", text[at:].strip()
    if "Negative prompt:" in text:
        split = text.find("\nNegative prompt:")
        positive, negative = text[:split].strip(), text[split + 17 : at].strip()
    found: dict[str, str] = {}
    for key, value in re.findall(r"\s*([^:,]+):\s*([^,]+)", settings):
        found.setdefault(key, value)
    return Read(positive, negative, found)


def civitai(text: str) -> Read:
    """The first line that begins with `Steps: ` holds the settings; `Negative prompt:` splits wherever it stands."""
    lines = [line for line in text.split("\n") if line.strip()]
    settings = next(line for line in lines if line.startswith("Steps: "))
    lines.remove(settings)
    prompt, *negative = (part.strip() for part in "\n".join(lines).split("Negative prompt:"))
    pairs = re.findall(r'(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', settings)
    return Read(prompt, " ".join(negative).strip(), {key.strip(): value for key, value in pairs})


def exiftool(path: Path) -> dict[str, Any]:
    """All that exiftool finds, by tag."""
    command = [shutil.which("exiftool") or "", "-json", "-struct", str(path)]
    found = subprocess.run(command, capture_output=True, check=True).stdout
    (tags,) = json.loads(found)
    return dict(tags)
