"""`--same-bits`: one kind of card for all pictures, whatever else there is, and that of pictures which are there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from renderer.errors import MachineError
from renderer.job import BlockArithmetic, Gpu, Sharing, Weights
from renderer.machine import devices, gpus
from renderer.machine.devices import WorkerDevice
from renderer.machine.hardware import Machine
from renderer.manifest.manifest import Manifest, load
from renderer.outputs import picture_files
from renderer.planning import sharding
from renderer.planning.plan import make_plan
from renderer.protocol import AnyEvent, Opened, Rendered
from renderer.supervisor import events, merging, run
from renderer.supervisor.same_bits import SameBits
from renderer.supervisor.worker import Gone, Heard
from tests import driving
from tests.fakes import InlineWorker
from tests.making import make_manifest
from tests.nights import make_night
from tests.nvml import GIB, Card, Nvml
from tests.supervisor.running import Night, counts

A = Card("GPU-aaaa-1", b"NVIDIA A", 80 * GIB, capability=(9, 0), cores=16896)
B = Card("GPU-bbbb-2", b"NVIDIA B", 80 * GIB, capability=(8, 0), cores=6912)
MANIFEST = make_manifest([f"picture {number}" for number in range(6)])


class OnCards:
    """The fleet of a machine with some cards, whose workers say which they are on."""

    brings_models = False

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *cards: Card, torch: str = "0") -> None:
        monkeypatch.setattr(gpus, "pynvml", Nvml(*cards))
        seen = gpus.look(200 * GIB, 150 * GIB, {})
        self._here = Machine(seen.gpus, cpus=8, ram_bytes=200 * GIB, ram_free_bytes=150 * GIB, chosen=seen.chosen)
        self._names = {card.uuid: card.name.decode() for card in cards}
        self._torch = torch
        self.arithmetics: dict[int, BlockArithmetic] = {}
        self.hired = 0
        self.rendered: list[str] = []

    def devices(self, *_: object) -> tuple[WorkerDevice, ...]:
        return devices.choose("all", self._here)

    def hire(self, log: Path) -> InlineWorker:
        fleet, number = self, self.hired
        self.hired += 1

        class OnCard(InlineWorker):
            card = ""

            def send(self, order: object, payload: bytes = b"") -> None:
                if setup := getattr(order, "setup", None):
                    type(self).card = fleet._names[setup.gpu or next(iter(fleet._names))]
                super().send(order, payload)  # type: ignore[arg-type]

            def hear(self, timeout_s: float) -> Heard | None:
                heard = super().hear(timeout_s)
                return None if heard is None else (fleet.told(heard[0], self.card, number), heard[1])

        return OnCard(log)

    def told(self, event: AnyEvent | Gone, card: str, number: int) -> AnyEvent | Gone:
        if isinstance(event, Opened):
            software = event.software.model_copy(update={"torch": self._torch})
            return event.model_copy(update={"gpu": Gpu(name=card, total_bytes=1), "software": software})
        if isinstance(event, Rendered):
            self.rendered.append(card)
            if number in self.arithmetics:
                sharing = Sharing(
                    share_s=1, mean_in_flight=1, slots=2, blocks=2, arithmetic=self.arithmetics[number],
                    streamed_bytes=0, bus_bytes_per_s=0, flops_per_s=0,
                )  # fmt: skip
                return event.model_copy(update={"sharing": sharing})
        return event


def test_the_kind_of_which_there_are_most_renders(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option all do."""
    fleet = OnCards(monkeypatch, A, B, dataclasses.replace(B, uuid="GPU-cccc-3"))
    assert counts(night.render(MANIFEST, fleet=fleet, same_bits=True)) == (6, 0, 0, 0)
    assert set(fleet.rendered) == {"NVIDIA B"}
    assert fleet.hired == 2, "nothing is opened on the other"


def test_pictures_that_are_there_say_which(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """The night goes on with their kind, though it has most of another; with another alone it renders nothing."""
    night.render(MANIFEST, fleet=OnCards(monkeypatch, B), only=("p000",))
    fleet = OnCards(monkeypatch, A, dataclasses.replace(A, uuid="GPU-cccc-3"))
    with pytest.raises(MachineError, match="the others are of NVIDIA B, and this machine renders on NVIDIA A"):
        night.render(MANIFEST, fleet=fleet, same_bits=True)
    fleet = OnCards(monkeypatch, A, dataclasses.replace(A, uuid="GPU-cccc-3"), B)
    assert night.render(MANIFEST, fleet=fleet, same_bits=True).rendered == 5
    assert set(fleet.rendered) == {"NVIDIA B"}


def test_pictures_of_two_kinds_are_said(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is not alike: nothing that comes can make it so."""
    night.render(MANIFEST, fleet=OnCards(monkeypatch, B), only=("p000",))
    night.render(MANIFEST, fleet=OnCards(monkeypatch, A), only=("p001",))
    with pytest.raises(MachineError, match="of NVIDIA A with torch 0 and of NVIDIA B with torch 0"):
        night.render(MANIFEST, fleet=OnCards(monkeypatch, A), same_bits=True)
    assert night.render(MANIFEST, fleet=OnCards(monkeypatch, A), same_bits=True, force=True).rendered == 6


def test_a_manifest_that_joins_is_of_that_kind_too(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of which pictures of another kind are there is not rendered; one of the same kind, or without any, is."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name, card in (("other", B), ("same", A), ("none", None)):
        manifest = load(inbox / driving.write_manifest(inbox, *f"{name} ab".split(" "), name=name))
        if card is not None:
            night.render(manifest, fleet=OnCards(monkeypatch, card), only=("001",))
    night.heard.clear()

    def watch(what: events.Event) -> None:
        night.heard.append(what)
        if len(night.of(events.BatchEnded)) + len(night.of(events.Remark)) == 4:
            night.stop.request()

    settings = dataclasses.replace(night.settings, fleet=OnCards(monkeypatch, A), same_bits=True, watch_folder=inbox)
    found = run.render([dataclasses.replace(MANIFEST, name="first")], settings, watch, night.stop)
    assert {each.name: each.left for each in found} == {"first": 0, "same": 0, "none": 0}
    (told,) = (what.text for what in night.of(events.Remark))
    assert told.startswith(
        "other.yaml is not rendered: --same-bits: its pictures that are there are of NVIDIA B with torch 0, and this"
        " run's of NVIDIA A"
    )


def test_another_torch_is_another_kind(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known when a worker is ready, which is let go then."""
    night.render(MANIFEST, fleet=OnCards(monkeypatch, A), only=("p000",))
    told = "it renders on NVIDIA A with torch 1, and the others are of NVIDIA A with torch 0"
    with pytest.raises(MachineError, match=told):
        night.render(MANIFEST, fleet=OnCards(monkeypatch, A, torch="1"), same_bits=True)
    assert counts(night.summary(MANIFEST)) == (0, 1, 5, 0)


def test_what_was_really_computed_counts(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card on which products of what is stored do not work after all renders nothing beside one on which they do."""
    other = dataclasses.replace(A, uuid="GPU-cccc-3", name=b"NVIDIA A")
    fleet = OnCards(monkeypatch, A, other)
    fleet.arithmetics = {0: "fp8", 1: "bf16"}
    assert counts(night.render(MANIFEST, fleet=fleet, same_bits=True)) == (6, 0, 0, 0)
    (left,) = night.of(events.DeviceLeft)
    assert "blocks were computed in" in left.text
    folder = night.folder(MANIFEST)
    sidecars = [picture_files.read_sidecar(folder.sidecar(picture.output)) for picture in MANIFEST.pictures]
    assert len({each.sharing.arithmetic for each in sidecars if each and each.sharing}) == 1


def parts_of(how: str, outputs: Path) -> tuple[Manifest, ...]:
    """Two parts, dealt beforehand or taken as they come."""
    if how == "share":
        return sharding.share(MANIFEST, 2, outputs)
    return tuple(sharding.cut(MANIFEST, sharding.Shard(number, 2), outputs) for number in (1, 2))


@pytest.mark.parametrize("how", ["share", "shard"])
def test_machines_that_share_a_manifest_keep_to_one_kind(
    how: str, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first says which, until all is merged."""
    one, other = parts_of(how, night.settings.outputs)
    night.render(one, fleet=OnCards(monkeypatch, B), same_bits=True)
    with pytest.raises(MachineError, match="the others are of NVIDIA B"):
        night.render(other, fleet=OnCards(monkeypatch, A), same_bits=True)
    with pytest.raises(MachineError, match="with torch 1, and the others are of NVIDIA B with torch 0"):
        night.render(other, fleet=OnCards(monkeypatch, B, torch="1"), same_bits=True)
    fleet = OnCards(monkeypatch, A, dataclasses.replace(A, uuid="GPU-cccc-3"), B)
    assert night.render(other, fleet=fleet, same_bits=True).rendered == len(other.pictures)
    assert set(fleet.rendered) == {"NVIDIA B"}


@pytest.mark.parametrize("how", ["share", "shard"])
def test_what_others_have_rendered_says_which_kind(how: str, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they did not ask for one kind, and where it is merged: then nothing else says it any more."""
    one, other = parts_of(how, night.settings.outputs)
    night.render(one, fleet=OnCards(monkeypatch, B))
    with pytest.raises(MachineError, match="the others are of NVIDIA B, and this machine renders on NVIDIA A"):
        night.render(other, fleet=OnCards(monkeypatch, A), same_bits=True)
    merging.merge(MANIFEST, night.settings.outputs)
    assert not list((night.settings.outputs / ".leases").glob("*.card"))
    with pytest.raises(MachineError, match="the others are of NVIDIA B, and this machine renders on NVIDIA A"):
        night.render(other, fleet=OnCards(monkeypatch, A), same_bits=True)
    merging.merge(MANIFEST, night.settings.outputs)
    night.render(other, fleet=OnCards(monkeypatch, A))
    with pytest.raises(MachineError, match="of NVIDIA A with torch 0 and of NVIDIA B with torch 0"):
        night.render(other, fleet=OnCards(monkeypatch, A), same_bits=True)


def test_what_a_manifest_that_joins_was_computed_in_counts(tmp_path: Path) -> None:
    """For its own weights, of which nothing was known before."""
    plans = []
    for name, precision in (("first", "bf16"), ("joins", "int8")):
        picture = MANIFEST.pictures[0]
        job = picture.job.model_copy(update={"precision": precision})
        manifest = dataclasses.replace(MANIFEST, name=name, pictures=(picture.model_copy(update={"job": job}),))
        make_night(manifest, tmp_path)
        plans.append(make_plan(manifest, tmp_path))
    kept, weights = SameBits(plans[:1]), Weights.of(plans[1].items[0].picture.job)
    kept.check(plans[1])
    event = cast("Rendered", SimpleNamespace(sharing=SimpleNamespace(arithmetic="int8")))
    told = kept.differs(event, weights)
    assert told is not None
    assert "blocks were computed in" in told.message
