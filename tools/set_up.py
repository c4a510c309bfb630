"""Make .venv, or bring it up to date: what is coming is said first, and what pip does while it does it.

For the Makefile, by the Python that .venv is to have, before anything is installed: the standard library only. What
pip is to ask, and how, is pip's own configuration's business (pip.conf and PIP_* variables); nothing of it is set here.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

VENV = Path(".venv")
PIP = (str(VENV / "bin/python"), "-I", "-m", "pip")  # -I: what PYTHONPATH and the user's own folder hold is not here
BASE: str = getattr(sys, "_base_executable", sys.executable)  # of this one, where it is .venv's own
EXIT_MACHINE = 3
GB = 10**9

COMING = {
    "gpu": ("about 80 packages, 3.2 GB to download, 6 GB on the disk", 6 * GB),
    "cpu": ("about 65 packages, 0.4 GB to download, 2 GB on the disk", 2 * GB),
    "dev": ("about 90 packages for checks and tests, 0.3 GB to download", GB),
}
"""What an empty pip cache makes of it, and how many bytes have to be free."""

_HEARTBEAT_S = 10.0
_SHOWN_MB = 1.0
_DOWNLOAD = re.compile(r"\s*(Downloading|Using cached) (\S+?) \(([\d.]+) ([kMG]B)\)")
_UNITS = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}


class SetUpError(Exception):
    """What is missing, in words."""


def main() -> int:
    """Set up, and say how long it took; 3 where this machine lacks what it takes, pip's own code where pip failed."""
    options = _options()
    kind = "dev" if options.dev else options.torch or _torch_here() or "gpu"
    began = time.monotonic()
    with _alone():
        try:
            _make_venv(anew=options.anew)
            _remove_half_installed()
            _say_what_comes(kind)
            if options.torch and _torch_here() not in {None, options.torch}:
                subprocess.run([*PIP, "uninstall", "--quiet", "--yes", "torch", "torchvision"], check=False)
            code = _install(["-e", ".[dev]" if options.dev else "."], _cpu_build() if kind == "cpu" else ())
        except SetUpError as error:
            print(f"set-up: {error}", file=sys.stderr)
            return EXIT_MACHINE
        except KeyboardInterrupt:
            print("\nset-up: interrupted; the same command goes on from here", file=sys.stderr)
            return 130
        if code:
            _explain_failure(kind)
            return code if code > 0 else 128 - code  # as a shell has it, of a pip that was killed
        for stamp in options.stamps:
            stamp.touch()
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"set-up: done in {minutes}:{seconds:02d}, {len(_installed())} packages in {VENV}", file=sys.stderr)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stamps", nargs="+", type=Path, help="files that say that it is done")
    parser.add_argument("--dev", action="store_true", help="with what checks and tests need")
    parser.add_argument("--torch", choices=["gpu", "cpu"], help="which build of torch (default: the one that is there)")
    parser.add_argument("--anew", action="store_true", help="begin again where .venv is of another Python than this")
    return parser.parse_args()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait for another set-up of this checkout: two pips in one folder break it."""
    with Path("pyproject.toml").open("rb") as stream:
        with contextlib.suppress(OSError):  # a file system without locks: then nobody waits
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("set-up: another one is on in this folder; waiting for it", file=sys.stderr)
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


# ---- the virtual environment -----------------------------------------------------------------------------------------


def _make_venv(*, anew: bool) -> None:
    """Make .venv where there is none that works; with `anew`, also where it is of another Python."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if VENV.exists() and anew and _version_there() not in {None, here}:
        print(f"set-up: {VENV} is of Python {_version_there()}; it is made anew with {here}", file=sys.stderr)
        shutil.rmtree(VENV)
    try:
        for stamp in VENV.glob("ready-*"):
            stamp.unlink()
        if subprocess.run([*PIP, "--version"], check=False, capture_output=True).returncode == 0:
            return
    except FileNotFoundError:
        pass
    except PermissionError as error:
        raise SetUpError(f"{VENV} belongs to another user: {error.filename}: {error.strerror}") from error
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([BASE, "-m", "venv", str(VENV)], check=False, capture_output=True, text=True)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetUpError(_why_no_venv(here, made.stdout + made.stderr))


def _why_no_venv(version: str, said: str) -> str:
    if "ensurepip" in said or "No module named venv" in said:
        return f"this Python has no venv; on Debian and Ubuntu: apt install python{version}-venv"
    if "Permission denied" in said or "Read-only" in said:
        return f"this user may not write into {Path.cwd()}: change its owner, or clone into a folder of your own"
    return f"python -m venv failed: {said.strip()}"


def _version_there() -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(r"^version\s*=\s*(\d+\.\d+)", (VENV / "pyvenv.cfg").read_text(), re.MULTILINE)
        return found[1] if found else None
    return None


def _installed() -> list[Path]:
    return list(VENV.glob("lib/python*/site-packages/*.dist-info"))


def _torch_here() -> str | None:
    """Which build of torch is installed: cpu, gpu or none."""
    names = [path.name for path in _installed() if path.name.startswith("torch-")]
    return None if not names else "cpu" if "+cpu" in names[0] else "gpu"


def _remove_half_installed() -> None:
    """What was being installed when a set-up was killed: its RECORD, which pip writes last, is not there."""
    for path in _installed():
        if not (path / "RECORD").exists():
            shutil.rmtree(path, ignore_errors=True)


def _cpu_build() -> list[str]:
    """The versions of torch and torchvision that are pinned, as their builds for the CPU."""
    pinned = re.findall(r"^(torch|torchvision)==([^+\s]+)$", Path("constraints.txt").read_text(), re.MULTILINE)
    return [f"{name}=={version}+cpu" for name, version in pinned]


# ---- pip -------------------------------------------------------------------------------------------------------------


def _say_what_comes(kind: str) -> None:
    coming, needed = COMING[kind]
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"set-up: {coming}, into {VENV} with Python {version}; some minutes, once", file=sys.stderr)
    free = shutil.disk_usage(".").free
    if free < needed:
        print(f"set-up: only {free / GB:.1f} GB are free on this disk", file=sys.stderr)


def _install(wanted: Sequence[str], exactly: Sequence[str]) -> int:
    """Run pip, and pass on what it says: all of it on a terminal, its downloads in lines of their own elsewhere."""
    command = [*PIP, "install", "--no-user", "-c", "constraints.txt", *wanted, *exactly]
    lively = sys.stdout.isatty()
    pip = subprocess.Popen(
        command, stdout=None if lively else subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    assert pip.stderr is not None
    ended = threading.Event()
    threads = [threading.Thread(target=_pass_warnings_on, args=(pip.stderr,))]
    threads += [] if lively else [threading.Thread(target=_tell_downloads, args=(pip.stdout,))]
    threads += [threading.Thread(target=_tell_installed, args=(ended,))]
    for thread in threads:
        thread.start()
    try:
        return pip.wait()
    except KeyboardInterrupt:  # the terminal has told pip, too
        pip.wait()
        raise
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _tell_downloads(lines: Iterable[str]) -> None:
    total = 0.0
    for line in lines:
        if found := _DOWNLOAD.match(line):
            how, name, amount = found[1], found[2], float(found[3]) * _UNITS[found[4]]
            name = "-".join(name.rpartition("/")[2].split("-")[:2])
            total += amount if how == "Downloading" else 0
            if amount >= _SHOWN_MB:
                what = "downloading" if how == "Downloading" else "from pip's cache:"
                print(f"set-up: {what} {name} ({amount:.0f} MB; {total / 1e3:.1f} GB so far)", flush=True)
        elif line.startswith("Installing collected packages:"):
            print(f"set-up: installing {line.count(',') + 1} packages", flush=True)


def _tell_installed(ended: threading.Event) -> None:
    """While packages are unpacked pip says nothing for a minute or two: how many are there is told now and then."""
    before = count = len(_installed())
    while not ended.wait(_HEARTBEAT_S):
        count = len(_installed())
        if count != before:
            print(f"set-up: {count} packages installed", file=sys.stderr, flush=True)
        before = count


def _pass_warnings_on(lines: IO[str]) -> None:
    """What pip warns of, each kind once: a folder in pip's configuration that lacks one package lacks them all."""
    kinds: Counter[str] = Counter()
    for line in lines:
        kind = re.sub(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*", "…", line)
        kinds[kind] += 1
        if kinds[kind] == 1 or not line.startswith("WARNING: "):
            print(line, end="", file=sys.stderr, flush=True)
    for kind, count in kinds.items():
        if count > 1 and kind.startswith("WARNING: "):
            print(f"set-up: pip said {count - 1} more times: {kind.strip()}", file=sys.stderr)


def _explain_failure(kind: str) -> None:
    print("set-up: pip could not do it; what it said stands above, and the same command goes on", file=sys.stderr)
    if kind == "cpu":
        print(
            f"set-up: TORCH=cpu takes {' and '.join(_cpu_build())} from an index that has them, which most do not: name"
            " one in PIP_EXTRA_INDEX_URL (PyTorch's installation page tells its own)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
