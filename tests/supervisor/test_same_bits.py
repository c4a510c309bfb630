"""The demo model on real workers: who renders a picture, and what became of others, is not to be seen in it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from renderer.outputs.folder import OutputFolder
from renderer.supervisor import events, run
from renderer.supervisor.settings import Settings, StopRequests
from tests.making import make_manifest, pixels_of

WORKERS = int(os.environ.get("RENDERER_WORKERS", "2"))
"""Each costs seconds of a start; tried with 4 as well."""

BLOCKS = "memfd:renderer-blocks"

MANIFEST = make_manifest([f"a red circle number {number}" for number in range(8)])


def test_several_workers_and_a_kill_give_one_workers_bits(tmp_path: Path) -> None:
    """Several workers share a batch, and one is killed meanwhile: each picture is what one worker alone makes.

    They have one copy of the blocks between them.
    """
    killed: list[int] = []
    copies: list[int] = []
    opened: list[events.Event] = []

    def watch(what: events.Event) -> None:
        if isinstance(what, events.WorkerOpened):
            opened.append(what)
        if isinstance(what, events.PictureBegan) and len(opened) >= WORKERS and not killed:
            workers = (each for each in psutil.Process().children() if "renderer.engine.worker" in each.cmdline())
            pids = [each.pid for each in workers]
            copies.extend(Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").count(BLOCKS) for pid in pids)
            killed.append(pids[0])
            os.kill(killed[0], signal.SIGKILL)

    several = Settings(tmp_path / "several", gpus=",".join(["cpu"] * WORKERS))
    (summary,) = run.render([MANIFEST], several, watch, StopRequests())
    assert summary.rendered == 8
    assert killed
    assert min(copies) == max(copies) > 1
    assert not any(BLOCKS in str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())
    (summary,) = run.render([MANIFEST], Settings(tmp_path / "one"), lambda _: None, StopRequests())
    folders = [OutputFolder(tmp_path / name / MANIFEST.name) for name in ("several", "one")]
    for picture in MANIFEST.pictures:
        there, here = (pixels_of(folder.picture(picture.output)) for folder in folders)
        assert there == here, picture.id
