"""What a run does with a manifest: it renders what is not done, and tries again what failed."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import pytest

from renderer.errors import MachineError, UsageError
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.job import Expect
from renderer.machine import hardware
from renderer.machine.gpus import LocalGpu
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.outputs.summary import Summary
from renderer.planning.plan import make_plan
from renderer.supervisor import run
from renderer.supervisor.settings import StopRequests
from tests.fakes import Behaviour, DyingWorker, InlineWorker
from tests.making import make_job, make_manifest, make_picture
from tests.supervisor.running import Night, counts


class TestResume:
    def test_all_is_rendered_and_then_nothing(self, night: Night) -> None:
        """The first run renders everything, the second skips everything and hires nobody."""
        manifest = make_manifest()
        assert counts(night.render(manifest)) == (3, 0, 0, 0)
        assert counts(night.render(manifest, hire=DyingWorker)) == (0, 3, 0, 0)

    def test_the_summary_is_written_down(self, night: Night) -> None:
        """`summary.json` is the summary that was returned."""
        manifest = make_manifest()
        summary = night.render(manifest)
        text = (night.folder(manifest).path / "summary.json").read_text()
        assert Summary.model_validate_json(text) == summary
        assert json.loads(text)["ending"] == "complete"

    def test_a_changed_job_is_rendered_anew_and_the_others_are_not(self, night: Night) -> None:
        """Editing one prompt costs one picture."""
        night.render(make_manifest(("a", "b", "c")))
        assert counts(night.render(make_manifest(("a", "B", "c")))) == (1, 2, 0, 0)
        assert night.began() == ["p001"]

    def test_a_damaged_file_is_rendered_anew(self, night: Night) -> None:
        """A picture whose bytes have changed is not taken for done."""
        manifest = make_manifest()
        night.render(manifest)
        picture = night.folder(manifest).picture("p001")
        data = bytearray(picture.read_bytes())
        data[60] ^= 1
        picture.write_bytes(data)
        assert counts(night.render(manifest)) == (1, 2, 0, 0)
        assert picture_files.read_sidecar(night.folder(manifest).sidecar("p001")) is not None

    def test_force_renders_what_is_done(self, night: Night) -> None:
        """`--force` takes nothing for done."""
        manifest = make_manifest()
        night.render(manifest)
        assert counts(night.render(manifest, force=True)) == (3, 0, 0, 0)

    def test_only_renders_the_named(self, night: Night) -> None:
        """`--only` renders no other, and the summary says how many the manifest has and how many were not chosen."""
        summary = night.render(make_manifest(), only=("p001",))
        assert (counts(summary), summary.pictures, summary.not_chosen) == ((1, 0, 0, 0), 3, 2)

    def test_only_may_name_a_picture_of_one_manifest_of_two(self, night: Night) -> None:
        """What the other has not got is no error; what nobody has is one, before anything is done."""
        both = [make_manifest(name="one"), make_manifest(("a",), name="two")]
        settings = dataclasses.replace(night.settings, only=("p002",))
        assert [counts(each)[0] for each in run.render(both, settings, lambda _: None, StopRequests())] == [1, 0]
        with pytest.raises(UsageError, match="p009"):
            run.render(both, dataclasses.replace(settings, only=("p002", "p009")), lambda _: None, StopRequests())


class TestFailures:
    def test_one_failure_does_not_stop_the_others(self, night: Night) -> None:
        """The bad picture is tried three times, after the rest, and the good ones are there."""
        summary = night.render(make_manifest(("a", "fail", "c")))
        assert counts(summary) == (2, 0, 1, 0)
        assert night.began() == ["p000", "p001", "p002", "p001", "p001"]
        assert summary.failures[0].message == "one flat colour"

    def test_a_second_try_may_succeed(self, night: Night) -> None:
        """A picture that fails once is there in the end, and its sidecar says it took two attempts."""
        manifest = make_manifest(("fail-once", "b"))
        assert counts(night.render(manifest)) == (2, 0, 0, 0)
        sidecar = picture_files.read_sidecar(night.folder(manifest).sidecar("p000"))
        assert sidecar is not None
        assert sidecar.attempt == 2

    def test_failed_pictures_are_tried_again_by_the_next_run(self, night: Night) -> None:
        """A failure is remembered with its reason, and no reason not to try again."""
        manifest = make_manifest(("fail",))
        night.render(manifest, retries=0)
        assert [item.state for item in make_plan(manifest, night.settings.outputs).items] == ["failed"]
        assert counts(night.render(manifest, retries=0)) == (0, 0, 1, 0)
        assert night.began() == ["p000"]

    def test_too_many_in_a_row_end_the_run(self, night: Night) -> None:
        """`--max-failures` saves the night when nothing works any more: the next manifest's pictures are not tried."""
        one, two = make_manifest(["fail"] * 20, name="one"), make_manifest(["fail"] * 3, name="two")
        settings = dataclasses.replace(night.settings, max_failures=3)
        summaries = run.render([one, two], settings, night.heard.append, StopRequests())
        assert [summary.ending for summary in summaries] == ["failures", "failures"]
        assert [counts(summary) for summary in summaries] == [(0, 0, 3, 17), (0, 0, 0, 3)]

    def test_a_row_goes_on_in_the_next_manifest(self, night: Night) -> None:
        """Two failures at the end of one manifest and one at the beginning of the next are three in a row."""
        one, two = make_manifest(["fail"] * 2, name="one"), make_manifest(["fail"] * 3, name="two")
        settings = dataclasses.replace(night.settings, max_failures=3, retries=0)
        summaries = run.render([one, two], settings, night.heard.append, StopRequests())
        assert [counts(summary) for summary in summaries] == [(0, 0, 2, 0), (0, 0, 1, 2)]

    def test_a_good_picture_breaks_the_row(self, night: Night) -> None:
        """Only failures one after the other count."""
        summary = night.render(make_manifest(["fail", "fail", "ok"] * 3), max_failures=3, retries=0)
        assert summary.ending == "complete"
        assert counts(summary) == (3, 0, 6, 0)

    def test_a_picture_of_the_wrong_size_is_a_failure(self, night: Night) -> None:
        """Bytes that cannot be the picture never reach the disk."""
        manifest = make_manifest(("flat-out",))
        assert counts(night.render(manifest)) == (0, 0, 1, 0)
        assert not night.folder(manifest).picture("p000").exists()

    def test_expectations_fail_a_picture_once(self, night: Night) -> None:
        """A picture over its job's limits fails, is not tried again, and says by how much it is over."""
        picture = make_picture(expect=Expect(ram_bytes=999))
        summary = night.render(Manifest(file="jobs/test.yaml", name="test", pictures=(picture,)))
        assert summary.failures[0].message == "1,000 bytes of host memory where 999 were expected at most"
        assert night.began() == ["p000"]

    def test_a_model_that_does_not_open_ends_the_run(self, night: Night) -> None:
        """What the worker says of the machine is what the user reads, and what the summary says of each picture."""
        hire = functools.partial(InlineWorker, behaviour=Behaviour(refuses="no such model"))
        with pytest.raises(MachineError, match="no such model"):
            night.render(make_manifest(), hire=hire)
        summary = night.summary(make_manifest())
        assert (summary.ending, summary.refused) == ("complete", 3)
        assert {failure.message for failure in summary.failures} == {"no such model"}

    def test_a_worker_that_never_opens_ends_the_run(self, night: Night) -> None:
        """Three deaths before the model is open, and the last words of the log are shown."""
        with pytest.raises(MachineError, match="libcuda"):
            night.render(make_manifest(), hire=DyingWorker)


class TestPrivacy:
    def test_a_local_model_s_path_is_told_to_nobody(self, night: Night, tmp_path: Path, demo_folder: Path) -> None:
        """The sidecar names a local model by folder and content; moving the folder changes no fingerprint."""
        for place in ("here", "there"):
            shutil.copytree(demo_folder, tmp_path / place / "my-model")
        marks = []
        for place in ("here", "there"):
            job = make_job().model_copy(update={"model": str(tmp_path / place / "my-model")})
            picture = make_picture().model_copy(update={"job": job})
            manifest = Manifest(file="jobs/test.yaml", name="test", pictures=(picture,))
            night.render(manifest, profile="cpu")
            text = night.folder(manifest).sidecar("p000").read_text()
            assert str(tmp_path) not in text
            marks.append(json.loads(text)["fingerprint"])
        assert marks[0] == marks[1]


class TestOrder:
    def test_a_suspect_waits_for_the_others(self, night: Night) -> None:
        """A picture whose run vanished comes last, so that what it may bring down again has done its work."""
        manifest = make_manifest()
        plan = make_plan(manifest, night.settings.outputs)
        plan.journal.write("attempt", "p000", plan.items[0].fingerprint)
        night.render(manifest)
        assert night.began() == ["p001", "p002", "p000"]


class TestWhatCannotFit:
    def test_a_picture_that_cannot_fit_fails_at_no_cost(self, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a card that is too small for one of three, that one fails with numbers, is never tried, and two come."""
        free = CONTEXT_BYTES + 60 * 2**20
        card = LocalGpu(0, "a small card", "GPU-1", free, free, "580.1", (8, 9))
        monkeypatch.setattr(hardware, "look", lambda: hardware.Machine((card,), 2, 2**36, 2**36))
        manifest = make_manifest()
        large = manifest.pictures[1].job.model_copy(update={"width": 1024, "height": 1024})
        pictures = (manifest.pictures[0], manifest.pictures[1].model_copy(update={"job": large}), manifest.pictures[2])
        summary = night.render(dataclasses.replace(manifest, pictures=pictures))
        assert counts(summary) == (2, 0, 1, 0)
        assert night.began() == ["p000", "p002"]
        assert re.match(r"1024x1024 needs 0\.\d\d GiB of GPU memory", summary.failures[0].message)
        assert summary.failures[0].hint.startswith("the nearest size that fits is ")
