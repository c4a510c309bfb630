"""What a machine of a cluster says of itself before anything else, and what of it must be as it is here.

The same job must give the same picture wherever it is rendered, so what renders has to be the same. Plain values, which
other versions of this package can read.
"""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import renderer
from renderer import protocol
from renderer.errors import MachineError
from renderer.job import RENDERING_VERSION
from renderer.text import installing

Introduction = Mapping[str, str]
"""What a machine tells: its `node`'s name, and what it renders with."""

_LIBRARIES = ("diffsynth", "torch", "transformers")
_TOLD = f"the same on every machine: with the same commit, {installing('cluster')}"


def tell() -> Introduction:
    """What this machine tells."""
    return {
        "node": socket.gethostname(),
        "protocol": str(protocol.PROTOCOL_VERSION),
        "renderer": renderer.__version__,
        "rendering": str(RENDERING_VERSION),
        "source": _source(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: _version(name) for name in _LIBRARIES},
    }


def check(here: Introduction, there: Introduction) -> None:
    """Raise `MachineError` where a machine would not render as this one says."""
    differs = [name for name in here if name != "node" and here[name] != there.get(name)]
    if not differs:
        return
    node = there.get("node", "a machine of the cluster")
    if differs == ["source"]:
        raise MachineError(f"{node} has another renderer of version {here['renderer']} than this machine", hint=_TOLD)
    named = [name for name in differs if name != "source"]
    parts = (f"{_called(name)} {there.get(name, 'of no version')}, and {here[name]} is here" for name in named)
    raise MachineError(f"{node} has {'; '.join(parts)}", hint=_TOLD)


def differences(arrivals: Sequence[Introduction]) -> dict[str, dict[str, list[str]]]:
    """What is not the same on all machines that tell of it: of each such thing, which ones have which."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in dict.fromkeys(name for each in arrivals for name in each if name != "node"):
        for each in (every for every in arrivals if name in every):
            found.setdefault(name, {}).setdefault(each[name], []).append(each["node"])
    return {name: those for name, those in found.items() if len(those) > 1}


def _called(name: str) -> str:
    return {"protocol": "the workers' protocol", "rendering": "rendering version", "python": "Python"}.get(name, name)


def _version(name: str) -> str:
    """Without what a build adds: 2.15.0 of 2.15.0+cu130, for a machine without a GPU may have another build."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "none"


@cache
def _source() -> str:
    """The package's own code, in twelve digits: two checkouts may have one version."""
    folder = Path(renderer.__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]
