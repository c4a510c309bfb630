from __future__ import annotations

import dataclasses
import statistics
from datetime import UTC, datetime
from pathlib import Path

import pytest

from renderer import catalog
from renderer.catalog import cards
from renderer.cli import plan as plan_door
from renderer.estimate import Streaming, Work, decide, host
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.job import Edit, Input
from renderer.machine import hardware
from renderer.machine.gpus import LocalGpu
from renderer.machine.rates import of_card
from renderer.manifest.manifest import Manifest
from renderer.planning import forecast
from renderer.planning.forecast import Assumptions
from renderer.planning.plan import make_plan
from tests.making import make_manifest
from tests.nights import make_night

NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)
GIB = 2**30
H200 = LocalGpu(0, "NVIDIA H200", "GPU-1", 140 * GIB, 139 * GIB, "580.1", (9, 0))
HERE = hardware.Machine((H200,), 16, 256 * GIB, 250 * GIB)
RATES = of_card(cards.find("H200").card)
LEAST = decide.least(Streaming(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", 2), [Work(2048, 2048, prompt_tokens=0)])
TIGHT = LEAST + CONTEXT_BYTES - 1
"""Of a card's memory: a byte too little for 2048x2048, and enough for 512x512."""


def real(manifest: Manifest, *sides: int, steps: int = 40) -> Manifest:
    """The manifest's pictures with a real model, of these sides."""
    pictures = tuple(
        picture.model_copy(
            update={
                "job": picture.job.model_copy(
                    update={
                        "model": "Qwen/Qwen-Image", "precision": "fp8", "num_inference_steps": steps,
                        "width": side, "height": side,
                    }
                )
            }
        )
        for picture, side in zip(manifest.pictures, sides, strict=True)
    )  # fmt: skip
    return dataclasses.replace(manifest, pictures=pictures)


class TestForecast:
    def test_eight_large_pictures_take_what_they_took(self, tmp_path: Path) -> None:
        """130 s were measured for eight of 1328x1328 in 40 steps from the cold command on an H200, at --vram 10GiB."""
        manifest = real(make_manifest([str(number) for number in range(8)]), *[1328] * 8)
        terms = Assumptions(HERE, vram_bytes=10 * GIB, rates=RATES, ready=True)
        found = forecast.forecast([make_plan(manifest, tmp_path)], terms, NOW)
        assert found.seconds == pytest.approx(130, rel=0.15)
        (group,) = found.groups
        assert group.limit == "arithmetic"
        assert 32 <= (group.slots or 0) <= 36
        assert found.vram_bytes is not None
        assert found.vram_bytes <= 10.5 * GIB
        assert found.ram_bytes == pytest.approx(16.6e9, rel=0.15)

    @pytest.mark.usefixtures("berlin")
    def test_its_end_is_what_clocks_will_show(self, tmp_path: Path) -> None:
        """They are put forward while it renders: seconds are seconds, and the hour of its end is one that comes."""
        manifest = real(make_manifest([str(number) for number in range(400)]), *[1328] * 400)
        terms = Assumptions(HERE, vram_bytes=10 * GIB, rates=RATES, ready=True)
        began = datetime(2026, 3, 29, 0, 30, tzinfo=UTC).astimezone()
        found = forecast.forecast([make_plan(manifest, tmp_path)], terms, began)
        assert found.ends_at is not None
        assert found.seconds == (found.ends_at.astimezone(UTC) - began.astimezone(UTC)).total_seconds()
        assert (f"{found.begins_at:%z}", f"{found.ends_at:%z}") == ("+0100", "+0200")

    def test_small_pictures_ride_together_where_slots_are_few(self, tmp_path: Path) -> None:
        """On little memory, as many in flight as hide the copies; the plan says how many."""
        manifest = real(make_manifest([str(number) for number in range(8)]), *[512] * 8)
        terms = Assumptions(HERE, vram_bytes=4 * GIB, rates=RATES, ready=True)
        (group,) = forecast.forecast([make_plan(manifest, tmp_path)], terms, NOW).groups
        assert group.in_flight > 1

    def test_what_is_done_costs_nothing_and_tells_the_rest(self, tmp_path: Path) -> None:
        """Pictures that are there are not counted; their seconds tell what the others will take."""
        manifest = make_manifest(("a", "b", "c", "d"))
        make_night(manifest, tmp_path, without=("p003",))
        here = hardware.Machine((), 2, 16 * GIB, 12 * GIB)
        plan = make_plan(manifest, tmp_path)
        found = forecast.forecast([plan], Assumptions(here, profile="cpu"), NOW)
        (group,) = found.groups
        assert group.pictures == 1
        assert group.measured
        timings = [item.sidecar.timing for item in plan.items if item.sidecar]
        assert found.seconds == pytest.approx(4 + statistics.median(each.total_s or 0.0 for each in timings), abs=0.01)
        assert group.seconds is not None
        assert group.seconds.encode == pytest.approx(1.0)  # which is in the total, and is not added to it
        assert found.disk.pictures == 1

    def test_this_machine_s_pictures_tell_nothing_of_another(self, tmp_path: Path) -> None:
        """As if it were rendered there: how long they took here is no figure of that card's."""
        manifest = make_manifest(("a", "b"))
        make_night(manifest, tmp_path, without=("p001",))
        here, plan = hardware.Machine((), 2, 16 * GIB, 12 * GIB), make_plan(manifest, tmp_path)
        for ready in (False, True):
            (group,) = forecast.forecast([plan], Assumptions(here, profile="cpu", ready=ready), NOW).groups
            assert group.measured is not ready
            assert (group.seconds is None) is ready

    @pytest.mark.parametrize("side", [512, 1328, 2048])
    def test_no_more_than_a_limit_is_foretold(self, tmp_path: Path, side: int) -> None:
        """What the allocator would hold in vain, it gives back where there is no room for it."""
        plan = make_plan(real(make_manifest(("a",)), side), tmp_path)
        for gib in (2.75, 3, 4, 6, 10, 16):
            terms = Assumptions(HERE, vram_bytes=round(gib * GIB), rates=RATES, ready=True)
            found = forecast.forecast([plan], terms, NOW)
            assert found.vram_bytes is None or found.vram_bytes <= gib * GIB

    @pytest.mark.parametrize("apart", [False, True])
    def test_pictures_that_are_modulated_apart_take_a_third_table(
        self,
        tmp_path: Path,
        apart: bool,  # noqa: FBT001  # pytest's
    ) -> None:
        """Of host memory, where an edit model has them as of no noise."""
        edit = Edit(images=(Input(sha256="a" * 64, width=512, height=512),), pixels=512 * 512, zero_cond_t=apart)
        manifest = real(make_manifest(("a",)), 512, steps=4)
        jobs = [each.job.model_copy(update={"edit": edit}) for each in manifest.pictures]
        pictures = tuple(
            each.model_copy(update={"job": job}) for each, job in zip(manifest.pictures, jobs, strict=True)
        )
        plan = make_plan(dataclasses.replace(manifest, pictures=pictures), tmp_path)
        (group,) = forecast.forecast([plan], Assumptions(HERE, rates=RATES, ready=True), NOW).groups
        expected = host.estimate_host(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", timesteps=4, split=apart)
        tables = [
            {term.name: term.bytes for term in each.terms}["modulation tables"] for each in (group.host, expected)
        ]
        assert tables[0] == tables[1]

    def test_without_rates_or_pictures_nobody_knows_how_long(self, tmp_path: Path) -> None:
        """Memory is told all the same."""
        terms = Assumptions(HERE, ready=True)
        found = forecast.forecast([make_plan(real(make_manifest(("a",)), 1024), tmp_path)], terms, NOW)
        assert found.seconds is None
        assert found.vram_bytes is not None

    def test_what_is_refused_is_counted_nowhere(self, tmp_path: Path) -> None:
        """A picture that cannot fit takes no time and no disk, and stands among the refused."""
        manifest = real(make_manifest(("a", "b")), 512, 2048)
        small = hardware.Machine((dataclasses.replace(H200, total_bytes=3 * GIB, free_bytes=TIGHT),), 2, GIB, GIB)
        terms = Assumptions(small, vram_bytes=TIGHT, rates=RATES, ready=True)
        found = forecast.forecast([make_plan(manifest, tmp_path)], terms, NOW)
        assert list(found.refused) == [manifest.pictures[1].job]
        assert [group.pictures for group in found.groups] == [1]
        assert found.disk.outputs_bytes == pytest.approx(1.5 * 512 * 512, rel=0.01)

    def test_pictures_of_one_id_in_two_manifests_are_two(self, tmp_path: Path) -> None:
        """One manifest's second picture cannot fit; the other's, of the same id, is rendered."""
        large, small = (
            real(make_manifest(("a", "b"), name="large"), 512, 2048),
            real(make_manifest(("c", "d")), 512, 512),
        )
        card = dataclasses.replace(H200, total_bytes=3 * GIB, free_bytes=TIGHT)
        terms = Assumptions(hardware.Machine((card,), 2, GIB, GIB), vram_bytes=TIGHT, rates=RATES, ready=True)
        plans = [make_plan(manifest, tmp_path) for manifest in (large, small)]
        found = forecast.forecast(plans, terms, NOW)
        assert list(found.refused) == [large.pictures[1].job]
        assert [group.pictures for group in found.groups] == [3]

    def test_nothing_to_do_takes_nothing(self, tmp_path: Path) -> None:
        """No groups, no seconds, no bytes."""
        manifest = make_manifest()
        make_night(manifest, tmp_path)
        found = forecast.forecast([make_plan(manifest, tmp_path)], Assumptions(HERE), NOW)
        assert not found.groups
        assert found.disk.outputs_bytes == 0

    def test_native_profiles_are_forecast_too(self, tmp_path: Path) -> None:
        """All weights on the GPU in bf16, one picture after the other."""
        plan = make_plan(real(make_manifest(("a",)), 1328), tmp_path)
        (group,) = forecast.forecast([plan], Assumptions(HERE, profile="resident", rates=RATES, ready=True), NOW).groups
        assert group.slots is None
        assert group.estimate.allocated > 25 * GIB
        assert group.seconds is not None
        assert group.seconds.denoise == pytest.approx(40 * 0.67, rel=0.2)


class TestSeveralManifests:
    def test_those_of_higher_priority_end_first_and_have_their_own_openings(self, tmp_path: Path) -> None:
        """Three models are opened one after the other, and a fourth time what the urgent ones had before the others."""
        one, urgent = (make_plan(each, tmp_path) for each in mixed(priority=5))
        plain = [make_plan(each, tmp_path) for each in mixed(priority=0)]
        terms = Assumptions(HERE, rates=RATES, ready=True)
        found, usual = forecast.forecast([one, urgent], terms, NOW), forecast.forecast(plain, terms, NOW)
        assert usual.urgencies == ()
        assert "priorities" not in usual.as_dict()
        first, last = found.urgencies
        assert (first.priority, first.manifests, last.priority, last.manifests) == (5, ("urgent",), 0, ("usual",))
        assert NOW < first.ends_at < last.ends_at == found.ends_at
        starts = {group.precision: group.seconds.start for group in found.groups if group.seconds}
        assert found.seconds is not None
        assert usual.seconds is not None
        assert found.seconds - usual.seconds == pytest.approx(starts["int8"], abs=1e-3)
        alone = forecast.forecast([urgent], terms, NOW)
        assert (first.ends_at - NOW).total_seconds() == pytest.approx(alone.seconds, rel=0.1)
        assert [each["manifests"] for each in found.as_dict()["priorities"]] == [["urgent"], ["usual"]]

    def test_each_disk_is_held_against_its_own_manifests(self, tmp_path: Path, other_disk: Path) -> None:
        """A folder that is a link to another disk takes nothing of the first one's, and models are counted once."""
        one, two = (make_plan(each, tmp_path) for each in mixed(priority=0))
        alone = [forecast.forecast([plan], Assumptions(HERE, rates=RATES), NOW).disk for plan in (one, two)]
        (other_disk / "two").mkdir()
        two.folder.path.symlink_to(other_disk / "two")
        found = forecast.forecast([one, two], Assumptions(HERE, rates=RATES), NOW)
        (first, here), (second, there) = found.disks
        assert (first, second) == (("usual",), ("urgent",))
        assert [here.outputs_bytes, there.outputs_bytes] == [each.outputs_bytes for each in alone]
        assert there.outputs_free_bytes == pytest.approx(hardware.free_disk_bytes(other_disk), abs=2**30)
        assert (there.models_bytes, here.models_bytes >= max(each.models_bytes for each in alone)) == (0, True)
        assert [each["manifests"] for each in found.as_dict()["disks"]] == [["usual"], ["urgent"]]
        lines = [line for line in plan_door._forecast_lines(found) if line.startswith("disk")]
        assert ["(usual)" in lines[0], "(urgent)" in lines[1], len(lines)] == [True, True, 2]


def mixed(priority: float) -> list[Manifest]:
    """Two manifests: fp8 and int8 in one, int8 and bf16 in the other, which has a priority."""
    found = []
    for name, precisions, most in (("usual", ("fp8", "int8"), 0.0), ("urgent", ("int8", "bf16"), priority)):
        made = real(make_manifest((f"a {name}", f"b {name}"), name), 512, 512, steps=4)
        pictures = tuple(
            each.model_copy(update={"job": each.job.model_copy(update={"precision": precision})})
            for each, precision in zip(made.pictures, precisions, strict=True)
        )
        found.append(dataclasses.replace(made, pictures=pictures, priority=most))
    return found
