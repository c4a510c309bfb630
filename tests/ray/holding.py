"""A cluster of its own processes, of which any may be ended or stopped: `python -m tests.ray.holding --cores 4`.

Says its address, and then does what its standard input asks, a word a line; it ends with it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import psutil

from renderer.ray import connecting
from tests.driving import ROOT

CLIENT_PORT = 10061


class HeldCluster:
    """A cluster in a process of its own: `address` joins it, `client` is for Ray's client."""

    client = f"ray://127.0.0.1:{CLIENT_PORT}"

    def __init__(self, cores: int) -> None:
        command = [sys.executable, "-m", "tests.ray.holding", "--cores", str(cores)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self._said()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Leave no process of it."""
        if self._process.poll() is not None:
            return
        all_of_it = psutil.Process(self._process.pid).children(recursive=True)
        self._process.communicate(timeout=60)
        psutil.wait_procs(all_of_it, timeout=20)
        for each in all_of_it:
            if each.is_running():
                each.kill()

    def does(self, what: str) -> None:
        """Have it do something, and wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._said() == what

    def _said(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("! "):
                return line[2:].strip()
        raise AssertionError("the cluster has ended")


@contextmanager
def _cluster(cores: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    connecting.library()
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    each = {"num_cpus": cores, "object_store_memory": 200 * 2**20}
    head = {**each, "include_dashboard": False, "ray_client_server_port": CLIENT_PORT}
    found = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield found, each
    finally:
        found.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=4, help="of each of its two machines")
    with _cluster(parser.parse_args().cores) as (cluster, each):
        others = [cluster.add_node(**each)]
        sys.stdout.write(f"! {cluster.address}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            _do(line.strip(), cluster, each, others)
            sys.stdout.write(f"! {line}")
            sys.stdout.flush()


def _do(what: str, cluster: Any, each: dict[str, Any], others: list[Any]) -> None:
    head = cluster.head_node
    gcs = head.all_processes["gcs_server"][0].process
    if what == "stop gcs":
        gcs.send_signal(signal.SIGSTOP)
    elif what == "continue gcs":
        gcs.send_signal(signal.SIGCONT)
    elif what == "kill gcs":
        gcs.kill()
    elif what == "kill client server":
        for process in psutil.process_iter(["cmdline"]):
            if f"--port={CLIENT_PORT}" in (process.info["cmdline"] or ()):
                process.kill()
    elif what == "kill all":
        gcs.kill()
        for node in (head, *others):
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    elif what == "kill node":
        os.kill(others[-1].all_processes["raylet"][0].process.pid, signal.SIGKILL)
    elif what == "add node":
        others.append(cluster.add_node(**each))
    else:
        raise ValueError(what)


if __name__ == "__main__":
    main()
