"""What prepares pictures for a small edit model: Qwen-Image-Edit's settings, and a tokenizer of its own."""

from __future__ import annotations

import json
from pathlib import Path

from renderer.demo import tokenizer

SETTINGS = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "min_pixels": 56 * 56,
    "max_pixels": 12_845_056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write(folder: Path) -> None:
    """Write it into `folder`, which is made if need be. Raises `OSError`."""
    tokenizer.write(folder, tokenizer.EDIT_TEMPLATE_PREFIX)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS, indent=1), encoding="utf-8")
