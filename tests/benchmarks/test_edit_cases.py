"""What an edit's step takes, on the demo model: what is measured at full size runs through the same."""

from __future__ import annotations

import shutil
from pathlib import Path

from renderer.benchmarks import edit_cases, edit_steps
from renderer.engine import stores
from renderer.protocol import Setup


def test_an_edit_beside_as_many_tokens_from_text(tmp_path: Path) -> None:
    """The table says how many times as long a token takes; the store that was linked to is as it was."""
    setup = Setup(model="demo", precision="bf16", profile="stream")
    store = shutil.copytree(stores.find(setup, lambda _: None).folder, tmp_path / "bf16")
    index = (store / "index.json").read_bytes()
    rows = []
    for name, case in edit_cases.SMALL_EDITS.items():
        (found,) = edit_steps.measured(store, [case])
        rows.append({"case": name, **found, "reserved_bytes": 2**30})
    assert rows[0]["tokens"] - rows[0]["text_tokens"] == rows[1]["tokens"] - rows[1]["text_tokens"] == 272
    assert rows[0]["text_tokens"] > 196
    told = list(edit_cases.lines(rows))
    assert told[2].startswith(f"| edits-demo | {rows[0]['tokens']} | 2 | {rows[0]['step_s']:.3f} | ")
    assert (store / "index.json").read_bytes() == index
