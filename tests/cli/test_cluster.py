"""What is said of the machines of a cluster, once each has answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from renderer.cli import cluster, command
from renderer.errors import EXIT_DONE, EXIT_MACHINE, MachineError
from renderer.ray import arrival, connecting
from renderer.ray.connecting import ClusterNode

FIRST, SECOND, THIRD = (ClusterNode(name, name, f"10.0.0.{at}", 1, 8) for at, name in enumerate("abc", 1))


def examined(node: str, **changes: str) -> cluster.Examined:
    told = {**arrival.tell(), "node": node, "GPU": "NVIDIA L40S", "driver": "590.1", **changes}
    return told, {"findings": []}, ["memory     64 GiB"], False


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A cluster of three machines, which answer what a test puts in here."""
    found: list[Any] = [examined("a"), examined("b"), examined("c")]

    @contextmanager
    def connected(_address: str) -> Iterator[None]:
        yield

    monkeypatch.setattr(connecting, "connected", connected)
    monkeypatch.setattr(connecting, "nodes", lambda: [FIRST, SECOND, THIRD])
    monkeypatch.setattr(connecting, "ask_each", lambda _nodes, _question: found)
    return found


def test_machines_that_are_alike(answers: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Each with what `doctor` says of it; nothing differs."""
    assert command.main(["cluster", "doctor"]) == EXIT_DONE
    said = capsys.readouterr().out
    assert said.count("  memory     64 GiB") == len(answers)
    assert said.startswith("a (10.0.0.1), for Ray 1 GPUs and 8 CPU cores")
    assert said.endswith("differs    nothing that pictures depend on\n")


def test_what_gives_other_bits_is_told(answers: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Another card may render, and its pictures may differ."""
    answers[2] = examined("c", GPU="NVIDIA H100")
    assert command.main(["cluster", "doctor"]) == EXIT_DONE
    said = " ".join(capsys.readouterr().out.split())
    assert "GPU: NVIDIA L40S on a, b; NVIDIA H100 on c: pictures may have other bits" in said


def test_what_is_refused_ends_with_3(answers: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Another torch than this machine's: no worker is taken there."""
    answers[0] = examined("a", torch="9.9.9")
    assert command.main(["cluster", "doctor"]) == EXIT_MACHINE
    said = " ".join(capsys.readouterr().out.split())
    assert "on this machine, b, c; 9.9.9 on a: workers are refused where it is not as here" in said


def test_a_machine_that_does_not_answer_is_told(answers: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The others are examined all the same; machines read it, too."""
    answers[1] = MachineError("b cannot be asked: ModuleNotFoundError", hint="install it")
    assert command.main(["cluster", "doctor"]) == EXIT_MACHINE
    assert "  PROBLEM  b cannot be asked: ModuleNotFoundError" in capsys.readouterr().out
    assert command.main(["cluster", "doctor", "--json"]) == EXIT_MACHINE
    told = json.loads(capsys.readouterr().out)
    assert [("error" in each, each["node"]) for each in told["machines"]] == [(False, "a"), (True, "b"), (False, "c")]
