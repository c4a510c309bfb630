"""A run's workers on a cluster: how many there may be, which devices plans count on, and how one is hired.

A worker lands where Ray has a place for it, so a plan counts on the smallest device that is there, and each machine
fits what is to be opened to its own. Where there is no place, Ray's autoscaler is asked for one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from renderer.errors import MachineError, RendererError, UsageError
from renderer.machine import devices, hardware
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.ray import arrival, connecting, head, node_memory
from renderer.ray.arrival import Introduction
from renderer.ray.cluster_worker import Backoff, ClusterWorker
from renderer.ray.connecting import ClusterNode
from renderer.ray.head import HeadWatch
from renderer.ray.node_memory import NodeMemory
from renderer.ray.node_worker import NodeWorker, Posting
from renderer.supervisor.fleet import Say
from renderer.supervisor.settings import Terms
from renderer.supervisor.worker import Worker

_THREADS = 4
"""Of an actor: one hears, one takes orders, and none waits for the other."""

_NODE_LABEL = "ray.io/node-id"
_LOOK_S = 0.5
_PATIENCE_S = 5.0
_INTRODUCED_S = 120.0


@dataclass(frozen=True, slots=True)
class WantedWorkers:
    """How many workers there are to be, and of which kind.

    `least` are kept at the ready as long as the run goes on, `most` (None: as many as there are devices now) begun
    where there is something to do. `gpus` is `all` for workers on GPUs, `cpu` for some on processors, and None for
    GPUs where there is one.
    """

    least: int = 0
    most: int | None = None
    gpus: str | None = None


class ClusterFleet:
    """Workers on a cluster that this process is in."""

    brings_models = True

    def __init__(
        self, wanted: WantedWorkers, terms: Terms, vram_bytes: int | None = None, command: tuple[str, ...] | None = None
    ) -> None:
        """Raises `UsageError` for devices by their numbers: they are the cluster's to give out."""
        if wanted.gpus not in (None, devices.ALL, devices.CPU):
            raise UsageError(f"--gpus {wanted.gpus}: a cluster gives out its own devices", hint="all, or cpu")
        self._wanted = wanted
        self._terms = terms
        self._vram_bytes = vram_bytes
        self._command = command
        self._ray = connecting.library()
        self._begin: Any = None
        self._refused: set[str] = set()
        self._share: dict[str, int] = {}
        self._pause = Backoff()
        self._hired: list[ClusterWorker] = []
        self._most = 1
        self._memories: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._head = HeadWatch(connecting.nodes, connecting.head_patience_s())

    def devices(self, say: Say, check: Callable[[], None]) -> Sequence[WorkerDevice]:
        there = head.within(connecting.nodes, check=check)
        with_gpus = [node for node in there if node.gpus]
        if not with_gpus and self._wanted.gpus == devices.ALL:
            say("the cluster has no GPU at this moment: waiting for the first")
            self._wait_for_gpu(check)
            with_gpus = [node for node in head.within(connecting.nodes, check=check) if node.gpus]
        on_gpus = bool(with_gpus) and self._wanted.gpus != devices.CPU
        hosts = with_gpus if on_gpus else [node for node in there if node.cpus]
        alike = self._asked(hosts, say, check)
        machines = [_seen(machine, node, on_gpus=on_gpus) for node, machine in alike]
        places = sum(node.gpus if on_gpus else node.cpus for node, _ in alike)
        most = self._wanted.most or max(places, self._wanted.least)
        self._prepare(on_gpus=on_gpus, most=most)
        smallest = min(machines, key=_size)
        if len({_size(machine) for machine in machines if machine.gpu}) > 1 and smallest.gpu:
            say(f"the cards of the cluster differ: pictures are planned for the smallest, {smallest.gpu.name}")
        return [WorkerDevice(smallest, number, f"worker {number + 1}") for number in range(most)]

    def hire(self, log: Path) -> Worker:
        """A worker, somewhere. Raises `DiskError`, and `ClusterLostError` where the cluster's head is gone for good."""
        self.check()
        self._hired = [each for each in self._hired if each.is_attended]
        self._hired.append(worker := ClusterWorker(log, self, self._pause))
        return worker

    def __enter__(self) -> Self:
        self._head.begin()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no worker, and hold no machine for one: the autoscaler lets go what nobody uses."""
        self._head.end()
        for worker in self._hired:
            worker.kill()
        until = time.monotonic() + _PATIENCE_S
        for worker in self._hired:
            worker.wait(max(0.0, until - time.monotonic()))
        if self._wanted.least:
            with contextlib.suppress(Exception):  # a head that is gone holds nothing
                head.within(partial(self._ask_for, 0), _PATIENCE_S)

    # -- what its workers ask --

    def check(self) -> None:
        self._head.check()

    def begin(self) -> Any:
        with self._lock:
            refused = ",".join(sorted(self._refused))
        return self._begin(label_selector={_NODE_LABEL: f"!in({refused})"}) if refused else self._begin()

    def refuse(self, node_id: str) -> bool:
        with self._lock:
            self._refused.add(node_id)
            refused = set(self._refused)
        return any(self._places(node) for node in connecting.nodes() if node.id not in refused)

    def memory_of(self, node_id: str) -> Any:
        with self._lock:
            if node_id not in self._memories:
                node = next((each for each in connecting.nodes() if each.id == node_id), None)
                workers = min(self._places(node) if node is not None else 0, self._most)
                self._memories[node_id] = connecting.on_node(node_id, NodeMemory, workers) if workers > 1 else None
            return self._memories[node_id]

    def _places(self, node: ClusterNode) -> int:
        return node.gpus if "GPU" in self._share else node.cpus

    # -- what it asks of Ray and of the machines --

    def _prepare(self, *, on_gpus: bool, most: int) -> None:
        self._most = most
        posting = Posting.here(self._terms, self._vram_bytes, self._command)
        share = {"num_gpus": 1, "num_cpus": 0} if on_gpus else {"num_cpus": 1}
        kind = self._ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=_THREADS, **share)(NodeWorker)
        self._begin = lambda **where: kind.options(**where).remote(posting)
        self._share = {"GPU": 1} if on_gpus else {"CPU": 1}
        if self._wanted.least:
            head.within(partial(self._ask_for, self._wanted.least))

    def _ask_for(self, count: int) -> None:
        """Have Ray's autoscaler keep so many places, whether anybody is there or not."""
        from ray.autoscaler import sdk  # noqa: PLC0415  # as Ray itself

        sdk.request_resources(bundles=[self._share] * count)

    def _wait_for_gpu(self, check: Callable[[], None]) -> None:
        """Until one is there; who asks for it is not waited for, for its machine may be frozen."""
        first = self._ray.remote(num_gpus=1, num_cpus=0)(arrival.tell).remote()
        while not any(node.gpus for node in head.within(connecting.nodes, check=check)):
            check()
            time.sleep(_LOOK_S)
        self._ray.cancel(first, force=True)

    def _asked(
        self, hosts: Sequence[ClusterNode], say: Say, check: Callable[[], None]
    ) -> list[tuple[ClusterNode, Machine]]:
        """The machines that render as this one says; the others are named. Raises `MachineError` where none does."""
        here = arrival.tell()
        found: list[tuple[ClusterNode, Machine]] = []
        errors: list[RendererError] = []
        answers = connecting.ask_each(hosts, _introduce, _INTRODUCED_S, check)
        for node, answer in zip(hosts, answers, strict=True):
            try:
                if isinstance(answer, RendererError):
                    raise answer
                arrival.check(here, answer[0])
            except RendererError as error:
                errors.append(error)
                self._refused.add(node.id)
                continue
            found.append((node, answer[1]))
        if not found:
            hint = "begin Ray on one that does; or --gpus all waits for GPUs that the autoscaler brings"
            raise errors[0] if errors else MachineError("the cluster has no machine that renders", hint=hint)
        for each in errors:
            say(f"{each.message}: no worker is taken there ({each.hint})")
        return found


def _introduce() -> tuple[Introduction, Machine]:
    return arrival.tell(), hardware.look()


def _seen(machine: Machine, node: ClusterNode, *, on_gpus: bool) -> Machine:
    """A machine as one of its workers sees it."""
    ram = node_memory.free_bytes(machine) // max(1, node.gpus if on_gpus else node.cpus)
    if not on_gpus:
        return replace(machine, gpus=(), without_gpu=True, ram_free_bytes=ram)
    smallest = sorted(machine.gpus, key=lambda gpu: gpu.total_bytes)[:1]
    return replace(machine, gpus=tuple(smallest), ram_free_bytes=ram, chosen=False)  # each worker is told its own


def _size(machine: Machine) -> int:
    return machine.gpu.total_bytes if machine.gpu is not None else machine.ram_free_bytes
