"""From a job's fields to its pictures: defaults, sizes, seeds, the matrix and ids."""

from __future__ import annotations

import pytest

from renderer import catalog
from renderer.job import ControlNet, Input
from renderer.manifest import expand, pictures_in
from tests.reading import load_job, load_text, problem_of, problem_with


def ids_of(text: str) -> list[str]:
    return [picture.id for picture in load_text(text).pictures]


class TestIds:
    def test_numbered(self) -> None:
        """Jobs without an id are numbered from 001, by their place in the list."""
        assert ids_of("jobs: [a, {prompt: b, id: own}, c]") == ["001", "own", "003"]

    def test_numbered_wide(self) -> None:
        """A thousand jobs need four digits."""
        text = "jobs: [" + ", ".join("a" * (number % 50 + 1) for number in range(1000)) + "]"
        assert ids_of(text)[::999] == ["0001", "1000"]

    def test_what_varies(self) -> None:
        """A picture's id says what varies within its job: matrix, size, seed, in this order."""
        fields = "id: job, matrix: {a: [x, y], only: [z]}, sizes: [1:1, 16:9], seeds: [1, 2]"
        ids = ids_of(f"jobs:\n  - {{prompt: p, {fields}}}")
        assert ids[0] == "job-x-1328x1328-s1"
        assert ids[-1] == "job-y-1664x928-s2"
        assert len(set(ids)) == 8

    def test_named_in_the_id(self) -> None:
        """What the id names already is not said twice."""
        text = 'jobs:\n  - {id: "{b}-job", prompt: p, matrix: {a: [x, y], b: [p, q]}}'
        assert ids_of(text) == ["p-job-x", "q-job-x", "p-job-y", "q-job-y"]

    def test_job_id(self) -> None:
        """A picture remembers its job's id, filled in."""
        text = 'jobs:\n  - {id: "sign-{city}", prompt: p, matrix: {city: [Paris, Tokyo]}, seeds: [1, 2]}'
        assert [picture.place.job_id for picture in load_text(text).pictures] == [
            "sign-Paris",
            "sign-Paris",
            "sign-Tokyo",
            "sign-Tokyo",
        ]

    def test_values_made_fit(self) -> None:
        """Values become fit for ids; literal ids must be."""
        assert ids_of('jobs:\n  - {id: "x-{a}", prompt: p, matrix: {a: ["Hello 你好", ../../etc]}}') == [
            "x-Hello-你好",
            "x-etc",
        ]
        assert 'like "a-b"' in problem_with("id: a b")
        assert "jobs[0].id: an id has only letters" in problem_with('id: "../x"')
        assert "jobs[0].id: an id has only letters" in problem_with('id: "{x}"')

    def test_composed(self) -> None:
        """Ids are composed Unicode, however they were written."""
        (identifier,) = ids_of("jobs:\n  - {id: e\u0301, prompt: p}")
        assert identifier == "\u00e9"

    def test_too_long(self) -> None:
        """An id that grows too long is refused."""
        axes = ", ".join(f"a{number}: [{'x' * 40}, {'y' * 40}]" for number in range(4))
        assert "jobs[0]: the id has" in problem_with(f"matrix: {{{axes}}}")

    def test_unique_within_a_job(self) -> None:
        """Two values that differ only in what an id cannot hold are told apart by nobody."""
        problem = problem_with('id: j, matrix: {a: ["a b", "a/b"]}')
        assert 'two pictures of the job in line 2 have the id "j-a-b"' in problem

    def test_unique_in_the_manifest(self) -> None:
        """Two jobs whose pictures have one id are a problem that names both lines, once."""
        text = (
            "jobs:\n  - {id: Same, prompt: a, count: 3, seed: 1}\n  - b\n  - {id: same, prompt: c, count: 3, seed: 1}\n"
        )
        assert problem_of(text).startswith('4:5 jobs[2]: two pictures have the id "same-s1": of line 2 and of line 4')


class TestRehearse:
    @pytest.mark.parametrize(
        ("width", "height", "expected"),
        [
            (1328, 1328, (256, 256)),
            (1664, 928, (336, 192)),
            (928, 1664, (192, 336)),
            (2560, 256, (816, 80)),
            (256, 2560, (80, 816)),
            (64, 64, (256, 256)),
        ],
    )
    def test_size(self, width: int, height: int, expected: tuple[int, int]) -> None:
        """A rehearsal keeps the aspect at about the area of 256x256, within the demo model's range."""
        (job,) = load_job("seed: 3")
        proof = expand.rehearse(job.model_copy(update={"width": width, "height": height}))
        assert (proof.width, proof.height) == expected

    def test_the_rest_stays(self) -> None:
        """A rehearsal takes the demo model, bf16 and at most eight steps; the rest is the job's."""
        (job,) = load_job("seed: 3, negative_prompt: dog, cfg_scale: 7")
        proof = expand.rehearse(job)
        assert (proof.model, proof.precision, proof.num_inference_steps) == ("demo", "bf16", 8)
        assert (proof.seed, proof.prompt, proof.negative_prompt, proof.cfg_scale) == (3, "a cat", "dog", 7)
        assert expand.rehearse(job.model_copy(update={"num_inference_steps": 2})).num_inference_steps == 2

    def test_what_no_demo_model_has_goes(self) -> None:
        """ControlNets and layers: a rehearsal of them is a plain picture."""
        (job,) = load_job("seed: 3")
        seen = Input(sha256="0" * 64, width=64, height=64)
        net = ControlNet(source="a", identity="a", image=seen)
        full = job.model_copy(update={"controlnets": (net,), "layer_input_image": seen, "layer_num": 3})
        assert expand.rehearse(full) == expand.rehearse(job)

    def test_an_edit_of_many_pictures_keeps_as_many_as_the_demo_takes(self) -> None:
        """The first ones, in the demo's own size."""
        assert catalog.DEMO_EDIT.editing is not None
        most = catalog.DEMO_EDIT.editing.most_images
        images = tuple(Input(sha256=str(number) * 64, width=64, height=64) for number in range(most + 1))
        (job,) = load_job("seed: 3")
        edit = pictures_in.edit_of(images, catalog.Editing(most + 1))
        proof = expand.rehearse(job.model_copy(update={"edit": edit}))
        assert proof.model == catalog.DEMO_EDIT.id
        assert proof.edit is not None
        assert proof.edit.images == images[:most]
