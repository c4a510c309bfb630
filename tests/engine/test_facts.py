"""What a sidecar says of the software: all whose version could change a picture's bits."""

from __future__ import annotations

import json
from importlib import metadata

import pytest
import torch
from diffsynth.models import qwen_image_dit

from renderer.engine import facts
from renderer.job import Software
from tests.fakes import SOFTWARE


def test_on_a_gpu_triton_and_cudnn_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The FP8 products' kernels are Triton's."""
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    found = facts.software("cuda")
    assert found.triton == metadata.version("triton")
    assert found.cudnn == "9.10.2"


def test_on_a_cpu_they_have_no_part_in_it() -> None:
    """Nor has an attention package: DiffSynth's are all for GPUs."""
    found = facts.software("cpu")
    assert (found.cuda, found.cudnn, found.triton, found.attention) == (None, None, None, None)


@pytest.mark.parametrize(
    ("there", "names", "said"),
    [
        (False, {}, None),
        (False, {"flash_attn_interface": ["torch"]}, None),  # installed, and DiffSynth could not import it
        (True, {"flash_attn_interface": ["torch"]}, f"torch {metadata.version('torch')}"),
        (True, {}, "flash_attn_interface"),  # from a folder
    ],
)
def test_attention_that_diffsynth_takes_by_itself(
    monkeypatch: pytest.MonkeyPatch,
    there: bool,  # noqa: FBT001  # a case
    names: dict[str, list[str]],
    said: str | None,
) -> None:
    """The package in place of torch's attention is named with its version, if DiffSynth has it."""
    monkeypatch.setattr(qwen_image_dit, "FLASH_ATTN_3_AVAILABLE", there)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: names)
    assert facts.software("cuda").attention == said


def test_older_sidecars_are_read() -> None:
    """They know none of the three."""
    written = json.loads(SOFTWARE.model_dump_json())
    for name in ("cudnn", "triton", "attention"):
        del written[name]
    assert Software.model_validate(written) == SOFTWARE
