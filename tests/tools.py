"""Other people's tools that tests use where they are there. RENDERER_REQUIRE names those that have to be.

Where one that is required is not there, nothing is run: so that what CI promises to try is not skipped in silence.
"""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

VARIABLE = "RENDERER_REQUIRE"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

HERE = {
    "apprise": importlib.util.find_spec("apprise") is not None,
    "chromium": CHROMIUM is not None and importlib.util.find_spec("playwright") is not None,
    "bash": shutil.which("bash") is not None,
    "exiftool": shutil.which("exiftool") is not None,
    "pyarrow": importlib.util.find_spec("pyarrow") is not None,
    "ray": importlib.util.find_spec("ray") is not None,
    "fish": shutil.which("fish") is not None,
    "systemd": shutil.which("systemd-analyze") is not None,
    "zsh": shutil.which("zsh") is not None,
}
_HOW = {
    "apprise": "it is in the extras notify and dev",
    "chromium": "Debian: apt install chromium; and playwright, of the extra dev",
    "exiftool": "Debian: apt install libimage-exiftool-perl",
    "bash": "Debian: apt install bash",
    "pyarrow": "it is in the extras ray-data and dev",
    "ray": "it is in the extras cluster and dev",
    "fish": "Debian: apt install fish",
    "systemd": "systemd-analyze",
    "zsh": "Debian: apt install zsh",
}


def needs(tool: str) -> pytest.MarkDecorator:
    """A mark that skips where a tool is not there."""
    return pytest.mark.skipif(not HERE[tool], reason=f"no {tool} here ({_HOW[tool]})")


def check_required() -> None:
    """Raise `UsageError` for a tool in RENDERER_REQUIRE that is not there, or that no test knows."""
    required = set(os.environ.get(VARIABLE, "").replace(",", " ").split())
    if unknown := sorted(required - HERE.keys()):
        raise pytest.UsageError(f"{VARIABLE}: no test needs {', '.join(unknown)}; known are {', '.join(HERE)}")
    if missing := sorted(tool for tool in required if not HERE[tool]):
        raise pytest.UsageError(f"{VARIABLE}: not here: {'; '.join(f'{tool} ({_HOW[tool]})' for tool in missing)}")
