from __future__ import annotations

from datetime import UTC, datetime

import pytest

from renderer import catalog
from renderer.catalog import cards
from renderer.job import Engine, FileFacts, Job, Memory, ModelIdentity, Profile, Sharing, Sidecar, Timing
from renderer.pace import Pace, Way, seconds
from renderer.plan import Planned
from renderer.rates import of_card
from tests.fakes import SOFTWARE
from tests.making import make_job, make_picture

RATES = of_card(cards.find("H200").card)


def planned(job: Job) -> Planned:
    return Planned(make_picture().model_copy(update={"job": job}), ModelIdentity(id=job.model), "a" * 64, "to do")


def rendered(job: Job, total_s: float, sharing: Sharing | None = None, profile: Profile = "cpu") -> Sidecar:
    now = datetime.now(UTC)
    return Sidecar(
        fingerprint="a" * 64,
        id="p",
        place=make_picture().place,
        job=job,
        model=ModelIdentity(id=job.model),
        engine=Engine(name="fake", profile=profile, device="cpu" if profile == "cpu" else "cuda"),
        software=SOFTWARE,
        timing=Timing(total_s=total_s, began_at=now, ended_at=now),
        memory=Memory(),
        sharing=sharing,
        file=FileFacts(name="p.png", sha256="a" * 64, bytes=1, width=job.width, height=job.height),
    )


def real(side: int = 1328, steps: int = 40, cfg: float = 4.0) -> Job:
    return make_job(side=side, steps=steps).model_copy(
        update={"model": "Qwen/Qwen-Image", "precision": "fp8", "cfg_scale": cfg}
    )


def sharing(share_s: float, in_flight: float = 1.0) -> Sharing:
    return Sharing(
        share_s=share_s, mean_in_flight=in_flight, slots=3, blocks=60, arithmetic="fp8", streamed_bytes=0,
        bus_bytes_per_s=5e10, flops_per_s=1e15,
    )  # fmt: skip


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
        """Through three slots a small picture waits for the bus alone; with seven others it takes a third of that."""
        pace = Pace(rates=RATES)
        alone, together = (pace.expect_s(planned(real(512)), "stream", Way(3, company)) for company in (1, 8))
        assert alone is not None
        assert together is not None
        assert 0.2 < together / alone < 0.5

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
            12.7 * seconds(catalog.QWEN_IMAGE_SHAPE, real(1024), "stream", Way(60, 1), RATES)[0]
            / seconds(catalog.QWEN_IMAGE_SHAPE, real(), "stream", Way(60, 1), RATES)[0], rel=0.05,
        )  # fmt: skip
