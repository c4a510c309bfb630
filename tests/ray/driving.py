"""The whole command with the fakes' workers on a cluster: `python -m tests.ray.driving render m.yaml --cluster …`.

What FAKE holds are the worker's own options.
"""

from __future__ import annotations

import functools
import os
import sys

from renderer.cli import command
from renderer.ray import cluster_fleet

COMMAND = (sys.executable, "-m", "tests.ray.driving")

if __name__ == "__main__":
    fake = (sys.executable, "-m", "tests.fakes", *os.environ.get("FAKE", "").split())
    fleet = functools.partial(cluster_fleet.ClusterFleet, command=fake)
    cluster_fleet.ClusterFleet = fleet  # type: ignore[misc,assignment]
    sys.exit(command.main())
