"""`make setup` itself, by real make, venv and pip: on a project of a few lines whose packages lie in a folder."""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from renderer.cli import command as cli

ROOT = Path(__file__).resolve().parents[1]
BASE = getattr(sys, "_base_executable", sys.executable)

PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "renderer"
version = "1"
dependencies = ["torch", "torchvision"]
[project.optional-dependencies]
dev = ["checks"]
"""
BACKEND = '''\
"""As little of a build backend as pip takes."""
import zipfile
from pathlib import Path

METADATA = """Metadata-Version: 2.1
Name: renderer
Version: 1
Requires-Dist: torch
Requires-Dist: torchvision
Provides-Extra: dev
Requires-Dist: checks; extra == "dev"
"""
WHEEL = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "renderer-1-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        wheel.writestr("renderer.pth", str(Path.cwd()))
        wheel.writestr("renderer-1.dist-info/METADATA", METADATA)
        wheel.writestr("renderer-1.dist-info/WHEEL", WHEEL)
        wheel.writestr("renderer-1.dist-info/RECORD", "")
    return name
'''
MAIN = "import sys\nprint(*sys.argv[1:])\nsys.exit(4 if '--until' in sys.argv else 0)\n"
MACHINE = """\
import os
from types import SimpleNamespace
def look():
    return SimpleNamespace(gpu={"1": "a card", "": None}[os.environ.get("FAKE_GPU", "")])
"""
COMMANDS = next(
    sorted(action.choices) for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)
)


def make_wheel(folder: Path, name: str, version: str) -> None:
    """A package of one empty module."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


class Checkout:
    """A clone in a folder with a space in its name, whose index is a folder of wheels."""

    def __init__(self, top: Path) -> None:
        self.path = top / "a b" / "renderer"
        self.wheels = top / "wheels"
        self.bin = top / "bin"
        self.first_words = ""
        for folder in (self.path / "tools", self.path / "renderer", self.wheels, self.bin):
            folder.mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.path)
        shutil.copy(ROOT / "tools/set_up.py", self.path / "tools")
        (self.path / "pyproject.toml").write_text(PYPROJECT)
        (self.path / "constraints.txt").write_text("torch==2.15.0\ntorchvision==0.29.2\n")
        (self.path / "backend.py").write_text(BACKEND)
        (self.path / "renderer/__init__.py").write_text("")
        (self.path / "renderer/__main__.py").write_text(MAIN)
        (self.path / "renderer/machine").mkdir()
        (self.path / "renderer/machine/hardware.py").write_text(MACHINE)
        for name, version in (("torch", "2.15.0"), ("torchvision", "0.29.2"), ("checks", "1")):
            make_wheel(self.wheels, name, version)
        self.script("python3", f'exec "{BASE}" "$@"')

    def script(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def environment(self, **more: str) -> dict[str, str]:
        """As a stranger's is: pip's own configuration, some of it unhelpful, and a PYTHONPATH full of things."""
        elsewhere = self.path.parent.parent / "elsewhere"
        (elsewhere / "torch-2.15.0.dist-info").mkdir(parents=True, exist_ok=True)
        (elsewhere / "torch-2.15.0.dist-info/METADATA").write_text(
            "Metadata-Version: 2.1\nName: torch\nVersion: 2.15.0\n"
        )
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.path.parent), "PIP_NO_INDEX": "1", "PIP_USER": "1",
            "PIP_FIND_LINKS": str(self.wheels), "PIP_NO_CACHE_DIR": "1", "PYTHONPATH": str(elsewhere), **more,
        }  # fmt: skip

    def make(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments], cwd=self.path, env=self.environment(**more), check=False, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip

    def installed(self) -> set[str]:
        return {
            path.name.removesuffix(".dist-info") for path in self.path.glob(".venv/lib/*/site-packages/*.dist-info")
        }

    def begin_again(self) -> None:
        for stamp in self.path.glob(".venv/ready-*"):
            stamp.unlink()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout that has been set up: the tests follow one another in it, each leaving it so."""
    made = Checkout(tmp_path_factory.mktemp("checkout"))
    first = made.make("setup")
    assert first.returncode == 0, first.stdout + first.stderr
    made.first_words = first.stderr + first.stdout
    return made


@pytest.fixture
def unwritable(checkout: Checkout) -> Iterator[Path]:
    """A checkout that belongs to somebody else, in a folder that everybody may enter."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    shutil.copytree(checkout.path, top / "renderer", ignore=shutil.ignore_patterns(".venv"))
    yield top / "renderer"
    shutil.rmtree(top)


def test_it_says_what_comes_and_what_came(checkout: Checkout) -> None:
    """How much is to be downloaded, before; how many packages, while and after; and nothing twice."""
    words = checkout.first_words
    assert words.startswith("set-up: about 80 packages, 3.2 GB to download")
    assert "set-up: installing 3 packages" in words
    assert "set-up: done in 0:" in words
    assert {"torch-2.15.0", "torchvision-0.29.2", "renderer-1"} <= checkout.installed()
    again = checkout.make("setup")
    assert (again.returncode, again.stderr) == (0, "")


def test_what_the_renderer_ended_with_is_told(checkout: Checkout) -> None:
    """Make ends with 2, whatever happened; the code that the documents explain stands in a line of its own."""
    ran = checkout.make("nightly", "JOBS='x y.yaml'")
    assert ran.stdout == "render x y.yaml --until 07:00 --log-format plain\n"
    assert ran.returncode == 2
    assert ran.stderr.startswith("renderer's own exit code was 4\n")
    assert checkout.make("render").stdout == "render jobs/demo.yaml\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_targets_of_their_own_names(checkout: Checkout, command: str) -> None:
    """`make COMMAND ARGS=…` is `renderer COMMAND …`; a smoke job is the command where a server is named."""
    url = ["URL=http://127.0.0.1:8000"] if command == "smoke" else []
    assert checkout.make(command, "ARGS=--some thing", *url).stdout.split()[0] == command


@pytest.mark.parametrize(("gpu", "rendered", "code"), [("1", 2, 0), ("", 1, 0), ("broken", 1, 2)])
def test_smoke_renders_with_the_large_model_where_it_can(
    checkout: Checkout, gpu: str, rendered: int, code: int
) -> None:
    """On a GPU two manifests, elsewhere one, and why; one that cannot be told is not none."""
    ran = checkout.make("smoke", "ARGS=--yes", FAKE_GPU=gpu)
    expected = ["render jobs/smoke.yaml --force --yes", "render jobs/smoke-qwen.yaml --force --yes"][:rendered]
    assert [line for line in ran.stdout.splitlines() if line.startswith("render")] == expected
    assert ("skipped: jobs/smoke-qwen.yaml" in ran.stdout) == (gpu == "")
    assert ran.returncode == code


def test_half_an_installation_is_made_whole(checkout: Checkout) -> None:
    """A set-up that was killed while a package was unpacked goes on, and leaves nothing half there."""
    (package,) = checkout.path.glob(".venv/lib/*/site-packages/torch-2.15.0.dist-info")
    (package / "RECORD").unlink()
    (package.parent / "torch/__init__.py").unlink()
    checkout.begin_again()
    assert checkout.make("setup").returncode == 0
    assert (package.parent / "torch/__init__.py").exists()


def test_pip_warns_of_each_thing_once(checkout: Checkout) -> None:
    """A folder in pip's configuration that is not there is told once, and how often it was besides; ours are read."""
    make_wheel(checkout.wheels, "checks", "1.1")
    checkout.begin_again()
    (checkout.path / "constraints.txt").write_text("torch==2.15.0\ntorchvision==0.29.2\nchecks==1.1\n")
    ran = checkout.make("setup-dev", PIP_NO_INDEX="0", PIP_INDEX_URL="file:///nowhere", PIP_FORCE_REINSTALL="1")
    assert ran.returncode == 0, ran.stderr
    warnings = [line for line in ran.stderr.splitlines() if "file:///nowhere" in line]
    assert len(warnings) == 2  # one from each of setup and setup-dev
    assert "more times: WARNING: Location … is ignored" in ran.stderr
    assert "checks-1.1" in checkout.installed()


def test_torch_for_the_cpu_is_kept(checkout: Checkout) -> None:
    """TORCH=cpu takes the CPU's builds; a later set-up without it keeps them, TORCH=gpu takes the others again."""
    refused = checkout.make("setup", "TORCH=cpu")
    assert refused.returncode == 2
    assert "torch==2.15.0+cpu and torchvision==0.29.2+cpu from an index that has them" in refused.stderr
    for name, version in (("torch", "2.15.0+cpu"), ("torchvision", "0.29.2+cpu")):
        make_wheel(checkout.wheels, name, version)
    assert checkout.make("setup", "TORCH=cpu").returncode == 0
    assert {"torch-2.15.0+cpu", "torchvision-0.29.2+cpu"} <= checkout.installed()
    assert checkout.make("setup").stderr == ""
    checkout.begin_again()
    ran = checkout.make("setup")
    assert ran.stderr.startswith("set-up: about 65 packages, 0.4 GB")
    assert "torch-2.15.0+cpu" in checkout.installed()
    for wheel in checkout.wheels.glob("*+cpu*"):
        wheel.unlink()
    assert checkout.make("setup", "TORCH=gpu").returncode == 0
    assert "torch-2.15.0" in checkout.installed()


def test_another_python_makes_it_anew(checkout: Checkout) -> None:
    """`make setup PYTHON=…` is heard though a .venv of another Python is ready."""
    config = checkout.path / ".venv/pyvenv.cfg"
    config.write_text(config.read_text().replace("version = 3.", "version = 3.9"))
    python = checkout.script("python 3", f'exec "{BASE}" "$@"')
    ran = checkout.make("setup", f"PYTHON={python}")
    assert ran.returncode == 0, ran.stderr
    assert "it is made anew with" in ran.stderr
    assert checkout.make("setup", f"PYTHON={python}").stderr == ""
    assert checkout.make("setup").stderr == ""


def test_two_at_once_wait_for_each_other(checkout: Checkout) -> None:
    """Cron's set-up and a person's do not unpack into one folder together."""
    checkout.begin_again()
    with (checkout.path / "pyproject.toml").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        second = subprocess.Popen(
            ["make", "setup"], cwd=checkout.path, env=checkout.environment(), stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert second.stderr.readline() == "set-up: another one is on in this folder; waiting for it\n"
        assert second.poll() is None
    second.communicate(timeout=60)
    assert second.returncode == 0


def test_on_a_terminal_pip_speaks_for_itself(checkout: Checkout) -> None:
    """Its progress bars need the terminal: it is given to it."""
    checkout.begin_again()
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        ["make", "setup"], cwd=checkout.path, env=checkout.environment(), stdout=theirs, stderr=subprocess.PIPE,
        check=False, text=True, timeout=60,
    )  # fmt: skip
    os.close(theirs)
    said = os.read(ours, 2**16).decode()
    os.close(ours)
    assert ran.returncode == 0
    assert "Successfully installed" in said


@pytest.mark.parametrize("version", ["Python 3.9.18", ""])
def test_a_python_that_will_not_do_is_named(checkout: Checkout, version: str) -> None:
    """One that is too old, by its version; one that is not there."""
    if version:
        checkout.script("python3.x", f"[ $1 = --version ] && echo {version} && exit; exit 1")
    else:
        (checkout.bin / "python3.x").unlink(missing_ok=True)
    ran = checkout.make("setup", "PYTHON=python3.x")
    assert ran.returncode == 2
    told = f"python3.x is {version}" if version else "there is no python3.x here"
    assert ran.stderr.startswith(
        f"renderer needs Python 3.11 or newer, and {told}\nname another: make PYTHON=python3.12"
    )
    assert "Error 3" in ran.stderr


def test_no_venv_is_named() -> None:
    """Debian's Python without python3-venv: the package that lacks is named by this Python's version."""
    code = (
        "import sys; sys.path.insert(0, 'tools'); import set_up\n"
        "print(set_up._why_no_venv('3.12', 'The virtual environment was not created successfully because ensurepip is"
        " not available.'))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said == "this Python has no venv; on Debian and Ubuntu: apt install python3.12-venv\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_folder_of_somebody_elses_is_named(unwritable: Path) -> None:
    """A user who may not write into the checkout hears so, and nothing is left behind."""
    python = "/usr/bin/python3"
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False).returncode:
        pytest.skip("the system's Python is too old, or none")
    ran = subprocess.run(
        ["make", "setup"], cwd=unwritable, env={"PATH": "/usr/bin:/bin"}, user=65534, group=65534, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert f"set-up: this user may not write into {unwritable}" in ran.stderr


def test_smoke_asks_this_house() -> None:
    """What the Makefile asks of the machine is answered here, not only where the house is made up."""
    (asked,) = re.findall(r"python -c '(from renderer[^']*)'", (ROOT / "Makefile").read_text())
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() in {"True", "False"}, done.stderr
