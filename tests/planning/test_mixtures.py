"""A batch that moves to another card: what is there and what is to come are told apart, and it is said beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from renderer.job import Precision
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import OutputFolder
from renderer.planning import mixtures
from renderer.planning.forecast import Assumptions, forecast
from renderer.planning.placement import setup_for
from renderer.planning.plan import Plan, make_plan
from tests.making import make_manifest
from tests.nights import make_night

GIB = 2**30
QWEN = "Qwen/Qwen-Image"
SHARING = {
    "share_s": 1.0, "mean_in_flight": 1.0, "slots": 2, "blocks": 60, "streamed_bytes": 0,
    "bus_bytes_per_s": 0.0, "flops_per_s": 0.0,
}  # fmt: skip


def a_card(capability: tuple[int, int]) -> Machine:
    gpu = LocalGpu(0, "a card", "GPU-1", 24 * GIB, 24 * GIB, "580.1", capability)
    return Machine((gpu,), 8, 64 * GIB, 64 * GIB)


AMPERE, ADA, NONE = a_card((8, 6)), a_card((8, 9)), Machine((), 8, 64 * GIB, 64 * GIB)


def a_batch(tmp_path: Path, told: dict[str, Any], precision: Precision = "fp8", model: str = QWEN) -> Plan:
    """A plan of which all but the last picture are there, whose sidecars tell what is `told` of their engine."""
    manifest = make_manifest(("a", "b", "c"))
    changed = {"model": model, "precision": precision, "width": 256, "height": 256}
    pictures = tuple(each.model_copy(update={"job": each.job.model_copy(update=changed)}) for each in manifest.pictures)
    manifest = replace(manifest, pictures=pictures)
    make_night(manifest, tmp_path, without=["p002"])
    for path in OutputFolder(tmp_path / manifest.name).path.glob("p00?.json"):
        sidecar = json.loads(path.read_text())
        sidecar["engine"] |= told.get("engine", {})
        sidecar["sharing"] = SHARING | told["sharing"] if "sharing" in told else None
        path.write_text(json.dumps(sidecar))
    return planned(manifest, tmp_path)


def planned(manifest: Manifest, tmp_path: Path) -> Plan:
    plan = make_plan(manifest, tmp_path)
    assert [item.state for item in plan.items] == ["done", "done", "to do"]
    return plan


def remarks(plan: Plan, machine: Machine) -> list[str]:
    setup = setup_for([item.picture.job for item in plan.to_render()], machine, None)
    return list(mixtures.remarks([plan], [setup], machine))


class TestRemarks:
    def test_fp8_products_and_others(self, tmp_path: Path) -> None:
        """FP8 weights were multiplied in bf16 on a card that cannot do otherwise, and will be as FP8: it is said."""
        plan = a_batch(tmp_path, {"sharing": {"arithmetic": "bf16"}})
        (said,) = remarks(plan, ADA)
        assert "computed 2 in bf16, and this machine computes in FP8" in said
        assert "fp8-weights multiplies alike on every card" in said
        assert "--force" in said
        assert remarks(plan, AMPERE) == []

    def test_the_other_way(self, tmp_path: Path) -> None:
        plan = a_batch(tmp_path, {"sharing": {"arithmetic": "fp8"}})
        (said,) = remarks(plan, AMPERE)
        assert "computed 2 in FP8, and this machine computes in bf16" in said
        assert remarks(plan, ADA) == []

    @pytest.mark.parametrize("precision", ["fp8-weights", "bf16"])
    def test_precisions_that_are_alike_everywhere(self, tmp_path: Path, precision: Precision) -> None:
        """They compute in bf16 on every card."""
        plan = a_batch(tmp_path, {"sharing": {"arithmetic": "bf16"}}, precision)
        assert remarks(plan, ADA) == remarks(plan, AMPERE) == []

    def test_the_native_engine(self, tmp_path: Path) -> None:
        """It scales weights back: a batch that was begun by it and is streamed on is a mixture too."""
        plan = a_batch(tmp_path, {"engine": {"name": "native", "profile": "fp8", "device": "cuda"}})
        assert len(remarks(plan, ADA)) == 1
        setup = setup_for([plan.items[2].picture.job], ADA, "fp8")
        assert list(mixtures.remarks([plan], [setup], ADA)) == []

    @pytest.mark.parametrize(("here", "count"), [("bf16", 1), ("float32", 0)])
    def test_processors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, count: int) -> None:
        """So is one that goes from a processor without bf16 units to one that has them."""
        monkeypatch.setattr("renderer.planning.mixtures.arithmetic", lambda: here)
        plan = a_batch(tmp_path, {"engine": {"arithmetic": "float32"}}, "bf16", "demo")
        assert len(remarks(plan, NONE)) == count

    def test_nothing_is_to_come(self, tmp_path: Path) -> None:
        """Where all is there, nothing is mixed any further."""
        plan = a_batch(tmp_path, {"sharing": {"arithmetic": "bf16"}})
        assert list(mixtures.remarks([plan], [], ADA)) == []


def test_it_stands_in_the_forecast(tmp_path: Path) -> None:
    """`plan` says it, in its lines and in its JSON."""
    plan = a_batch(tmp_path, {"sharing": {"arithmetic": "bf16"}})
    found = forecast([plan], Assumptions(machine=ADA), datetime.now(UTC))
    assert len(found.mixtures) == 1
    assert found.as_dict()["mixtures"] == list(found.mixtures)


def test_on_the_cpu_a_card_that_is_there_too_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are the processor's own, whatever the card's would be."""
    monkeypatch.setattr(mixtures, "arithmetic", lambda: "float32")
    job = make_manifest(("a",)).pictures[0].job.model_copy(update={"model": QWEN, "precision": "bf16"})
    setup = setup_for([job], ADA, "cpu")
    assert mixtures.expected(setup, ADA) == mixtures.expected(setup, NONE) == "float32"
    assert mixtures.expected(setup_for([job], ADA, "resident"), ADA) == "bf16"
