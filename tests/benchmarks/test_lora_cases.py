"""What LoRAs add to a step, on the demo model: what is measured at full size runs through the same."""

from __future__ import annotations

from renderer import catalog
from renderer.benchmarks import lora_cases, lora_steps
from renderer.engine import stores
from renderer.protocol import Setup
from renderer.weights.adapters.targets import targets_of


def test_each_picture_has_its_own() -> None:
    """Two pictures with a LoRA each, beside the same without; the table says how many times as long a step takes."""
    store = stores.find(Setup(model="demo", precision="bf16", profile="stream"), lambda _: None).folder
    rows = [{"case": name, **lora_steps.measure(store, case)} for name, case in lora_cases.DEMO_CASES.items()]
    assert [row["loras"] for row in rows] == [0, 2]
    assert all(row["step_s"] > 0 and row["pictures_per_hour"] > 0 for row in rows)
    told = list(lora_cases.lines([{**row, "reserved_bytes": 2**30 * (1 + row["loras"])} for row in rows]))
    times = rows[1]["step_s"] / rows[0]["step_s"]
    assert told[3].startswith(
        f"| loras-demo-each | 64² | 2 | 2 | {rows[1]['step_s']:.3f} | {times:.3f} | 3.00 | +2.00 |"
    )


def test_a_random_one_is_on_all_layers() -> None:
    """Of rank 64, on each layer of a block, with other numbers for another seed."""
    targets = targets_of(catalog.find("demo"))
    one, other = (lora_steps.RandomAdapter(targets, seed).block("transformer", 3) for seed in (1, 2))
    assert one.keys() == other.keys()
    assert len(one) == 14
    for name, (down, up) in one.items():
        assert (up.shape[0], down.shape[1]) == targets.weights[f"transformer_blocks.3.{name}"]
        assert down.shape[0] == up.shape[1] == lora_steps.RANK
        assert not (other[name][0] == down).all()
