"""Several supervisors at one manifest in one folder: none lost, none twice, whoever is killed, stopped or late.

RENDERER_SHARED sets how many pictures (96 in CI; tried by hand with 10,000).
"""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from renderer.cli.command import main
from renderer.errors import EXIT_USAGE, LeaseLostError, UsageError
from renderer.manifest.manifest import Manifest
from renderer.outputs.folder import OutputFolder
from renderer.outputs.journal import JournalEntry
from renderer.outputs.summary import Summary
from renderer.planning import plan, sharding
from renderer.protocol import Open
from renderer.supervisor import events, local_worker, merging, run
from renderer.supervisor.settings import Settings, StopRequests
from renderer.supervisor.sharing import leases_in
from renderer.supervisor.worker import Gone, Heard
from renderer.system.leases import Leases
from tests.driving import ROOT, write_manifest
from tests.fakes import InlineWorker, draw
from tests.making import make_manifest, pixels_of
from tests.supervisor.test_several import mixed
from tests.waiting import freeze

PICTURES = int(os.environ.get("RENDERER_SHARED", "96"))
STALE_S = 0.6
MANIFEST = make_manifest([f"picture {number}" for number in range(PICTURES)])
SMALL = make_manifest([f"picture {number}" for number in range(12)])


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands in this folder have the fakes' workers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where they find the fakes
    monkeypatch.setattr(local_worker, "WORKER_COMMAND", (sys.executable, "-m", "tests.fakes"))


def settings(outputs: Path, **changes: object) -> Settings:
    told = {"outputs": outputs, "hire": InlineWorker, "stale_s": STALE_S, **changes}
    return Settings(**told)  # type: ignore[arg-type]


def share(outputs: Path, manifest: Manifest = MANIFEST, count: int = 8, **changes: object) -> list[Summary]:
    """One supervisor's run, to its end."""
    parts = sharding.share(manifest, count, outputs)
    heard: list[events.Event] = []
    return run.render(parts, settings(outputs, **changes), heard.append, StopRequests())


def forked(outputs: Path, count: int = 8, gpus: str = "cpu,cpu,cpu,cpu") -> int:
    """Another supervisor, with four workers; its process."""
    child = os.fork()
    if child == 0:
        status = 9
        try:
            found = share(outputs, count=count, gpus=gpus)
            status = 0 if all(each.is_all_there for each in found) else 1
        finally:
            os._exit(status)
    return child


def check(outputs: Path, manifest: Manifest = MANIFEST) -> None:
    """Every picture is there and right, and none was begun again once it was done; all come into the whole's folder.

    A kill may come between a picture and its line in the journal: sidecars say what is done.
    """
    done: set[str] = set()
    for part in sharding.folders(manifest, outputs):
        lines = part.journal.read_bytes().splitlines()
        for entry in map(JournalEntry.model_validate_json, lines):
            assert entry.id not in done, entry
            done |= {entry.id} if entry.what == "done" else set()
    assert len(done) > 0.9 * len(manifest.pictures)
    found = merging.merge(manifest, outputs)
    assert (found.moved, found.held) == (len(manifest.pictures), ())
    folder = OutputFolder(outputs / manifest.name)
    for picture in manifest.pictures:
        assert pixels_of(folder.picture(picture.output)) == draw(picture.job)


@pytest.mark.timeout(3600)
def test_two_at_once_and_kills(tmp_path: Path) -> None:
    """Two supervisors with four workers each, killed again and again: the others go on with what they had."""
    dice = random.Random(20261126)  # noqa: S311
    children = [forked(tmp_path), forked(tmp_path)]
    for _ in range(3):
        time.sleep(dice.uniform(0.05, 0.3))
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)
        children = [children[1], forked(tmp_path)]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    check(tmp_path)


def test_weights_are_opened_as_often_as_needed_and_no_more(tmp_path: Path) -> None:
    """One supervisor goes through all parts of a model before it opens the next."""
    opened: list[str] = []

    class Noting(InlineWorker):
        def send(self, order: object, payload: bytes = b"") -> None:
            if isinstance(order, Open):
                opened.append(order.setup.precision)
            super().send(order, payload)  # type: ignore[arg-type]

    manifest = mixed(("bf16", 12), ("fp8", 12))
    found = share(tmp_path, manifest, 4, hire=Noting)
    assert sum(each.rendered for each in found) == 24
    assert sorted(opened) == ["bf16", "fp8"]
    assert sum(each.rendered for each in share(tmp_path, manifest, 4)) == 0


class Paused:
    """A supervisor that is stopped with a picture in its hands, and wakes when it is told."""

    def __init__(self, outputs: Path) -> None:
        ready, self._ready = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 9
            try:
                status = self._run(outputs)
            finally:
                os._exit(status)
        os.close(self._ready)
        os.read(ready, 1)
        os.close(ready)
        freeze(self.pid)

    def _run(self, outputs: Path) -> int:
        ready = self._ready

        class Slow(InlineWorker):
            def hear(self, timeout_s: float) -> Heard | None:
                heard = super().hear(timeout_s)
                if heard is not None and not isinstance(heard[0], Gone) and heard[0].event == "rendered":
                    os.write(ready, b"!")
                    time.sleep(0.3)
                return heard

        remarks: list[str] = []

        def watch(what: events.Event) -> None:
            if isinstance(what, events.Remark):
                remarks.append(what.text)

        parts = sharding.share(SMALL, 1, outputs)
        found = run.render(parts, settings(outputs, hire=Slow), watch, StopRequests())
        thrown = sum("thrown away" in each for each in remarks)
        return 10 * thrown + sum(each.rendered for each in found)

    def wakes(self) -> int:
        os.kill(self.pid, signal.SIGCONT)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_one_that_was_stopped_throws_its_pictures_away(tmp_path: Path) -> None:
    """Its lease was taken over meanwhile, and all is rendered: when it wakes, it writes nothing, and ends well."""
    paused = Paused(tmp_path)
    found = share(tmp_path, SMALL, count=1)
    assert sum(each.rendered for each in found) == len(SMALL.pictures)
    assert paused.wakes() == 10
    check(tmp_path, SMALL)
    assert LeaseLostError.exit_code == 75


def test_a_part_goes_on_when_the_file_server_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it did not answer, nobody knew whose the part is: what was in flight is thrown away, and comes later."""
    passed, away = Leases.is_passed, [True]

    def is_passed(self: Leases, name: str, number: int) -> bool:
        if away and next(tmp_path.rglob("p*.json"), None) is not None:
            away.clear()
            raise TimeoutError(errno.ETIMEDOUT, "no answer")
        return passed(self, name, number)

    monkeypatch.setattr(Leases, "is_passed", is_passed)
    found = share(tmp_path, SMALL, count=1, stale_s=60.0)
    assert not away
    assert [each.ending for each in found] == ["complete"]
    check(tmp_path, SMALL)


def test_who_comes_late_waits_and_takes_over(tmp_path: Path) -> None:
    """All parts are at others, who die: it waits until their leases are stale, and asked to stop it goes at once."""
    held = leases_in(tmp_path, STALE_S)
    parts = sharding.share(SMALL, 2, tmp_path)
    leases = [held.claim(part.name) for part in parts]
    stop, heard = StopRequests(), []

    def watch(what: events.Event) -> None:
        heard.append(what)
        if isinstance(what, events.Tick):
            stop.request()

    found = run.render(parts, settings(tmp_path), watch, stop)
    assert {each.ending for each in found} == {"signal"}
    assert "others are at 2 parts" in next(each.text for each in heard if isinstance(each, events.Remark))
    for lease in leases:
        assert lease is not None
        lease.release()
    assert sum(each.rendered for each in share(tmp_path, SMALL, count=2)) == len(SMALL.pictures)
    check(tmp_path, SMALL)


def test_what_failed_is_tried_by_each_once_and_waited_for_by_none(tmp_path: Path) -> None:
    """A part with a picture that fails everywhere is over all the same."""
    manifest = make_manifest(["a", "fail", "b"])
    for rendered in (2, 0):
        found = share(tmp_path, manifest, 2, retries=0)
        assert (sum(each.rendered for each in found), sum(each.failed for each in found)) == (rendered, 1)


@pytest.mark.usefixtures("fakes")
def test_another_number_of_parts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pictures would be rendered twice; once all is merged, nobody minds."""
    name = write_manifest(tmp_path, "a", "b")
    assert main(["render", name, "--share", "3", "--log-format", "plain"]) == 0
    assert main(["render", name, "--share", "4", "--log-format", "plain"]) == EXIT_USAGE
    assert "m is cut into 3 parts already" in capsys.readouterr().err
    assert main(["render", name, "--share", "3", "--force"]) == EXIT_USAGE
    (tmp_path / "auto.yaml").write_text("jobs: [{prompt: a, precision: auto, model: Qwen/Qwen-Image}]\n")
    assert main(["render", "auto.yaml", "--share", "3"]) == EXIT_USAGE
    assert "each machine would choose its own precision" in capsys.readouterr().err
    assert main(["render", name, "--share", "3", "--shard", "1/3"]) == EXIT_USAGE
    assert main(["status", name, "--share", "3"]) == 0
    assert main(["merge", name]) == 0
    assert main(["render", name, "--share", "4", "--log-format", "plain"]) == 0


def test_who_finds_another_number_of_parts_agreed_ends(tmp_path: Path) -> None:
    """All was merged while nobody held a part, and somebody has begun anew: to go on would render pictures twice."""
    leases, parts = leases_in(tmp_path), sharding.share(SMALL, 3, tmp_path)

    def watch(what: events.Event) -> None:
        if isinstance(what, events.BatchEnded):
            leases.forget("test.parts")
            assert leases.agree("test.parts", "4") == "4"

    with pytest.raises(UsageError, match="test is cut into 4 parts already"):
        run.render(parts, settings(tmp_path), watch, StopRequests())
    assert len(list(tmp_path.glob("test-share-*/p*.png"))) < len(SMALL.pictures)


def test_a_part_that_somebody_has_is_not_merged(tmp_path: Path) -> None:
    """It is named, and the others come; until it has come too, nobody may cut the manifest otherwise."""
    share(tmp_path, SMALL, count=2)
    parts = sharding.share(SMALL, 2, tmp_path)
    lease = leases_in(tmp_path).claim(parts[0].name)
    assert lease is not None
    assert merging.merge(SMALL, tmp_path).held == (parts[0].name,)
    assert leases_in(tmp_path).agree(f"{SMALL.name}.parts", "9") == "2"
    lease.release()
    assert merging.merge(SMALL, tmp_path).held == ()
    assert leases_in(tmp_path).agree(f"{SMALL.name}.parts", "9") == "9"


@pytest.mark.usefixtures("fakes")
def test_a_manifest_that_is_named_like_a_part_is_none(tmp_path: Path) -> None:
    """Its pictures stay where they are, though their jobs are the same."""
    whole, own = write_manifest(tmp_path, "a", "b"), write_manifest(tmp_path, "a", "b", name="m-shard-1-of-2")
    for name in (whole, own):
        assert main(["render", name, "--only", "001", "--log-format", "plain"]) == 0
    (tmp_path / "outputs/m/001.json").unlink()
    main(["merge", whole])
    assert (tmp_path / "outputs/m-shard-1-of-2/001.json").exists()


def test_asked_to_stop_while_it_plans_it_says_so_of_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part is anybody's yet: nothing is written, and the run ends as any that was stopped."""
    monkeypatch.setattr(plan, "_AT_A_TIME", 2)  # then it looks whether somebody has asked
    stop, parts = StopRequests(), sharding.share(SMALL, 2, tmp_path)
    stop.request()
    found = run.render(parts, settings(tmp_path), lambda _: None, stop)
    assert [(each.name, each.ending) for each in found] == [(part.name, "signal") for part in parts]
    assert not list(tmp_path.rglob("summary.json"))
