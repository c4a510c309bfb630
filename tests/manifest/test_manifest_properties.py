"""Manifests by the hundred: valid ones expand as a simple model says, broken ones give problems with lines."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renderer.errors import ManifestError
from renderer.job import Size, derive_seed
from renderer.manifest.manifest import Manifest, manifest_schema
from tests.reading import load_text

VALIDATOR = jsonschema.Draft202012Validator(manifest_schema())
THOROUGH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# ---- valid manifests -------------------------------------------------------------------------------------------------

letters = st.text(st.sampled_from("abcXYZ 你好é\"'#:-{}[]&*!|>%@`,?\\🙂"), min_size=1, max_size=12)
words = letters.filter(lambda text: text.strip() and not {"{", "|"} <= set(text))  # choices are test_choices' own
sides = st.integers(4, 20).map(lambda steps: steps * 16)
size_texts = st.builds("{}x{}".format, sides, sides)
seeds = st.integers(0, 2**63 - 10)
values = st.lists(st.from_regex(r"[a-z]{1,5}", fullmatch=True), min_size=1, max_size=3, unique=True)

size_groups: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"size": size_texts}),
    st.fixed_dictionaries({"sizes": st.lists(size_texts, min_size=1, max_size=3, unique=True)}),
    st.fixed_dictionaries({"width": sides, "height": sides}),
)
seed_groups: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({}, optional={"seed": seeds, "count": st.integers(1, 4)}),
    st.fixed_dictionaries({"seeds": st.lists(seeds, min_size=1, max_size=3, unique=True)}),
)
step_groups: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"steps": st.integers(2, 200)}),
    st.fixed_dictionaries({"num_inference_steps": st.integers(2, 200)}),
)
others = st.fixed_dictionaries(
    {},
    optional={
        "negative_prompt": words,
        "precision": st.sampled_from(["bf16", "fp8"]),
        "cfg_scale": st.one_of(st.integers(1, 30), st.floats(1, 30)),
    },
)
matrices: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"matrix": st.dictionaries(st.sampled_from(["x", "y", "颜色"]), values, min_size=1)}),
)


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


common = st.builds(merged, size_groups, seed_groups, step_groups, others)


@st.composite
def jobs(draw: st.DrawFn) -> Any:
    """A job whose prompt mentions all of its matrix's names, or a plain prompt."""
    if draw(st.booleans()):
        return draw(words)
    matrix = draw(matrices)
    prompt = draw(words)
    if matrix:
        prompt = prompt.replace("{", "{{").replace("}", "}}") + "".join(f" {{{name}}}" for name in matrix["matrix"])
    negative = {"negative_prompt": "none"} if matrix else {}
    return merged({"prompt": prompt}, matrix, draw(common), negative)


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    defaults = merged({"model": "demo", "negative_prompt": "plain"}, draw(common), {"negative_prompt": "plain"})
    return {"defaults": defaults, "jobs": draw(st.lists(jobs(), min_size=1, max_size=4))}


def written(document: Any) -> bytes:
    """A document as YAML; JSON is YAML too, and has no second opinion about scalars."""
    return json.dumps(document, ensure_ascii=False, indent=1).encode()


# ---- the simple model ------------------------------------------------------------------------------------------------


def group_of(job: dict[str, Any], defaults: dict[str, Any], *names: str) -> dict[str, Any]:
    source = job if any(name in job for name in names) else defaults
    return {name: source[name] for name in names if name in source}


def sizes_by_model(group: dict[str, Any]) -> list[Size]:
    if "width" in group:
        return [Size(width=group["width"], height=group["height"])]
    texts = group.get("sizes") or [group.get("size", "256x256")]
    return [Size(width=int(text.split("x")[0]), height=int(text.split("x")[1])) for text in texts]


def jobs_by_model(job: Any, defaults: dict[str, Any]) -> list[tuple[Any, ...]]:
    """All pictures of a job, in order, as plain tuples: the rules once more, in the most naive way."""
    job = {"prompt": job} if isinstance(job, str) else job
    negative = job.get("negative_prompt", defaults["negative_prompt"])
    steps = list(group_of(job, defaults, "steps", "num_inference_steps").values()) or [8]
    seed_group = group_of(job, defaults, "seed", "seeds", "count")
    matrix = job.get("matrix", {})
    found = []
    for combination in itertools.product(*matrix.values()):
        prompt = job["prompt"]
        if matrix:
            prompt = prompt.format(**dict(zip(matrix, combination, strict=True)))
        for size in sizes_by_model(group_of(job, defaults, "size", "sizes", "width", "height")):
            first = seed_group.get("seed", derive_seed(prompt, negative, size))
            counted = [first + number for number in range(seed_group.get("count", 1))]
            found += [
                (prompt, negative, size.width, size.height, seed, steps[0]) for seed in seed_group.get("seeds", counted)
            ]
    return found


@THOROUGH
@given(manifests())
def test_valid_manifests(document: dict[str, Any]) -> None:
    """A valid manifest makes the pictures that the simple model says, each with its own name, by its schema too."""
    assert VALIDATOR.is_valid(document)
    manifest = load_text(written(document))
    defaults = document["defaults"]
    expected = [picture for job in document["jobs"] for picture in jobs_by_model(job, defaults)]
    made = [picture.job for picture in manifest.pictures]
    assert [
        (job.prompt, job.negative_prompt, job.width, job.height, job.seed, job.num_inference_steps) for job in made
    ] == expected
    assert len({picture.id.casefold() for picture in manifest.pictures}) == len(expected)
    assert len({picture.output.casefold() for picture in manifest.pictures}) == len(expected)
    assert [picture.place.index for picture in manifest.pictures] == list(range(len(expected)))


@THOROUGH
@given(manifests())
def test_yaml_and_json_are_the_same(document: dict[str, Any]) -> None:
    """How a manifest is laid out does not matter: block style and JSON make the same pictures."""
    block = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    if "1.0e+" not in block:
        one, other = load_text(written(document)), load_text(block.encode())
        assert [picture.job for picture in one.pictures] == [picture.job for picture in other.pictures]


# ---- broken manifests ------------------------------------------------------------------------------------------------

FULL = """\
# a manifest with everything in it
version: 1
name: posters
output: "{id}-{seed}"
max_pictures: 100
defaults: {model: demo, precision: bf16, size: "16:9", steps: 4, cfg_scale: 4.0, negative_prompt: ""}
jobs:
  - id: welcome
    prompt: A modern poster with the text "WELCOME"
    sizes: [128x128, "9:16"]
    seeds: [1, 2, 3]
    expect: {seconds: 60, vram: 10GiB, ram: 16GiB}
  - id: sign-{city}
    prompt: A sign in {city} that says "{greeting}"
    width: 256
    height: 128
    count: 2
    matrix: {city: [Paris, Tokyo, 1.50], greeting: ["Hello 你好"]}
    exclude: [{city: Tokyo}]
    include: [{city: Rome, greeting: Ciao}]
  - >-
    just a
    prompt
"""
DOCUMENT = yaml.safe_load(FULL.replace("1.50", '"1.50"'))


def load_or_explain(data: bytes) -> None:
    """Whatever the bytes, there is a manifest, or problems with lines within the file; nothing else."""
    try:
        manifest = load_text(data)
    except ManifestError as error:
        problems = error.problems
    else:
        assert isinstance(manifest, Manifest)
        assert manifest.pictures
        return
    lines = len(data.decode("utf-8", "replace").splitlines()) + 1
    assert problems
    for problem in problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert problem.message
        assert str(problem).isprintable()


def test_the_full_manifest_is_well() -> None:
    """What the mutations start from has no problems."""
    assert len(load_text(FULL.encode()).pictures) == 13
    assert VALIDATOR.is_valid(DOCUMENT)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(FULL.encode()) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes(flips: list[tuple[int, int]]) -> None:
    """A manifest with some bytes replaced is read or explained."""
    data = bytearray(FULL.encode())
    for position, byte in flips:
        data[position] = byte
    load_or_explain(bytes(data))


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, len(FULL)),
    st.integers(0, 30),
    st.one_of(st.text(max_size=6), st.text(st.sampled_from("{}[]:,-&*!|>'\"%@` \n\t#?~<0x1.e"), max_size=6)),
)
def test_replaced_text(position: int, length: int, text: str) -> None:
    """A manifest with a piece cut out or other text put in is read or explained."""
    load_or_explain((FULL[:position] + text + FULL[position + length :]).encode("utf-8", "surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Bytes that were never a manifest are explained."""
    load_or_explain(data)


strange_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["16:9", "0x0", "99999x1", "{id}", "{", "../..", "/", "demo", "1e999GiB", "\u202e", "\U0001d7d9x1", "{a" * 50]
    ),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=3),
    st.just(DOCUMENT["jobs"]),
    st.just(DOCUMENT["jobs"][1]["matrix"]),
)


def routes_of(value: Any, route: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [route, *(below for key, item in value.items() for below in routes_of(item, (*route, key)))]
    if isinstance(value, list):
        return [route, *(below for place, item in enumerate(value) for below in routes_of(item, (*route, place)))]
    return [route]


def changed(value: Any, route: tuple[Any, ...], new: Any, *, rename: bool) -> Any:
    """The document with another value at `route`, or with another key there."""
    if not route:
        return new
    step, *rest = route
    if isinstance(value, list):
        replaced = changed(value[step], tuple(rest), new, rename=rename)
        return [*value[:step], replaced, *value[step + 1 :]]
    if rename and not rest:
        return {(str(new) if key == step else key): item for key, item in value.items()}
    return {key: changed(item, tuple(rest), new, rename=rename) if key == step else item for key, item in value.items()}


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(routes_of(DOCUMENT)), strange_values, st.booleans()), min_size=1, max_size=3))
def test_changed_values_and_keys(changes: list[tuple[tuple[Any, ...], Any, bool]]) -> None:
    """A manifest with other values or keys in some places is read or explained."""
    document = DOCUMENT
    for route, new, rename in changes:
        if route in routes_of(document):
            document = changed(document, route, new, rename=rename)
    load_or_explain(yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass"))
