"""Whether a cluster answers at an address, before Ray is asked to join it: Ray would try for minutes, or for ever.

Knows no cluster; what answers there says in gRPC whether it is a cluster's head.
"""

from __future__ import annotations

import os
import socket

from renderer.errors import MachineError

CLIENT = "ray://"
"""Begins an address that is reached through Ray's client."""

FOUND_HERE = "auto"
"""Whatever cluster this machine is in."""

_REACHED_S = 10.0
_ASKS_A_HEAD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_NOT_RAY = "is Ray begun there (ray start --head), and its port open from here?"
_OTHER_PORT = "ray://head:10001 is the port of Ray's client, head:6379 the head's own, and 8265 its dashboard's"


def check_reached(address: str) -> None:
    """Raise `MachineError` where no cluster answers at an address.

    `auto` is that of RAY_ADDRESS, or of the cluster that was begun here last: one that was killed is named still.
    """
    named = address
    if address == FOUND_HERE and (address := _found()) != FOUND_HERE:
        named = f"{address} (by auto)"
    host, _, port = address.removeprefix(CLIENT).rstrip("/").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACHED_S).close()
    except (OSError, OverflowError) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MachineError(f"the cluster {named} cannot be reached: {told}", hint=_NOT_RAY) from error
    if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):  # else it takes certificates to ask
        _check_is_ray(named, f"{host}:{port}")


def _found() -> str:
    """The address that Ray would take for `auto`; `auto` itself where it finds none."""
    from ray._private import services  # noqa: PLC0415  # nothing public says it

    try:
        return str(services.get_ray_address_from_environment(FOUND_HERE, None))
    except ConnectionError:
        return FOUND_HERE


def _check_is_ray(named: str, target: str) -> None:
    import grpc  # noqa: PLC0415  # Ray brings it

    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary(_ASKS_A_HEAD)(b"", timeout=_REACHED_S)
            is_head = True
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                told = f"what answers at {named} is no Ray cluster, or one that is stuck"
                raise MachineError(told, hint=_OTHER_PORT) from error
            is_head = code != grpc.StatusCode.UNIMPLEMENTED  # others are a head's, which wants a token
    if is_head == named.startswith(CLIENT):
        told = "the head's own port, and none of Ray's client" if is_head else "no head's own port"
        raise MachineError(f"the cluster {named} cannot be joined: that is {told}", hint=_OTHER_PORT)
