"""The doctor's page: everything a GPU machine would tell, in 80 columns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from renderer.catalog import cards
from renderer.cli import doctor
from renderer.doctor import diagnosis as diagnosing
from renderer.doctor import findings
from renderer.doctor.diagnosis import Diagnosis
from renderer.machine import hardware, rates
from renderer.machine.hardware import Machine
from renderer.text import GIB
from tests.doctor.test_findings import CARD, GPU, HEALTHY, HERE, TORCH, facts


def diagnosis(**changes: object) -> Diagnosis:
    torch = {
        "pinning": "MachineError: 256 MiB of host memory cannot be pinned",
        "troubles": {"diffsynth": "ImportError: no module named diffsynth"},
    }
    shown = facts({"free_bytes": 2**30}, torch=torch)
    values = {
        "machine": shown.machine,
        "free_disk_bytes": 2**36,
        "torch": dict(shown.torch),
        "profiles": {f"Qwen/Qwen-Image {each}": "stream: blocks come from host memory" for each in ("bf16", "fp8")},
        "models": {"Qwen/Qwen-Image": "packed in fp8", "demo": "comes with the package"},
        "findings": findings.find(shown),
        "rates": rates.of_card(CARD).model_copy(update={"source": "measured", "disk_bytes_per_s": 3.2e9}),
        "card": CARD,
        "forecasts": {"1328x1328 fp8": "0.9 s a step, 40 s a picture"},
    }
    return Diagnosis(**(values | changes))  # type: ignore[arg-type]


def test_fits_a_terminal() -> None:
    """No line is longer than 80 characters, whatever is wrong; nothing is lost by wrapping."""
    shown = list(doctor.lines(diagnosis()))
    assert max(map(len, shown)) <= 80
    page = " ".join(" ".join(shown).split())
    for finding in diagnosis().findings:
        assert finding.message in page
        assert finding.hint in page


def test_says_what_was_measured_and_expected() -> None:
    """Each rate beside that of such a card; forecasts, profiles and models by name."""
    page = "\n".join(doctor.lines(diagnosis()))
    assert "such a card" in page
    assert "148.7 TFLOP/s" in page
    assert "0.9 s a step" in page
    assert "Qwen/Qwen-Image bf16, Qwen/Qwen-Image fp8: stream" in page
    assert "PCIe 1 x16 now, 4 x16 at most (an idle link falls back)" in page
    assert "PROBLEM" in page


def test_a_healthy_machine_is_told_so() -> None:
    """Silence would leave one wondering."""
    page = "\n".join(doctor.lines(diagnosis(findings=(), torch=TORCH, machine=HERE, rates=None, card=None)))
    assert "nothing is wrong here" in page
    assert "rates" not in page


def test_which_of_several_renders() -> None:
    """The first; what a card does not tell is said to be unknown."""
    other = dataclasses.replace(GPU, index=1, name="Another", compute_capability=(0, 0), memory="assumed")
    page = "\n".join(doctor.lines(diagnosis(machine=dataclasses.replace(HERE, gpus=(GPU, other)))))
    assert "compute capability 8.9: this one renders" in page
    assert "Another, compute capability unknown\n" in page
    assert "24.0 GiB free, as is assumed" in page


def test_each_of_several_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, pictures and what is wrong, of the second card too; a fault of it keeps nobody from rendering."""
    other = dataclasses.replace(GPU, index=1, name="NVIDIA GeForce RTX 3080", uuid="GPU-91ab02cd-2")
    here = dataclasses.replace(HERE, gpus=(dataclasses.replace(GPU, uuid="GPU-5d3f6c1e-1"), other))

    def ask(_module: str, there: Machine) -> dict[str, Any]:
        kernel = "ok" if there.gpu is here.gpus[0] else "CUDA error: an illegal instruction"
        return TORCH | {"gpus": [{**TORCH["gpus"][0], "name": there.gpus[0].name, "kernel": kernel}]}

    monkeypatch.setattr(hardware, "look", lambda: here)
    monkeypatch.setattr(hardware, "ask", ask)
    monkeypatch.setattr(rates, "measure", lambda there: rates.of_card(cards.find(there.gpu.name.split()[-1]).card))
    found = diagnosing.examine(tmp_path)
    page = " ".join(" ".join(doctor.lines(found)).split())
    assert "GPU 0 NVIDIA GeForce RTX 4090 (5d3f6c1e), compute capability 8.9: this one renders" in page
    assert "GPU 1 NVIDIA GeForce RTX 3080 (91ab02cd), examined as the first one:" in page
    assert page.count("bf16 products") == page.count("512x512, int8: ") == 2
    (finding,) = (each for each in found.findings if "a kernel did not run" in each.message)
    assert finding.message.startswith("GPU 1: NVIDIA GeForce RTX 3080: a kernel did not run: CUDA error")
    assert not finding.fatal
    told = json.loads(json.dumps(found.as_dict()))
    assert [each["name"] for each in told["others"]] == ["NVIDIA GeForce RTX 3080 (91ab02cd)"]
    assert [gpu["short_uuid"] for gpu in told["gpus"]] == ["5d3f6c1e", "91ab02cd"]


def test_json_has_everything() -> None:
    """The same for machines; a GPU's number in the world stays out of it."""
    found = json.loads(json.dumps(diagnosis().as_dict()))
    assert found["gpus"][0]["link"]["most_width"] == 16
    assert found["gpus"][0]["compute_capability"] == "8.9"
    assert "uuid" not in found["gpus"][0]
    assert found["rates"]["source"] == "measured"
    assert found["card"]["name"] == CARD.name
    assert found["findings"][0] == {
        "message": diagnosis().findings[0].message,
        "meaning": "nothing can be rendered",
        "hint": diagnosis().findings[0].hint,
        "fatal": True,
    }


class TestExamine:
    def test_this_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The real thing: rates are measured and remembered, and a forecast gets the machine and its rates.

        What is read of it names versions and profiles, in a terminal's width.
        """
        monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "cache"))
        found = diagnosing.examine(tmp_path, forecast=lambda here, known: {"cpus": f"{here.cpus} {known.source}"})
        assert found.forecasts == {"cpus": f"{found.machine.cpus} measured"}
        assert rates.cached(found.machine) == found.rates
        shown = list(doctor.lines(found))
        assert max(map(len, shown)) <= 80
        for label in ("memory", "software", "rates", "picture", "profile"):
            assert any(line.startswith(label) for line in shown), label

    def test_pictures_of_known_cards(self) -> None:
        """What doctor forecasts for an H200 is what one did (0.32 s a step), from the data alone within a fifth."""
        gpu = dataclasses.replace(GPU, name="NVIDIA H200", compute_capability=(9, 0))
        gpu = dataclasses.replace(gpu, total_bytes=141 * GIB, free_bytes=140 * GIB)
        here = dataclasses.replace(HERE, gpus=(gpu,), ram_free_bytes=100 * GIB)
        told = diagnosing.pictures(here, rates.of_card(cards.find("H200").card))
        assert float(told["1328x1328, fp8"].split()[0]) == pytest.approx(0.32, rel=0.2)
        assert float(told["1328x1328, bf16"].split()[0]) == pytest.approx(0.67, rel=0.2)
        assert diagnosing.pictures(dataclasses.replace(HERE, gpus=()), rates.of_card(CARD)) == {}

    def test_what_limits_a_machine_is_said(self) -> None:
        """Too small a GPU, and host memory that holds no blocks."""
        known = rates.of_card(CARD)
        tiny = dataclasses.replace(HERE, gpus=(dataclasses.replace(GPU, free_bytes=GIB),))
        assert set(diagnosing.pictures(tiny, known).values()) == {"does not fit"}
        small = dataclasses.replace(HERE, gpus=(dataclasses.replace(GPU, free_bytes=6 * GIB),), ram_free_bytes=4 * GIB)
        slow = known.model_copy(update={"disk_bytes_per_s": 0.2e9})
        assert "limited by the disk" in diagnosing.pictures(small, slow)["512x512, bf16"]

    def test_a_cache_that_cannot_be_made(self, tmp_path: Path) -> None:
        """Found by trying; a trial leaves nothing behind."""
        assert diagnosing._cache_trouble(tmp_path / "cache") == ""
        assert not list((tmp_path / "cache").iterdir())
        (tmp_path / "file").write_text("")
        assert "file" in diagnosing._cache_trouble(tmp_path / "file" / "cache")


def test_the_facts_used_here_are_healthy() -> None:
    """These tests stand on the machine that findings have nothing to say of."""
    assert findings.find(HEALTHY) == ()
    assert cards.of_gpu(HERE.gpus[0].name, HERE.gpus[0].total_bytes) == CARD
