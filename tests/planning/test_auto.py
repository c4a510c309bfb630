"""`precision: auto`: what is chosen for a machine, and that it is kept to from then on, by every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from renderer import catalog
from renderer.catalog import Model
from renderer.errors import DiskError, ManifestError
from renderer.estimate import weight_bytes
from renderer.estimate.fitted import LIBRARIES_BYTES
from renderer.estimate.host import MARGIN_BYTES
from renderer.job import Lettering, Precision
from renderer.machine import hardware, rates
from renderer.machine.devices import WorkerDevice
from renderer.machine.gpus import LocalGpu
from renderer.machine.hardware import Machine
from renderer.manifest.manifest import Manifest, Overrides, parse
from renderer.manifest.shelf import Shelf
from renderer.manifest.source import ManifestSource
from renderer.outputs.folder import OutputFolder
from renderer.planning import auto, precision_choice, sharding
from renderer.planning.auto import ChosenPrecision
from renderer.planning.plan import Plan, make_plan
from renderer.protocol import Setup
from renderer.supervisor import events, merging, run
from renderer.supervisor.fleet import Fleet, Say
from renderer.supervisor.local_worker import ThisMachine
from renderer.supervisor.settings import Settings, StopRequests
from tests.fakes import InlineWorker

GB = 10**9


def machine(card: str = "", memory: int = 24 * GB, capability: tuple[int, int] = (8, 9), ram: int = 64 * GB) -> Machine:
    gpus = (LocalGpu(0, card, "GPU-1", memory, memory, "580.1", capability),) if card else ()
    return Machine(gpus, 8, ram, ram)


class TestChoice:
    """By a card's arithmetic, its bus, and the host's memory."""

    @pytest.mark.parametrize(
        ("card", "memory", "capability", "expected"),
        [
            ("NVIDIA GeForce RTX 3060", 12 * GB, (8, 6), "int8"),
            ("NVIDIA GeForce RTX 4090", 24 * GB, (8, 9), "int8"),
            ("NVIDIA L4", 24 * GB, (8, 9), "fp8"),
            ("NVIDIA A100-SXM4-80GB", 80 * GB, (8, 0), "int8"),
            ("NVIDIA H100 80GB HBM3", 80 * GB, (9, 0), "fp8"),
            ("Tesla T4", 16 * GB, (7, 5), "int8"),
            ("A Card That Nobody Knows", 16 * GB, (8, 9), "int8"),
            ("Tesla V100", 16 * GB, (7, 0), "int8"),
        ],
    )
    def test_cards(self, card: str, memory: int, capability: tuple[int, int], expected: Precision) -> None:
        """As docs/models.md advises: int8, but where FP8 is so much faster."""
        found = precision_choice.choose(catalog.QWEN_IMAGE, machine(card, memory, capability))
        assert found.precision == expected, found.why
        assert card in found.machine

    @pytest.mark.parametrize(("ram", "expected"), [(16 * GB, "int4"), (24 * GB, "int8")])
    def test_host_memory(self, ram: int, expected: Precision) -> None:
        """Blocks that wait in 16 GB are int4's; in 24 GB those of int8 have room."""
        found = precision_choice.choose(catalog.QWEN_IMAGE, machine("NVIDIA GeForce RTX 3060", 12 * GB, (8, 6), ram))
        assert found.precision == expected, found.why

    def test_to_the_byte_beside_the_worker_and_everybody_else(self) -> None:
        """Libraries have to be somewhere too, and a margin is left."""
        shape = catalog.QWEN_IMAGE_ARCHITECTURE
        enough = shape.layers * weight_bytes(shape, "int8").block + LIBRARIES_BYTES + MARGIN_BYTES
        small = ("NVIDIA GeForce RTX 3060", 12 * GB, (8, 6))
        found = [precision_choice.choose(catalog.QWEN_IMAGE, machine(*small, ram)) for ram in (enough, enough - 1)]
        assert [each.precision for each in found] == ["int8", "int4"]

    @pytest.mark.parametrize(("card", "expected"), [("NVIDIA L4", "fp8"), ("NVIDIA GeForce RTX 4090", "int8")])
    def test_what_stays_on_the_card_waits_nowhere(self, card: str, expected: Precision) -> None:
        """24 GB hold all of int8's blocks: 16 GB of the host's are then enough, as on many a rented machine."""
        assert precision_choice.choose(catalog.QWEN_IMAGE, machine(card, ram=16 * GB)).precision == expected

    @pytest.mark.parametrize(
        ("bus", "memory", "expected"), [(4e9, 8 * GB, "int4"), (25e9, 8 * GB, "int8"), (4e9, 24 * GB, "int8")]
    )
    def test_a_slow_bus(self, bus: float, memory: int, expected: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where a large picture alone waits for copies, half of them are worth it; where all stays there, none come."""
        here = machine("NVIDIA GeForce RTX 4090", memory)
        known = rates.known(machine("NVIDIA GeForce RTX 4090"))
        assert known is not None
        monkeypatch.setattr(rates, "known", lambda _: known.model_copy(update={"pinned_bytes_per_s": bus}))
        assert precision_choice.choose(catalog.QWEN_IMAGE, here).precision == expected

    @pytest.mark.parametrize(
        ("fp8", "int4", "expected"),
        [(1.09, 1.49, "int8"), (1.11, 1.0, "fp8"), (1.0, 1.51, "int4"), (1.11, 1.51, "fp8")],
    )
    def test_what_it_has_to_be_worth(
        self, fp8: float, int4: float, expected: Precision, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A tenth for FP8, which is as large and less exact; half as much again for four bits."""
        times = {"int8": 1.0, "fp8": fp8, "int4": int4}
        monkeypatch.setattr(precision_choice, "_step_s", lambda _model, kept, *_: 1 / times[kept])
        found = precision_choice.choose(catalog.QWEN_IMAGE, machine("NVIDIA GeForce RTX 4090"))
        assert found.precision == expected

    def test_what_stays_on_a_card_in_the_host_s_memory_is_in_the_host_s_memory(self) -> None:
        """Blocks wait nowhere else there: too little is too little."""
        here = machine("NVIDIA GeForce RTX 4090", ram=16 * GB)
        assert here.gpu is not None
        shared = replace(here, gpus=(replace(here.gpu, memory="host"),))
        found = [precision_choice.choose(catalog.QWEN_IMAGE, each).precision for each in (here, shared)]
        assert found == ["int8", "int4"]

    def test_the_demo_model_and_no_gpu(self) -> None:
        """The demo is bf16 as its weights are, on whatever machine; a CPU multiplies int8."""
        for here in (machine(), machine("NVIDIA H100 80GB HBM3", 80 * GB, (9, 0), 8 * GB)):
            assert precision_choice.choose(catalog.DEMO, here).precision == "bf16"
        assert precision_choice.choose(catalog.QWEN_IMAGE, machine()).precision == "int8"

    @pytest.mark.parametrize(
        ("card", "precision", "said"),
        [
            ("NVIDIA GeForce RTX 3060", "fp8", ["RTX 3060 2.3 times as long as at int8"]),
            ("NVIDIA GeForce RTX 3060", "int8", []),
            ("NVIDIA GeForce RTX 3060", "bf16", []),
            ("NVIDIA L4", "fp8", []),
            ("A Card That Nobody Knows", "fp8", []),
        ],
    )
    def test_who_renders_at_fp8_hears_of_int8(self, card: str, precision: Precision, said: list[str]) -> None:
        """Where it is much faster, and more exact; nobody is told of what costs quality, or of what is a guess."""
        here = machine(card, 12 * GB, (8, 6)) if "3060" in card else machine(card)
        setup = Setup(model=catalog.QWEN_IMAGE.id, precision=precision, profile="stream")
        told = precision_choice.told(setup, here)
        assert [words for words in ("RTX 3060 2.3 times as long as at int8",) if words in (told or "")] == said
        assert (told is not None) == bool(said)
        assert precision_choice.told(setup.model_copy(update={"model": "demo"}), here) is None
        assert precision_choice.told(setup, replace(here, ram_bytes=16 * GB)) is None or "L4" in card


TEXT = "defaults: {model: demo, size: 64x64, steps: 2, seed: 1}\njobs:\n"


def manifest(*jobs: str, overrides: Overrides | None = None) -> Manifest:
    lines = "".join(f"  - {{prompt: {job}}}\n" for job in jobs)
    return parse(ManifestSource((TEXT + lines).encode(), "night.yaml", "night"), overrides or Overrides())


OPEN = ("a, precision: auto", "b, precision: auto", "c, precision: fp8")


def render(given: Manifest, outputs: Path, fleet: Fleet | None = None) -> list[str]:
    """What was said on the way."""
    said: list[str] = []

    def watch(event: events.Event) -> None:
        said.extend([event.text] if isinstance(event, events.Note) else [])

    run.render([given], Settings(outputs, hire=InlineWorker, fleet=fleet), watch, StopRequests())
    return said


def precisions(plan: Plan) -> list[Precision]:
    return [item.picture.job.precision for item in plan.items]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[Precision]:
    """What is chosen from now on: the last of the list, as if for another machine each time."""
    wanted: list[Precision] = ["int8"]
    monkeypatch.setattr(
        precision_choice,
        "choose",
        lambda *_: ChosenPrecision(precision=wanted[-1], why="it is so", machine=f"machine {len(wanted)}"),
    )
    return wanted


class TestKeeping:
    def test_a_plan_chooses_and_writes_nothing(self, tmp_path: Path, chosen: list[Precision]) -> None:
        """Only what says auto is chosen for; what is to come is told."""
        plan = make_plan(manifest(*OPEN), tmp_path, machine=machine())
        assert precisions(plan) == ["int8", "int8", "fp8"]
        assert plan.manifest.remarks == ("precision auto: demo at int8, for machine 1: it is so",)
        assert not list(tmp_path.iterdir())
        chosen.append("int4")
        assert precisions(make_plan(manifest(*OPEN), tmp_path)) == ["int4", "int4", "fp8"]

    def test_a_run_writes_it_down(self, tmp_path: Path, chosen: list[Precision]) -> None:
        """Whatever another machine would choose: it keeps to it, for new pictures too, and renders nothing anew."""
        said = render(manifest(*OPEN[:2]), tmp_path)
        assert "precision auto: demo at int8, for machine 1: it is so" in said
        chosen.append("int4")
        written = OutputFolder(tmp_path / "night").choices.stat()
        render(manifest(*OPEN[:2]), tmp_path)
        assert OutputFolder(tmp_path / "night").choices.stat().st_ino == written.st_ino, "it is not written anew"
        plan = make_plan(manifest(*OPEN[:2], "d, precision: auto"), tmp_path, thorough=True)
        assert precisions(plan) == ["int8", "int8", "int8"]
        assert plan.count("done") == 2
        assert plan.manifest.remarks == ("precision auto: demo at int8, for machine 1: it is so",)

    @pytest.mark.usefixtures("chosen")
    def test_what_is_finished_stays(self, tmp_path: Path) -> None:
        """Rendered at fp8 before anybody said auto: done, also under another name; the rest is as chosen."""
        render(manifest("a", "b"), tmp_path)
        given = manifest("b, precision: auto", "new, precision: auto", "a, precision: auto")
        plan = make_plan(given, tmp_path)
        assert precisions(plan) == ["fp8", "int8", "fp8"]
        assert len(plan.to_render()) == 1
        render(given, tmp_path)
        assert precisions(make_plan(given, tmp_path)) == ["fp8", "int8", "fp8"]
        assert make_plan(given, tmp_path, thorough=True).count("done") == 3

    @pytest.mark.usefixtures("chosen")
    def test_what_a_part_has_finished_stays(self, tmp_path: Path) -> None:
        """Another machine rendered it at fp8, and nobody has merged it yet."""
        render(sharding.cut(manifest("a", "b"), sharding.Shard(1, 1), tmp_path), tmp_path)
        assert precisions(make_plan(manifest("a, precision: auto", "c, precision: auto"), tmp_path)) == ["fp8", "int8"]

    @pytest.mark.usefixtures("chosen")
    def test_a_later_take_that_is_finished_stays(self, tmp_path: Path) -> None:
        """Its first was wrong, so that what lies there has another seed; under another name as well."""
        given = manifest("a", "b, precision: auto")
        first, other = given.pictures
        take = other.model_copy(update={"job": other.job.model_copy(update={"seed": 5, "precision": "fp8"})})
        render(replace(given, pictures=(take.model_copy(update={"output": first.output}),), auto=frozenset()), tmp_path)
        lettered = other.model_copy(update={"lettering": Lettering(texts=("B",), seeds=(1, 5))})
        plan = make_plan(replace(given, pictures=(lettered,)), tmp_path)
        assert (precisions(plan), plan.to_render()) == (["fp8"], [])

    def test_parts_keep_to_one_choice(self, tmp_path: Path, chosen: list[Precision]) -> None:
        """Two machines with parts of a manifest: the first to begin chooses, and what is merged fits."""
        given = manifest(*(f"p{number}, precision: auto" for number in range(6)))
        for number, other in ((1, "int4"), (2, "fp8")):
            part = sharding.cut(given, sharding.Shard(number, 2), tmp_path)
            assert part.auto
            render(part, tmp_path)
            chosen.append(other)  # type: ignore[arg-type]  # they are precisions
        assert merging.merge(given, tmp_path).moved == 6
        plan = make_plan(given, tmp_path, thorough=True)
        assert (plan.count("done"), set(precisions(plan))) == (6, {"int8"})
        assert not sharding.cut(given, sharding.Shard(1, 2), tmp_path).pictures

    def test_another_model_is_chosen_for_beside_it(self, tmp_path: Path, chosen: list[Precision]) -> None:
        """What stands there stays; nothing is written of what is not meant, or cannot be rendered there."""
        auto.settle(manifest(*OPEN), tmp_path, machine(), is_meant=lambda _: True)
        chosen.append("int4")
        both = manifest(*OPEN, "d, precision: auto, model: demo, size: 64x64")
        other = both.pictures[3]
        other = other.model_copy(update={"job": other.job.model_copy(update={"model": "Qwen/Qwen-Image"})})
        both = replace(both, pictures=(*both.pictures[:3], other))
        auto.settle(both, tmp_path, machine(), is_meant=lambda _: True)
        auto.settle(both, tmp_path, machine("NVIDIA L4"), is_meant=lambda picture: picture.job.model == "demo")
        assert auto._read(OutputFolder(tmp_path / "night")).keys() == {"demo"}
        auto.settle(both, tmp_path, machine("NVIDIA L4"), is_meant=lambda _: True)
        found = auto._read(OutputFolder(tmp_path / "night"))
        assert {name: each.precision for name, each in found.items()} == {"demo": "int8", "Qwen/Qwen-Image": "int4"}

    def test_it_is_chosen_for_those_who_render(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a cluster for its machines, whatever the one is that asks; and they are asked once."""
        asked: list[str] = []

        class Cluster(ThisMachine):
            brings_models = True

            def devices(self, say: Say, check: Callable[[], None]) -> Sequence[WorkerDevice]:  # noqa: ARG002
                asked.append("asked")
                return (WorkerDevice(machine("NVIDIA L4")),)

        def choose(_model: Model, here: Machine) -> ChosenPrecision:
            return ChosenPrecision(precision="int8" if here.gpu else "bf16", why="it is so", machine="there")

        monkeypatch.setattr(precision_choice, "choose", choose)
        render(manifest(*OPEN), tmp_path, fleet=Cluster(None, InlineWorker))
        assert precisions(make_plan(manifest(*OPEN), tmp_path, thorough=True)) == ["int8", "int8", "fp8"]
        assert asked == ["asked"]

    @pytest.mark.parametrize("text", ["{", '{"choices": {"demo": {"precision": "int3"}}}', "[]", "{}" + " " * 2**16])
    def test_a_file_that_is_spoilt_is_told(self, tmp_path: Path, chosen: list[Precision], text: str) -> None:
        """With what to do: nothing is chosen over it."""
        folder = OutputFolder(tmp_path / "night")
        folder.path.mkdir()
        folder.choices.write_text(text, encoding="utf-8")
        with pytest.raises(DiskError, match=r"cannot read .*\.choices\.json") as caught:
            make_plan(manifest(*OPEN), tmp_path)
        assert "remove it" in caught.value.hint
        assert chosen == ["int8"]


class TestManifest:
    def test_the_command_line_may_say_it(self, tmp_path: Path, chosen: list[Precision]) -> None:
        """`--precision auto` for every job, and another one in place of what jobs leave open."""
        of_all = manifest(*OPEN, overrides=Overrides(precision="auto"))
        assert precisions(make_plan(of_all, tmp_path)) == ["int8"] * 3
        assert not manifest(*OPEN, overrides=Overrides(precision="bf16")).auto
        assert chosen == ["int8"]

    def test_a_rehearsal_has_its_own(self) -> None:
        """The demo's, as ever."""
        given = manifest(*OPEN, overrides=Overrides(proof=True))
        assert not given.auto
        assert {picture.job.precision for picture in given.pictures} == {"bf16"}

    def test_a_server_is_not_asked_to_choose(self) -> None:
        """A request is no manifest that is planned: refused at its place, with what to do."""
        with pytest.raises(ManifestError) as caught:
            manifest(*OPEN, overrides=Overrides(shelf=Shelf({"demo": "demo"})))
        (problem, *_) = caught.value.problems
        assert problem.path == "jobs[0].precision"
        assert problem.hint == "leave it out, or name one"

    def test_this_machine_is_asked_where_no_other_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And only where something is open."""
        asked: list[str] = []

        def look() -> Machine:
            asked.append("asked")
            return machine()

        monkeypatch.setattr(hardware, "look", look)
        make_plan(manifest("a", "b"), tmp_path)
        assert not asked
        assert precisions(make_plan(manifest(*OPEN), tmp_path)) == ["bf16", "bf16", "fp8"]
        assert asked
