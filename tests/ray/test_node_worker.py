"""The actor's side of a worker, in this process: what it makes of orders, and how it tells what is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from renderer import protocol
from renderer.errors import PictureError
from renderer.job import Job, Lora, ModelIdentity
from renderer.machine.hardware import Machine
from renderer.protocol import AnyEvent, Failed, HostCopy, Open, Opened, OpenFailed, Render, Rendered, Setup
from renderer.ray import carried, connecting, node_memory
from renderer.ray.connecting import ClusterNode
from renderer.ray.node_memory import NodeMemory
from renderer.ray.node_worker import NodeWorker, Posting, Words
from renderer.supervisor.settings import Terms
from renderer.system import shared_memory
from renderer.weights.adapters.whereabouts import identity_of
from tests.fakes import draw
from tests.loras import factors, write_lora
from tests.making import make_job
from tests.ray.conftest import FAKE_OF_TWO

IDENTITY = ModelIdentity(id="demo", revision="2")
SETUP = Setup(model="demo", identity=IDENTITY, precision="bf16", profile="stream", gpu="")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeWorker]:
    """On a machine for two workers."""
    monkeypatch.setattr(connecting, "this_node", lambda: ClusterNode("n", "n", "127.0.0.1", gpus=0, cpus=2))
    found = NodeWorker(Posting(threads="1", command=FAKE_OF_TWO))
    found.start(lambda setup: setup)
    yield found
    assert found._worker is not None
    found._worker.kill()


def heard(worker: NodeWorker, kind: type[AnyEvent]) -> tuple[AnyEvent, bytes]:
    """The first event of a kind, with its payload."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for header, payload in worker.hear(1.0).events:
            if isinstance(event := protocol.event_of(header), kind):
                return event, payload
    raise AssertionError(kind)


def order(worker: NodeWorker, what: Open | Render) -> None:
    worker.order(protocol.header_of(what), b"")


def test_what_is_opened_is_by_its_own_machine(worker: NodeWorker) -> None:
    """The weights are those that were planned; what the supervisor's machine shares is of no use here."""
    there = SETUP.model_copy(update={"host_copy": HostCopy(at="/proc/1/fd/1", name="x", ram_bytes=1)})
    found = worker._setup_here(there)
    assert (found.identity, found.gpu, found.profile, found.host_copy) == (IDENTITY, "", "stream", None)


@pytest.mark.skipif(not shared_memory.is_possible(), reason="no shared memory without a name here")
def test_workers_of_a_machine_share_a_copy() -> None:
    """Two of the same weights, with half of the memory each; it goes with the last of them."""
    memory = NodeMemory(2)
    first, second = memory.shared("a", SETUP), memory.shared("b", SETUP)
    assert first.host_copy is not None
    assert first == second
    assert first.ram_bytes
    memory.left("a")
    assert Path(first.host_copy.at).exists()
    memory.left("b")
    assert not Path(first.host_copy.at).exists()


def test_ray_s_own_bound_of_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends workers where a machine's memory is fuller than 95 %: blocks stay below that."""
    machine = Machine(gpus=(), cpus=2, ram_bytes=100, ram_free_bytes=60)
    assert node_memory.free_bytes(machine) in (54, 55)
    monkeypatch.setenv("RAY_memory_usage_threshold", "1.0")
    assert node_memory.free_bytes(machine) == 60


def test_without_a_memory_s_owner_each_has_its_own() -> None:
    """A machine has one worker: nobody is asked."""
    assert node_memory.ask(None, "a", SETUP) == SETUP


def test_a_model_that_this_machine_has_not_is_refused(worker: NodeWorker) -> None:
    """Its folder is the supervisor's machine's own: that is an answer, and no crash."""
    order(worker, Open(setup=SETUP.model_copy(update={"model": "/nowhere/model"})))
    event, _ = heard(worker, OpenFailed)
    assert isinstance(event, OpenFailed)
    assert "/nowhere/model" in event.message


def test_a_picture_goes_through(worker: NodeWorker) -> None:
    """As through a pipe; what the worker prints is told beside it, and how it ends."""
    order(worker, Open(setup=SETUP))
    heard(worker, Opened)
    job = make_job("a says")
    order(worker, Render(key="k", job=job))
    _, rgb = heard(worker, Rendered)
    assert rgb == draw(job).rgb
    order(worker, Render(key="c", job=make_job("crash")))
    until = time.monotonic() + 20
    words = Words()
    while words.gone is None and time.monotonic() < until:
        words = worker.hear(1.0)
    assert words.gone is not None
    assert words.gone.status == 66


def test_nothing_said_is_an_answer_too(worker: NodeWorker) -> None:
    """It is how an actor shows that it lives."""
    assert worker.hear(0.01).events == ()


def with_lora(path: Path) -> Job:
    return make_job().model_copy(update={"loras": (Lora(source=str(path), identity=identity_of(path)),)})


def test_a_lora_goes_along(worker: NodeWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, and peft's configuration beside it: the machine keeps both, and its own order names that file."""
    path = write_lora(tmp_path / "here" / "adapter_model.safetensors")
    path.with_name("adapter_config.json").write_text('{"lora_alpha": 8, "r": 4}')
    job = with_lora(path)
    sent = carried.read(job.loras[0])
    monkeypatch.setenv("RENDERER_CACHE", str(tmp_path / "there"))
    assert not worker.has(job.loras[0])
    worker.keep(sent)
    assert worker.has(job.loras[0])
    worker.keep(sent)
    found = worker._here(Render(key="k", job=job))
    assert isinstance(found, Render)
    there = Path(found.job.loras[0].source)
    assert there.is_relative_to(tmp_path / "there")
    assert identity_of(there) == job.loras[0].identity


def test_a_lora_that_has_become_another_goes_nowhere(tmp_path: Path) -> None:
    """It would be kept there as what it was, and every later picture with that fail, or be another."""
    path = write_lora(tmp_path / "my.safetensors")
    job = with_lora(path)
    write_lora(path, factors(seed=7))
    with pytest.raises(PictureError, match=r"my\.safetensors: has changed since the manifest was read"):
        carried.read(job.loras[0])


def test_a_lora_that_has_not_come_fails_its_picture(worker: NodeWorker, tmp_path: Path) -> None:
    order(worker, Render(key="k", job=with_lora(write_lora(tmp_path / "my.safetensors"))))
    event, _ = heard(worker, Failed)
    assert isinstance(event, Failed)
    assert (event.key, event.message) == ("k", "the LoRA my has not come to this machine")


def test_terms_go_along() -> None:
    """Nobody is at a terminal on the machines of a cluster: what was agreed to here is asked there."""
    assert Posting.here(Terms(offline=True, most_bytes=5), None).terms == Terms(offline=True, most_bytes=5)
