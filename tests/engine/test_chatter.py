"""Prints become log lines."""

from __future__ import annotations

import logging

import pytest

from renderer.engine.chatter import into_log

LOG = logging.getLogger("renderer.test")


def test_lines_go_to_the_log(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """Each printed line is one record, blank ones are none, and one without an end is not lost."""
    caplog.set_level(logging.INFO)
    with into_log(LOG):
        print("one\n\ntwo", "parts", flush=True)  # noqa: T201  # what is tested
        print("three", end="")  # noqa: T201
    assert caplog.messages == ["one", "two parts", "three"]
    print("after")  # noqa: T201
    assert capsys.readouterr().out == "after\n"


def test_lines_before_an_error_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    """What was printed before an error stands in the log, and the error comes through."""
    caplog.set_level(logging.INFO)

    def fail() -> None:
        with into_log(LOG):
            print("so far", end="")  # noqa: T201
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert caplog.messages == ["so far"]
