"""Several devices: what each opens, what fits where, and what all take together."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from renderer import catalog
from renderer.cli.command import main
from renderer.dealing.played import GroupShare
from renderer.errors import MachineError
from renderer.estimate import host, shape_of
from renderer.job import Job, Weights
from renderer.machine import devices, gpus, hardware, rates
from renderer.machine.devices import WorkerDevice
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.machine.rates import Rates
from renderer.outputs.done import DoneGpu
from renderer.planning import forecast
from renderer.planning.deployment import deploy
from renderer.planning.forecast import Assumptions
from renderer.planning.group_forecast import GroupForecast, GroupTime, together
from renderer.planning.on_device import OnDevice
from renderer.planning.pace import Pace, PaceKey, Paces
from renderer.planning.plan import make_plan
from renderer.protocol import Setup
from renderer.system import shared_memory
from tests.making import make_job, make_manifest
from tests.nights import make_night
from tests.nvml import GIB, Card, Nvml

H100 = Card("GPU-aaaa-1", b"NVIDIA H100 80GB HBM3", 80 * GIB, capability=(9, 0), cores=16896)
SMALL = Card("GPU-bbbb-2", b"NVIDIA GeForce RTX 3080", 4 * GIB, capability=(8, 6), cores=8704)


def chosen(monkeypatch: pytest.MonkeyPatch, *cards: Card, ram_gib: int = 150) -> tuple[WorkerDevice, ...]:
    """All devices of a machine with these cards."""
    monkeypatch.setattr(gpus, "pynvml", Nvml(*cards))
    seen = gpus.look(200 * GIB, ram_gib * GIB, {})
    here = Machine(seen.gpus, cpus=8, ram_bytes=200 * GIB, ram_free_bytes=ram_gib * GIB, chosen=seen.chosen)
    return devices.choose("all", here)


def large(side: int = 1328) -> Job:
    return make_job(side=side, steps=20).model_copy(update={"model": "Qwen/Qwen-Image", "precision": "fp8"})


def test_cards_side_by_side_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named to its worker; a picture that is too large for one is refused there, and not by both."""
    job, small = large(), large(256)
    found = deploy([job, small], chosen(monkeypatch, H100, SMALL))
    assert [setup.gpu for setup in found.setups.values()] == ["GPU-aaaa-1", "GPU-bbbb-2"]
    assert {setup.ram_bytes for setup in found.setups.values()} == {75 * GIB}
    assert (found.takes(0, job), found.takes(1, job), found.takes(1, small)) == (True, False, True)
    assert found.nowhere() == deploy([job, small], chosen(monkeypatch, H100, SMALL)[::-1]).nowhere() == {}


def test_of_two_cards_of_a_kind_the_busy_one_takes_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are alike in all but what others have of one's memory, which tells what fits there."""
    idle, busy = chosen(monkeypatch, H100, dataclasses.replace(H100, uuid="GPU-dddd-4"))
    (card,) = (gpu for gpu in busy.machine.gpus if gpu is busy.machine.gpu)
    little = dataclasses.replace(busy.machine, gpus=(dataclasses.replace(card, free_bytes=3 * GIB),))
    found = deploy([large(2048)], [idle, dataclasses.replace(busy, machine=little)])
    assert [found.takes(number, large(2048)) for number in (0, 1)] == [True, False]


def test_what_fits_nowhere_is_refused_by_the_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words are those of the card that has most memory."""
    tiny = dataclasses.replace(SMALL, uuid="GPU-cccc-3", memory=3 * GIB)
    found = deploy([large()], chosen(monkeypatch, tiny, SMALL))
    (refusal,) = found.nowhere().values()
    assert refusal.available_bytes == max(
        each.available_bytes for part in found.refused.values() for each in part.values()
    )


def test_each_of_two_is_told_of_its_part_of_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots and company are chosen for what it will render: half of them, of three the larger one."""
    twin = dataclasses.replace(H100, uuid="GPU-dddd-4")
    for cards, pictures, steps in (((H100,), 3, 60), ((H100, twin), 2, 30)):
        for setup in deploy([large()] * 3, chosen(monkeypatch, *cards)).setups.values():
            (demand,) = setup.demands
            assert (demand.pictures, demand.steps) == (pictures, steps)


def test_weights_that_the_host_cannot_hold_twice_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the profiles that keep all of them there; blocks that do not fit come from the disk."""
    there = chosen(monkeypatch, H100, dataclasses.replace(H100, uuid="GPU-dddd-4"), ram_gib=40)
    with pytest.raises(MachineError, match=r"2 workers need .* GiB of host memory together, and 40.0 GiB are free"):
        deploy([large()], there, "fp8")
    assert len(deploy([large()], there).setups) == 2


def test_two_alike_take_half_of_ones_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """But for the start; the host has one copy of the blocks, of which each worker's part is a half."""
    manifest = make_manifest([f"{number}" for number in range(8)])
    pictures = tuple(
        each.model_copy(update={"job": large().model_copy(update={"seed": seed})})
        for seed, each in enumerate(manifest.pictures)
    )
    plan = make_plan(dataclasses.replace(manifest, pictures=pictures), tmp_path)
    there = chosen(monkeypatch, H100, dataclasses.replace(H100, uuid="GPU-dddd-4"))
    rated = tuple((device, rates.known(device.machine)) for device in there)
    now = datetime.now().astimezone()
    both = forecast.forecast([plan], Assumptions(there[0].machine, devices=rated, rates=rated[0][1]), now).groups[0]
    one = both.devices[0]
    assert both.seconds is not None
    assert one.seconds is not None
    assert both.seconds.denoise == pytest.approx(one.seconds.denoise / 2)
    assert both.seconds.start == one.seconds.start
    assert both.host_bytes == 2 * one.host.bytes
    blocks = {term.name: term.bytes for term in one.host.terms}["blocks of the DiT"]
    alone = host.estimate_host(shape_of(catalog.QWEN_IMAGE), "fp8", timesteps=20)
    assert 2 * blocks == {term.name: term.bytes for term in alone.terms}["blocks of the DiT"]
    assert both.host_bytes == 2 * (alone.bytes - blocks)


def test_what_cards_of_a_kind_take_is_reckoned_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And each has its name and its part; another kind is reckoned for itself."""
    reckoned: list[Setup] = []
    group = OnDevice.group

    def counting(self: OnDevice, known: Rates | None) -> GroupForecast:
        reckoned.append(self.setup)
        return group(self, known)

    monkeypatch.setattr(OnDevice, "group", counting)
    manifest = make_manifest([f"{number}" for number in range(9)])
    pictures = tuple(
        each.model_copy(update={"job": large(512).model_copy(update={"seed": seed})})
        for seed, each in enumerate(manifest.pictures)
    )
    plan = make_plan(dataclasses.replace(manifest, pictures=pictures), tmp_path)
    there = chosen(monkeypatch, H100, dataclasses.replace(H100, uuid="GPU-dddd-4"), Card("GPU-eeee-5"))
    rated = tuple((device, rates.known(device.machine)) for device in there)
    terms = Assumptions(there[0].machine, devices=rated, rates=rated[0][1])
    (found,) = forecast.forecast([plan], terms, datetime.now().astimezone()).groups
    assert len(reckoned) == 2
    assert [(each.device, each.card) for each in found.devices] == [
        (f"GPU {number}", card.described) for number, (card,) in enumerate(each.machine.gpus for each in there)
    ]
    assert sum(each.dealt or 0 for each in found.devices) == 9


def test_one_copy_for_two_has_room_where_two_copies_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Blocks that fit into host memory once do not come from the disk because two workers want them."""
    manifest = make_manifest(["0", "1"])
    pictures = tuple(each.model_copy(update={"job": large()}) for each in manifest.pictures)
    plan = make_plan(dataclasses.replace(manifest, pictures=pictures), tmp_path)
    other = dataclasses.replace(H100, uuid="GPU-dddd-4")
    now = datetime.now().astimezone()
    for shares, from_disk in ((True, False), (False, True)):
        monkeypatch.setattr(shared_memory, "is_possible", lambda shared=shares: shared)
        there = chosen(monkeypatch, H100, other, ram_gib=28)
        rated = tuple((device, rates.known(device.machine)) for device in there)
        found = forecast.forecast([plan], Assumptions(there[0].machine, devices=rated, rates=rated[0][1]), now)
        assert found.groups[0].from_disk is from_disk


@pytest.mark.parametrize("cards", [(H100, SMALL), (SMALL, H100)])
def test_a_card_that_takes_only_some_makes_nothing_shorter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cards: tuple[Card, Card]
) -> None:
    """It is quick with the one picture that fits there; the seven others take what they take, and all are counted."""
    manifest = make_manifest([f"{number}" for number in range(8)])
    jobs = [large(256), *(large().model_copy(update={"seed": seed}) for seed in range(7))]
    pictures = tuple(each.model_copy(update={"job": job}) for each, job in zip(manifest.pictures, jobs, strict=True))
    plan = make_plan(dataclasses.replace(manifest, pictures=pictures), tmp_path)
    there = sorted(chosen(monkeypatch, H100, SMALL), key=lambda each: each.machine.gpus[0].uuid != cards[0].uuid)
    rated = tuple((device, rates.known(device.machine)) for device in there)
    terms = Assumptions(there[0].machine, devices=rated, rates=rated[0][1])
    found = forecast.forecast([plan], terms, datetime.now().astimezone())
    assert found.refused == {}
    (both,) = found.groups
    assert sorted(each.pictures for each in both.devices) == [1, 8]
    assert both.pictures == 8
    longest = max(each.seconds.total for each in both.devices if each.seconds)
    assert both.seconds is not None
    assert both.seconds.total == pytest.approx(longest)


def test_plan_says_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command, with two workers on the CPU; what is no device is refused with what there is."""
    monkeypatch.chdir(tmp_path)
    Path("few.yaml").write_text("jobs:\n  - {id: a, prompt: b, model: demo, count: 4}\n", encoding="utf-8")
    assert main(["plan", "few.yaml", "--gpus", "cpu,cpu"]) == 0
    told = capsys.readouterr().out
    assert "CPU 1  all 5 blocks stay in memory" in told
    assert "CPU 2  all 5 blocks stay in memory" in told
    assert "for each of 2 workers" in told
    assert main(["plan", "few.yaml", "--gpus", "17"]) == 2
    assert 'this machine shows no GPU "17"' in capsys.readouterr().err
    assert main(["plan", "few.yaml", "--gpus", "cpu,cpu", "--ram", "8GiB"]) == 2


def test_plan_names_each_card_and_what_it_is_dealt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its name and UUID's first part, its pictures, seconds and memory; and nothing of one that is said of all."""
    monkeypatch.chdir(tmp_path)
    line = "  - {id: a, prompt: b, model: Qwen/Qwen-Image, size: 1328x1328, steps: 20, count: 30}\n"
    Path("few.yaml").write_text(f"jobs:\n{line}", encoding="utf-8")
    small = dataclasses.replace(SMALL, uuid="GPU-91ab02cd-7", memory=10 * GIB)
    machine_with(monkeypatch, dataclasses.replace(H100, uuid="GPU-5d3f6c1e-1"), small)
    assert main(["plan", "few.yaml", "--gpus", "all"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "GPU 0 NVIDIA H100 80GB HBM3 (5d3f6c1e), 29 pictures, " in told
    assert "GPU 1 NVIDIA GeForce RTX 3080 (91ab02cd), 1 picture, " in told
    assert "of 7.6 GiB beside CUDA's context" in told
    assert "GPU 14" not in told
    assert main(["plan", "few.yaml", "--gpus", "all", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["forecast"]
    devices_ = found["groups"][0]["devices"]
    assert [each["dealt"] for each in devices_] == [29, 1]
    alone_s = sum(devices_[0]["seconds"].values())
    assert 0.9 * alone_s < found["seconds"] < alone_s


def test_a_group_s_time_is_from_its_opening_to_its_last_picture(tmp_path: Path) -> None:
    """By what those spend it on that are dealt any of it: a card that has none opens nothing."""
    plan = make_plan(make_manifest(["a", "b"]), tmp_path)
    here = Machine((), 2, 16 * GIB, 12 * GIB)
    (group,) = forecast.forecast([plan], Assumptions(here, profile="cpu"), datetime.now().astimezone()).groups
    quick, idle = (
        dataclasses.replace(group, device=f"CPU {number}", number=number, pictures=4, seconds=GroupTime(start, 1, 6, 1))
        for number, start in enumerate((10.0, 3.0))
    )
    spent = together([quick, idle], GroupShare(began_s=100.0, ended_s=126.0, pictures={0: 4, 1: 0})).seconds
    assert spent is not None
    assert dataclasses.astuple(spent) == pytest.approx((10.0, 2.0, 12.0, 2.0))
    assert spent.total == pytest.approx(26.0)


def test_pictures_of_another_card_tell_nothing_of_this_one(tmp_path: Path) -> None:
    """A night on two cards has pictures of both: each learns from its own, and a third goes by its data."""
    manifest = make_manifest([f"{number}" for number in range(4)])
    make_night(manifest, tmp_path)
    sidecars = [item.sidecar for item in make_plan(manifest, tmp_path).items if item.sidecar]
    quick = [dataclasses.replace(each, gpu=DoneGpu("quick", GIB)) for each in sidecars[:2]]
    paces = Paces([*quick, *(dataclasses.replace(each, gpu=DoneGpu("slow", GIB)) for each in sidecars[2:])])
    key = PaceKey(Weights.of(sidecars[0].job), "cpu")

    def machine(name: str) -> Machine:
        return Machine((LocalGpu(0, name, "", GIB, GIB, "", (9, 0)),), 2, GIB, GIB)

    assert paces.on(machine("quick"), rates.SOME_GPU).factor(key) == Pace(quick, rates.SOME_GPU).factor(key)
    assert not paces.on(machine("third"), rates.SOME_GPU).knows(key)
    assert paces.on(machine("third"), None).knows(key), "where nothing else tells, they do"


def machine_with(monkeypatch: pytest.MonkeyPatch, *cards: Card, ram_gib: int = 150) -> None:
    """Commands see a machine with these cards, which nobody has measured."""
    monkeypatch.setattr(gpus, "pynvml", Nvml(*cards))
    seen = gpus.look(200 * GIB, ram_gib * GIB, {})
    here = Machine(seen.gpus, cpus=8, ram_bytes=200 * GIB, ram_free_bytes=ram_gib * GIB, chosen=seen.chosen)
    monkeypatch.setattr(hardware, "look", lambda: here)
    monkeypatch.setattr(rates, "cached", lambda _: None)


def estimated(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["estimate", "--size", "1328x1328", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_estimate_says_each_and_the_time_of_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cards that are alike take half of what one takes; one on which the picture does not fit makes it no less."""
    twin = dataclasses.replace(H100, uuid="GPU-dddd-4")
    machine_with(monkeypatch, H100, twin, SMALL)
    _, one = estimated(capsys, "--gpus", "GPU-aaaa")
    status, found = estimated(capsys, "--gpus", "all")
    assert status == 0
    assert [each["fits"] for each in found["devices"]] == [True, True, False]
    assert found["picture_s"] == pytest.approx(one["picture_s"] / 2)
    assert main(["estimate", "--size", "1328x1328", "--gpus", "all"]) == 0
    said = capsys.readouterr().out
    assert "GPU 2, NVIDIA GeForce RTX 3080: does NOT fit" in " ".join(said.split())
    assert "by all together" in said
    assert max(map(len, said.splitlines())) <= 80


def test_estimate_of_one_of_several_goes_by_its_own_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not by those of the best one."""
    machine_with(monkeypatch, H100, Card("GPU-eeee-5", b"NVIDIA L4", 24 * GIB, capability=(8, 9), cores=7424))
    quick, slow = (estimated(capsys, "--gpus", number)[1]["picture_s"] for number in ("0", "1"))
    assert slow > 3 * quick


def test_estimate_of_what_fits_on_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3, no time, and what would fit on the largest."""
    machine_with(monkeypatch, SMALL, dataclasses.replace(SMALL, uuid="GPU-cccc-3"))
    status, found = estimated(capsys, "--gpus", "0,1")
    assert (status, found["fits"], found["picture_s"]) == (3, False, None)
    assert main(["estimate", "--size", "1328x1328", "--gpus", "0,1"]) == 3
    assert "would do" in capsys.readouterr().out


def test_estimate_shares_the_hosts_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that are held by each worker need room for all of them; no device that is there is no crash."""
    machine_with(monkeypatch, H100, dataclasses.replace(H100, uuid="GPU-dddd-4"), ram_gib=80)
    assert main(["estimate", "--profile", "disk", "--precision", "bf16", "--gpus", "0"]) == 0
    assert main(["estimate", "--profile", "disk", "--precision", "bf16", "--gpus", "all"]) == 3
    assert "2 workers need" in " ".join(capsys.readouterr().err.split())
    assert main(["estimate", "--gpus", "17"]) == 2
    assert 'no GPU "17"' in capsys.readouterr().err


def test_estimate_reads_blocks_from_the_disk_where_ram_is_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As plan does: with 8 GiB the blocks do not wait in host memory, which takes less of it and more time."""
    machine_with(monkeypatch, H100)
    _, much = estimated(capsys, "--vram", "10GiB")
    _, little = estimated(capsys, "--vram", "10GiB", "--ram", "8GiB")
    assert little["host_bytes"] < much["host_bytes"]
    assert "the others come from the disk" in little["title"]
