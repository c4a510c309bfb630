"""The whole command with the fakes' workers on a cluster: `python -m tests.ray.driving render m.yaml --cluster …`.

What FAKE holds are the worker's own options. With LOOP it says at its end for how many milliseconds its loop was away
at most, of its own and by the clock.
"""

from __future__ import annotations

import functools
import os
import sys

from renderer.cli import command
from renderer.ray import cluster_fleet
from tests.supervisor.crowd import Loop

COMMAND = (sys.executable, "-m", "tests.ray.driving")


def main() -> int:
    fake = (sys.executable, "-m", "tests.fakes", *os.environ.get("FAKE", "").split())
    fleet = functools.partial(cluster_fleet.ClusterFleet, command=fake)
    cluster_fleet.ClusterFleet = fleet  # type: ignore[misc,assignment]
    if not os.environ.get("LOOP"):
        return command.main()
    with (loop := Loop()).watch():
        code = command.main()
    most = [round(1000 * max(each[number] for each in loop.away)) for number in (0, 1)]
    sys.stderr.write(f"\nloop: {most[0]} ms of its own, {most[1]} ms by the clock\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
