from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from renderer import catalog
from renderer.catalog import cards
from renderer.estimate import Streaming, duration
from renderer.job import Engine, FileFacts, Job, Memory, ModelIdentity, Profile, Sharing, Sidecar, Timing, Weights
from renderer.machine.rates import Rates, of_card
from renderer.outputs import done
from renderer.outputs.done import Done
from renderer.planning import pace as pacing
from renderer.planning.pace import RECENT, Pace, PaceKey, Way, seconds, weight
from renderer.planning.plan import Planned
from tests.fakes import SOFTWARE
from tests.making import make_job, make_picture

RATES = of_card(cards.find("H200").card)
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
ENGINE: dict[str, Any] = {
    file.stem.removeprefix("engine-"): json.loads(file.read_text(encoding="utf-8"))
    for file in sorted(BENCHMARKS.glob("engine-*.json"))
}
TIMES: dict[str, Any] = {
    file.stem.removeprefix("time-"): [*map(json.loads, file.read_text(encoding="utf-8").splitlines())]
    for file in sorted(BENCHMARKS.glob("time-*.jsonl"))
}


def planned(job: Job) -> Planned:
    picture = make_picture().model_copy(update={"job": job})
    return Planned(picture, catalog.find(job.model), ModelIdentity(id=job.model), "a" * 64, "to do")


def rendered(
    job: Job,
    total_s: float,
    sharing: Sharing | None = None,
    profile: Profile = "cpu",
    *,
    encode_s: float | None = None,
    load_s: float | None = None,
) -> Done:
    now = datetime.now(UTC)
    sidecar = Sidecar(
        fingerprint="a" * 64,
        id="p",
        place=make_picture().place,
        job=job,
        model=ModelIdentity(id=job.model),
        engine=Engine(name="fake", profile=profile, device="cpu" if profile == "cpu" else "cuda"),
        software=SOFTWARE,
        timing=Timing(total_s=total_s, encode_s=encode_s, load_s=load_s, began_at=now, ended_at=now),
        memory=Memory(),
        sharing=sharing,
        file=FileFacts(name="p.png", sha256="a" * 64, bytes=1, width=job.width, height=job.height),
    )
    return done.of_sidecar(sidecar, "p", job)


def real(side: int = 1328, steps: int = 40, cfg: float = 4.0) -> Job:
    return make_job(side=side, steps=steps).model_copy(
        update={"model": "Qwen/Qwen-Image", "precision": "fp8", "cfg_scale": cfg}
    )


def sharing(share_s: float, in_flight: float = 1.0, slots: int = 3) -> Sharing:
    return Sharing(
        share_s=share_s, mean_in_flight=in_flight, slots=slots, blocks=60, arithmetic="fp8", streamed_bytes=0,
        bus_bytes_per_s=5e10, flops_per_s=1e15,
    )  # fmt: skip


def test_a_model_of_ones_own_is_no_namesake() -> None:
    """A folder that is called "demo" holds a model of full size, whatever the catalogue has under that name."""
    own = replace(planned(real()), identity=ModelIdentity(id="demo", content_sha256="b" * 64))
    assert weight(own) == weight(planned(real()))


class TestPace:
    def test_the_same_again_takes_as_long(self) -> None:
        """What was measured is what is expected of the same job, whatever the arithmetic says."""
        pace = Pace([rendered(make_job(side=64, steps=10), 1.0)])
        assert pace.expect_s(planned(make_job(side=64, steps=10)), "cpu") == pytest.approx(1.0)

    def test_time_goes_with_steps(self) -> None:
        """Twice the steps take nearly twice as long: the decode is not repeated."""
        pace = Pace([rendered(real(steps=20), 10.0, profile="stream")])
        twice = pace.expect_s(planned(real(steps=40)), "stream")
        assert twice is not None
        assert 19 < twice < 20

    def test_attention_makes_large_pictures_dearer_than_their_pixels(self) -> None:
        """Four times the pixels cost more than four times the time, and less than sixteen."""
        pace = Pace([rendered(real(1024), 10.0, profile="stream")])
        large = pace.expect_s(planned(real(2048)), "stream")
        assert large is not None
        assert 45 < large < 100

    def test_guidance_off_is_half_the_work(self) -> None:
        """Without CFG there is one pass a step."""
        pace = Pace([rendered(real(), 10.0, profile="stream")])
        half = pace.expect_s(planned(real(cfg=1.0)), "stream")
        assert half == pytest.approx(5.0, rel=0.05)

    def test_company_is_not_counted_twice(self) -> None:
        """A picture that shared the machine with three others took a quarter of its time of the wall's."""
        pace = Pace([rendered(real(512), 16.0, sharing(4.0, 4.0), "stream")])
        assert pace.expect_s(planned(real(512)), "stream") == pytest.approx(4.0)
        assert pace.expect_of(rendered(real(512), 0.0, sharing(4.0, 4.0), "stream")) == pytest.approx(16.0)

    def test_company_hides_the_copies(self) -> None:
        """Through three slots a small picture waits for the bus alone; with seven others it takes a fifth of that.

        As it was measured: tests/benchmarks/engine-h100.json.
        """
        pace = Pace(rates=Rates.model_validate(ENGINE["h100"]["rates"]))
        alone, together = (pace.expect_s(planned(real(512)), "stream", Way(3, company)) for company in (1, 8))
        assert alone is not None
        assert together is not None
        rows = ENGINE["h100"]["rows"]
        measured = rows["3-slots-8-small"][0]["step_s"] / rows["3-slots-small"][0]["step_s"]
        assert together / alone == pytest.approx(measured, rel=0.05)

    @pytest.mark.parametrize("card", ENGINE)
    def test_natively_no_launch_is_recorded(self, card: str) -> None:
        """A small picture of DiffSynth's own waits for the host, as long as it did (tests/benchmarks/engine-*.json)."""
        (measured,) = [row for row in ENGINE[card]["rows"]["diffsynth-bf16"] if row["side"] == 512]
        job, rates = real(512).model_copy(update={"precision": "bf16"}), Rates.model_validate(ENGINE[card]["rates"])
        native, streamed = (
            seconds(catalog.QWEN_IMAGE_ARCHITECTURE, job, profile, Way(60, 1), rates)[0] / job.num_inference_steps
            for profile in ("resident", "stream")
        )
        assert native == pytest.approx(measured["step_s"], rel=0.05)
        assert streamed < 0.85 * native

    def test_decoding_is_a_picture_s_own(self) -> None:
        """It is no part of what a sweep's time is shared out as: both together are what it took of the machine."""
        one = rendered(real(512), 16.0, sharing(4.0, 4.0), "stream")
        pace = Pace([replace(one, timing=replace(one.timing, decode_s=1.5))])
        assert pace.expect_s(planned(real(512)), "stream") == pytest.approx(5.5)

    def test_from_the_disk_it_takes_longer(self) -> None:
        """Where blocks do not fit into host memory, through few slots."""
        pace = Pace(rates=RATES)
        there, away = (pace.expect_s(planned(real(512)), "stream", Way(3, 1, from_disk=disk)) for disk in (False, True))
        assert there is not None
        assert away is not None
        assert away > 1.5 * there

    def test_another_profile_tells_nothing(self) -> None:
        """What was measured on the CPU says nothing of the GPU."""
        assert Pace([rendered(make_job(), 1.0)]).expect_s(planned(make_job()), "resident") is None

    def test_rates_tell_before_anything_was_measured(self) -> None:
        """With a machine's rates there is an expectation for the first picture; measured ones correct it."""
        pace = Pace(rates=RATES)
        before = pace.expect_s(planned(real()), "stream")
        assert before is not None
        assert 8 < before < 20
        pace.learn(rendered(real(), 30.0, profile="stream"))
        assert pace.expect_s(planned(real()), "stream") == pytest.approx(30.0)

    def test_five_pictures_tell_the_others(self) -> None:
        """The median of five that scatter by a few per cent is within five per cent of the rest."""
        pace = Pace()
        for factor in (1.02, 0.97, 1.0, 1.04, 0.99):
            pace.learn(rendered(real(), 12.7 * factor, profile="stream"))
        assert pace.expect_s(planned(real(1024)), "stream") == pytest.approx(
            12.7 * seconds(catalog.QWEN_IMAGE_ARCHITECTURE, real(1024), "stream", Way(60, 1), RATES)[0]
            / seconds(catalog.QWEN_IMAGE_ARCHITECTURE, real(), "stream", Way(60, 1), RATES)[0], rel=0.05,
        )  # fmt: skip


def test_what_joins_tells_of_what_is_not_known() -> None:
    """A manifest that joins a run brings pictures of other days: of what this run renders it knows better itself."""
    known, other = make_job(), make_job().model_copy(update={"precision": "int8"})
    pace = Pace([rendered(known, 2.0)])
    pace.learn_other([rendered(known, 90.0), rendered(other, 5.0)])
    assert pace.expect_s(planned(known), "cpu") == pytest.approx(2.0)
    assert pace.expect_s(planned(other), "cpu") == pytest.approx(5.0)


def test_what_a_server_learns_does_not_grow() -> None:
    """Of a worker's pictures the latest are kept, and what they tell stays the same."""
    pictures = TestPreparing().five() * 40
    pace = Pace(pictures, RATES, most=20)
    (workers,) = pace._workers.values()
    assert {len(kept) for kept in workers.values()} == {20}
    assert {len(kept) for kept in (*pace._factors.values(), *pace._walls.values())} == {RECENT}
    assert pace.factor(TestPreparing.KEY) == Pace(pictures, RATES).factor(TestPreparing.KEY)


class TestPreparing:
    KEY: ClassVar[PaceKey] = PaceKey(Weights("Qwen/Qwen-Image", "fp8"), "stream")

    def five(self, encode_s: float = 1.0, load_s: float = 16.6) -> list[Done]:
        """Pictures of one worker, each with its part of what was prepared for all."""
        jobs = [real(side, steps=20).model_copy(update={"prompt": str(side)}) for side in (512, 768, 1024, 1328, 1600)]
        return [
            rendered(
                job,
                0.0,
                sharing(seconds(catalog.QWEN_IMAGE_ARCHITECTURE, job, "stream", Way(60, 1), RATES)[0], slots=60),
                "stream",
                encode_s=encode_s,
                load_s=load_s,
            )
            for job in jobs
        ]

    def two_workers(self, encode_s: float) -> list[Done]:
        """The same pictures of two, of which the second tells of nothing."""
        return [*self.five(encode_s=encode_s), *self.five(encode_s=0.0, load_s=13.5)]

    def test_it_is_not_a_pictures_own(self) -> None:
        """Pictures that took what the arithmetic says have the factor 1, whatever was prepared before."""
        assert Pace(self.five(encode_s=3.0), RATES).factor(self.KEY) == pytest.approx(1.0, rel=0.02)

    def test_prompts_of_finished_pictures_are_not_encoded_again(self) -> None:
        """For the same prompts only modulations are left; a new one has to be encoded, and it takes as long again."""
        pace, jobs = Pace(self.two_workers(1.0), RATES), [picture.job for picture in self.five()]
        again = pace.prepare_s(self.KEY, jobs, RATES)
        other = pace.prepare_s(self.KEY, [job.model_copy(update={"prompt": "new"}) for job in jobs], RATES)
        assert again < 0.75 * other
        assert other == pytest.approx(5 * 1.0, rel=0.02)

    @pytest.mark.parametrize("part", [0.5, 2.0])
    def test_what_it_took_is_believed(self, part: float) -> None:
        """Slower than the arithmetic or faster, other prompts take as much more or less than it."""
        others = [picture.job.model_copy(update={"prompt": str(seed)}) for seed, picture in enumerate(self.five())]
        expected = Pace().prepare_s(self.KEY, [picture.job for picture in self.five()], RATES)
        pace = Pace(self.two_workers(part * expected / 5), RATES)
        assert pace.prepare_s(self.KEY, others, RATES) == pytest.approx(part * expected, rel=0.02)

    def test_a_single_worker_only_adds(self) -> None:
        """It may have prepared for many, and have been broken off after a few."""
        others = [picture.job.model_copy(update={"prompt": str(seed)}) for seed, picture in enumerate(self.five())]
        expected = Pace().prepare_s(self.KEY, [picture.job for picture in self.five()], RATES)
        for part, told in ((0.1, 1.0), (2.0, 2.0)):
            pace = Pace(self.five(encode_s=part * expected / 5), RATES)
            assert pace.prepare_s(self.KEY, others, RATES) == pytest.approx(told * expected, rel=0.02)

    def test_the_worker_that_tells_of_most_counts(self) -> None:
        """Of the last three: one whose pictures are missing tells of less, and one of long ago of another machine."""
        jobs = [picture.job for picture in self.five()]
        whole = Pace().prepare_s(self.KEY, jobs, RATES)
        modulations = Pace(self.five(encode_s=whole / 5), RATES).prepare_s(self.KEY, jobs, RATES)
        pictures = self.five(encode_s=2 * whole / 5, load_s=16.0)
        found = []
        for worker in range(4):
            found.append(Pace(pictures, RATES).prepare_s(self.KEY, jobs, RATES) / modulations)
            pictures += self.five(encode_s=0.5 * modulations / 5, load_s=13.0 + worker)
        assert found == pytest.approx([2, 2, 2, 0.5])

    def test_a_start_is_a_workers(self) -> None:
        """The median of workers, not of pictures; of none, nothing is known."""
        others = [self.five(load_s=13.5)[0], self.five(load_s=14.0)[0]]
        assert Pace([*self.five(load_s=16.6), *others]).load_s(self.KEY) == 14.0
        assert Pace().load_s(self.KEY) is None

    def test_natively_each_picture_has_its_own_encoded(self) -> None:
        """Its seconds are in the picture's total, and are counted once: five alike foretell five more to the second."""
        key: PaceKey = PaceKey(Weights("Qwen/Qwen-Image", "fp8"), "resident")
        pace = Pace([rendered(real(), 30.0, profile="resident", encode_s=4.0, load_s=60.0) for _ in range(5)], RATES)
        jobs = [real()] * 5
        share, _ = seconds(catalog.QWEN_IMAGE_ARCHITECTURE, real(), "resident", Way(60, 1), RATES)
        prepared = pace.prepare_s(key, jobs, RATES)
        assert prepared == pytest.approx(5 * 4.0)
        assert 5 * share * pace.factor(key) + prepared == pytest.approx(5 * 30.0)
        assert pace.expect_s(planned(real()), "resident") == pytest.approx(30.0)

    def test_natively_encoding_goes_with_prompts_and_not_with_steps(self) -> None:
        """Without guidance there is one prompt to encode, and twice the steps encode nothing twice."""
        key: PaceKey = PaceKey(Weights("Qwen/Qwen-Image", "fp8"), "resident")
        pace = Pace([rendered(real(steps=20), 30.0, profile="resident", encode_s=10.0)], RATES)
        assert pace.prepare_s(key, [real(cfg=1.0)], RATES) == pytest.approx(5.0)
        bare = Pace([rendered(real(cfg=1.0), 30.0, profile="resident", encode_s=5.0)], RATES)
        assert bare.prepare_s(key, [real()], RATES) == pytest.approx(10.0)
        twice = pace.expect_s(planned(real(steps=40)), "resident")
        assert twice is not None
        assert 49 < twice < 50  # 10, and nearly 2 x 20: the decode is not repeated

    def test_natively_modulations_are_the_steps_own(self) -> None:
        """Before anything was measured, they are counted where they are computed ahead, and nowhere else."""
        native, streamed = (
            Pace().prepare_s(PaceKey(Weights("Qwen/Qwen-Image", "bf16"), profile), [real()], RATES)
            for profile in ("resident", "stream")
        )
        assert native < 0.7 * streamed


@pytest.mark.parametrize("card", TIMES)
class TestMeasuredBatch:
    """17 pictures of five kinds, as they came (tests/benchmarks/time-*.jsonl).

    Guidance's passes went through the blocks one by one then, and are forecast so.
    """

    KEY: ClassVar = PaceKey(Weights("Qwen/Qwen-Image", "fp8"), "stream")

    @pytest.fixture(autouse=True)
    def apart(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(pacing, "Streaming", partial(Streaming, together=0))
        pacing._sweep_and_decode.cache_clear()
        yield
        pacing._sweep_and_decode.cache_clear()

    def came(self, card: str) -> list[Done]:
        """Their sidecars, as far as a forecast looks at them, in the order in which they were done."""
        return [self.sidecar(row) for row in TIMES[card][0]["rendered"]]

    def sidecar(self, row: dict[str, Any]) -> Done:
        asked = ("prompt", "width", "height", "cfg_scale", "num_inference_steps")
        plain = rendered(real(), 0.0, sharing(row["share_s"], row["mean_in_flight"], row["slots"]), "stream")
        timing = replace(plain.timing, **{name: row[name] for name in row if name in Timing.model_fields})
        job = real().model_copy(update={name: row[name] for name in asked})
        return replace(plain, job=job, timing=timing)

    def test_after_five_pictures_the_others_are_met(self, card: str) -> None:
        """Within 5 % of what they took."""
        rest = TIMES[card][1]
        came = self.came(card)
        done = len(came) - rest["pictures"]
        pace = Pace(came[:done], RATES)
        found = sum(pace.expect_s(planned(each.job), "stream", Way(60, 1)) or 0.0 for each in came[done:])
        assert found == pytest.approx(rest["took_s"], rel=0.05)

    def test_before_any_all_are_met(self, card: str) -> None:
        """Within 10 %, at the rates that were measured before: of the first decode's kernels nothing is known."""
        whole = TIMES[card][0]
        rates = Rates.model_validate(whole["rates"])
        jobs = [each.job for each in self.came(card)]
        pace = Pace(rates=rates)
        found = duration.load_seconds(catalog.QWEN_IMAGE_ARCHITECTURE, "fp8", rates) + pace.prepare_s(
            self.KEY, jobs, rates
        )
        found += sum(pace.expect_s(planned(job), "stream", Way(60, 1)) or 0.0 for job in jobs)
        assert found == pytest.approx(whole["took_s"], rel=0.1)
