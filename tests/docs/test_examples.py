"""What the documents show is tried: manifests, command lines, JSON, Python, links, and what they list."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from renderer import cli, errors
from renderer.cli import command
from renderer.job import Sidecar
from renderer.outputs.summary import Summary
from tests import driving
from tests.docs import reading
from tests.docs.reading import DOCUMENTS, ROOT, Block
from tests.loras import factors, write_lora

COMMANDS_PAGE = ROOT / "docs/commands.md"
ARCHITECTURE = ROOT / "docs/architecture.md"

KINDS = {
    "",
    "sh",
    "ini",
    "python",
    "yaml",
    "yaml fragment",
    "yaml base",
    "json sidecar",
    "json summary",
    "json lines",
    "http",
    "json batch",
    "json answer",
}

OTHERS_FLAGS = {"--help", "--read-only", "--user"}
"""Of argparse, and of docker."""

OTHERS_COMMANDS = {"cp", "loginctl"}


def take_apart(line: str) -> None:
    """Have the real parser take `renderer …` apart. Raises `SystemExit` where it does not take it."""
    command.parser().parse_args(shlex.split(line))


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: each
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, each in action.choices.items()
    }


def options(parser: argparse.ArgumentParser) -> set[str]:
    """A command's long options, and those of its own commands."""
    own = {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    return own.union(*map(options, subcommands(parser).values())) - {"--help", "--version"}


# ---- what is typed ---------------------------------------------------------------------------------------------------


def shell_lines() -> Iterator[str]:
    for block in reading.blocks("sh"):
        for line in block.text.splitlines():
            if command := line.split(" #")[0].strip():
                yield command


def typed(program: str) -> list[str]:
    """What the documents have people type of a program: in blocks, and in lines of text."""
    found = [line for line in shell_lines() if line.startswith(f"{program} ")]
    for document in DOCUMENTS:
        found += [span for span in reading.spans(document) if re.match(rf"{program} [a-z]", span)]
    return sorted(set(found))


def renderer_lines() -> list[str]:
    """Arguments of each `renderer …`: also in cron's line, in units, and behind `.venv/bin/`."""
    found = [line.removeprefix("renderer ") for line in typed("renderer")]
    for block in reading.blocks("", "ini"):
        found += re.findall(r"\.venv/bin/renderer ([^\n]*)", block.text)
    return [re.split(r" \\?(?:[|&;]|\d?>)", line)[0] for line in found]


def test_there_are_examples() -> None:
    """The tests below look at something."""
    assert len(reading.blocks("yaml", "yaml fragment")) >= 5
    assert len(renderer_lines()) >= 25
    assert len(typed("make")) >= 10


@pytest.mark.parametrize("line", renderer_lines())
def test_command_lines_are_the_renderers(line: str) -> None:
    """Every `renderer …` of a document is taken by the real parser; one without arguments is a command's name."""
    if line not in command.COMMANDS:
        take_apart(line)


@pytest.mark.parametrize("line", typed("make"))
def test_make_lines_are_the_makefiles(line: str) -> None:
    """Every `make …` has its targets, and what it hands on is taken by the real parser."""
    bare = {"PATH": os.environ["PATH"]}  # nothing of a make that runs these tests
    arguments = ["make", "-n", *shlex.split(line)[1:]]
    ran = subprocess.run(arguments, cwd=ROOT, env=bare, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for handed in re.findall(r"-m renderer ([a-z][^\n]*?) \|\|", ran.stdout):
        take_apart(handed)


def test_nothing_else_is_typed() -> None:
    """A line of a shell block is one of ours, or of a program that is named here."""
    assert {line.split()[0] for line in shell_lines()} <= {"make", "renderer"} | OTHERS_COMMANDS


def test_every_option_is_told_of_and_no_other() -> None:
    """Each command's page tells of its options; no document tells of one that no command has."""
    parser = command.parser(filled=True)
    shared = reading.section(COMMANDS_PAGE, "Options of every command that takes manifests")
    for name, each in subcommands(parser).items():
        told = set(re.findall(r"--[a-z-]+", shared + reading.section(COMMANDS_PAGE, name)))
        assert options(each) - told == set(), name
    for document in DOCUMENTS:
        flags = {flag for span in reading.spans(document) for flag in re.findall(r"(?<![\w-])--[a-z-]+", span)}
        assert flags - options(parser) - OTHERS_FLAGS == set(), reading.name(document)


# ---- what is written and read ----------------------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert {str(block): block.kind for block in reading.blocks() if block.kind not in KINDS} == {}


def whole(block: Block) -> str:
    """A manifest: a fragment is some of its jobs."""
    if block.kind == "yaml":
        return block.text
    return "version: 1\njobs:\n" + "".join(f"  {line}\n" for line in block.text.splitlines())


@pytest.mark.parametrize("block", reading.blocks("yaml", "yaml fragment"), ids=str)
def test_manifests_have_no_problem(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every manifest of a document is valid, and says nothing that was hardly meant."""
    monkeypatch.chdir(tmp_path)
    demo = ROOT / "renderer/demo/model"
    (tmp_path / "models").mkdir()
    (tmp_path / "models/my-finetune").symlink_to(demo)  # a folder of one's own, and a file
    (tmp_path / "mine.safetensors").symlink_to(demo / "transformer/diffusion_pytorch_model.safetensors")
    for name, picture in (("photos/shop", "desktop"), ("photos/mill", "phone"), ("masks/shop", "desktop")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / f"renderer/report/{picture}.webp", tmp_path / f"{name}.png")  # any picture will do
    for side in ("left", "right"):
        Image.new("L", (64, 64), 255).save(tmp_path / f"masks/{side}.png")
    (tmp_path / "cities.csv").write_text("city,greeting,seed\nParis,Hello 你好,1\n", encoding="utf-8")
    for base in reading.blocks("yaml base"):  # called as its first line says
        (tmp_path / base.text.splitlines()[0].removeprefix("# ")).write_text(base.text, encoding="utf-8")
    for seed, name in enumerate(("gouache", "linocut")):
        write_lora(tmp_path / f"loras/{name}.safetensors", factors(seed=seed))
    (tmp_path / "example.yaml").write_text(whole(block), encoding="utf-8")
    assert cli.main(["validate", "--strict", "example.yaml"]) == errors.EXIT_DONE


@pytest.mark.parametrize("block", reading.blocks("json sidecar", "json summary"), ids=str)
def test_json_is_of_its_schema(block: Block) -> None:
    """A sidecar has all parts that a sidecar has, and no other; so has a summary."""
    kind = Sidecar if block.kind == "json sidecar" else Summary
    assert set(json.loads(block.text)) == set(kind.model_fields)
    kind.model_validate_json(block.text)


def test_the_logs_lines_are_a_runs(tmp_path: Path) -> None:
    """Each line of a log is like one that a run prints: the same event with the same keys."""
    arguments = ("render", driving.write_manifest(tmp_path, "a"), "--log-format", "json")
    _, printed = driving.start(*arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True).communicate(timeout=60)
    kinds = {line["event"]: list(line) for line in map(json.loads, printed.splitlines())}
    told = [json.loads(line) for block in reading.blocks("json lines") for line in block.text.splitlines()]
    assert told
    assert [list(line) for line in told] == [kinds.get(line["event"]) for line in told]


@pytest.mark.parametrize("block", reading.blocks("python"), ids=str)
def test_python_runs(block: Block) -> None:
    exec(compile(ast.parse(block.text), str(block), "exec"), {})  # noqa: S102  # the documents' own lines


@pytest.mark.parametrize("document", DOCUMENTS, ids=reading.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every link to a file has its file, and every one to a heading its heading."""
    for link in reading.links(document):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in reading.anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=reading.name)
def test_modules_are_where_they_are_told_to_be(document: Path) -> None:
    """A file of Python that a document names is there, from the root or from the package."""
    for span in reading.spans(document):
        if re.fullmatch(r"[\w/]+\.py", span):
            assert (ROOT / span).exists() or list((ROOT / "renderer").rglob(span)), span


def test_files_that_are_spoken_of_are_there() -> None:
    """Docstrings, tables of measurements, the Makefile and workflows name files of ours by their paths."""
    speaking = [path for folder in ("renderer", "tests", "tools") for path in (ROOT / folder).rglob("*.py")]
    speaking += [*(ROOT / "tests/benchmarks").glob("*.md"), *(ROOT / ".github/workflows").iterdir(), ROOT / "Makefile"]
    gone = {
        f"{reading.name(path)}: {named}"
        for path in speaking
        for named in re.findall(
            r"(?<![\w/\"])(?:tests|renderer|tools)/[\w/.-]+\.(?:py|md|jsonl|json|yaml)\b", path.read_text()
        )
        if not (ROOT / named).exists()
    }
    assert gone == set()


# ---- what is listed --------------------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    """It is what a newcomer reads: at most 200 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_all_documents_are_read_on_to() -> None:
    """From the README, every document is one step away."""
    linked = set(reading.links(ROOT / "README.md"))
    assert {reading.name(document) for document in (ROOT / "docs").glob("*.md")} <= linked


def test_exit_codes_are_all_told() -> None:
    """The table has the codes that there are."""
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    told = re.findall(r"^\| \*\*(\d+)\*\* \|", reading.section(COMMANDS_PAGE, "Exit codes"), re.MULTILINE)
    assert set(map(int, told)) == codes


def test_variables_are_all_told() -> None:
    """Each RENDERER_… that the program asks for stands in a document."""
    program = (path.read_text(encoding="utf-8") for path in (ROOT / "renderer").rglob("*.py"))
    asked = {found for text in program for found in re.findall(r'"(RENDERER_\w+)"', text)}
    told = {found for document in DOCUMENTS for found in re.findall(r"RENDERER_[A-Z_]+", document.read_text())}
    assert asked - told == set()


def test_the_houses_plan_is_the_house() -> None:
    """The tree has each wing, and the floors are those that import-linter keeps."""
    tree, floors = (block.text for block in reading.blocks("", documents=(ARCHITECTURE,))[1:3])
    told = set(re.findall(r"^  (\w+(?:/|\.py)) ", tree, re.MULTILINE))
    wings = {f"{path.parent.name}/" for path in (ROOT / "renderer").glob("*/__init__.py")}
    modules = {path.name for path in (ROOT / "renderer").glob("[!_]*.py")}
    assert told == wings | modules
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert floors.splitlines() == next(each for each in contracts if each["type"] == "layers")["layers"]


@pytest.mark.parametrize("face", sorted((ROOT / "renderer").glob("*/__init__.py")), ids=lambda face: face.parent.name)
def test_a_wings_face_has_its_rooms(face: Path) -> None:
    """Each wing's docstring names every module in it; what it lists as a file or a folder is there."""
    told = ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or ""
    modules = {path.stem for path in face.parent.glob("[!_]*.py")}
    folders = {path.parent.name for path in face.parent.glob("*/__init__.py")}
    assert {name for name in modules | folders if not re.search(rf"\b{name}\b", told)} == set()
    listed = re.findall(r"^ +(\w+(?:\.py|/)?)  ", told, re.MULTILINE)
    assert [name for name in listed if not list(face.parent.glob(f"{name.removesuffix('.py').strip('/')}*"))] == []


def test_extras_are_installed_from_the_checkout() -> None:
    """Nothing says `pip install 'renderer[…]'`: a registry's package of that name may be somebody else's."""
    names = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    texts = [path.read_text(encoding="utf-8") for path in (*reading.DOCUMENTS, *(ROOT / "renderer").rglob("*.py"))]
    assert not [name for name in names for text in texts if re.search(rf"renderer\[[^]]*{name}", text)]
