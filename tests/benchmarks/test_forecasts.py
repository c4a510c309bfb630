"""`renderer bench memory`: its parts on the demo model and the CPU, its tables on figures as a GPU has them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from renderer.benchmarks import bare, cases, forecasts, input_peaks, peaks, running, streamed, times, verdicts
from renderer.benchmarks.cases import BatchCase, CappedCase, NativeCase
from renderer.benchmarks.cells import WITH_INPUTS, cell, table
from renderer.benchmarks.input_cases import INPUT_CASES, InputCase
from renderer.cli import command as cli
from renderer.engine import stores
from renderer.errors import EXIT_USAGE, MachineError, OutOfMemoryError, PictureError, UsageError
from renderer.protocol import Setup
from tests.estimate import cells

SMALL = (128, 128, 4.0)
GIB = 2**30


@pytest.fixture(scope="module")
def store() -> Path:
    return stores.find(Setup(model="demo", precision="bf16", profile="stream"), lambda _: None).folder


@pytest.fixture(scope="module")
def capped(store: Path) -> verdicts.Capped:
    return verdicts.Capped(store, 24 * GIB, warm=SMALL)


class TestCases:
    def test_every_case_has_a_name_of_its_own(self) -> None:
        """What is kept is kept by name: no two cases may share one."""
        listed = [name for groups in cases.PROCESSES.values() for names in groups for name in names]
        assert len(listed) == len(set(listed)) == len(cases.CASES)

    def test_there_are_as_many_as_are_asked_for(self) -> None:
        """At least sixty cells at 2, 3, 10 and 60 slots and by profiles, forty verdicts under the seven caps."""
        processes = cases.PROCESSES
        assert sum(map(len, processes["cells"])) + sum(map(len, processes["native"])) >= 60
        assert sum(map(len, processes["verdicts"])) >= 40
        assert {case.cap_gib for case in cases.CASES.values() if isinstance(case, CappedCase)} == {
            *(4, 6, 8, 10, 12, 16, 24)
        }
        assert {case.slots for case in cases.CASES.values() if isinstance(case, BatchCase)} == {2, 3, 10, 60}


class TestPeaks:
    def test_cells_are_measured(self, store: Path) -> None:
        """Alone and in company, each through the first one's slots; rows have the table's fields."""
        wanted = [BatchCase(2, (SMALL,)), BatchCase(2, (SMALL,) * 2), BatchCase(2, (SMALL, (192, 128, 1.0)), copies=2)]
        alone, pair, mixed = peaks.stream(store, wanted, warm=SMALL)
        fields = json.loads(cells.FILE.read_text(encoding="utf-8").splitlines()[0]).keys() - {"vae_bytes"}
        assert fields <= alone.keys()
        assert [row["case"] for row in (alone, pair, mixed)] == [each.name for each in wanted]
        assert (pair["jobs"], pair["in_flight"]) == ([list(SMALL)], 2)
        assert (len(mixed["jobs"]), mixed["in_flight"], round(mixed["mean_in_flight"])) == (2, 2, 2)
        assert mixed["prompt_tokens"] > 2 * alone["prompt_tokens"] - 2
        assert len(alone["prompts"]) == 2
        assert 0 in alone["prompts"]
        json.dumps([alone, pair, mixed])

    def test_nothing_is_measured_on_top_of_a_leak(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A cell that leaves memory behind is the process's last, and its row says how much."""
        device = iter([GIB, GIB + 64 * 2**20])
        monkeypatch.setattr(bare, "allocated", lambda: next(device))
        rows = [*peaks.stream(store, [BatchCase(2, (SMALL,), steps=2)] * 3, warm=SMALL)]
        assert [row["left_bytes"] for row in rows] == [64 * 2**20]

    def test_a_profile_is_measured(self, store: Path) -> None:
        """DiffSynth's own pipeline, opened from the store; the row has the fields of the table's."""
        (row,) = peaks.native(store, [NativeCase("cpu", None, SMALL)])
        fields = json.loads(cells.FILE.read_text(encoding="utf-8").splitlines()[-1]).keys()
        assert fields <= row.keys()
        assert (row["profile"], row["jobs"], row["vram_limit_bytes"]) == ("cpu", [list(SMALL)], None)

    def test_stages_keep_their_highest(self) -> None:
        """A stage's peaks are the highest of its notes, tensors and what was taken each for itself."""
        stages = peaks.Stages()
        stages.add(5, 8)
        stages.begin("denoise")
        stages.add(3, 9)
        stages.add(4, 7)
        assert stages.peaks["encode"] == (5, 8)
        assert stages.peaks["denoise"] == (4, 9)

    def test_a_decode_is_heard_before_it_happens_and_only_once(self) -> None:
        """The network is as it was when the cell is over."""
        network, heard = torch.nn.Identity(), list[str]()
        with peaks._told(network, "extra_repr", lambda: heard.append("now")):
            network.extra_repr()
        network.extra_repr()
        assert heard == ["now"]


class TestVerdicts:
    def test_a_forced_case_has_what_was_forced(self, capped: verdicts.Capped) -> None:
        """Slots and pictures in flight are as chosen, and its room is given back for the next."""
        row = capped.judge(CappedCase(24, 2, 128, pictures=3))
        assert (row["slots"], row["in_flight"], row["pictures"]) == (2, 3, 3)
        assert (row["verdict"], row["rendered"], row["right"], row["error"], row["short"]) == (True, True, True, "", "")
        assert row["left_bytes"] == 0
        again = capped.judge(CappedCase(24, 4, 192, copies=9))
        assert (again["slots"], again["in_flight"], again["error"]) == (4, 1, "")
        assert again["prompt_tokens"] > row["prompt_tokens"]

    def test_no_verdict_is_measured_on_top_of_a_leak(
        self, capped: verdicts.Capped, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A case that leaves memory behind has its own verdict, and is the process's last."""
        monkeypatch.setattr(bare, "allocated", lambda: 9 * 2**20)
        rows = [*verdicts.judged(capped, [CappedCase(24, 2, 128)] * 2)]
        assert [(row["right"], row["left_bytes"]) for row in rows] == [(True, 9 * 2**20)]

    def test_what_is_planned_renders_unchanged(self, capped: verdicts.Capped, monkeypatch: pytest.MonkeyPatch) -> None:
        """The plan's own decision for a mixed batch, through the plan's functions."""
        monkeypatch.setattr(verdicts, "MIXED_SHAPES", (SMALL, (192, 128, 1.0)))
        row = capped.judge(CappedCase(24))
        assert (row["pictures"], row["right"], row["error"], row["refused"]) == (2, True, "", 0)

    def test_a_case_that_breaks_is_no_verdict_and_spoils_no_other(
        self, capped: verdicts.Capped, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Something else than memory is an error of the measurement; the next case is whole again."""

        def broken(*_: Any, **__: Any) -> None:
            raise ValueError("a defect")

        with monkeypatch.context() as patch:
            patch.setattr("renderer.engine.calling._rgb", broken)
            row = capped.judge(CappedCase(24, 2, 128))
        assert row["right"] is None
        assert "a defect" in row["error"]
        assert capped.judge(CappedCase(24, 2, 128))["right"] is True

    def test_memory_that_runs_out_is_told(self, capped: verdicts.Capped, monkeypatch: pytest.MonkeyPatch) -> None:
        """Slots that find no room are out of memory, which is what a refusal foretells."""

        def full(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

        with monkeypatch.context() as patch:
            patch.setattr("renderer.benchmarks.bare.Slots", full)
            row = capped.judge(CappedCase(24, 2, 128))
        assert (row["rendered"], row["right"], row["error"]) == (False, False, "")
        assert "CUDA out of memory" in row["short"]
        assert capped.judge(CappedCase(24, 2, 128))["right"] is True

    @pytest.mark.parametrize(
        ("raised", "short", "error"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), True, False),
            (OutOfMemoryError("the picture did not fit into memory: CUDA out of memory"), True, False),
            (OutOfMemoryError("the picture did not fit into memory: DefaultCPUAllocator: no"), False, True),
            (MemoryError(), False, True),
            (PictureError("ValueError: no"), False, True),
            (RuntimeError("CUDA error: an illegal access"), False, True),
        ],
    )
    def test_what_failed_is_told_apart(self, raised: Exception, short: bool, error: bool) -> None:  # noqa: FBT001
        """The GPU's memory is a verdict's business; the host's, or any defect, is an error of the measurement."""
        outcome = verdicts.outcome_of((), verdicts.Attempt(), raised)
        assert (bool(outcome.short), bool(outcome.error)) == (short, error)
        assert outcome.right(verdict=False) is (None if error else True)
        assert outcome.right(verdict=True) is (None if error else False)

    def test_what_was_forced_must_have_happened(self, store: Path) -> None:
        """A case that rendered with other slots than it was told to says nothing of what was forced."""
        engine = streamed.open_engine(store, slots=2, in_flight=1)
        job = streamed.job_of(engine.setup, *SMALL, 2, 1)
        tell = verdicts.Attempt()
        engine.take("0", job)
        while engine.busy:
            engine.advance(tell)
        assert verdicts.outcome_of([job], tell, forced=(2, 1)).rendered
        assert "not 3 and 1" in verdicts.outcome_of([job], tell, forced=(3, 1)).error
        assert "neither" in verdicts.outcome_of([job, job], tell).error


class TestTimes:
    def test_a_batch_is_forecast_before_and_on_its_way(self, tmp_path: Path) -> None:
        """By the plan, and by the run itself when five pictures are done."""
        manifest = (
            "defaults: {model: demo, precision: bf16, steps: 12, seed: 1}\n"
            "jobs: [{prompt: a, size: 256x256, count: 40}]"
        )
        whole, rest = times.measure(tmp_path, {**os.environ}, manifest)
        assert ([whole["case"], rest["case"]], whole["pictures"]) == ([*times.TIME_CASES], 40)
        assert 1 <= rest["pictures"] <= 35
        assert 0 < rest["took_s"] < whole["took_s"]
        assert rest["took_s"] / 2 < rest["forecast_s"] < rest["took_s"] * 2
        told = "\n".join(forecasts.lines({"rows": {row["case"]: [row] for row in (whole, rest)}}))
        assert f"| {rest['pictures']} | {rest['forecast_s']:.1f} | {rest['took_s']:.1f} |" in told


class TestOrchestration:
    def test_what_is_measured_is_not_measured_again(self, tmp_path: Path) -> None:
        """A folder with figures in it gives them back, and their cells as lines; an unknown part is refused by name."""
        rows = {name: [{"case": name, "stages": {}}] for names in cases.PROCESSES["native"] for name in names}
        (tmp_path / "memory.json").write_text(json.dumps({"rows": rows}))
        assert forecasts.measure(tmp_path, tmp_path, ["native"])["rows"] == rows
        assert len((tmp_path / "memory.jsonl").read_text().splitlines()) == len(rows)
        with pytest.raises(UsageError, match="no part nonsense"):
            forecasts.measure(tmp_path, tmp_path, ["nonsense"])

    def test_what_is_missing_is_measured_by_processes_of_its_own(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One cell and one verdict are missing: the command measures them, keeps them, and has them in its tables."""
        missing = ["3 slots, 1 of 512x512", "cap 4 GiB, 34 slots, 4 of 512x512"]
        processes = [*cases.PROCESSES["cells"], *cases.PROCESSES["verdicts"]]
        there = [name for names in processes for name in names if name not in missing]
        (tmp_path / "memory.json").write_text(json.dumps({"rows": {name: [] for name in there}}))
        (tmp_path / "fp8").symlink_to(
            stores.find(Setup(model="demo", precision="fp8", profile="stream"), lambda _: None).folder
        )
        command = ["bench", "memory", "--folder", str(tmp_path), "--part", "cells", "--part", "verdicts"]
        assert cli.main([*command, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert [rows[name][0]["slots"] for name in missing] == [3, 5]
        assert json.loads((tmp_path / "memory.jsonl").read_text())["case"] == missing[0]
        (line,) = map(json.loads, (tmp_path / "verdicts.jsonl").read_text().splitlines())
        assert line["case"] == missing[1]
        assert not line.keys() & {"verdict", "right", "least_bytes"}  # which the arithmetic of today says anew
        assert cli.main(command) == 0
        told = capsys.readouterr().out
        assert "1 cells have no figures of memory" in told
        assert "1 of 1 verdicts were right" in told

    def test_a_process_that_ends_early_has_a_successor(self) -> None:
        """A case that leaves memory behind ends its process: the others are measured by another."""
        asked: list[list[str]] = []

        def one(left: Sequence[str]) -> list[running.Figures]:
            asked.append([*left])
            return [{"case": left[0]}]

        found: running.Figures = {"rows": {"b": [{}]}}
        assert [row["case"] for row in running.in_processes(found, ["a", "b", "c"], one)] == ["a", "c"]
        assert asked == [["a", "c"], ["c"]]
        with pytest.raises(MachineError, match="a gave no figures"):
            list(running.in_processes(found, ["a"], lambda _: []))

    def test_a_folder_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        """Before 58 GB are written somewhere else."""
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="cannot be made"):
            forecasts.measure(tmp_path, tmp_path / "file" / "stores", ["native"])

    def test_rows_are_kept_as_they_come(self, tmp_path: Path) -> None:
        """A run that breaks off has what it had measured."""
        found: running.Figures = {"rows": {}, "machine": {"gpu": ["a card"]}}

        def rows() -> Any:
            yield {"case": "a"}
            raise MachineError("broken")

        with pytest.raises(MachineError, match="broken"):
            running.keep(tmp_path / "memory.json", found, rows())
        assert running.read(tmp_path / "memory.json")["rows"] == {"a": [{"case": "a"}]}

    def test_the_command_is_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """`renderer bench memory` goes to this room, and says which parts there are."""
        assert cli.main(["bench", "memory", "--folder", str(tmp_path), "--part", "nonsense"]) == EXIT_USAGE
        assert "known: cells, native, verdicts, inputs, times" in capsys.readouterr().err

    @pytest.mark.parametrize("what", ["engine", "memory"])
    def test_all_parts_are_measured_where_none_is_named(
        self, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As documents have the command: it goes as far as a folder that cannot be made."""
        (tmp_path / "file").touch()
        assert cli.main(["bench", what, "--folder", str(tmp_path / "file" / "folder")]) == EXIT_USAGE
        assert "cannot be made" in capsys.readouterr().err


class TestTables:
    def test_cells_stand_beside_their_forecast(self) -> None:
        """The committed cells as this command would have them: the same rows, and their errors summed up."""
        committed = [json.loads(line) for line in cells.FILE.read_text(encoding="utf-8").splitlines()[:3]]
        names = cases.PROCESSES["cells"][0]
        rows = {name: [{"case": name, "left_bytes": 0, **row}] for name, row in zip(names, committed, strict=False)}
        told = forecasts.lines({"rows": rows})
        assert told[2:5] == [*table(map(cell, committed))][2:]
        assert told[6].startswith("- Tensors: 3 cells, median error 0.")
        rows[names[0]][0] |= {"adjustments": ["2 slots"], "left_bytes": 64 * 2**20}
        told = forecasts.lines({"rows": rows})
        assert f"- {names[0]}: rendered with 2 slots, and is in no table." in told
        assert any(line.startswith("- Tensors: 2 cells") for line in told)
        assert f"- {names[0]}: left 64 MiB behind; a new process went on." in told
        rows[names[0]][0]["stages"] = {}
        assert "- 1 cells have no figures of memory: there was no GPU." in forecasts.lines({"rows": rows})

    @pytest.mark.parametrize("file", sorted(cells.BENCHMARKS.glob("time-*.jsonl")), ids=lambda file: file.stem)
    def test_the_committed_seconds_are_of_the_committed_rows(self, file: Path) -> None:
        """What `renderer bench memory` makes of a batch's rows stands in the document of their name."""
        rows = [*map(json.loads, file.read_text(encoding="utf-8").splitlines())]
        assert "\n".join(forecasts.time_lines(rows)) in file.with_suffix(".md").read_text(encoding="utf-8")

    def test_verdicts_are_counted(self) -> None:
        """Right ones of those that are verdicts; what failed for another reason is counted apart."""
        names = cases.PROCESSES["verdicts"][0]
        plain: running.Figures = {"short": "", "error": "", "left_bytes": 0}
        plain |= {"reserved_bytes": 2 * GIB, "allowed_bytes": 3 * GIB}
        kinds: list[running.Figures] = [
            {"verdict": True, "right": True},
            {"verdict": True, "right": False, "short": "OutOfMemoryError: no", "least_bytes": GIB},
            {"verdict": False, "right": None, "error": "PictureError: no", "left_bytes": 9 * 2**20},
        ]
        rows = {name: [{"case": name, **plain, **kind}] for name, kind in zip(names, kinds, strict=False)}
        told = "\n".join(forecasts.lines({"rows": rows}))
        assert f"| {names[0]} |  | 3.00 | fits | rendered | 2.00 | right |" in told
        assert f"| {names[1]} | 1.00 | 3.00 | fits | OutOfMemoryError: no | 2.00 | **WRONG** |" in told
        assert "| does not fit | PictureError: no | 2.00 | **no verdict** |" in told
        assert "- 1 of 2 verdicts were right." in told
        assert "- 1 cases failed for another reason than memory" in told
        assert f"- {names[2]}: left 9 MiB behind" in told


class TestInputs:
    """Cells with pictures that go in, on the demo models."""

    def test_there_are_enough(self) -> None:
        """At least thirty, each with a name of its own."""
        names = [case.name for group in INPUT_CASES for case in group]
        assert len(names) == len(set(names)) >= 30

    def test_edits_are_measured(self) -> None:
        store = stores.find(Setup(model="demo-edit", precision="bf16", profile="stream"), lambda _: None).folder
        small = InputCase(2, (64, 64), edited=((64, 64),), guidance=1.0, steps=2)
        alone, pair = input_peaks.measured(store, [small, replace(small, company=2)], warm=(64, 64))
        assert (alone["in_flight"], pair["in_flight"]) == (1, 2)
        assert pair["works"][0]["split"]
        assert pair["works"][0]["prompt_tokens"] > 196

    def test_what_holds_a_picture_is_measured(self, store: Path, tmp_path: Path) -> None:
        """And its row, with peaks as a GPU has them, is a row of the table."""
        own = shutil.copytree(store, tmp_path / "bf16")
        case = InputCase(2, (64, 64), drawn_over=True, masked=True, nets=1, regions=1, context=True, steps=2)
        (row,) = input_peaks.measured(own, [case], warm=(64, 64))
        (work,) = row["works"]
        assert (work["takes_in"], work["controls"], work["context"], work["region_tokens"] > 0) == (True, 1, True, True)
        assert row["ridden_bytes"] > 0
        found = cell(json.loads(json.dumps({**row, "stages": {"encode": (2**30, 2**30), "denoise": (GIB, GIB)}})))
        without = cell({**row, "ridden_bytes": 0, "stages": {"denoise": (GIB, GIB)}})
        assert found.allocated[0] - without.allocated[0] >= row["ridden_bytes"]
        assert next(line for line in table([found], WITH_INPUTS) if "64x64" in line).startswith(
            "| bf16 | 2 slots | 1 of 64x64 | drawn over, masked, 1 ControlNets, 1 regions, context |"
        )
