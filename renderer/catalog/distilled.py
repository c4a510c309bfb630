"""LoRAs that were made to need few steps, as data.

Names of files, commits and sizes are those that the repositories' pages and the tools of others show. What nobody has
told the commit of is not here: nothing would say which weights it is. `steps`, `cfg_scale` and `schedule` are what each
was made for: a job that names it has them without saying so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from renderer.catalog.data import (
    DEMO,
    QWEN_IMAGE,
    QWEN_IMAGE_2512,
    QWEN_IMAGE_EDIT,
    QWEN_IMAGE_EDIT_2509,
    QWEN_IMAGE_EDIT_2511,
)
from renderer.catalog.model import Model, Part

_MB = 10**6

_LIGHTNING = ("lightx2v/Qwen-Image-Lightning", "21e79ba3c2cb6454834051ea973ffcd04ff1993f")
_LIGHTNING_2512_4 = ("lightx2v/Qwen-Image-2512-Lightning", "c35c0e2ab8891698dace27aac7b64bc6c4f1a8ea")
_LIGHTNING_2512_8 = ("lightx2v/Qwen-Image-2512-Lightning", "a52649c9d0f6e1a248bff13f0df33bb8a2abdb52")
_LIGHTNING_2511 = ("lightx2v/Qwen-Image-Edit-2511-Lightning", "d74eba145674fd7e31b949324e148e21e7118abd")
_BF16_BYTES, _F32_BYTES = 849_608_296, 1_698_951_104

_FILES: tuple[tuple[str, str, tuple[str, str], Model, int], ...] = (
    ("4steps-V1.0", "Qwen-Image-Lightning-4steps-V1.0-bf16", _LIGHTNING, QWEN_IMAGE, _BF16_BYTES),
    ("8steps-V1.1", "Qwen-Image-Lightning-8steps-V1.1-bf16", _LIGHTNING, QWEN_IMAGE, _BF16_BYTES),
    ("4steps-V2.0", "Qwen-Image-Lightning-4steps-V2.0-bf16", _LIGHTNING, QWEN_IMAGE, _BF16_BYTES),
    # At this commit there is no bf16 file of it that anybody has told of.
    ("8steps-V2.0", "Qwen-Image-Lightning-8steps-V2.0", _LIGHTNING, QWEN_IMAGE, _F32_BYTES),
    ("4steps-V1.0", "Qwen-Image-2512-Lightning-4steps-V1.0-bf16", _LIGHTNING_2512_4, QWEN_IMAGE_2512, _BF16_BYTES),
    ("8steps-V1.0", "Qwen-Image-2512-Lightning-8steps-V1.0-bf16", _LIGHTNING_2512_8, QWEN_IMAGE_2512, _BF16_BYTES),
    ("Edit-4steps-V1.0", "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16", _LIGHTNING, QWEN_IMAGE_EDIT, _BF16_BYTES),
    ("Edit-8steps-V1.0", "Qwen-Image-Edit-Lightning-8steps-V1.0-bf16", _LIGHTNING, QWEN_IMAGE_EDIT, _BF16_BYTES),
    *(
        (
            f"Edit-2509-{steps}steps-V1.0",
            f"Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-{steps}steps-V1.0-bf16",
            _LIGHTNING, QWEN_IMAGE_EDIT_2509, _BF16_BYTES,
        )
        for steps in (4, 8)
    ),
    *(
        (
            f"{steps}steps-V1.0", f"Qwen-Image-Edit-2511-Lightning-{steps}steps-V1.0-bf16", _LIGHTNING_2511,
            QWEN_IMAGE_EDIT_2511, _BF16_BYTES,
        )
        for steps in (4, 8)
    ),
)  # fmt: skip
"""Lightning's: the name within its repository's, the file, repository and commit, what it is for, bytes."""


def _lightning() -> Iterator[Model]:
    """Each is a LoRA: one file of a repository that has several."""
    for name, file, (repository, revision), base, size in _FILES:
        steps = int(name.split("steps")[0][-1])
        what = "edits" if base.ability == "edit" else "pictures"
        yield replace(
            QWEN_IMAGE,
            id=f"{repository}/{name}",
            about=f"LoRA for {base.id}: {what} in {steps} steps",
            ability="lora",
            parts=(Part("lora", f"{file}.safetensors", 1, size, repository=repository, revision=revision),),
            revision=revision,
            shape=None,
            steps=steps,
            cfg_scale=1.0,
            schedule="lightning",
            base=base.id,
            gpu_bytes=MappingProxyType({"bf16": 850 * _MB}),
        )


LIGHTNING = tuple(_lightning())

DEMO_FEW_STEPS = replace(
    DEMO,
    id="demo/4steps",
    about="LoRA for demo: pictures in 4 steps",
    ability="lora",
    files=MappingProxyType({"lora": Path(__file__).parents[1] / "demo/loras/4steps.safetensors"}),
    revision="1",
    shape=None,
    steps=4,
    cfg_scale=1.0,
    schedule="lightning",
    base=DEMO.id,
    gpu_bytes=MappingProxyType({"bf16": _MB}),
)
"""It comes with the package, as the model does that it is for."""
