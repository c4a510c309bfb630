"""Each field's kinds and ranges, and the words for what does not fit."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import pytest

from renderer.job import MAX_SEED
from renderer.manifest import habits
from renderer.manifest.checking import Checker
from renderer.manifest.complaints import Complaint, nearest
from renderer.manifest.fields import ExpectFields, HeadFields, JobFields, ManifestFields

JOBS = Checker(JobFields)


def complaints_of(**fields: Any) -> list[Complaint]:
    return JOBS.check(fields, ("jobs", 0))[1]


def complaint_of(**fields: Any) -> tuple[str, str]:
    (complaint,) = complaints_of(**fields)
    return complaint.message, complaint.hint


PROMPTS = "write a job for each prompt; or {name} in one prompt, and a matrix"
SEED = "leave seed out: it is then made from prompt and size; or write count: 3 for three seeds"
SEEDS = "write a list like [1, 2, 3]; or seed: 1 and count for seeds that follow each other"


class TestKinds:
    @pytest.mark.parametrize(
        ("field", "value", "message", "hint"),
        [
            ("prompt", 3, "must be text, not a number", "quote it"),
            ("prompt", True, "must be text, not true or false", "quote it"),
            ("prompt", ["a"], "must be text, not a list", PROMPTS),
            ("prompt", None, "has no value", "give it one, or remove the key"),
            ("prompt", "", "must not be empty", ""),
            ("prompt", " \n", "must not be empty", ""),
            ("prompt", "x" * 10_001, "is too long: 10,001", "at most 10,000"),
            ("negative_prompt", {}, "must be text, not a mapping", ""),
            ("id", 7, "must be text, not a number", "quote it"),
            ("id", "", "must not be empty", ""),
            ("model", "", "must not be empty", ""),
            ("precision", "fp16", "fp16 is not one of its values", "write bf16"),
            (
                "precision",
                "turbo",
                "turbo is not one of its values",
                "allowed: bf16, fp8, fp8-weights, int8, int4 or auto",
            ),
            ("cfg_scale", "4.0", "must be a number, not text", "remove the quotes"),
            ("cfg_scale", 0, "0.0 is out of range", "write 1 for no guidance"),
            ("cfg_scale", "4", "must be a number, not text", "remove the quotes"),
            ("cfg_scale", 0.5, "0.5 is out of range", "allowed: 1 to 30"),
            ("cfg_scale", 31, "31.0 is out of range", "allowed: 1 to 30"),
            ("cfg_scale", math.nan, "nan is out of range", "allowed: 1 to 30"),
            ("cfg_scale", math.inf, "inf is out of range", "allowed: 1 to 30"),
            ("cfg_scale", True, "must be a number, not true or false", ""),
            ("steps", 0, "0 is out of range", "allowed: 2 to 200"),
            ("steps", 201, "201 is out of range", "allowed: 2 to 200"),
            ("steps", "40", "must be a whole number, not text", "remove the quotes"),
            ("steps", 40.0, "must be a whole number, not 40.0", "write 40"),
            ("steps", 40.5, "must be a whole number, not 40.5", ""),
            ("num_inference_steps", 0, "0 is out of range", "allowed: 2 to 200"),
            ("seed", -1, "-1 is out of range", SEED),
            ("seed", -2, "-2 is out of range", "allowed: 0 to 9,223,372,036,854,775,807"),
            ("seed", "random", "must be a whole number, not text", SEED),
            ("seed", 10**80, f"1{'0' * 58}… is out of range", "allowed: 0 to 9,223,372,036,854,775,807"),
            ("seeds", 7, "must be a list, not a number", "put it in [ ]"),
            ("seeds", [], "must not be empty", ""),
            ("seeds", "1-4", "must be a list, not text", SEEDS),
            ("seeds", "1..4", "must be a list, not text", SEEDS),
            ("seeds", "1, 4", "must be a list, not text", "put it in [ ]"),
            ("count", 0, "0 is out of range", "allowed: 1 to 10,000"),
            ("size", 1328, "must be text, not a number", 'did you mean "1328x1328"?'),
            ("size", "1328", "is not a size", 'did you mean "1328x1328"?'),
            ("size", "1328X1328", "is not a size", 'did you mean "1328x1328"?'),
            ("size", "1328*1328", "is not a size", 'did you mean "1328x1328"?'),
            ("size", "1024 x 768", "is not a size", 'did you mean "1024x768"?'),
            ("size", "16/9", "is not a size", 'did you mean "16:9"?'),
            ("size", "huge", "is not a size", 'like "1328x1328", or a ratio like "16:9"'),
            ("size", "16x16\n", "is not a size", 'did you mean "16x16"?'),
            ("size", "\u0661\u0666x16", "is not a size", 'like "1328x1328", or a ratio like "16:9"'),
            ("sizes", "1:1", "must be a list, not text", "put it in [ ]"),
            ("sizes", ["1:1", "1024\xd7768"], "is not a size", 'did you mean "1024x768"?'),
            ("width", "512px", "must be a whole number, not text", "write 512"),
            ("format", "jpg", "jpg is not one of its values", "write jpeg"),
            ("embed", "no", "no is not one of its values", "write none"),
            ("width", 0, "0 is out of range", "allowed: 1 to 999,999"),
            ("matrix", {}, "must not be empty", ""),
            ("matrix", [], "must be a mapping, not a list", ""),
            ("include", {}, "must be a list, not a mapping", ""),
            ("exclude", [{}], "must not be empty", ""),
            ("expect", 3, "must be a mapping, not a number", ""),
        ],
    )
    def test_refused(self, field: str, value: object, message: str, hint: str) -> None:
        """A value of the wrong kind or range is named, with what is allowed."""
        (complaint,) = complaints_of(**{field: value})
        assert complaint.route[:3] == ("jobs", 0, field)
        assert (complaint.message, complaint.hint) == (message, hint)

    @pytest.mark.parametrize(
        "fields",
        [
            {"prompt": "{ {{ }", "negative_prompt": "", "cfg_scale": 1, "steps": 200},
            {"seed": MAX_SEED, "count": 10_000, "cfg_scale": 30.0},
            {"seeds": [0, MAX_SEED], "sizes": ["1:1", "16x16"]},
            {"matrix": {"a": ["1"], "城市": [""]}, "include": [], "exclude": [{"a": "1"}]},
        ],
    )
    def test_allowed(self, fields: dict[str, Any]) -> None:
        """The ends of each range are within it."""
        assert JOBS.check(fields, ()) == (fields, [])

    def test_all_at_once(self) -> None:
        """Every field that is wrong is named, deep ones too."""
        complaints = complaints_of(stpes=1, prompt=1, seeds=[1, "2", -3], expect={"secs": 1})
        assert [complaint.route[2:] for complaint in complaints] == [
            ("prompt",),
            ("seeds", 1),
            ("seeds", 2),
            ("expect", "secs"),
            ("stpes",),
        ]

    def test_bounded(self) -> None:
        """A mapping of a hundred thousand wrong keys is not answered with as many comparisons."""
        assert len(complaints_of(**{f"key{number}": 1 for number in range(100_000)})) == 200


class TestKeys:
    def test_nearest_key(self) -> None:
        """An unknown key is pointed at itself, with the nearest key there is."""
        (complaint,) = complaints_of(stpes=3)
        assert complaint == Complaint(("jobs", 0, "stpes"), "unknown key", 'did you mean "steps"?', at_key=True)

    def test_no_near_key(self) -> None:
        """Where nothing is near, all known keys are named."""
        assert complaint_of(qqqq=3)[1].startswith("known: cfg_scale, context_image, controlnets, count, embed, ")

    @pytest.mark.parametrize(
        ("key", "hint"),
        [
            ("batch_size", "write count: 4 for four pictures, of seeds that follow each other"),
            ("guidance_scale", "write cfg_scale"),
            ("CFG Scale", "write cfg_scale"),
            ("sampler", "remove it: the model has one sampler"),
            ("neg_prompt", "write negative_prompt"),
            ("aspect-ratio", 'write size: "16:9"'),
            ("name", "put it at the top, beside jobs"),
            ("提示词", "write prompt"),
            ("\u201cprompt\u201d", "write prompt"),
            ("prompt\uff1a", "write prompt"),
            ("a cat", 'quote it if it is a prompt: ": " makes a key of what stands before it'),
        ],
    )
    def test_keys_of_other_tools(self, key: str, hint: str) -> None:
        """A key of another tool's is answered by what it means, however it is spelled."""
        checker = Checker(JobFields, elsewhere=HeadFields.__annotations__)
        _, (complaint,) = checker.check({key: 1}, ("jobs", 0))
        assert (complaint.message, complaint.hint) == ("unknown key", hint)

    def test_hints_name_fields_that_exist(self) -> None:
        """Whatever a hint says to write can be written."""
        known = {*JobFields.__annotations__, *ManifestFields.__annotations__}
        for hint in {*habits.HINTS_BY_KEY.values(), *habits.TOP_KEYS.values()}:
            found = re.match("write ([a-z_]+)", hint)
            assert hint.startswith(("remove", "give")) or "a job for each" in hint or (found and found[1] in known), (
                hint
            )
        assert not known & habits.HINTS_BY_KEY.keys()

    def test_strange_keys_and_values_take_no_time(self) -> None:
        """A value that almost fits many ways of writing a size is answered at once."""
        began = time.process_time()
        for text in (" " * 40, "1024" + " " * 30 + "!", "1" * 40, "1,1" * 13):
            habits.of_value("size", text)
            habits.of_value("seeds", text)
        habits.of_key(" " * 10**6 + "a", known=frozenset(), elsewhere=frozenset(), top=False)
        assert time.process_time() - began < 0.5

    def test_expect_has_its_own_keys(self) -> None:
        """Within expect, the nearest key is one of expect's."""
        assert complaint_of(expect={"second": 3}) == ("unknown key", 'did you mean "seconds"?')

    def test_nearest_of_long_words(self) -> None:
        """A key as long as a file is not compared."""
        assert nearest("steps" * 10_000, ["steps"]) == "known: steps"
        assert nearest("x", []) == ""


class TestMatrixNames:
    @pytest.mark.parametrize("name", ["id", "index", "seed", "width", "height", "model", "hash"])
    def test_output_fields(self, name: str) -> None:
        """A matrix's name may not be that of a field of output."""
        (complaint,) = complaints_of(matrix={name: ["a"]})
        assert complaint.at_key
        assert complaint.message == f"{name} is a field of output already"

    @pytest.mark.parametrize("name", ["", "a b", "1a", "a-b", "a.b", "{a}", "x" * 101])
    def test_words(self, name: str) -> None:
        """A matrix's name is a word that can stand in braces."""
        assert complaint_of(matrix={name: ["a"]})[0].endswith("cannot be a name")

    @pytest.mark.parametrize("value", [None, [], {}])
    def test_values_are_scalars(self, value: object) -> None:
        """A matrix's values are scalars, and there is at least one."""
        assert complaint_of(matrix={"a": [value]})
        assert complaint_of(matrix={"a": []}) == ("must not be empty", "")


class TestAmounts:
    @pytest.mark.parametrize(
        ("text", "count"),
        [
            (1, 1),
            (10**10, 10**10),
            ("1B", 1),
            ("2kB", 2000),
            ("2KB", 2000),
            ("2KiB", 2048),
            ("512MiB", 512 * 2**20),
            ("10GB", 10**10),
            ("10 GiB", 10 * 2**30),
            ("1.5GiB", 3 * 2**29),
            ("1TiB", 2**40),
        ],
    )
    def test_read(self, text: object, count: int) -> None:
        """An amount of bytes is a whole number, or one with a unit."""
        assert Checker(ExpectFields).check({"vram": text, "ram": text}, ()) == ({"vram": count, "ram": count}, [])

    @pytest.mark.parametrize(
        "text",
        ["10", "GiB", "-1GiB", "10GiBB", "10gib", "1e3GB", "0B", 0, -1, True, 1.5, [], "9" * 90 + "TiB", "1GB\n"],
    )
    def test_refused(self, text: object) -> None:
        """Anything else is refused with examples."""
        (complaint,) = complaints_of(expect={"vram": text})
        assert complaint.message.endswith("is not an amount of bytes")
        assert "10GiB" in complaint.hint

    @pytest.mark.parametrize("seconds", [-1, "3", math.nan, math.inf])
    def test_seconds(self, seconds: object) -> None:
        """Seconds are a finite number, not below zero."""
        assert complaints_of(expect={"seconds": seconds})


class TestHead:
    @pytest.mark.parametrize("version", [2, 0, True, "1", 1.0])
    def test_version(self, version: object) -> None:
        """There is one version of the language, and it is the number 1."""
        assert Checker(HeadFields).check({"version": 1}, ()) == ({"version": 1}, [])
        _, (complaint,) = Checker(HeadFields).check({"version": version}, ())
        assert complaint.route == ("version",)
