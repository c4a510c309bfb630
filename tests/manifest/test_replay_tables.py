"""Pictures as a table that renders them again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from renderer.cli import command
from renderer.manifest import choices, replay_tables
from renderer.manifest.manifest import load
from tests.manifest.replaying import again, entries_of, foreign
from tests.nights import make_night


class TestTables:
    def test_a_table_makes_the_same_jobs(self, tmp_path: Path) -> None:
        """CSV and JSON lines, of prompts with quotes, breaks, braces and choices; LoRAs and schedules as JSON."""
        jobs = [
            {"prompt": 'a "b", c;\n{{d|e}} {f} \\', "seed": 2**63 - 1, "negative_prompt": "x|y", "cfg_scale": 1.25},
            {"prompt": "a", "loras": [{"id": "demo/4steps", "weight": 0.5}], "steps": 4, "cfg_scale": 1},
            {"prompt": "\u732b", "schedule": {"shift": 2.5}, "seed": 7},
        ]
        escaped = [{**job, "prompt": choices.escape(str(job["prompt"]))} for job in jobs]
        (tmp_path / "m.json").write_text(json.dumps({"defaults": {"model": "demo", "size": "64x64"}, "jobs": escaped}))
        manifest = load(tmp_path / "m.json")
        assert manifest.pictures[0].job.prompt == jobs[0]["prompt"]
        make_night(manifest, tmp_path / "out")
        entries = entries_of(*(tmp_path / f"out/m/00{number}.png" for number in (1, 2, 3)))
        assert again(tmp_path, entries) == [picture.job for picture in manifest.pictures]

    def test_what_csv_cannot_hold_is_said(self, tmp_path: Path) -> None:
        """JSON lines hold it."""
        (entry,) = entries_of(foreign(tmp_path))
        for prompt in (" a cat", "a\u2028cat"):
            odd = replace(entry, fields={**entry.fields, "prompt": prompt})
            assert replay_tables.lost(odd, "csv")
            (tmp_path / "a.jsonl").write_text(replay_tables.write([odd], "jsonl"), encoding="utf-8")
            assert load(tmp_path / "a.jsonl").pictures[0].job.prompt == prompt

    def test_it_is_printed_for_render(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing but the table stands in it."""
        assert command.main(["replay", str(foreign(tmp_path)), "--table", "csv"]) == 0
        said = capsys.readouterr()
        assert said.out.startswith("id,prompt,")
        assert "foreign: left out: LoRA x at 1" in said.err
