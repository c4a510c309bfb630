"""Where the seconds of pictures go: what a kernel's name says, when the GPU waits, and the row of the table."""

from __future__ import annotations

import pytest

from renderer.benchmarks import share_cases, share_steps, streamed
from renderer.benchmarks.share_cases import Launched, ShareCase
from renderer.engine import stores
from renderer.protocol import Setup


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Memcpy HtoD (Pinned -> Device)", "bus"),
        ("Memcpy DtoD (Device -> Device)", "moves"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", "attention"),
        ("nvjet_qqtst_128x256_128x6_1x2_h_bz_coopA_bias_TNN", "products"),
        ("_add_and_modulate", "passes"),
        ("_add", "passes"),
        ("_convolve", "decode"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float> >", "others"),
    ],
)
def test_what_a_kernel_does_is_told_by_its_name(name: str, kind: str) -> None:
    assert share_cases.kind_of(name) == kind


def test_time_without_a_kernel_is_waiting() -> None:
    """Also while the bus is busy; what overlaps is no gap, and gaps of launching are not told of."""
    spans = [
        Launched("nvjet_a", 0.0, 100.0),
        Launched("_add", 90.0, 120.0),
        Launched("Memcpy HtoD", 120.0, 400.0),
        Launched("_place", 125.0, 200.0),
        Launched("nvjet_b", 500.0, 600.0),
    ]
    found = share_cases.shares(spans)
    assert found["seconds"] == pytest.approx({"products": 200e-6, "passes": 105e-6, "bus": 280e-6})
    assert found["busy_s"] == pytest.approx(295e-6)
    assert found["waits"] == pytest.approx({"_place > nvjet_b": 300e-6})
    assert next(iter(found["longest"])) == "bus: Memcpy HtoD"


def test_a_case_is_measured_after_its_first_sweep() -> None:
    """Of two pictures of two steps, what is left after one sweep; and the row of the table."""
    store = stores.find(Setup(model="demo", precision="bf16", profile="stream"), lambda _: None).folder
    row = share_steps.measure(streamed.open_engine(store, slots=2, in_flight=1), ShareCase(64, 2, steps=2))
    assert 0 < row["pictures"] < 2
    assert row["whole_s"] > 0
    row |= {"pictures": 2.0, "whole_s": 0.5, "seconds": {"products": 0.1, "bus": 0.3}, "busy_s": 0.48}
    told = list(share_cases.lines([row]))
    assert told[-2].startswith(f"| 64² | 2 | all | {row['slots']} | {row['in_flight']:.1f} | 250.0 | 50.0 |")
    assert told[-2].endswith("| 10.0 | 150.0 |")
