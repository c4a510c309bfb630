"""What a want of memory takes from one picture it takes from no other; a file that cannot be read is nobody's fault."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from renderer.engine import budget, precision, slots, stores
from renderer.engine.sections import Passing
from renderer.engine.slots import Slots
from renderer.engine.streaming import StreamingEngine
from renderer.errors import ModelError, OutOfMemoryError
from renderer.estimate import host
from renderer.job import Job
from renderer.protocol import Setup
from tests.engine.test_streaming import Heard, open_engine, pixels, render
from tests.making import make_job

FULL = "CUDA out of memory. Tried to allocate 434.00 MiB"


def jobs(count: int) -> list[Job]:
    """Small pictures of different lengths."""
    return [make_job("a red circle", seed=number, side=64, steps=2 + number) for number in range(count)]


@pytest.fixture(scope="module")
def alone() -> list[bytes]:
    """Each of the first four by itself."""
    engine = open_engine(slots=5, in_flight=1)
    return [pixels(render(engine, [job]))[0] for job in jobs(4)]


def short_at(monkeypatch: pytest.MonkeyPatch, engine: StreamingEngine, key: str, times: int) -> list[list[str]]:
    """Let a picture run out of memory at its third block, so many times; who rode each block is what comes back."""
    ride, left, rode = engine._ride, [times], list[list[str]]()

    def short(passing: Passing, flying: Any) -> None:
        rode.append([journey.key for journey in flying])
        if passing.index != 3 or not left[0] or key not in rode[-1]:
            ride(passing, flying)
            return
        left[0] -= 1
        victim = flying[rode[-1].index(key)]
        ride(replace(passing, block=failing(passing.block, times=99)), [victim])
        ride(passing, [journey for journey in flying if journey is not victim])

    monkeypatch.setattr(engine, "_ride", short)
    return rode


def given_up(heard: Heard) -> dict[str, tuple[tuple[str, ...], int]]:
    """What was changed for each picture, and how many slots there were."""
    shared = {key: rendering.sharing for key, rendering in heard.pictures.items()}
    return {key: (each.adjustments, each.slots) for key, each in sorted(shared.items()) if each}


class TestOnItsWay:
    def test_who_wants_memory_begins_again_alone(self, monkeypatch: pytest.MonkeyPatch, alone: list[bytes]) -> None:
        """The others ride on, and nothing rides beside it then; as large a crowd is not tried again at once."""
        engine = open_engine(slots=5, in_flight=2)
        rode = short_at(monkeypatch, engine, "1", times=1)
        heard = render(engine, jobs(4))
        assert pixels(heard) == alone
        assert given_up(heard) == {"0": ((), 5), "1": (("alone",), 5), "2": ((), 5), "3": ((), 5)}
        assert heard.told.count(("started", "0")) == 1
        ridden = [keys for keys, _ in itertools.groupby(rode)]
        assert ridden == [["0", "1"], ["0"], ["1"], ["2"], ["3"]]

    def test_a_crowd_that_was_too_large_is_smaller_for_a_while(
        self, monkeypatch: pytest.MonkeyPatch, alone: list[bytes]
    ) -> None:
        """Where three never fit, one picture begins again, not each; two ride together, and three are tried later."""
        engine = open_engine(slots=5, in_flight=3)
        ride, rode = engine._ride, list[int]()

        def short(passing: Passing, flying: Any) -> None:
            rode.append(len(flying))
            crowded = len(flying) > 2 and passing.index == 3
            ride(replace(passing, block=failing(passing.block, times=1)) if crowded else passing, flying)

        monkeypatch.setattr(engine, "_ride", short)
        heard = render(engine, jobs(4) * 2)
        assert pixels(heard) == alone * 2
        assert sum(bool(changed) for changed, _ in given_up(heard).values()) == 1
        assert rode.count(3) <= 5
        assert 2 in rode[rode.index(1) :]
        for _ in range(budget.FIRST_PAUSE // 2):
            render(engine, jobs(1))
        rode.clear()
        render(engine, jobs(4))
        assert rode[0] == 3

    def test_slots_that_one_gave_up_come_back(self, monkeypatch: pytest.MonkeyPatch, alone: list[bytes]) -> None:
        """Short in company and short alone: fewer slots until it has landed, and all of them for the next."""
        engine = open_engine(slots=5, in_flight=2)
        short_at(monkeypatch, engine, "1", times=2)
        heard = render(engine, jobs(4))
        assert pixels(heard) == alone
        assert given_up(heard) == {"0": ((), 5), "1": (("alone", "2 slots"), 2), "2": ((), 5), "3": ((), 5)}

    def test_with_nothing_left_to_give_up_it_fails_alone(
        self, monkeypatch: pytest.MonkeyPatch, alone: list[bytes]
    ) -> None:
        """Alone and with two slots: its own failure, by its name; the others have their bits and their slots."""
        engine = open_engine(slots=5, in_flight=3)
        short_at(monkeypatch, engine, "1", times=99)
        heard = render(engine, jobs(4))
        assert list(heard.failures) == ["1"]
        assert isinstance(heard.failures["1"], OutOfMemoryError)
        assert pixels(heard) == [alone[0], alone[2], alone[3]]
        assert given_up(heard) == dict.fromkeys("023", ((), 5))

    def test_slots_wait_longer_for_room_that_is_not_there(
        self, monkeypatch: pytest.MonkeyPatch, alone: list[bytes]
    ) -> None:
        """Where the slots cannot be had again, pictures ride with fewer, and do not begin in vain each time."""
        engine = open_engine(slots=5, in_flight=1)
        made = fill_up(monkeypatch, most=2)
        short_at(monkeypatch, engine, "0", times=1)
        heard = render(engine, jobs(4))
        assert pixels(heard) == alone
        assert given_up(heard) == {"0": (("2 slots",), 2), "1": ((), 2), "2": ((), 2), "3": ((), 2)}
        assert made == [2, 5, 2]
        monkeypatch.undo()
        while not engine._recovery.due:
            engine._recovery.passed()
        assert given_up(render(engine, jobs(1))) == {"0": ((), 5)}


def fill_up(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """No room for more slots than that; how many were asked for is what comes back."""
    made: list[int] = []

    def scarce(source: Any, count: int, device: Any) -> Slots:
        made.append(count)
        if count > most:
            raise torch.OutOfMemoryError(FULL)
        return Slots(source, count, device)

    monkeypatch.setattr(budget, "Slots", scarce)
    return made


class TestPreparing:
    @pytest.fixture(autouse=True)
    def _forgotten(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("renderer.engine.prompts.cache_folder", lambda: tmp_path)

    def spied(self, engine: StreamingEngine, fits: Callable[[Sequence[Job]], bool]) -> list[int]:
        """Prompts are prepared where they fit; how many pictures were, each time, is what comes back."""
        asked: list[int] = []
        prepare = engine._prompts.prepare

        def short(jobs: Sequence[Job], *room: Any) -> int:
            asked.append(len(jobs))
            if not fits(jobs):
                raise torch.OutOfMemoryError(FULL)
            return prepare(jobs, *room)

        engine._prompts.prepare = short  # type: ignore[method-assign, assignment]
        return asked

    def test_what_can_never_be_prepared_costs_nobody_slots(self, alone: list[bytes]) -> None:
        """It fails by its name; all slots stay, and the crowd is tried once, then each apart."""
        engine = open_engine(slots=5, in_flight=2)
        never = make_job("never fits", side=64)
        asked = self.spied(engine, lambda jobs: never not in jobs)
        heard = render(engine, [jobs(4)[0], never, *jobs(4)[1:]])
        assert list(heard.failures) == ["1"]
        assert isinstance(heard.failures["1"], OutOfMemoryError)
        assert pixels(heard) == alone
        assert given_up(heard) == dict.fromkeys("0234", ((), 5))
        assert asked[0] == 5
        assert all(count == 1 for count in asked[1:])
        assert len(asked) <= 1 + 5 + 2  # the failing one thrice: beside others, when they have landed, without slots

    def test_it_waits_for_those_in_flight(self) -> None:
        """A prompt with no room beside others is encoded when they have landed, and its sidecar says so."""
        engine = open_engine(slots=5, in_flight=3)
        large = make_job("a large prompt", side=64)
        self.spied(engine, lambda jobs: large not in jobs or (jobs == [large] and not engine._flying + engine._decoded))
        heard = render(engine, [jobs(2)[0], large, jobs(2)[1]])
        assert heard.failures == {}
        assert given_up(heard) == {"0": ((), 5), "1": (("prepared alone",), 5), "2": ((), 5)}

    def test_at_last_it_has_the_room_of_the_slots(self, alone: list[bytes]) -> None:
        """A prompt with no room beside slots is encoded without them, and its sidecar says so; they all come back."""
        engine = open_engine(slots=5, in_flight=2)
        large = jobs(4)[1]
        self.spied(engine, lambda jobs: large not in jobs or (jobs == [large] and not engine._slots._kept))
        heard = render(engine, jobs(4))
        assert pixels(heard) == alone
        without = "prepared alone", "prepared without slots"
        assert given_up(heard) == {"0": ((), 5), "1": (without, 5), "2": ((), 5), "3": ((), 5)}

    def test_another_failure_is_told_at_once(self) -> None:
        """What has nothing to do with memory is not tried again, and nobody waits for it."""
        engine = open_engine(slots=5, in_flight=2)

        def broken(_jobs: Sequence[Job]) -> bool:
            raise ValueError("no such token")

        asked = self.spied(engine, broken)
        heard = render(engine, jobs(2))
        assert [str(error) for error in heard.failures.values()] == ["ValueError: no such token"] * 2
        assert asked == [2, 1, 1]


class TestBetweenPictures:
    def test_no_room_where_a_block_arrives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The youngest begins again, alone; who rode before it goes on from its block, and both have their bits."""
        engine = open_engine("fp8", slots=4, in_flight=2)
        both = [job.model_copy(update={"precision": "fp8"}) for job in jobs(2)]
        expected = [pixels(render(engine, [job]))[0] for job in both]
        engine._recover()  # the room for a block is made anew
        monkeypatch.setattr(precision, "room_for", failing(precision.room_for, times=1))
        heard = render(engine, both)
        assert pixels(heard) == expected
        assert given_up(heard) == {"0": ((), 4), "1": (("alone",), 4)}
        assert heard.told.count(("started", "0")) == 1

    def test_no_room_for_any_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every picture fails by its own name, nothing leaves the engine; when there is room again, it renders."""
        engine = open_engine("fp8", slots=4, in_flight=2)
        both = [job.model_copy(update={"precision": "fp8"}) for job in jobs(2)]
        engine._recover()
        with monkeypatch.context() as full:
            full.setattr(precision, "room_for", failing(precision.room_for, times=99))
            heard = render(engine, both)
        assert list(heard.failures) == ["0", "1"]
        assert all(isinstance(error, OutOfMemoryError) for error in heard.failures.values())
        assert given_up(render(engine, both)).keys() == {"0", "1"}

    def test_no_room_for_the_fewest_slots(self, monkeypatch: pytest.MonkeyPatch, alone: list[bytes]) -> None:
        """Slots that cannot be made at all fail the pictures by name; when there is room again, all come back."""
        engine = open_engine(slots=5, in_flight=2)
        with monkeypatch.context() as full:
            fill_up(full, most=0)
            engine._slots.close()
            heard = render(engine, jobs(2))
        assert list(heard.failures) == ["0", "1"]
        assert all(isinstance(error, OutOfMemoryError) for error in heard.failures.values())
        heard = render(engine, jobs(4))
        assert pixels(heard) == alone
        assert given_up(heard) == dict.fromkeys("0123", ((), 5))

    def test_a_defect_fails_one_picture(self, monkeypatch: pytest.MonkeyPatch, alone: list[bytes]) -> None:
        """Whatever goes wrong between the pictures costs one its place, by the words of what it was."""
        engine = open_engine(slots=2, in_flight=2)
        fetch = engine._slots._fetch
        monkeypatch.setattr(engine._slots, "_fetch", failing(fetch, times=1, error=ValueError("no such block")))
        heard = render(engine, jobs(2))
        assert {key: str(error) for key, error in heard.failures.items()} == {"1": "ValueError: no such block"}
        assert pixels(heard) == alone[:1]


def failing(call: Callable[..., Any], times: int, error: Exception | None = None) -> Callable[..., Any]:
    """A call that fails so many times first."""
    left = [times]

    def fails(*given: Any, **named: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise error or torch.OutOfMemoryError(FULL)
        return call(*given, **named)

    return fails


def go_on(engine: StreamingEngine, heard: Heard) -> None:
    while engine.busy:
        engine.advance(heard)


class TestFiles:
    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        """A copy of the demo's store, whose blocks are read from the disk in every sweep."""
        monkeypatch.setattr(host, "MARGIN_BYTES", 2**60)
        folder = stores.find(Setup(model="demo", precision="bf16", profile="stream"), lambda _: None).folder
        return shutil.copytree(folder, tmp_path / "store")

    def opened(self, store: Path) -> StreamingEngine:
        setup = Setup(model="demo", precision="bf16", profile="stream", store=str(store), slots=2, in_flight=2)
        return StreamingEngine.open(setup, lambda _: None)

    def test_a_bad_moment_of_the_disk(self, store: Path, alone: list[bytes]) -> None:
        """A file that could not be read is read once more, and nobody hears of it but the log."""
        engine = self.opened(store)
        path = engine._source.files[3].path  # type: ignore[attr-defined]
        heard = Heard()
        for number, job in enumerate(jobs(2)):
            engine.take(str(number), job)
        engine.advance(heard)
        data = path.read_bytes()
        path.write_bytes(data[:-100])
        reads = slots._read

        def mended(file: Any, buffer: torch.Tensor, *, direct: bool = False) -> None:
            read_into = type(file).read_into

            class Once:
                tries = 0

                def read_into(self, buffer: torch.Tensor, *, direct: bool = False) -> None:
                    if Once.tries:
                        path.write_bytes(data)
                    Once.tries += 1
                    read_into(file, buffer, direct=direct)

            reads(Once(), buffer, direct=direct)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slots, "_read", mended)
            go_on(engine, heard)
        assert heard.failures == {}
        assert pixels(heard) == alone[:2]

    def test_a_file_that_is_cut_in_mid_stream(self, store: Path) -> None:
        """It is the model's error, which names the file and says what to do; no picture is blamed for it."""
        engine, heard = self.opened(store), Heard()
        path = engine._source.files[3].path  # type: ignore[attr-defined]
        engine.take("0", jobs(4)[3])
        engine.advance(heard)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ModelError, match=r"block-003\.safetensors: ends too early") as caught:
            go_on(engine, heard)
        assert "pack the model again" in caught.value.hint
        assert heard.failures == {}

    def test_a_file_that_is_gone(self, store: Path) -> None:
        """The same for one that cannot be opened."""
        engine, heard = self.opened(store), Heard()
        path = engine._source.files[3].path  # type: ignore[attr-defined]
        engine.take("0", jobs(4)[3])
        engine.advance(heard)
        path.unlink()
        with pytest.raises(ModelError, match=r"block-003\.safetensors: cannot be read: No such file") as caught:
            go_on(engine, heard)
        assert "pack the model again" in caught.value.hint
