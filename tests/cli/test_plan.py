from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tqdm.utils import disp_len

from renderer import catalog
from renderer.cli import command, estimate, plan
from renderer.estimate import Work
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.machine import hardware
from renderer.machine.gpus import LocalGpu
from renderer.planning import forecast
from renderer.planning.forecast import Assumptions
from renderer.planning.group_forecast import GroupTime
from renderer.planning.plan import make_plan
from renderer.weights import needs
from tests.making import make_manifest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "diffsynth", "transformers")
REAL = """\
defaults: {model: Qwen/Qwen-Image, precision: fp8, steps: 40}
jobs:
  - {id: square, prompt: a harbour, size: "1:1", count: 3}
  - {id: large, prompt: 一张夜晚的海报 霓虹灯下写着营业中, size: 2048x2048}
  - {id: a-very-long-name-that-nobody-would-want-to-read-in-a-table-of-eighty-columns, prompt: x, size: 512x512}
"""


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = command.main(list(arguments))
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a manifest of a real model, and no models."""
    (tmp_path / "night.yaml").write_text(REAL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RENDERER_MODELS", str(tmp_path / "models"))
    return tmp_path


@pytest.mark.usefixtures("project")
class TestPlan:
    def test_another_card_is_planned_for(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What would be rendered on a card that is not here: memory, time from start to end, what limits it."""
        status, said, _ = run(capsys, "plan", "night.yaml", "--gpu", "RTX 3080", "--ram", "32GiB")
        assert status == 0
        assert "5 to render" in said.replace("pictures ", "")
        for expected in ("bound by arithmetic", "blocks on the GPU", "of the host"):
            assert expected in " ".join(said.split()), expected

    def test_nothing_is_fetched_to_another_machine(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What lies there, this one does not know: models are taken to be there."""
        _, said, _ = run(capsys, "plan", "night.yaml", "--gpu", "RTX 3080", "--json")
        disk = json.loads(said)["forecast"]["disk"]
        assert (disk["download_bytes"], disk["store_bytes"]) == (0, 0)
        assert disk["outputs_bytes"] > 0

    def test_short_memory_makes_the_disk_the_limit(self, capsys: pytest.CaptureFixture[str]) -> None:
        """With 8 GiB of host memory the blocks come from the disk, and that is what a step waits for."""
        small = "a-very-long-name-that-nobody-would-want-to-read-in-a-table-of-eighty-columns"
        _, said, _ = run(
            capsys, "plan", "night.yaml", "--gpu", "RTX 4090", "--vram", "6GiB", "--ram", "8GiB", "--only", small
        )
        assert "the others come from the disk" in " ".join(said.split())
        assert "bound by disk" in " ".join(said.split())

    def test_what_cannot_fit_is_refused_and_the_rest_goes_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A picture too large for the card is refused with numbers and a size that fits; the others are planned."""
        _, said, _ = run(capsys, "plan", "night.yaml", "--gpu", "RTX 3080", "--vram", "3.8GiB")
        told = " ".join(said.split())
        assert "refused 2048x2048" in told
        assert "the nearest size that fits is " in told
        assert "4 pictures to render, 0 done, 1 refused" in told
        _, said, _ = run(capsys, "plan", "night.yaml", "--gpu", "RTX 3080", "--vram", "3.8GiB", "--json")
        (refused,) = [one for one in json.loads(said)["manifests"][0]["pictures"] if one["state"] == "refused"]
        assert f"the nearest size that fits is {refused['refusal']['nearest']}" in told
        assert refused["refusal"]["needed_bytes"] > refused["refusal"]["available_bytes"]

    def test_a_disk_without_room_is_said(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """How much is missing, beside what is free."""
        for free, missing in ((10**12, False), (10**6, True)):
            monkeypatch.setattr(hardware, "free_disk_bytes", lambda _, free=free: free)
            monkeypatch.setattr(needs, "free_bytes", lambda free=free: free)
            _, said, _ = run(capsys, "plan", "night.yaml", "--gpu", "RTX 3080")
            assert ("NOT ENOUGH" in said) is missing

    def test_a_picture_s_time_is_that_of_a_take(self) -> None:
        """Of ten pictures that are to be taken twice, it is a twentieth of all."""
        here = hardware.Machine((), 2, 2**34, 2**34)
        plan_ = make_plan(make_manifest([str(number) for number in range(10)]), Path("outputs"))
        (group,) = forecast.forecast([plan_], Assumptions(here, profile="cpu"), datetime.now().astimezone()).groups
        told = replace(group, seconds=GroupTime(5.0, 0.0, 1000.0, 0.0), step_s=1.0)
        each = [line for taken in (0.0, 10.0) for line in plan._group_lines(replace(told, retakes=taken))]
        said = " ".join(" ".join(each).split())
        assert "1 min 40 s a picture" in said
        assert "50.0 s a picture" in said
        assert "10 pictures and about 10 retakes" in said

    @pytest.mark.parametrize("gpu", ["RTX 3080", "H200", "T4"])
    def test_tables_take_eighty_columns(self, capsys: pytest.CaptureFixture[str], gpu: str) -> None:
        """However long names are; JSON has them whole."""
        _, said, _ = run(capsys, "plan", "night.yaml", "--gpu", gpu, "--vram", "4GiB")
        assert max(map(disp_len, said.splitlines())) <= 80
        _, said, _ = run(capsys, "plan", "night.yaml", "--gpu", gpu, "--json")
        found = json.loads(said)
        assert found["manifests"][0]["pictures"][-1]["id"].endswith("table-of-eighty-columns")

    def test_json_has_the_whole_forecast(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Every term of memory, every part of the time, what the disk needs."""
        _, said, _ = run(capsys, "plan", "night.yaml", "--gpu", "RTX 4090", "--ram", "64GiB", "--json")
        told = json.loads(said)
        forecast = told["forecast"]
        (group,) = forecast["groups"]
        assert set(group["memory"]["stages"]) == {"encode", "modulate", "denoise", "decode"}
        assert forecast["seconds"] == pytest.approx(sum(group["seconds"].values()), abs=1)
        assert forecast["disk"]["outputs_bytes"] > 0
        assert {one["refusal"] for one in told["manifests"][0]["pictures"]} == {None}

    def test_without_a_gpu_it_says_so(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A machine that cannot render the model: what is missing, and the pictures are listed all the same."""
        status, said, _ = run(capsys, "plan", "night.yaml")
        assert status == 0
        assert "needs an NVIDIA GPU" in said
        assert "square" in said

    def test_a_model_that_is_not_here_is_priced(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On this machine, with a card: bytes to download, and the packed store to the megabyte."""
        from renderer.machine import hardware  # noqa: PLC0415

        card = LocalGpu(0, "NVIDIA H200", "GPU-1", 140 * 2**30, 140 * 2**30, "580.1", (9, 0))
        monkeypatch.setattr(hardware, "look", lambda: hardware.Machine((card,), 8, 2**37, 2**37))
        _, said, _ = run(capsys, "plan", "night.yaml", "--json")
        disk = json.loads(said)["forecast"]["disk"]
        assert disk["download_bytes"] == pytest.approx(57.8e9, rel=0.01)
        assert disk["store_bytes"] == pytest.approx(28_374_598_409, rel=0.001)  # without its vision tower

    def test_a_thousand_pictures_take_under_a_second_and_no_torch(self, project: Path) -> None:
        """Forecast and all."""
        jobs = "".join(f"  - {{prompt: poster {number}, seed: {number}}}\n" for number in range(1000))
        (project / "many.yaml").write_text(f"defaults: {{model: Qwen/Qwen-Image}}\njobs:\n{jobs}", encoding="utf-8")
        script = (
            "import sys, renderer.cli.command\n"
            "status = renderer.cli.command.main(['plan', 'many.yaml', '--gpu', 'RTX 3080'])\n"
            f"sys.exit(status or 9 * any(name in sys.modules for name in {HEAVY}))\n"
        )
        took = []
        for _ in range(2):
            began = _spent_s()
            done = subprocess.run(
                [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            took.append(_spent_s() - began)
            assert done.returncode == 0, done.stderr
        assert "1000 pictures to render" in done.stdout
        assert min(took) < 1, took


def _spent_s() -> float:
    """Processor time of all children so far: the same on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class TestEstimate:
    def test_it_says_what_the_issue_asks(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Peak per stage, what dominates, whether it fits."""
        arguments = ("estimate", "--model", "Qwen/Qwen-Image", "--size", "1328x1328", "--vram", "10GiB")
        status, said, _ = run(capsys, *arguments)
        assert status == 0
        for expected in ("* encode", "modulate", "denoise", "decode", "slots", "fits   yes"):
            assert expected in said, expected
        assert max(map(len, said.splitlines())) <= 80

    def test_what_does_not_fit_says_what_would(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Exit code 3, and what would fit instead."""
        arguments = ("estimate", "--size", "2048x2048", "--vram", "4GiB", "--in-flight", "4", "--slots", "10")
        status, said, _ = run(capsys, *arguments)
        assert status == 3
        assert "fits   NO" in said
        assert "--in-flight 1 fits" in said
        enough = re.search(r"--vram ([0-9.]+GiB) would do, with 2 slots", said)
        assert enough
        for vram, slots in ((enough[1], "2"), ("4GiB", "10")):
            assert (run(capsys, *arguments, "--vram", vram, "--slots", slots)[0] == 0) is (slots == "2")

    def test_json_is_the_same_in_bytes(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Terms by stage and name; their sums are the stages'."""
        _, said, _ = run(capsys, "estimate", "--json", "--gpu", "RTX 3080")
        found: dict[str, Any] = json.loads(said)
        for stage in found["stages"].values():
            assert stage["allocated_bytes"] == sum(stage["terms"].values()) <= stage["reserved_bytes"]
        assert found["fits"] is True

    def test_a_card_with_another_memory_than_its_kind_s(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Less of it, or twice as much, as some are rebuilt."""
        for gib in (6, 20):
            _, said, _ = run(capsys, "estimate", "--json", "--gpu", "RTX 3080", "--vram", f"{gib}GiB")
            assert json.loads(said)["available_bytes"] == gib * 2**30 - CONTEXT_BYTES

    def test_stable_diffusion(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Another architecture, with and without fused attention."""
        arguments = ("estimate", "--model", "stable-diffusion-v1-5", "--size", "800x534", "--json")
        _, fused, _ = run(capsys, *arguments)
        _, plain, _ = run(capsys, *arguments, "--plain-attention")
        assert json.loads(fused)["allocated_bytes"] < json.loads(plain)["allocated_bytes"]
        _, said, _ = run(capsys, *arguments, "--gpu", "RTX 3080", "--vram", "4GiB")
        found = json.loads(said)
        assert found["available_bytes"] == 4 * 2**30 - found["context_bytes"]  # which is its own

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--gpu", "RTX 9999"], "no card 'RTX 9999'"),
            (["--size", "1000x1000"], "is not a multiple of 16"),
            (["--size", "64x64"], "smallest side"),
            (["--size", "banana"], "is not a size"),
            (["--cfg", "0.5"], "guidance is 1"),
            (["--slots", "61"], "has 60 blocks"),
            (["--model", "nope"], 'no model "nope"'),
            (["--model", "lightx2v/Qwen-Image-Lightning/4steps-V2.0"], "is a LoRA"),
            (["--model", "stable-diffusion-v1-5", "--size", "8x8"], "64 or more"),
            (["--profile", "fp8", "--precision", "bf16", "--vram", "24GiB"], "asks for bf16"),
            (["--profile", "resident"], "needs an NVIDIA GPU"),
        ],
    )
    def test_wrong_input_is_said_in_a_sentence(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
    ) -> None:
        """What cannot be asked, and what can."""
        status, out, err = run(capsys, "estimate", *arguments)
        assert status in (2, 3)
        assert said in err
        assert out == ""

    def test_an_edit_model_is_asked_of_with_a_picture(self, capsys: pytest.CaptureFixture[str]) -> None:
        """One of the same shape goes in, which is more tokens everywhere."""
        asked = ("estimate", "--size", "1024x1024", "--gpu", "H100", "--ram", "64GiB", "--slots", "3", "--json")
        edit, plain = (
            json.loads(run(capsys, *asked, "--model", model)[1])
            for model in ("Qwen/Qwen-Image-Edit-2511", "Qwen/Qwen-Image")
        )
        assert edit["title"].endswith("64 prompt tokens, one picture to edit; 3 of 60 blocks on the GPU, alone")
        assert edit["allocated_bytes"] > plain["allocated_bytes"]
        one = estimate._with_picture(Work(1024, 1024), catalog.find("Qwen/Qwen-Image-Edit-2511"))
        assert one.negative_tokens == one.prompt_tokens - 64 > 0  # the picture is in both

    @pytest.mark.parametrize(
        "arguments",
        [["--vram", "1"], ["--vram", "ten"], ["--in-flight", "0"], ["--prompt-tokens", "5000"], ["--slots", "1"]],
    )
    def test_wrong_numbers_are_the_parsers(self, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
        """A number out of bounds is told with its bounds."""
        with pytest.raises(SystemExit) as ended:
            command.main(["estimate", *arguments])
        assert ended.value.code == 2
        assert arguments[0] in capsys.readouterr().err
