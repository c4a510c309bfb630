"""`renderer render` where a model is not here yet: it is fetched, or what is missing is said."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from renderer.weights import needs
from renderer.weights.needs import Need
from tests.hub import run

QWEN = "Qwen/Qwen-Image"


class TestRender:
    def test_it_fetches_by_itself(self, machine: Mapping[str, str], tmp_path: Path) -> None:
        """`render` says what a missing model costs, fetches it, and renders."""
        manifest = tmp_path / "m.yaml"
        manifest.write_text(
            f"defaults: {{model: {QWEN}, precision: bf16, size: 256x256, steps: 2, cfg_scale: 1}}\njobs: [a]\n"
        )
        command = ["-m", "renderer", "render", str(manifest), "--outputs", str(tmp_path / "out"), "--profile", "cpu"]
        done = run(command, machine, timeout_s=120)
        assert done.returncode == 0, done.stderr
        assert f"{QWEN} is not all here" in done.stderr
        assert "to download from huggingface" in done.stderr
        assert needs.is_met(Need(model=QWEN))

    def test_offline(self, machine: Mapping[str, str], tmp_path: Path) -> None:
        """`--offline` ends with exit code 3 and the names of what is missing."""
        manifest = tmp_path / "m.yaml"
        manifest.write_text(f"defaults: {{model: {QWEN}, size: 256x256}}\njobs: [a]\n")
        command = ["render", str(manifest), "--outputs", str(tmp_path / "out"), "--profile", "cpu", "--offline"]
        done = run(["-m", "renderer", *command], machine)
        assert done.returncode == 3
        assert "lacks transformer/" in done.stderr

    def test_a_folder_is_nobody_s_to_fetch(self, machine: Mapping[str, str], demo_folder: Path, tmp_path: Path) -> None:
        """A local folder needs nothing from a hub, whole or not."""
        assert machine
        copy = shutil.copytree(demo_folder, tmp_path / "copy")
        assert needs.is_met(Need(model=str(copy)))
        assert not needs.is_met(Need(model=str(copy), store="fp8"))
