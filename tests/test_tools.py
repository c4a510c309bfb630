"""What CI requires is tried, and not skipped."""

from __future__ import annotations

import pytest

from tests import tools


def test_what_is_required_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that is not there, by its name and how to get it; one that no test knows."""
    monkeypatch.setattr(tools, "HERE", dict.fromkeys(tools.HERE, True) | {"exiftool": False})
    for names in ("exiftool", "chromium,exiftool"):
        monkeypatch.setenv(tools.VARIABLE, names)
        with pytest.raises(
            pytest.UsageError, match=r"not here: exiftool \(Debian: apt install libimage-exiftool-perl\)"
        ):
            tools.check_required()
    monkeypatch.setenv(tools.VARIABLE, "chrome")
    with pytest.raises(pytest.UsageError, match="no test needs chrome; known are apprise, chromium"):
        tools.check_required()
    for names in ("", "chromium"):
        monkeypatch.setenv(tools.VARIABLE, names)
        tools.check_required()
