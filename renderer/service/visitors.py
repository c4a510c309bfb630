"""Whose browser is asking: the page is for the user who serves it, and not for the others of this machine.

Linux lists each TCP connection with the user of its socket, of the asking side too. Knows nothing of HTTP.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

_TABLES = (("/proc/net/tcp", ""), ("/proc/net/tcp6", "0000000000000000FFFF0000"))
"""The kernel's lists, and what stands before an IPv4 address in each."""
_TRIES = 3  # a list that changes while it is read may leave a line out
_ROOT = 0

Address = tuple[str, int]


def is_welcome(visitor: Address, here: Address) -> bool:
    """Whether the connection from `visitor` to `here` (IPv4 addresses and ports) is this user's own, or root's.

    Everybody is, on systems that do not tell users apart.
    """
    asking = (_hexed(visitor), _hexed(here))
    for _ in range(_TRIES):
        listed = False
        for table, before in _TABLES:
            there = _connections(table, before)
            if asking in there:
                return there[asking] in {os.getuid(), _ROOT}
            listed |= asking[::-1] in there
        if not listed:  # not even our own end is
            return True
    return False


def _connections(table: str, before: str) -> dict[tuple[str, str], int]:
    """All connections of a table as (own end, other end), and the user of each; none where there is no such table."""
    try:
        lines = [line.split() for line in Path(table).read_text().splitlines()[1:]]
    except (OSError, ValueError):
        return {}
    return {(line[1].removeprefix(before), line[2].removeprefix(before)): int(line[7]) for line in lines}


def _hexed(address: Address) -> str:
    """An address as the kernel writes it: the number as it lies in memory, and the port."""
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
