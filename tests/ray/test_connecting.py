"""How a cluster is named, and what is said where there is none."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from typing import Any

import pytest

from renderer.cli import command
from renderer.errors import EXIT_MACHINE, EXIT_USAGE, MachineError
from renderer.ray import arrival, connecting, reaching
from tests import tools

HERE = {"node": "a", "renderer": "1", "torch": "2.15.0", "source": "aa", "GPU": "L40S"}


@pytest.mark.parametrize(
    ("address", "workers"), [("local:4", 4), ("auto", None), ("ray://h:1", None), ("h:6379", None)]
)
def test_a_cluster_has_an_address(address: str, workers: int | None) -> None:
    """Or is started here for so many workers."""
    assert connecting.workers_in(address) == workers


@pytest.mark.parametrize("address", ["", "local", "local:0", "local:many", "ray://", "head", "head:door"])
def test_what_names_no_cluster_is_said(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is looked at."""
    assert command.main(["render", "jobs/demo.yaml", "--cluster", address]) == EXIT_USAGE
    assert f"--cluster {address} names no" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["localhost:1", "ray://localhost:1"])
def test_a_cluster_that_is_not_there_is_said_at_once(address: str) -> None:
    """Ray itself would try for minutes."""
    with pytest.raises(MachineError, match=f"the cluster {address} cannot be reached: Connection refused"):
        reaching.check_reached(address)


@pytest.fixture
def web_server() -> Iterator[str]:
    """The address of something that is no cluster."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_is_no_cluster_is_said_at_once(web_server: str, scheme: str) -> None:
    """Somebody else's port: Ray would ask it for ever."""
    if not tools.HERE["ray"]:
        pytest.skip("no Ray here (it is in the extras cluster and dev)")
    with pytest.raises(MachineError, match=f"what answers at {scheme}{web_server} is no Ray cluster") as caught:
        reaching.check_reached(f"{scheme}{web_server}")
    assert "8265" in caught.value.hint


def test_a_head_has_two_ports(cluster: Any) -> None:
    """The client's scheme before the head's own port: that is said."""
    reaching.check_reached(cluster.address)
    with pytest.raises(MachineError, match="that is the head's own port"):
        reaching.check_reached(f"ray://{cluster.address}")


def test_a_cluster_that_was_killed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray still names it to whoever asks for the one that this machine is in."""
    if not tools.HERE["ray"]:
        pytest.skip("no Ray here (it is in the extras cluster and dev)")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(MachineError, match=r"the cluster 127\.0\.0\.1:1 \(by auto\) cannot be reached"):
        reaching.check_reached("auto")


@pytest.mark.parametrize(("failures", "asked"), [(2, 3), (3, 3)])
def test_a_client_that_the_head_fails_to_serve_asks_again(
    monkeypatch: pytest.MonkeyPatch, failures: int, asked: int
) -> None:
    """Now and then the process that it begins for a client ends at once; three times in a row is no chance."""
    if not tools.HERE["ray"]:
        pytest.skip("no Ray here (it is in the extras cluster and dev)")
    ray, tried = connecting.library(), []

    def init(address: str, **_: object) -> None:
        tried.append(address)
        if len(tried) <= failures:
            raise ConnectionAbortedError(
                "Initialization failure from server:\nTraceback …\nRuntimeError: Starting Ray client server failed."
            )

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(connecting, "check_reached", lambda _: None)
    expected = pytest.raises(MachineError, match="cannot be joined") if failures == asked else contextlib.nullcontext()
    with expected, connecting.connected("ray://head:10001"):
        pass
    assert len(tried) == asked


@tools.needs("ray")
def test_rays_client_says_nothing_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Where its server is gone, the run says so, once."""
    from ray.util.client import logsclient, worker  # noqa: PLC0415

    connecting._hush_client()
    logsclient.logger.warning("Log channel is reconnecting.")
    worker.logger.warning("Failed to reconnect the data channel")
    assert capsys.readouterr().err == ""


def test_workers_are_of_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["render", "jobs/demo.yaml", "--workers", "2"]) == EXIT_USAGE
    assert "--cluster names none" in capsys.readouterr().err


def test_a_dry_run_is_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """It would forecast what no machine of the cluster takes."""
    assert command.main(["render", "jobs/demo.yaml", "--cluster", "auto", "--dry-run"]) == EXIT_USAGE
    assert "--dry-run says what this machine would take" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command.main(["cluster", "doctor"]) == EXIT_MACHINE
    assert "'.[cluster]'" in capsys.readouterr().err


def test_what_must_be_alike_is_named() -> None:
    """With both values, and where; a card may differ."""
    arrival.check(HERE, {**HERE, "node": "b", "GPU": "none"} | {"GPU": "L40S"})
    with pytest.raises(MachineError, match=r"^b has torch 2\.14\.0, and 2\.15\.0 is here$"):
        arrival.check(HERE, {**HERE, "node": "b", "torch": "2.14.0"})
    with pytest.raises(MachineError, match=r"^b has another renderer of version 1 "):
        arrival.check(HERE, {**HERE, "node": "b", "source": "bb"})


def test_all_that_is_told_must_be_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the machine's name, and for what a build adds to a version: one without a GPU has another build."""
    here = arrival.tell()
    arrival.check(here, {**here, "node": "another"})
    for name in here.keys() - {"node"}:
        with pytest.raises(MachineError):
            arrival.check(here, {**here, name: "other"})
        with pytest.raises(MachineError):
            arrival.check(here, {each: value for each, value in here.items() if each != name})
    assert len(here["source"]) == 12
    monkeypatch.setattr(metadata, "version", lambda name: f"{here[name]}+cu999")
    assert arrival.tell() == here


def test_differences_name_the_machines() -> None:
    there = [HERE, {**HERE, "node": "b"}, {**HERE, "node": "c", "torch": "2.14.0"}]
    assert arrival.differences(there) == {"torch": {"2.15.0": ["a", "b"], "2.14.0": ["c"]}}


def test_a_cluster_of_this_command_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """`local:2` is begun here, whatever RAY_ADDRESS says; Ray would join that one, and refuse a number of cores.

    Its token is its own: Ray would write one into the home, and could not where that is not to be written.
    """
    if not tools.HERE["ray"]:
        pytest.skip("no Ray here (it is in the extras cluster and dev)")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "to be as it was")
    del os.environ["RAY_AUTH_TOKEN"]
    ray, asked = connecting.library(), []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address=None, **told: asked.append((address, told["num_cpus"])))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with connecting.connected("local:2"):
        assert asked == [("local", 2)]
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
