"""Warnings: what in a manifest is valid and was hardly meant, each at its line, each once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from renderer import catalog
from renderer.cli import command as cli
from renderer.manifest.doubts import MAX_WARNINGS
from renderer.manifest.manifest import load
from tests.manifest.test_manifest_properties import manifests, written
from tests.reading import DEMO, load_text

ROOT = Path(__file__).resolve().parents[2]
CUT = 'what follows " #" is a comment, and no part of the text'


def warnings_of(text: str) -> list[str]:
    """A manifest's warnings as `line:column path: message`, without their hints."""
    found = load_text(text).warnings
    assert all(warning.warning and warning.hint for warning in found)
    return [f"{each.line}:{each.column} {each.path}: {each.message}" for each in found]


class TestComments:
    def test_a_prompt_that_a_comment_cuts(self) -> None:
        """In a field, in a job that is its prompt, in a matrix, in block and in flow style: where the # stands."""
        assert warnings_of(
            DEMO + "jobs:\n"
            "  - {id: a, negative_prompt: b #c\n    , prompt: swatch in #ff8800\n    }\n"
            "  - bus line #7 at night\n"
            "  - prompt: a {x} cat\n"
            "    matrix:\n"
            "      x:\n"
            "        - red #1\n"
        ) == [
            f"3:32 jobs[0].negative_prompt: {CUT}",
            f"4:25 jobs[0].prompt: {CUT}",
            f"6:14 jobs[1]: {CUT}",
            f"10:15 jobs[2].matrix.x[0]: {CUT}",
        ]

    def test_in_the_defaults(self) -> None:
        """The defaults' texts are every job's, and are told once."""
        assert warnings_of("defaults:\n  model: demo\n  negative_prompt: b #c\njobs: [x, y]\n") == [
            f"3:22 defaults.negative_prompt: {CUT}"
        ]

    def test_a_comment_that_is_one(self) -> None:
        """A space behind the # says that it is a comment; one behind a number or a name cuts no prompt."""
        assert (
            warnings_of(DEMO + "jobs:\n  - a cat # the good one\n  - {id: x #y\n    , prompt: b, steps: 9 #z\n    }\n")
            == []
        )


class TestTexts:
    def test_what_is_for_other_tools(self) -> None:
        """Prompts, negative prompts and a matrix's values are looked at, defaults once for all jobs."""
        assert warnings_of(
            "defaults: {model: demo, negative_prompt: 'blurry, <lora:x:1>'}\n"
            "jobs: [a, b, {prompt: 'a {x} cat', negative_prompt: c, matrix: {x: ['(red:1.2)', blue]}}]\n"
        ) == [
            "1:42 defaults.negative_prompt: <lora:x:1> is read as text: no LoRA is loaded by it",
            "2:69 jobs[2].matrix.x[0]: (red:1.2) is read as text: there are no weights here",
        ]

    def test_a_key_that_is_none(self) -> None:
        """A key with a full-width colon, or without a space behind it, is the text of a prompt."""
        (first, second) = load_text(DEMO + "jobs:\n  - prompt\uff1aa cat\n  - prompt:a cat\n").warnings
        assert first.message == "prompt\uff1a is read as text: it is no key"
        assert second.hint == 'write "prompt: " with a space behind it'


class TestSettings:
    def test_a_negative_prompt_without_guidance(self) -> None:
        """At cfg_scale 1 nothing keeps anything out."""
        assert warnings_of(
            DEMO + "jobs: [{prompt: a, cfg_scale: 1, negative_prompt: blurry}, {prompt: b, cfg_scale: 1}]"
        ) == ["2:51 jobs[0].negative_prompt: has no effect at cfg_scale 1"]

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ("steps: 4", ["4 steps are few for Qwen/Qwen-Image with guidance"]),
            ("steps: 120", ["120 steps take long, and show little that 40 do not"]),
            ("steps: 4, cfg_scale: 1", []),
            ("steps: 4, expect: {seconds: 9}", []),
            ("steps: 20", []),
            ("steps: 4, model: demo", []),
            ("", []),
        ],
    )
    def test_steps(self, fields: str, said: list[str]) -> None:
        """Few steps with guidance and many are doubted; a distilled model's, a smoke test's and the demo's not."""
        assert [each.message for each in load_text(f"jobs: [{{prompt: a, {fields}}}]").warnings] == said

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("word " * 400, None),
            ("word " * 600, f"is more than {catalog.TRAINED_TOKENS} tokens long"),
            ("猫" * 500, None),
            ("猫" * 1100, f"is more than {catalog.TRAINED_TOKENS} tokens long"),
            ("猫" * 8500, f"is more than {catalog.MOST_TOKENS:,} tokens long, and what is beyond them is cut off"),
        ],
    )
    def test_long_prompts(self, text: str, said: str | None) -> None:
        """A prompt that is surely longer than the model learned, or reads; in the matrix's longest values too."""
        for job in (f"{{prompt: {text}}}", f"{{prompt: '{{x}}', matrix: {{x: [a, {text}]}}}}"):
            found = load_text(f"{DEMO}jobs: [{job}]").warnings
            assert len(found) == (said is not None)
            assert not said or found[0].message.startswith(said)


class TestTwins:
    def test_the_same_picture_twice(self) -> None:
        """Two names of one picture are told, once for each pair of jobs."""
        assert warnings_of(
            DEMO + "jobs:\n"
            "- {id: a, prompt: x, seeds: [1, 2, 3]}\n- {id: b, prompt: x, seeds: [2, 3]}\n- {id: c, prompt: y}\n"
        ) == ['4:3 jobs[1]: "b-s2" is the same picture as "a-s2" of line 3: all of its settings are']

    def test_what_differs(self) -> None:
        """Another seed, size or number of steps makes another picture."""
        assert warnings_of(DEMO + "jobs: [{prompt: x, seed: 1}, {prompt: x}, {prompt: x, steps: 9}]") == []


class TestBounds:
    def test_many(self) -> None:
        """After two hundred nothing more is looked for, and that is said."""
        found = load_text(DEMO + "jobs:\n" + "- (a:1.2) <lora:b:1>\n" * 3000).warnings
        assert len(found) == MAX_WARNINGS + 1
        assert sum("nothing more was looked for" in warning.message for warning in found) == 1

    def test_our_own_manifests_have_none(self) -> None:
        """What the project comes with is as it is meant."""
        for path in (ROOT / "jobs").glob("*.yaml"):
            assert load(path).warnings == ()


printable = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]), max_size=30)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(manifests(), st.lists(printable.filter(str.strip), max_size=3))
def test_whatever_is_valid(document: dict[str, Any], prompts: list[str]) -> None:
    """Warnings never keep a manifest that is well from being read, and each has its place."""
    assume(not any("{{" in text for text in prompts))  # a choice that does not end is a problem
    more = [{"prompt": text, "id": f"t{number}"} for number, text in enumerate(prompts)]
    data = written({**document, "jobs": [*document["jobs"], *more]})
    assume("\ufeff" not in data.decode())
    for warning in load_text(data).warnings:
        assert 1 <= warning.line <= data.count(b"\n") + 1
        assert str(warning).isprintable()


class TestDoors:
    TWO = DEMO + "jobs:\n- a cat #1\n- {prompt: b, size: 64x64}\n"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("m.yaml").write_text(self.TWO)

    def test_validate_warns_and_ends_with_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A line for each, in the form of compilers, and how many."""
        assert cli.main(["validate", "m.yaml"]) == 0
        said = capsys.readouterr()
        assert said.out == "m.yaml: 2 pictures, no problems, 1 warning\n"
        assert said.err.splitlines() == [
            f"m.yaml:3:9: warning: jobs[0]: {CUT} (quote the whole text, or write a space behind the # of a comment)",
            "1 warning",
        ]

    @pytest.mark.parametrize("command", ["validate", "plan", "render", "status"])
    def test_strict_refuses(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        """With `--strict` a warning is as good as a problem: 2."""
        assert cli.main([command, "m.yaml", "--strict"]) == 2
        assert "m.yaml:3:9: warning: " in capsys.readouterr().err
        assert not Path("outputs").exists()

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        """`validate --json` lists problems and warnings with their places; `plan --json` those of each manifest."""
        assert cli.main(["validate", "m.yaml", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["manifests"] == [{"manifest": "m.yaml", "name": "m", "pictures": 2, "warnings": 1}]
        (warning,) = found["problems"]
        assert (warning["line"], warning["column"], warning["warning"]) == (3, 9, True)
        assert cli.main(["plan", "m.yaml", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["manifests"][0]["warnings"] == [warning]

    def test_files_of_models_are_looked_at(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A model's file that is none is said at the line of the job that names it, before anything is fetched: 2."""
        Path("mine.safetensors").write_bytes(b"no tensors" * 100)
        Path("m.yaml").write_text("jobs:\n- a\n- prompt: b\n  model: {transformer: mine.safetensors}\n- c\n")
        assert cli.main(["validate", "m.yaml"]) == 2
        said = capsys.readouterr()
        assert said.out == "m.yaml: 3 pictures, 1 problem\n"
        assert said.err.startswith("m.yaml:3:1 model: ")
        assert "mine.safetensors" in said.err

    def test_plan_shows_twenty(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Warnings do not drown what was asked for."""
        Path("many.yaml").write_text(DEMO + "jobs:\n" + "".join(f"- {n} (a:1.2)\n" for n in range(57)))
        assert cli.main(["plan", "many.yaml"]) == 0
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 22
        assert said[-2:] == ["… and 37 more warnings; renderer validate lists them", "57 warnings"]
