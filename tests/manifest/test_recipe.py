"""From a job's fields to its pictures: defaults, sizes, seeds, the matrix and ids."""

from __future__ import annotations

import pytest

from renderer.job import Job, Size, derive_seed
from tests.reading import load_job, load_text, problem_of, problem_with, problems_of


def sizes_of(fields: str, head: str = "") -> list[str]:
    return [f"{job.width}x{job.height}" for job in load_job(fields, head)]


class TestDefaults:
    def test_nothing_said(self) -> None:
        """A job that is only a prompt takes everything from the catalogue's model."""
        (picture,) = load_text("jobs: [a cat]").pictures
        assert picture.job == Job(
            model="Qwen/Qwen-Image",
            precision="fp8",
            prompt="a cat",
            negative_prompt="",
            cfg_scale=4.0,
            num_inference_steps=40,
            width=1328,
            height=1328,
            seed=derive_seed("a cat", "", Size(width=1328, height=1328)),
        )
        assert picture.expect is None

    def test_models_own_defaults(self) -> None:
        """Steps and sizes that are not said are those of the job's model."""
        (job,) = load_job("model: demo")
        assert (job.num_inference_steps, job.width, job.height) == (8, 256, 256)

    def test_everything_said(self) -> None:
        """Every field reaches the job."""
        (job,) = load_job(
            "negative_prompt: dog, model: demo, precision: bf16, cfg_scale: 2, num_inference_steps: 3, size: 64x80,"
            " seed: 9"
        )
        assert job == Job(
            model="demo",
            precision="bf16",
            prompt="a cat",
            negative_prompt="dog",
            cfg_scale=2.0,
            num_inference_steps=3,
            width=64,
            height=80,
            seed=9,
        )

    def test_any_field_in_defaults(self) -> None:
        """Any of a job's fields can stand in defaults, the prompt and the matrix too."""
        manifest = load_text("""
            defaults: {prompt: "a {animal}", id: "{animal}", model: demo, matrix: {animal: [cat, dog]}, seeds: [1, 2],
                       sizes: [64x64, 80x64], expect: {seconds: 3}}
            jobs:
              - {}
        """)
        assert len(manifest.pictures) == 8
        assert manifest.pictures[0].id == "cat-64x64-s1"
        assert manifest.pictures[-1].job.prompt == "a dog"
        assert all(picture.expect and picture.expect.seconds == 3 for picture in manifest.pictures)

    @pytest.mark.parametrize(
        ("defaults", "fields", "expected"),
        [
            ("sizes: [64x64, 80x80]", "size: 96x96", ["96x96"]),
            ("size: 64x64", "sizes: [96x96]", ["96x96"]),
            ("width: 64, height: 80", "size: 96x96", ["96x96"]),
            ("size: 64x64", "width: 96, height: 112", ["96x112"]),
            ("size: 64x64", "seed: 1", ["64x64"]),
        ],
    )
    def test_size_group(self, defaults: str, fields: str, expected: list[str]) -> None:
        """A job that gives any form of a size takes none of the defaults' forms."""
        assert sizes_of(fields, f"defaults: {{model: demo, {defaults}}}\n") == expected

    @pytest.mark.parametrize(
        ("defaults", "fields", "expected"),
        [
            ("seeds: [1, 2]", "seed: 5", [5]),
            ("seed: 1, count: 3", "seed: 5", [5]),
            ("seed: 1", "seeds: [5, 6]", [5, 6]),
            ("seed: 1, count: 2", "size: 64x64", [1, 2]),
        ],
    )
    def test_seed_group(self, defaults: str, fields: str, expected: list[int]) -> None:
        """A job that gives any form of a seed takes none of the defaults' forms."""
        assert [job.seed for job in load_job(fields, f"defaults: {{model: demo, {defaults}}}\n")] == expected

    def test_count_drops_the_defaults_seed(self) -> None:
        """A job's own count counts from the derived seed, not from the defaults' one."""
        jobs = load_job("count: 2", "defaults: {seed: 1}\n")
        first = derive_seed("a cat", "", Size(width=1328, height=1328))
        assert [job.seed for job in jobs] == [first, first + 1]

    @pytest.mark.parametrize(
        ("in_defaults", "in_job"), [("steps", "num_inference_steps"), ("num_inference_steps", "steps")]
    )
    def test_steps_group(self, in_defaults: str, in_job: str) -> None:
        """Both names of the steps are one field."""
        (job,) = load_job(f"{in_job}: 7", f"defaults: {{{in_defaults}: 3}}\n")
        assert job.num_inference_steps == 7

    def test_own_matrix_drops_the_defaults_exclusions(self) -> None:
        """The defaults' include and exclude speak of the defaults' matrix, and go with it."""
        head = "defaults: {matrix: {a: [x, y]}, exclude: [{a: x}], include: [{a: z}]}\n"
        assert len(load_job("matrix: {b: [p, q]}", head)) == 2
        assert len(load_job("exclude: [{a: y}]", head)) == 2

    def test_problem_in_defaults_is_told_once(self) -> None:
        """What is wrong in defaults is said there, once, however many jobs take it."""
        assert problem_of("defaults: {size: 17x17}\njobs: [a, b, c]").startswith("1:18 defaults.size: 17x17 is not a")


class TestExcludingFields:
    @pytest.mark.parametrize(
        ("fields", "path", "other"),
        [
            ("size: 1:1, sizes: [1:1]", "sizes", "size"),
            ("sizes: [1:1], size: 1:1", "size", "sizes"),
            ("size: 1:1, width: 1328, height: 1328", "width", "size"),
            ("seed: 1, seeds: [1]", "seeds", "seed"),
            ("seeds: [1], count: 2", "count", "seeds"),
            ("steps: 3, num_inference_steps: 3", "num_inference_steps", "steps"),
        ],
    )
    def test_pairs(self, fields: str, path: str, other: str) -> None:
        """Two fields that say the same thing in one mapping are a problem at the second one."""
        for text, where in (
            (f"jobs:\n  - {{prompt: a, {fields}}}\n", "jobs[0]"),
            (f"defaults: {{{fields}}}\njobs: [a]\n", "defaults"),
        ):
            assert f" {where}.{path}: cannot stand beside {other}, which says the same" in problems_of(text)[0]

    @pytest.mark.parametrize(("one", "other"), [("width", "height"), ("height", "width")])
    def test_half_a_size(self, one: str, other: str) -> None:
        """A width needs a height in the same mapping, whatever the defaults say."""
        assert f"jobs[0].{one}: needs {other} beside it" in problem_with(f"{one}: 64", "defaults: {size: 1:1}\n")

    def test_one_problem_a_field(self) -> None:
        """A width beside a size is refused for that, not for the missing height."""
        assert "jobs[0].width: cannot stand beside size" in problem_with("size: 1:1, width: 64")
