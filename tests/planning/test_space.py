from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from renderer import catalog
from renderer.errors import MachineError
from renderer.estimate import shape_of, weight_bytes
from renderer.job import Keep, Sidecar
from renderer.machine import hardware, processor
from renderer.machine.gpus import LocalGpu
from renderer.machine.processor import Processor
from renderer.manifest.manifest import Manifest
from renderer.outputs import picture_files
from renderer.planning import space
from renderer.planning.plan import Plan, make_plan
from renderer.planning.space import Disk
from renderer.protocol import Setup
from tests.making import make_manifest
from tests.nights import make_night
from tests.weights import tiny

JOBS = Path(__file__).resolve().parents[2] / "jobs"
WITHIN = 0.2
"""Of what is forecast, in whatever this machine computes: the figure is that of its arithmetic."""


def look(*plans: Plan) -> Disk:
    return space.look(plans, [item for plan in plans for item in plan.to_write()], ())


def of_model(sides: Sequence[int], name: str = "test", model: str = "Qwen/Qwen-Image") -> Manifest:
    """A picture of each side with a model of which nothing was measured."""
    made = make_manifest([f"{name} {number}" for number in range(len(sides))], name)
    pictures = tuple(
        each.model_copy(update={"job": each.job.model_copy(update={"model": model, "width": side, "height": side})})
        for each, side in zip(made.pictures, sides, strict=True)
    )
    return Manifest(made.file, made.name, pictures)


def setup_of(model: str) -> Setup:
    """What a worker opens of a model that is packed in fp8."""
    return Setup(model=model, precision="fp8", profile="stream", store="packed")


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("p*.*") if path.suffix != ".json")


class TestFiles:
    @pytest.mark.parametrize(("gpus", "units", "share"), [(0, True, 1.0), (0, False, 0.78), (1, False, 1.0)])
    def test_the_figure_is_of_the_machine_s_arithmetic(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        gpus: int,
        units: bool,  # noqa: FBT001  # a case
        share: float,
    ) -> None:
        """What a CPU draws in float32 is smoother than in bf16; a GPU computes in bf16 whatever its host does."""
        card = LocalGpu(0, "a card", "GPU-1", 1, 1, "580", (9, 0))
        here = dataclasses.replace(hardware.look(), gpus=(card,) * gpus)
        monkeypatch.setattr(hardware, "look", lambda: here)
        monkeypatch.setattr(processor, "look", lambda: Processor(bf16_units=units))
        plan = make_plan(make_manifest(["one", "two"], "demo"), tmp_path)
        pixels = [item.picture.job.width * item.picture.job.height for item in plan.items]
        expected = sum(share * catalog.DEMO.densities["png"].bytes_of(each) + 1700 for each in pixels)
        assert look(plan).outputs_bytes == pytest.approx(expected, abs=2)

    def test_nothing_known_is_photographs(self, tmp_path: Path) -> None:
        """1.5 bytes a pixel and the label, of which a third is sure."""
        found = look(make_plan(of_model([512, 1024]), tmp_path))
        assert found.outputs_bytes == pytest.approx(1.5 * (512**2 + 1024**2) + 2 * 1700, abs=1)
        assert found.outputs_least_bytes == pytest.approx(0.35 * found.outputs_bytes, abs=1)

    def test_each_layer_is_a_file(self, tmp_path: Path) -> None:
        """As large as the whole, in a forecast."""
        (whole,) = of_model([512]).pictures
        apart = whole.model_copy(update={"job": whole.job.model_copy(update={"layer_num": 4})})
        found = [look(make_plan(Manifest("m.yaml", "m", (each,)), tmp_path)).outputs_bytes for each in (whole, apart)]
        assert found[1] == pytest.approx(5 * found[0], abs=5)

    def test_a_file_tells_once(self, tmp_path: Path) -> None:
        """A manifest's own lie in an output folder too: three are not six, by which more would be sure."""
        batch = of_model([512] * 4)
        make_night(batch, tmp_path, without=("p003",))
        found = look(make_plan(batch, tmp_path))
        assert found.outputs_least_bytes == pytest.approx(space.ASSUMED * found.outputs_bytes, abs=1)

    def test_sizes_are_mixed(self, tmp_path: Path) -> None:
        """Large files count by their pixels: pictures of one size tell of another's."""
        batch = of_model([256] * 5 + [1024] * 3)
        make_night(batch, tmp_path, without=("p005", "p006", "p007"))
        found = look(make_plan(batch, tmp_path))
        small = written(tmp_path / "test")
        assert found.outputs_bytes == pytest.approx(small / 5 * 3 * 16, rel=0.3)  # labels have no pixels

    def test_other_manifests_tell_what_is_not_known(self, tmp_path: Path) -> None:
        """Before the first picture, those of the same model in the folders beside it."""
        make_night(of_model([512] * 6, "before"), tmp_path)
        found = look(make_plan(of_model([512] * 6, "after"), tmp_path))
        assert found.outputs_bytes == pytest.approx(written(tmp_path / "before"), rel=WITHIN)

    def test_another_model_or_format_tells_nothing(self, tmp_path: Path) -> None:
        """What the demo model drew says nothing of photographs, and PNG nothing of WebP."""
        make_night(make_manifest([str(number) for number in range(6)], "demo"), tmp_path)
        make_night(of_model([512] * 6, "before"), tmp_path)
        batch = of_model([512], "after", model="Qwen/Qwen-Image-2512")
        assert look(make_plan(batch, tmp_path)).outputs_bytes == pytest.approx(1.5 * 512**2, rel=0.01)
        webp = of_model([512], "after").pictures[0].model_copy(update={"keep": Keep(format="webp")})
        found = look(make_plan(Manifest("after.yaml", "after", (webp,)), tmp_path))
        assert found.outputs_bytes == pytest.approx(1.1 * 512**2, rel=0.01)

    def test_own_pictures_count_before_others(self, tmp_path: Path) -> None:
        """With five of the manifest's own, other manifests' are not even read."""
        batch = of_model([512] * 6)
        make_night(batch, tmp_path, without=("p005",))
        alone = look(make_plan(batch, tmp_path)).outputs_bytes
        make_night(of_model([512] * 6, "noise"), tmp_path)
        for path in (tmp_path / "noise").glob("*.json"):
            path.write_text(path.read_text().replace('"bytes": ', '"bytes": 9'))
        assert look(make_plan(batch, tmp_path)).outputs_bytes == alone

    def test_what_is_rendered_anew_takes_the_place_of_what_is_there(self, tmp_path: Path) -> None:
        """With --force the files that lie there tell, and go: nothing more is needed."""
        batch = of_model([512] * 6)
        make_night(batch, tmp_path)
        found = look(make_plan(batch, tmp_path, force=True))
        assert found.outputs_bytes == pytest.approx(written(tmp_path / "test"), rel=WITHIN)
        assert found.replaced_bytes == written(tmp_path / "test")

    def test_a_bounded_number_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Twelve folders of sixty pictures each: 64 sidecars at most, whatever lies there, of those written last."""
        for number in range(12):
            make_night(of_model([64] * 60, f"night-{number}"), tmp_path, same_picture=True)
            os.utime(tmp_path / f"night-{number}", (number, number))
        plan = make_plan(of_model([64], "new"), tmp_path)
        read: list[Path] = []
        really = picture_files.read_sidecar

        def noting(path: Path) -> Sidecar | None:
            read.append(path)
            return really(path)

        monkeypatch.setattr(picture_files, "read_sidecar", noting)
        look(plan)
        assert 32 <= len(read) <= 64
        assert {path.parent.name for path in read} == {f"night-{number}" for number in range(4, 12)}

    def test_an_outputs_folder_that_is_not_there(self, tmp_path: Path) -> None:
        """Before the first run of all, nothing is read, and the disk above it is asked."""
        found = look(make_plan(of_model([512]), tmp_path / "not" / "there"))
        assert found.outputs_free_bytes > 0


def disk_of(free: int, *, pictures: int = 10, models: int = 0, replaced: int = 0, same_disk: bool = True) -> Disk:
    """Pictures of a megabyte each, 0.8 at the least, and some disk."""
    return Disk(
        download_bytes=models,
        store_bytes=0,
        pictures=pictures,
        outputs_bytes=pictures * 10**6,
        outputs_least_bytes=pictures * 8 * 10**5,
        replaced_bytes=replaced,
        models_free_bytes=free if same_disk else 0,
        outputs_free_bytes=free,
        same_disk=same_disk,
    )


class TestModels:
    @pytest.mark.parametrize("model", ["Qwen/Qwen-Image", "Qwen/Qwen-Image-Edit", "Qwen/Qwen-Image-Layered"])
    def test_an_edit_model_s_store_has_its_vision_tower(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
    ) -> None:
        """And no other's: what only edits look with is not packed for pictures from text."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path))
        weights = weight_bytes(shape_of(catalog.find(model)), "fp8")
        found = space.look([], [], [setup_of(model)])
        assert found.store_bytes == (weights.store if model.endswith("Edit") else weights.store_of_text)
        assert found.download_bytes == sum(part.bytes or 0 for part in catalog.find(model).parts)

    def test_what_is_here_is_not_fetched_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a model of which one network is missing, that is what comes."""
        monkeypatch.setenv("RENDERER_MODELS", str(tmp_path))
        source = tiny.make(tmp_path / "Qwen/Qwen-Image")
        for path in source.networks["vae"]:
            path.unlink()
        (vae,) = (part for part in catalog.QWEN_IMAGE.parts if part.role == "vae")
        assert space.look([], [], [setup_of("Qwen/Qwen-Image")]).download_bytes == vae.bytes
        assert space.look([], [], [setup_of("Qwen/Qwen-Image")], ready=True).models_bytes == 0


class TestShort:
    def test_what_lacks_is_of_one_disk_or_of_each(self) -> None:
        """Room on one of two disks is none on the other."""
        taken = 10 * (10**6 + space.BESIDE_BYTES)
        one, two = (disk_of(3 * 10**6, models=5 * 10**6, same_disk=same) for same in (True, False))
        assert one.short_bytes == taken + 5 * 10**6 - 3 * 10**6
        assert two.short_bytes == (taken - 3 * 10**6) + 5 * 10**6
        assert dataclasses.replace(two, models_free_bytes=10**9).short_bytes == taken - 3 * 10**6
        assert disk_of(10**9, models=5 * 10**6).short_bytes == 0

    def test_what_is_replaced_lacks_not(self) -> None:
        assert disk_of(0, replaced=10**9).short_bytes == 0
        assert disk_of(0, replaced=10**6).short_bytes == disk_of(0).short_bytes - 10**6


class TestCheckRoom:
    OUTPUTS = Path("outputs")

    def test_room_enough_is_not_mentioned(self) -> None:
        """With a quarter more than what the pictures take, nothing is said."""
        assert space.check_room(disk_of(12_500_000), self.OUTPUTS) == ""

    def test_what_barely_misses_is_a_warning(self) -> None:
        """A forecast is no certainty: what may fit is begun, with numbers."""
        said = space.check_room(disk_of(9_000_000), self.OUTPUTS)
        assert said.startswith("10 pictures take about 10.2 MB in outputs, and 9.0 MB are free there")

    def test_what_cannot_fit_is_refused(self) -> None:
        """Numbers, and what to do."""
        with pytest.raises(MachineError) as refused:
            space.check_room(disk_of(7_900_000), self.OUTPUTS)
        assert "8.0 MB in outputs at the least, likely 10.2 MB, and 7.9 MB are free" in refused.value.message
        assert refused.value.hint.startswith("free 2.4 MB, choose another disk with --outputs")

    def test_a_part_needs_room_for_one(self) -> None:
        """A run with a deadline is not to do it all: it is warned, and refused where not one picture fits."""
        assert space.check_room(disk_of(900_000), self.OUTPUTS, partly=True)
        with pytest.raises(MachineError):
            space.check_room(disk_of(700_000), self.OUTPUTS, partly=True)

    def test_models_have_a_bill_of_their_own(self) -> None:
        """What models take on the same disk is a reason to warn; on another disk it is none."""
        assert "beside 5.0 MB of models" in space.check_room(disk_of(12_500_000, models=5 * 10**6), self.OUTPUTS)
        assert space.check_room(disk_of(12_500_000, models=5 * 10**6, same_disk=False), self.OUTPUTS) == ""

    def test_what_is_replaced_needs_no_room(self) -> None:
        """Pictures that are rendered anew take the place of the old ones."""
        assert space.check_room(disk_of(1_000_000, replaced=10**7), self.OUTPUTS) == ""
