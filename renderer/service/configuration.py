"""How a server is to behave: options, then the environment, then a `.env` file in the working folder.

Values; knows nothing of HTTP or of rendering.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from renderer import catalog
from renderer.errors import ModelError, UsageError, shorten
from renderer.machine.hardware import Machine
from renderer.manifest.expand import find_model
from renderer.manifest.shelf import Shelf
from renderer.supervisor.settings import Settings

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CHECKED = frozenset({"127.0.0.1", "localhost"})
"""Where it can be seen which of this machine's users asks."""

_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?((?:IMAGE|RENDERER)_[A-Z_]+)\s*=\s*(.*?)\s*")
_MAX_ENV_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be at most; bodies are cut off before they are read."""

    body_bytes: int = 2**20
    manifest_bytes: int = 2**24
    picture_bytes: int = 2**25
    upload_bytes: int = 200 * 10**6
    body_s: float = 30.0
    pictures: int = 16
    pixels: int = 2**22
    waiting: int = 256
    batch_lines: int = 50_000
    connections: int = 1024
    streams: int = 64


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """How a server behaves.

    `name` is its folder under the outputs, `shelf` the models that it has, `keys` the tokens of which a client needs
    one (none: only this user's programs on this machine are let in). `idle_s` is after how many seconds without a
    request the worker is let go; `strict_models` refuses names of models that OpenAI's clients make up.
    """

    rendering: Settings
    shelf: Shelf
    host: str = "127.0.0.1"
    port: int = 8000
    name: str = "served"
    keys: tuple[str, ...] = ()
    idle_s: float = 600.0
    preload: bool = False
    strict_models: bool = False
    in_flight: int | None = None
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Raise `UsageError` where others than this machine's users could come in without a token."""
        if self.host not in _CHECKED and not self.keys:
            message = f"whoever reaches {self.host} could use this server"
            raise UsageError(
                message, hint="set RENDERER_API_KEY, or leave --host out: then only this machine reaches it"
            )
        if any(len(key) < 8 or not key.isascii() or not key.isprintable() for key in self.keys):  # noqa: PLR2004
            raise UsageError("a token of RENDERER_API_KEY has fewer than 8 letters, or others than ASCII's")


def read_env_file(path: Path, environment: MutableMapping[str, str]) -> None:
    """Add what a `.env` file says to the environment, where that does not say it already.

    Only names that begin with IMAGE_ or RENDERER_ are taken. Raises `UsageError` for a file that cannot be read.
    """
    try:
        if not path.is_file():
            return
        text = path.read_bytes()[:_MAX_ENV_BYTES].decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    for line in text.splitlines():
        if found := _ASSIGNMENT.fullmatch(line):
            value = found[2]
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            environment.setdefault(found[1], value)


def keys_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The tokens: RENDERER_API_KEY, several with commas between them."""
    return tuple(key for part in environment.get("RENDERER_API_KEY", "").split(",") if (key := part.strip()))


def vram_of(environment: Mapping[str, str], here: Machine) -> int | None:
    """How much GPU memory may be used, by IMAGE_GPU_MEMORY_UTILIZATION; None: all there is."""
    text = environment.get("IMAGE_GPU_MEMORY_UTILIZATION", "").strip()
    if not text:
        return None
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"IMAGE_GPU_MEMORY_UTILIZATION is {shorten(text)}, and not a share like 0.9")
    return int(here.gpu.total_bytes * share) if here.gpu is not None else None


def shelf_of(named: Sequence[str], environment: Mapping[str, str], here: Machine) -> Shelf:
    """The models that a server has: those named, or the environment's, or what suits the machine.

    IMAGE_MODEL_NAME is what clients call the one whose files lie at IMAGE_MODEL_PATH. Raises `UsageError` for a model
    that does not exist.
    """
    name, path = environment.get("IMAGE_MODEL_NAME", "").strip(), environment.get("IMAGE_MODEL_PATH", "").strip()
    models = {each: each for each in named}
    if not models and (name or path):
        models = {name or Path(path).name: path or name}
    if not models:
        usual = catalog.QWEN_IMAGE.id if here.gpu is not None else catalog.DEMO.id
        models = {usual: usual}
    for reference in models.values():
        try:
            find_model(reference)
        except ModelError as error:
            raise UsageError(error.message, hint=error.hint) from error
    return Shelf(models)


def environment() -> MutableMapping[str, str]:
    """This process's, with what the `.env` file of the working folder adds."""
    read_env_file(Path(".env"), os.environ)
    return os.environ
