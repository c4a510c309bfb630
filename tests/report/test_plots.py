"""The figures of a night and the table of its devices: the sidecars' numbers, each where it belongs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from renderer.outputs.done import DoneGpu, DoneSharing
from renderer.outputs.summary import DeviceCounts
from renderer.report import made_by, plots
from renderer.report.gather import gather
from renderer.supervisor.progress import never_begun
from tests.making import make_manifest
from tests.report.test_gather import planned


class TestPlots:
    def test_figures_are_the_sidecars(self, tmp_path: Path) -> None:
        """The tables behind the plots hold the numbers of the night, and there are at most 48 rows."""
        plan = planned(make_manifest([str(number) for number in range(500)]), tmp_path)
        rate, stages, memory, forecast = plots.draw(gather(plan).sidecars)
        assert sum(int(row[1]) for row in rate.rows) == 500
        assert {row[2] for row in rate.rows[1:-1]} == {"120"}  # one every thirty seconds
        assert min(bar.top for bar in rate.bars) == plots.TOP  # the highest fills it
        assert [y for y, _ in rate.marks] == [176.0, 94.0, 12.0]
        for bar in rate.bars:
            assert bar.top + bar.height == pytest.approx(plots.HEIGHT - plots.BOTTOM)
            assert plots.LEFT <= bar.left <= bar.left + bar.width <= plots.WIDTH - plots.RIGHT
        assert [row[0] for row in stages.rows] == ["encode", "denoise", "decode", "save"]
        assert stages.rows[0][1] == "500.0"
        assert memory.rows[0][1:] == ("7.00", "24.00", "10.00")
        assert forecast.rows[0][2] != "-"
        assert all(0 < len(plot.rows) <= 48 for plot in (rate, memory, forecast))

    def test_each_device_has_its_own(self, tmp_path: Path) -> None:
        """Its memory against its own card, its pictures in the table, and a forecast by what it took itself."""
        sidecars = gather(planned(make_manifest([str(number) for number in range(40)]), tmp_path)).sidecars
        both = []
        for number, each in enumerate(sidecars):
            slow = number % 2
            gpu = DoneGpu(
                "small" if slow else "large", (10 if slow else 80) * 2**30, "91ab02cd" if slow else "5d3f6c1e"
            )
            timing = dataclasses.replace(each.timing, total_s=200.0 if slow else 20.0)
            memory = dataclasses.replace(each.memory, peak_device_bytes=(9 if slow else 60) * 2**30)
            both.append(dataclasses.replace(each, gpu=gpu, timing=timing, memory=memory))
        rate, _, large, small, forecast = plots.draw(both)
        assert rate.head[3:] == ("large (5d3f6c1e)", "small (91ab02cd)")
        assert [sum(int(row[place]) for row in rate.rows) for place in (3, 4)] == [20, 20]
        assert large.title == "Memory: large (5d3f6c1e)"
        assert (large.rows[0][1], large.rows[0][3], small.rows[0][1], small.rows[0][3]) == (
            "60.00", "80.00", "9.00", "10.00",
        )  # fmt: skip
        assert all(row[2] in ("-", row[1]) for row in forecast.rows)
        rows = {row.name: row for row in made_by.rows(both, None)}
        assert [(row.pictures, row.each, row.gpu) for row in rows.values()] == [
            (20, "20.0 s", "60.0 GiB of 80.0 GiB"), (20, "200.0 s", "9.0 GiB of 10.0 GiB"),
        ]  # fmt: skip

    def test_a_device_that_was_left_out_is_named(self, tmp_path: Path) -> None:
        """With its reason: beside what it made before, or alone; one that made all is said nothing of, if it stayed."""
        manifest = make_manifest([str(number) for number in range(3)])
        (first, second, third) = gather(planned(manifest, tmp_path)).sidecars
        ended = never_begun(manifest, "complete")
        assert made_by.rows([first, second], ended) == ()
        sharing = DoneSharing(share_s=4.0, mean_in_flight=2.0, slots=3)
        peaks = [dataclasses.replace(first.memory, peak_reserved_bytes=count * 2**30) for count in (2, 6)]
        made = [
            dataclasses.replace(each, worker="GPU 0", sharing=sharing, memory=peak)
            for each, peak in zip((first, second), peaks, strict=True)
        ]
        other = dataclasses.replace(third, worker="GPU 1", gpu=None)
        gone = (
            DeviceCounts(where="GPU 0", left_out="it fell off the bus"),
            DeviceCounts(where="GPU 2", card="a card", left_out="no memory"),
            DeviceCounts(where="GPU 1"),
        )
        rows = made_by.rows([*made, other], ended.model_copy(update={"devices": gone}))
        assert [(row.name, row.pictures, row.trouble) for row in rows] == [
            ("GPU 0, A card", 2, "it fell off the bus"), ("GPU 1", 1, ""), ("GPU 2, a card", 0, "no memory"),
        ]  # fmt: skip
        assert (rows[0].each, rows[0].gpu) == ("4.5 s", "6.0 GiB of 10.0 GiB")  # a share of sweeps, and its own decode
        alone = made_by.rows(made, ended.model_copy(update={"devices": gone[:1]}))
        assert [(row.name, row.trouble) for row in alone] == [("GPU 0, A card", "it fell off the bus")]

    def test_one_picture_is_enough(self, tmp_path: Path) -> None:
        """A single picture has figures, and none has none."""
        assert len(plots.draw(gather(planned(make_manifest(("a",)), tmp_path)).sidecars)) == 4
        assert plots.draw(()) == ()
