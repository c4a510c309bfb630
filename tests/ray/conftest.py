"""One cluster for all of these tests: two machines of as many cores each, which are processes here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from renderer.manifest.manifest import Manifest
from renderer.outputs.summary import Summary
from renderer.ray import connecting
from renderer.ray.cluster_fleet import ClusterFleet, WantedWorkers
from renderer.supervisor import run
from renderer.supervisor.events import Event
from renderer.supervisor.settings import Settings, Terms
from tests import tools
from tests.supervisor.running import Night

WORKERS = int(os.environ.get("RENDERER_CLUSTER_WORKERS", "4"))
"""Places for them: half of them on each machine."""

FAKE = (sys.executable, "-m", "tests.fakes")
FAKE_OF_TWO = (*FAKE, "--capacity", "2")

Rendered = Callable[..., Summary]


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    """A cluster that this process is in."""
    if not tools.HERE["ray"]:
        pytest.skip("no Ray here (it is in the extras cluster and dev)")
    connecting.library()  # with its variables, which machines begin with
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    each = {"num_cpus": WORKERS // 2, "object_store_memory": 80 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={**each, "include_dashboard": False})
    try:
        found.add_node(**each)
        with connecting.connected(found.address):
            yield found
    finally:
        found.shutdown()


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


@pytest.fixture
def render(cluster: Any, night: Night) -> Rendered:  # noqa: ARG001  # it has to be there
    """Renders a manifest on the cluster; `watch` is given each event and the fleet."""

    def rendered(
        manifest: Manifest,
        *,
        workers: int | None = None,
        command: tuple[str, ...] | None = FAKE_OF_TWO,
        watch: Callable[[Event, ClusterFleet], None] = lambda _what, _fleet: None,
        **changes: Any,
    ) -> Summary:
        with ClusterFleet(WantedWorkers(most=workers), Terms(), command=command) as fleet:

            def heard(what: Event) -> None:
                night.heard.append(what)
                watch(what, fleet)

            night.heard.clear()
            settings = Settings(outputs=night.settings.outputs, fleet=fleet, **changes)
            (summary,) = run.render([manifest], settings, heard, night.stop)
        return summary

    return rendered
