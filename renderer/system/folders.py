"""The folders of this machine: where things are kept from run to run, and where they lie for a while.

    what                                      by                             else
    models, packed stores                     RENDERER_MODELS                ./models
    what can be made again: rates, hashes,    RENDERER_CACHE                 the user's cache folder; where that cannot
    the packed demo, prompts, kernels, what                                  be written, one for this user in TMPDIR
    was seen of pictures that go in
    files of a moment                         TMPDIR                         /tmp; where there is none, /dev/shm

A `~` in a variable is the home. There may be no home, no user of that name and no writable disk: none of it is an
error here. Whoever finds that something cannot be kept goes on without it, and `doctor` says so. Knows nothing of
what is kept. Imports no torch.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import platformdirs

_NAME = "renderer"


def settle() -> None:
    """Let this process and its children find a home and a temporary folder, where the machine offers none.

    Changes environment variables, so it comes first: libraries ask for the home while they are imported.
    """
    _settle_temporary()
    if home() is None:
        os.environ["HOME"] = str(_stand_in())
    if _can_hold(Path.home() / ".cache"):
        return
    for variable, name in (("TRITON_CACHE_DIR", "triton"), ("HF_XET_CACHE", "xet")):  # both want to write there
        os.environ.setdefault(variable, str(cache_folder() / name))


def home() -> Path | None:
    """The user's home; None where neither HOME nor the system's list of users knows one."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def expanded(text: str) -> Path:
    """A path that somebody wrote down, `~` being the home; one of a user that nobody knows stays as it is."""
    try:
        return Path(text).expanduser()
    except (RuntimeError, KeyError):
        return Path(text)


def cache_folder() -> Path:
    """Where things are kept that can be made again: `$RENDERER_CACHE`, or `renderer` in the user's cache folder.

    An empty variable counts as none. Where the user's cannot be written, it is a folder below the temporary one.
    """
    if own := os.environ.get("RENDERER_CACHE"):
        return expanded(own)
    usual = _users_cache()
    return usual if usual is not None and _can_hold(usual) else _stand_in() / "cache"


def cache_instead_of() -> Path | None:
    """The user's cache folder where it cannot be written, and another stands in for it; None where all is well."""
    usual = _users_cache()
    return None if os.environ.get("RENDERER_CACHE") or usual is None or _can_hold(usual) else usual


def models_folder() -> Path:
    """Our own folder of models: where they are fetched to, and packed. `$RENDERER_MODELS`, DiffSynth's, `./models`."""
    own = os.environ.get("RENDERER_MODELS") or os.environ.get("DIFFSYNTH_MODEL_BASE_PATH")
    return expanded(own) if own else Path("models")


def nearest(path: Path) -> Path:
    """The path itself, or the nearest above it that is there and can be seen."""
    while not os.path.exists(path) and path != path.parent:  # noqa: PTH110 - Path's own raises where it may not look
        path = path.parent
    return path


def disk_of(folder: Path) -> int | Path:
    """What tells the disk that a folder lies on, or would, from others. What a link leads to that is not there is one.

    It is to be asked while the disk is there: of one that has gone, nobody knows which it was.
    """
    lost = (each for each in (folder, *folder.parents) if os.path.islink(each) and not os.path.exists(each))  # noqa: PTH110, PTH114  # Path's own raise
    if (link := next(lost, None)) is not None:
        return link
    try:
        return nearest(folder.absolute()).stat().st_dev
    except OSError:
        return folder


def hidden(text: str) -> str:
    """A text without the home in it: what is said may be handed on."""
    own = home()
    return text if own is None or own == own.parent else text.replace(f"{own}/", "~/")


def _users_cache() -> Path | None:
    return None if home() is None else platformdirs.user_cache_path(_NAME)


def _can_hold(folder: Path) -> bool:
    """Whether files can be written into a folder, or it can be made; nothing is made to find out."""
    folder = nearest(folder)
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _settle_temporary() -> None:
    """Name a temporary folder where Python finds none."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        for folder in _other_temporaries():
            if _can_hold(folder):
                os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
                return


def _other_temporaries() -> Iterator[Path]:
    for variable in ("XDG_RUNTIME_DIR", "RENDERER_CACHE"):
        if named := os.environ.get(variable):
            yield expanded(named)
    yield Path("/dev/shm")  # noqa: S108  # memory, and the only place left in a read-only container
    yield models_folder().absolute()


def _stand_in() -> Path:
    """A folder of this user's alone below the temporary one, the same each time; it may be gone after a restart.

    Anybody can make a folder there under a name that is known beforehand: one of another user is not taken.
    """
    try:
        base = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path("/nonexistent")
    names = (f"{_NAME}-{os.getuid()}", *(f"{_NAME}-{os.getuid()}-{number}" for number in range(2, 9)))
    for folder in (base / name for name in names):
        with suppress(OSError):
            folder.mkdir(mode=0o700)
        with suppress(OSError):
            if _is_ours(folder.lstat()):
                return folder
    return Path("/nonexistent")


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
