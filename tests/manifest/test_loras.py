"""LoRAs and schedules in a manifest: which are found, how they are weighed, what goes with them, what is refused."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from renderer.errors import ManifestError
from renderer.job import Job, Lora, Schedule, Shift
from renderer.manifest.manifest import Overrides, load
from tests.loras import factors, write_lora

FOUR, EIGHT = (f"lightx2v/Qwen-Image-Lightning/{steps}steps-V2.0" for steps in (4, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for manifests, with two LoRAs in it."""
    write_lora(tmp_path / "loras/ink.safetensors")
    write_lora(tmp_path / "loras/gouache.safetensors", factors(seed=1))
    return tmp_path


def jobs_of(folder: Path, text: str, overrides: Overrides | None = None) -> list[Job]:
    path = folder / "test.yaml"
    path.write_text(textwrap.dedent(text))
    return [picture.job for picture in load(path, overrides or Overrides()).pictures]


def problems_of(folder: Path, text: str) -> Sequence[str]:
    """Each `line path: message (hint)`."""
    with pytest.raises(ManifestError) as caught:
        jobs_of(folder, text)
    return [
        f"{problem.line} {problem.path}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "")
        for problem in caught.value.problems
    ]


def job_with(folder: Path, fields: str) -> Job:
    (job,) = jobs_of(folder, f"jobs:\n  - {{model: demo, prompt: a cat, {fields}}}\n")
    return job


def problem_with(folder: Path, fields: str) -> str:
    (problem,) = problems_of(folder, f"jobs:\n  - {{model: demo, prompt: a cat, {fields}}}\n")
    return problem


class TestFiles:
    @pytest.mark.parametrize(
        "written",
        ["loras/ink.safetensors", "{file: loras/ink.safetensors}", "{file: ./loras/ink.safetensors, weight: 1}"],
    )
    def test_from_the_manifest_s_folder(self, folder: Path, written: str) -> None:
        """A path is from where the manifest is, whoever calls from where."""
        (lora,) = job_with(folder, f"loras: [{written}]").loras
        assert (lora.source, lora.weight, lora.name) == (str(folder / "loras/ink.safetensors"), 1.0, "ink")
        assert len(lora.identity) == 64

    def test_from_where_the_command_is_called(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Within the working folder no path tells of what is above it."""
        monkeypatch.chdir(folder)
        assert job_with(folder, "loras: [loras/ink.safetensors]").loras[0].source == "loras/ink.safetensors"

    def test_identity_is_of_what_it_holds(self, folder: Path) -> None:
        """Not of its name, its place or what it says of itself."""
        write_lora(folder / "elsewhere.safetensors", metadata={"trained_by": "somebody"})
        (here,) = job_with(folder, "loras: [loras/ink.safetensors]").loras
        (there,) = job_with(folder, "loras: [elsewhere.safetensors]").loras
        (other,) = job_with(folder, "loras: [loras/gouache.safetensors]").loras
        assert here.identity == there.identity != other.identity

    def test_a_job_s_list_takes_the_place_of_the_defaults(self, folder: Path) -> None:
        """Of the whole list, and of nothing but it."""
        jobs = jobs_of(
            folder,
            """
            defaults: {model: demo, loras: [{file: loras/ink.safetensors, weight: 0.5}]}
            jobs:
              - a cat
              - {prompt: a dog, loras: [loras/gouache.safetensors]}
              - {prompt: a cow, loras: []}
            """,
        )
        assert [[(lora.name, lora.weight) for lora in job.loras] for job in jobs] == [
            [("ink", 0.5)],
            [("gouache", 1.0)],
            [],
        ]

    def test_a_matrix_s_names(self, folder: Path) -> None:
        """In a file's name, and as a weight."""
        jobs = jobs_of(
            folder,
            """
            jobs:
              - prompt: a cat in {style}
                model: demo
                loras: [{file: "loras/{style}.safetensors", weight: "{strength}"}]
                matrix: {style: [ink, gouache], strength: [0.5, -1]}
            """,
        )
        assert [(lora.name, lora.weight) for job in jobs for lora in job.loras] == [
            ("ink", 0.5),
            ("ink", -1.0),
            ("gouache", 0.5),
            ("gouache", -1.0),
        ]

    def test_a_rehearsal_has_none(self, folder: Path) -> None:
        """The demo model stands in for another, whose LoRAs do not fit it."""
        text = "jobs:\n  - {prompt: a cat, model: demo, loras: [loras/ink.safetensors], schedule: lightning}\n"
        (job,) = jobs_of(folder, text, Overrides(proof=True))
        assert (job.loras, job.schedule) == ((), "qwen-image")


class TestProblems:
    def test_no_such_file(self, folder: Path) -> None:
        said = problem_with(folder, "loras: [loras/inc.safetensors]")
        assert said == (
            '2 jobs[0].loras[0]: there is no file "loras/inc.safetensors" (did you mean "loras/ink.safetensors"?)'
        )

    def test_no_such_name_in_a_matrix(self, folder: Path) -> None:
        """It is said once, at the LoRA."""
        (said,) = problems_of(
            folder,
            """
            jobs:
              - prompt: a cat
                model: demo
                loras:
                  - {file: "loras/{style}.safetensors"}
                matrix: {style: [ink, oils]}
            """,
        )
        assert said.startswith('6 jobs[0].loras[0]: there is no file "loras/oils.safetensors"')

    def test_no_such_id(self, folder: Path) -> None:
        said = problem_with(folder, "loras: [lightx2v/Qwen-Image-Lightning/4step-V2.0]")
        assert said.endswith(f'there is no LoRA "lightx2v/Qwen-Image-Lightning/4step-V2.0" (did you mean "{FOUR}"?)')

    def test_a_model(self, folder: Path) -> None:
        said = problem_with(folder, "loras: [Qwen/Qwen-Image]")
        assert said.endswith("Qwen/Qwen-Image is a model, and not a LoRA (write it under model)")

    def test_a_folder(self, folder: Path) -> None:
        assert problem_with(folder, "loras: [loras]").endswith(
            '"loras" is a folder, and not a LoRA (name the safetensors file in it)'
        )

    def test_not_safetensors(self, folder: Path) -> None:
        (folder / "page.safetensors").write_text("<!DOCTYPE html><html>")
        (folder / "old.pt").write_bytes(b"\x80\x02}q\x00.")
        assert "page" in problem_with(folder, "loras: [page.safetensors]")
        assert "pickle" in problem_with(folder, "loras: [old.pt]")

    def test_twice(self, folder: Path) -> None:
        """By what they hold: a copy is the same."""
        write_lora(folder / "copy.safetensors")
        said = problem_with(folder, "loras: [loras/ink.safetensors, copy.safetensors]")
        assert said == "2 jobs[0].loras[1]: copy.safetensors is there twice (keep one, and add their weights)"

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ("loras: ink", "loras: must be a list, not text (put it in [ ])"),
            ("loras: [3]", "loras[0]: must be text or a mapping, not a number"),
            ("loras: [{weight: 1}]", "loras[0]: needs a file or an id, and one of them"),
            ("loras: [{file: a, id: b}]", "loras[0]: needs a file or an id, and one of them"),
            ("loras: [{file: a, strength: 1}]", "loras[0].strength: unknown key"),
            ("loras: [{file: a, weight: 5}]", "loras[0].weight: 5 is out of range (allowed: -4 to 4)"),
            ("loras: [{file: a, weight: .nan}]", "loras[0].weight: nan is out of range (allowed: -4 to 4)"),
            ("loras: [{file: a, weight: '1'}]", "loras[0].weight: must be a number, not text (remove the quotes"),
            ("loras: [{file: a, weight: true}]", "loras[0].weight: must be a number, not true or false"),
            (f"loras: [{', '.join(['a'] * 17)}]", "loras: is too long: 17 (at most 16)"),
            ("loras: [{file: 'l/{x}', weight: '{y}'}], matrix: {z: [1]}", "loras[0].file: {x} is not a name of"),
            (
                "loras: [{file: loras/ink.safetensors, weight: '{y}'}], matrix: {y: [9]}",
                "loras[0].weight: the weight 9.0 is out of range (allowed: -4 to 4)",
            ),
            (
                "loras: [{file: loras/ink.safetensors, weight: '{y}'}], matrix: {y: [much]}",
                "loras[0].weight: the weight much is not a number",
            ),
            ("schedule: karras", "schedule: karras is no schedule (allowed: auto, qwen-image, lightning, or {shift"),
            ("schedule: {shift: 0}", "schedule: a shift of 0 is out of range (allowed: 0.01 to 100)"),
            ("schedule: {shift: much}", "schedule: the shift must be a number"),
            ("schedule: {mu: 1}", "schedule: takes a shift, and nothing else"),
        ],
    )
    def test_values(self, folder: Path, fields: str, said: str) -> None:
        first, *_ = problems_of(folder, f"jobs:\n  - {{model: demo, prompt: a cat, {fields}}}\n")
        assert first.startswith(f"2 jobs[0].{said}")


class TestCatalogue:
    def test_brings_its_settings(self, folder: Path) -> None:
        """Steps, guidance and schedule are the LoRA's."""
        (job,) = jobs_of(folder, f"jobs:\n  - {{prompt: a cat, loras: [{FOUR}]}}\n")
        assert (job.num_inference_steps, job.cfg_scale, job.schedule) == (4, 1.0, "lightning")
        assert job.loras[0].source == FOUR
        assert job.loras[0].identity.startswith(f"{FOUR}@")

    def test_what_a_user_says_wins(self, folder: Path) -> None:
        given = "steps: 6, cfg_scale: 2, schedule: {shift: 3}"
        (job,) = jobs_of(folder, f"jobs:\n  - {{prompt: a cat, loras: [{{id: {FOUR}, weight: 0.9}}], {given}}}\n")
        assert (job.num_inference_steps, job.cfg_scale, job.schedule) == (6, 2.0, Shift(shift=3.0))
        assert job.loras[0].weight == 0.9

    def test_two_that_contradict_each_other(self, folder: Path) -> None:
        """Both lines are named, unless the job says what is open between them."""
        text = f"jobs:\n  - prompt: a cat\n    loras:\n      - {FOUR}\n      - {EIGHT}\n"
        assert problems_of(folder, text) == [
            f"4 jobs[0].loras[0]: is for steps 4, and {EIGHT} for 8 (keep one of them, or write steps)",
            f"5 jobs[0].loras[1]: is for steps 8, and {FOUR} for 4 (keep one of them, or write steps)",
        ]
        (job,) = jobs_of(folder, text + "    steps: 6\n")
        assert (job.num_inference_steps, job.cfg_scale) == (6, 1.0)


class TestDoubts:
    """What is valid and was hardly meant, each at its line."""

    @staticmethod
    def warnings_of(folder: Path, fields: str) -> list[str]:
        path = folder / "test.yaml"
        path.write_text(f"jobs:\n  - prompt: a cat\n    {fields}\n")
        return [f"{warning.line} {warning.path}: {warning.message}" for warning in load(path).warnings]

    def test_steps_that_do_not_fit(self, folder: Path) -> None:
        """Up to twice as many are somebody's choice."""
        assert self.warnings_of(folder, f"loras: [{FOUR}]\n    steps: 40") == [
            f"4 jobs[0].steps: 40 steps, and {FOUR} was made for 4"
        ]
        assert self.warnings_of(folder, f"loras: [{FOUR}]\n    steps: 3")
        assert not self.warnings_of(folder, f"loras: [{FOUR}]\n    steps: 8")
        assert not self.warnings_of(folder, f"loras: [{FOUR}]")

    def test_guidance_and_schedule(self, folder: Path) -> None:
        said = self.warnings_of(folder, f"loras: [{EIGHT}]\n    cfg_scale: 4\n    schedule: qwen-image")
        assert said[-2:] == [
            f"4 jobs[0].cfg_scale: {EIGHT} was made for cfg_scale 1; guidance doubles the time",
            f"5 jobs[0].schedule: {EIGHT} was made for the schedule lightning",
        ]

    def test_another_model_s(self, folder: Path) -> None:
        said = self.warnings_of(folder, f"model: Qwen/Qwen-Image-2512\n    loras: [{FOUR}]")
        assert said == [
            f"4 jobs[0].loras[0]: {FOUR} was made for Qwen/Qwen-Image, and the model is Qwen/Qwen-Image-2512"
        ]

    def test_another_size_of_model(self, folder: Path) -> None:
        """What cannot fit is a problem: it would be fetched, and refused in the night."""
        with pytest.raises(ManifestError, match=f"{FOUR} was made for Qwen/Qwen-Image, whose layers demo does not"):
            self.warnings_of(folder, f"model: demo\n    loras: [{FOUR}]")

    def test_a_licence_that_forbids_commerce(self, folder: Path) -> None:
        """It is said before the first picture; one that allows it is not."""
        write_lora(folder / "nc.safetensors", factors(seed=3), {"modelspec.license": "CC-BY-NC-SA-4.0"})
        assert self.warnings_of(folder, "model: demo\n    loras: [loras/ink.safetensors, nc.safetensors]") == [
            "4 jobs[0].loras[1]: nc is not for commercial use (CC-BY-NC-SA-4.0)"
        ]


class TestFitting:
    """A file is held against the job's model before anything is rendered."""

    def test_another_model_s_file(self, folder: Path) -> None:
        said = problems_of(folder, "jobs:\n  - {prompt: a cat, loras: [loras/ink.safetensors]}\n")
        assert len(said) == 1
        assert "transformer_blocks.0.attn.to_q is [3072, 3072] in Qwen/Qwen-Image, and here it has" in said[0]

    def test_keys_that_fit_no_layer(self, folder: Path) -> None:
        strange = {f"double_blocks.{key}": tensor for key, tensor in factors().items()}
        write_lora(folder / "flux.safetensors", strange)
        said = problem_with(folder, "loras: [flux.safetensors]")
        assert "10 of its 10 keys fit none of the 76 layers of demo" in said
        assert "those of FLUX or HunyuanVideo" in said

    def test_for_a_model_of_one_s_own(self, folder: Path, demo_folder: Path) -> None:
        """Its own files say what its layers are."""
        (job,) = jobs_of(folder, f"jobs:\n  - {{prompt: a, model: {demo_folder}, loras: [loras/ink.safetensors]}}\n")
        assert job.loras[0].name == "ink"


class TestSchedules:
    @pytest.mark.parametrize(
        ("fields", "kind", "shift"),
        [
            ("seed: 1", "qwen-image", None),
            ("schedule: auto", "qwen-image", None),
            ("schedule: lightning", "lightning", None),
            ("schedule: {shift: 2.5}", "qwen-image", 2.5),
        ],
    )
    def test_of_a_job(self, folder: Path, fields: str, kind: str, shift: float | None) -> None:
        schedule = Schedule.of(job_with(folder, f"size: 64x128, {fields}"))
        assert (schedule.kind, schedule.steps, schedule.tokens, schedule.shift) == (kind, 8, 32, shift)


def test_a_lora_s_name() -> None:
    assert Lora(source="a/b.c/ink.v2.safetensors", identity="x").name == "ink.v2"
    assert Lora(source=FOUR, identity="x").name == "4steps-V2.0"
