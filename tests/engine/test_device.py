"""The table of placements, as DiffSynth reads it."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from renderer.engine import device
from renderer.engine.device import FROM_DISK, FROM_HOST
from renderer.errors import MachineError
from renderer.job import Profile, Stored


def test_every_profile_has_every_precision_but_one() -> None:
    """All of DiffSynth's own profiles take all precisions, but the one that is FP8; streaming places nothing so."""
    assert set(device.PLACEMENTS) == set(get_args(Profile)) - {"stream"}
    refused = set()
    for profile in device.PLACEMENTS:
        for precision in get_args(Stored):
            try:
                device.find(profile, precision)
            except MachineError as error:
                refused.add((profile, precision, error.hint))
    assert refused == {
        ("fp8", each, f"for {each}: --profile resident or disk or cpu") for each in ("bf16", "int8", "int4")
    }
    with pytest.raises(MachineError, match="keeps weights in FP8 and cannot render bf16"):
        device.find("fp8", "bf16")


def test_from_disk() -> None:
    """From disk a layer waits in host memory while its network is wanted, and on the GPU once it was taken up."""
    assert device.vram_config(FROM_DISK, "cuda") == {
        "offload_dtype": "disk",
        "offload_device": "disk",
        "onload_dtype": torch.bfloat16,
        "onload_device": "cpu",
        "preparing_dtype": torch.bfloat16,
        "preparing_device": "cuda",
        "computation_dtype": torch.bfloat16,
        "computation_device": "cuda",
    }


def test_resident_weights_never_leave_the_gpu() -> None:
    """At both precisions they are there without management, and no limit takes them down."""
    for precision in get_args(Stored):
        assert device.find("resident", precision) is None
    assert device.vram_limit_gib(None, "cuda", 2**30) is None


def test_limit_is_in_gib_and_for_gpus() -> None:
    """The setup's bytes become DiffSynth's GiB where weights are bounded; on the CPU nothing is."""
    assert device.vram_limit_gib(FROM_HOST, "cuda", 3 * 2**29) == 1.5
    assert device.vram_limit_gib(FROM_HOST, "cpu", 3 * 2**29) is None
    assert device.vram_limit_gib(None, "cuda", 3 * 2**29) is None
