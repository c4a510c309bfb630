"""A Ray cluster: joined, or started on this machine for as long as a command takes; and its machines, asked one by one.

Ray itself is imported here when it is needed, and not before.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from renderer.errors import MachineError, UsageError, shorten
from renderer.ray import head
from renderer.ray.head import Replied
from renderer.ray.reaching import CLIENT, FOUND_HERE, check_reached
from renderer.system.children import STOPPING
from renderer.text import installing

LOCAL = "local"
_MOST_LOCAL = 64
_MOST_SAID = 300

_OBJECT_BYTES = 2**30
"""Of shared memory for what goes to and fro on this machine alone; Ray would take a third of it."""

_ANSWER_S = 600.0
"""A machine that examines itself starts torch, perhaps from a slow disk."""

_LOOK_S = 0.5
_LEFT_WITHIN_S = 10.0
_PLACE_TOLD_S = 5.0
_PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
_USUAL_PATIENCE_S = 60.0
_NEVER = str(10**8)
_FAILED_BY_CHANCE = "Starting Ray client server failed"
INSTALL_RAY = installing("cluster")
_SHOWN = "auto (of this machine), ray://head:10001, head:6379, or local:4 for four workers here"


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A machine of a cluster, and how many GPUs and CPU cores Ray gives out there."""

    id: str
    name: str
    address: str
    gpus: int
    cpus: int


def library() -> Any:
    """Ray. Raises `MachineError` where it is not installed."""
    head_patience_s()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # who is asked without a GPU may see them
    try:
        import ray  # noqa: PLC0415  # seconds, and an extra
    except ImportError as error:
        raise MachineError(
            f"Ray cannot be imported: {error}", hint=f"the extra cluster has it: {INSTALL_RAY}"
        ) from error
    return ray


@cache
def head_patience_s() -> float:
    """For how many seconds a cluster's head may be silent: as many as Ray would wait for it.

    Ray would then end this process, with no word to anybody: it is told to wait for ever, and `HeadWatch` does it.
    """
    told = os.environ.get(_PATIENCE, "")
    os.environ[_PATIENCE] = _NEVER
    return float(told) if told.isdecimal() and told != _NEVER else _USUAL_PATIENCE_S


def workers_in(address: str) -> int | None:
    """How many workers `local:4` asks for; None for a cluster that is there. Raises `UsageError` for neither."""
    head, _, rest = address.partition(":")
    if head == LOCAL:
        if rest.isdecimal() and 1 <= int(rest) <= _MOST_LOCAL:
            return int(rest)
        raise UsageError(f"--cluster {address} names no number of workers", hint="like local:4")
    if address == FOUND_HERE or (address.startswith(CLIENT) and rest.strip("/")) or (head and rest.isdecimal()):
        return None
    raise UsageError(f"--cluster {address} names no cluster", hint=_SHOWN)


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be in a cluster: in the one that this process is in already, else in that of `address`.

    Raises `UsageError`, and `MachineError` where there is none, or it is of another version.
    """
    workers = workers_in(address)
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # Ray would print into this command's own output
    ray = library()
    if ray.is_initialized():
        yield
        return
    if workers is None:
        check_reached(address)
    try:
        with _handlers_kept():
            if workers is None:
                _join(ray, address)
            else:
                _have_token()
                ray.init(
                    LOCAL,  # or Ray would join one that RAY_ADDRESS names, or that it finds here
                    num_cpus=workers,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                    object_store_memory=_OBJECT_BYTES,
                )
    except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
        told = reason(error) if "Traceback" in str(error) else str(error).strip()
        said = shorten(told, _MOST_SAID) or type(error).__name__
        hint = "ray start --head begins one on this machine; --cluster local:4 needs none"
        if workers is None and ":" in address:
            hint = "is Ray's version the same there? where it asks for a token: RAY_AUTH_MODE=token, ~/.ray/auth_token"
        raise MachineError(f"the cluster {address} cannot be joined: {said}", hint=hint) from error
    through_client = ray.util.client.ray.is_connected()
    try:
        yield
    finally:
        with _handlers_kept():
            if through_client:
                _leave_client(ray)
            else:
                ray.shutdown()


def _join(ray: Any, address: str) -> None:
    """Join a cluster; as often as its head fails by chance to begin the process that each client has there."""
    _hush_client()
    for last in (False, False, True):
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            if last or _FAILED_BY_CHANCE not in str(error):
                raise
            ray.shutdown()
        else:
            return


def _hush_client() -> None:
    """That its server is gone, Ray's client would tell in three ways in the middle of a run, which says it itself."""
    for name in ("ray.util.client", "ray.util.client.logsclient"):
        logging.getLogger(name).propagate = False
        logging.getLogger(name).addHandler(logging.NullHandler())  # without one, Python would write it
    warnings.filterwarnings("ignore", module=r"ray\.util\.client")


def _leave_client(ray: Any) -> None:
    """Leave a cluster through Ray's client: it waits for ever for a server that is gone, and at exit once more."""
    try:
        head.within(ray.shutdown, _LEFT_WITHIN_S)
    except MachineError:
        atexit.unregister(ray.shutdown)


def _have_token() -> None:
    """A token for a cluster of this process alone, whose ports others may reach: Ray would leave one in the home."""
    if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes over what asks a process to stop; a run has its own answer to that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def nodes() -> list[ClusterNode]:
    """The machines that are there now, the head first."""
    alive = [each for each in library().nodes() if each["Alive"]]
    alive.sort(key=lambda each: "node:__internal_head__" not in each["Resources"])
    names = [each["NodeManagerHostname"] for each in alive]
    return [
        ClusterNode(
            id=each["NodeID"],
            name=name if names.count(name) == 1 else f"{name} ({each['NodeID'][:6]})",
            address=each["NodeManagerAddress"],
            gpus=int(each["Resources"].get("GPU", 0)),
            cpus=int(each["Resources"].get("CPU", 0)),
        )
        for each, name in zip(alive, names, strict=True)
    ]


def this_node() -> ClusterNode:
    """The machine of the cluster that this process is on."""
    own = library().get_runtime_context().get_node_id()
    return next(node for node in nodes() if node.id == own)


def end_with_node() -> None:
    """Have an actor's process end when Ray does on its machine; elsewhere, nothing is done.

    Ray leaves actors of several threads behind, with their workers and the memory of their GPUs.
    """
    ray = library()
    if not ray.is_initialized() or not ray.get_runtime_context().get_actor_id():
        return
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)  # and with it goes what it has started

    threading.Thread(target=look, name="node", daemon=True).start()


def on_node(node_id: str, kind: Callable[..., object], *arguments: object) -> Any:
    """An actor on one machine, which takes nothing there and goes with this process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  # as Ray itself

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return library().remote(num_cpus=0, scheduling_strategy=there)(kind).remote(*arguments)


def place_of(actor: Any) -> str:
    """The address of the machine on which an actor has its process by now; empty where it still waits for one."""
    ray = library()
    own = actor._actor_id.hex()  # noqa: SLF001  # nothing public says it
    with contextlib.suppress(Exception):  # a head that does not answer has named no place
        if not ray.util.client.ray.is_connected():
            return head.within(partial(_place_of, own), _PLACE_TOLD_S)
        return str(ray.get(ray.remote(num_cpus=0)(_place_of).remote(own), timeout=_PLACE_TOLD_S))
    return ""


def _place_of(actor_id: str) -> str:
    from ray._private import state  # noqa: PLC0415  # what is public takes a dashboard

    return str(state.actors(actor_id).get("Address", {}).get("IPAddress", ""))


def ask_each(
    those: Sequence[ClusterNode],
    question: Callable[[], Replied],
    within_s: float = _ANSWER_S,
    check: Callable[[], None] = head.nothing,
) -> list[Replied | MachineError]:
    """What each machine answers to a question, or why it gives no answer. All are asked at once, and lend nothing.

    `check` is called meanwhile, and what it raises ends the asking. Raises `MachineError` where the head is gone.
    """
    ray = library()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  # as Ray itself

    def ask() -> list[Any]:
        asked = ray.remote(num_cpus=0, max_retries=1)(_answer)
        there = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in those]
        return [asked.options(scheduling_strategy=each).remote(question) for each in there]

    answers = waiting = head.within(ask, check=check)
    until = time.monotonic() + within_s
    while waiting and time.monotonic() < until:
        check()
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_LOOK_S)
    silent = set(waiting)
    return [
        MachineError(f"{node.name} has not answered within {within_s:.0f} s", hint="is it there still, and well?")
        if answer in silent
        else _answer_of(ray, node.name, answer)
        for node, answer in zip(those, answers, strict=True)
    ]


def _answer(question: Callable[[], Replied]) -> Replied:
    """Replied on a machine of the cluster: Ray hides its GPUs from who takes none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        del os.environ["CUDA_VISIBLE_DEVICES"]
    return question()


def _answer_of(ray: Any, name: str, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except Exception as error:  # noqa: BLE001  # its answer may be another version's, and not to be read here
        return MachineError(f"{name} cannot be asked: {reason(error)}", hint=INSTALL_RAY)


def reason(error: Exception) -> str:
    """The last line of what Ray says of an error: what was raised on the other machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
