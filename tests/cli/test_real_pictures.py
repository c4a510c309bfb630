"""The real thing, once: the repository's manifests as the demo model draws them, through the command.

And what is said of these pictures afterwards, by whatever reads them: one run of each manifest is all that it takes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from renderer import catalog
from renderer.job import Format, Keep, Sidecar
from renderer.manifest import manifest
from renderer.manifest.manifest import Manifest, Overrides
from renderer.outputs import encode
from renderer.planning.plan import make_plan
from renderer.planning.space import Disk
from tests.cli.test_command import pictures_in, renderer
from tests.making import pixels_of
from tests.planning.test_space import WITHIN, look

JOBS = Path(__file__).resolve().parents[2] / "jobs"


@dataclass(frozen=True, slots=True)
class Project:
    """A folder in which it was rendered, and what the two commands said."""

    folder: Path
    first: subprocess.CompletedProcess[str]
    proof: subprocess.CompletedProcess[str]

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The demo's twelve and the smoke job's one; and a rehearsal of the posters, in lines for machines."""
    folder = tmp_path_factory.mktemp("project")
    first = renderer("render", JOBS / "demo.yaml", JOBS / "smoke.yaml", cwd=folder)
    proof = renderer("render", JOBS / "posters.yaml", "--proof", "--log-format", "json", cwd=folder)
    return Project(folder, first, proof)


class TestRendering:
    def test_the_demo_manifest_renders_and_then_is_done(self, project: Project) -> None:
        """The manifest of `make render`: twelve pictures with sidecars, and a second run that has nothing to do.

        With it `make smoke`: one small picture within its limits.
        """
        assert project.first.returncode == 0, project.first.stderr
        folder = project.outputs / "demo"
        sidecars = [
            Sidecar.model_validate_json(path.read_text()) for path in folder.glob("*.json") if path.stem != "summary"
        ]
        assert len(sidecars) == len(pictures_in(folder)) == 12
        assert pictures_in(project.outputs / "smoke") == {"smoke.png"}
        assert (folder / "index.html").is_file()
        assert all(sidecar.timing.total_s and sidecar.memory.peak_rss_bytes for sidecar in sidecars)
        said = "".join(path.read_text() for path in folder.glob("*.json"))
        assert str(JOBS.parent) not in said, "a path of this machine"
        again = renderer("render", JOBS / "demo.yaml", cwd=project.folder)
        assert again.returncode == 0
        assert "12 already done" in again.stderr
        assert "opening" not in again.stderr

    def test_proof_rehearses_a_real_manifest(self, project: Project) -> None:
        """`--proof` renders jobs/posters.yaml with the demo model, under the names the real ones will have."""
        assert project.proof.returncode == 0, project.proof.stderr
        plan = json.loads(renderer("plan", JOBS / "posters.yaml", "--json", cwd=project.folder).stdout)
        names = {Path(picture["file"]).name for picture in plan["manifests"][0]["pictures"]}
        assert pictures_in(project.outputs / "posters-proof") == names

    def test_json_lines_for_machines(self, project: Project) -> None:
        """Every line of `--log-format json` is an object with a time and an event."""
        lines = [json.loads(line) for line in project.proof.stderr.splitlines()]
        assert all({"at", "event"} <= set(line) for line in lines)
        events = [line["event"] for line in lines]
        assert events[:2] == ["night-began", "batch-began"]
        assert events[-2:] == ["batch-ended", "night-ended"]
        made = [Sidecar.model_validate(line["sidecar"]) for line in lines if line["event"] == "picture-done"]
        assert len(made) == len(pictures_in(project.outputs / "posters-proof"))
        assert events.count("stepped") == sum(each.job.num_inference_steps for each in made)

    def test_report_writes_the_page_anew(self, project: Project) -> None:
        """`report` says where the page is; as Markdown it goes to standard output, for a CI job's summary."""
        (project.folder / "morning.yaml").write_text("jobs: [{prompt: a picture, model: demo}]\n")
        assert renderer("report", "morning.yaml", cwd=project.folder).returncode == 2
        page = project.outputs / "demo/index.html"
        page.unlink()
        demo = JOBS / "demo.yaml"
        assert renderer("report", demo, cwd=project.folder).stdout == "outputs/demo/index.html\n"
        assert manifest.load(demo).pictures[0].job.prompt.partition('"')[0] in page.read_text()
        assert "| 12 | 0 | 0 | 0 |" in renderer("report", demo, "--format", "markdown", cwd=project.folder).stdout

    def test_replay_renders_the_same_bits_again(self, project: Project) -> None:
        """A picture of ours, rendered again from what it says of itself, has the same bits; the command says so."""
        done = renderer("replay", "outputs/smoke/smoke.png", "--render", cwd=project.folder)
        assert (done.returncode, done.stdout) == (0, "smoke: the same bits\n"), done.stderr
        path = project.outputs / "replay/smoke.png"
        with Image.open(path) as image:
            info = PngInfo()
            info.add_text("renderer", image.info["renderer"])
            Image.new("RGB", image.size, "red").save(path, pnginfo=info)
        over = renderer("replay", path, "--render", cwd=project.folder)
        assert over.returncode == 1
        assert "of the values differ" in over.stdout, "it was compared with itself"


class TestSpace:
    """What the disk's forecast says of these pictures, against their files."""

    MANIFESTS = (
        manifest.load(JOBS / "demo.yaml"), manifest.load(JOBS / "posters.yaml", Overrides(proof=True)),
    )  # fmt: skip

    @pytest.mark.parametrize("which", [0, 1])
    def test_before_the_first_picture(self, project: Project, tmp_path: Path, which: int) -> None:
        """With nothing in the outputs, the model's figure meets the sum of the PNGs within 20 %."""
        real = make_plan(self.MANIFESTS[which], project.outputs)
        sizes = sum(item.sidecar.file.bytes for item in real.items if item.sidecar)
        assert look(make_plan(self.MANIFESTS[which], tmp_path)).outputs_bytes == pytest.approx(sizes, rel=WITHIN)

    @pytest.mark.parametrize("which", [0, 1])
    def test_after_five_pictures(self, project: Project, tmp_path: Path, which: int) -> None:
        """Five that are done foretell the others within 20 %, and what they take at the least is less."""
        found, sizes = self.after_five(project, tmp_path, which)
        assert found.outputs_bytes == pytest.approx(sizes, rel=WITHIN)
        assert found.outputs_least_bytes < sizes

    def test_five_of_a_model_that_was_never_measured(
        self, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """From the same pictures, with the figure for photographs before them, that is twice as high: within 20 %."""
        unknown = dataclasses.replace(catalog.DEMO, densities=catalog.PHOTOGRAPHS)
        monkeypatch.setattr(catalog, "find", lambda _: unknown)
        found, sizes = self.after_five(project, tmp_path, 0)
        assert found.outputs_bytes == pytest.approx(sizes, rel=WITHIN)

    def after_five(self, project: Project, tmp_path: Path, which: int) -> tuple[Disk, int]:
        """What is said of the others, in another folder, and what they have."""
        wanted = self.MANIFESTS[which]
        real = make_plan(wanted, project.outputs)
        shutil.copytree(real.folder.path, tmp_path / wanted.name)
        for item in real.items[5:]:
            make_plan(wanted, tmp_path).folder.sidecar(item.picture.output).unlink()
        sizes = sum(item.sidecar.file.bytes for item in real.items[5:] if item.sidecar)
        return look(make_plan(wanted, tmp_path)), sizes

    @pytest.mark.parametrize("form", ["webp", "jpeg"])
    def test_other_formats_of_a_mixed_batch(self, project: Project, form: Format) -> None:
        """Kept as WebP or JPEG, the sum of both manifests is met within 30 %, by the figures of these formats."""
        sizes, kept = 0, []
        for plan in [make_plan(each, project.outputs) for each in self.MANIFESTS]:
            for item in plan.items:
                sizes += len(encode.encode(pixels_of(plan.folder.picture(item.picture.output)), form))
            keep = Keep(format=form, embed="none")
            pictures = tuple(each.model_copy(update={"keep": keep}) for each in plan.manifest.pictures)
            kept.append(make_plan(Manifest(plan.manifest.file, plan.manifest.name, pictures), project.outputs))
        assert look(*kept).outputs_bytes == pytest.approx(sizes, rel=0.3)
