"""What a job asks of a machine: each of its fields that costs something, in the work that is reckoned with."""

from __future__ import annotations

from typing import Any

import pytest

from renderer.estimate import Kernels, Work, count_tokens
from renderer.estimate.looking import shown_tokens, told_tokens
from renderer.estimate.work import BEHIND
from renderer.job import ControlNet, Edit, Input, Region
from renderer.text import MIB
from tests.making import make_job

PICTURE = Input(sha256="a" * 64, width=900, height=600)
EDIT = Edit(images=(PICTURE, PICTURE), pixels=1024 * 1024)
REGIONS = (Region(prompt="a red hat", mask=PICTURE), Region(prompt="a blue scarf", mask=PICTURE))
NET = ControlNet(source="canny.safetensors", identity="1" * 64, image=PICTURE)
PLAIN = Work.of(make_job(side=512))


@pytest.mark.parametrize(
    ("job", "work"),
    [
        ({"cfg_scale": 1.0}, {"guided": False}),
        ({"width": 640}, {"width": 640}),
        ({"input_image": PICTURE}, {"takes_in": True}),
        ({"layer_input_image": PICTURE, "layer_num": 4}, {"takes_in": True, "layer_num": 4}),
        ({"context_image": PICTURE}, {"context": True}),
        ({"controlnets": (NET, NET)}, {"controls": 2}),
        ({"regions": REGIONS}, {"region_tokens": sum(count_tokens(each.prompt) + BEHIND for each in REGIONS)}),
        ({"edit": EDIT}, {"edited": ((1248, 832),) * 2, "split": False}),
        ({"edit": EDIT.model_copy(update={"zero_cond_t": True})}, {"edited": ((1248, 832),) * 2, "split": True}),
    ],
    ids="-".join,
)
def test_what_a_job_asks_for(job: dict[str, Any], work: dict[str, Any]) -> None:
    """It, and nothing besides; of an edit the pictures' tokens, which are in both prompts."""
    found = Work.of(make_job(side=512).model_copy(update=job))
    told = told_tokens(job.get("edit"))
    more = {"prompt_tokens": PLAIN.prompt_tokens + told, "negative_tokens": PLAIN.negative_tokens + told}
    expected = {name: getattr(PLAIN, name) for name in Work.__dataclass_fields__} | more | work
    assert {name: getattr(found, name) for name in expected} == expected


def test_a_numbered_picture_has_its_number_in_front() -> None:
    """Six tokens more than one that has none: "Picture 1: "."""
    one = EDIT.model_copy(update={"images": (PICTURE,)})
    small, large = (one.model_copy(update={"numbered": each, "pixels": 384 * 384}) for each in (True, False))
    assert told_tokens(small) - told_tokens(large) == 6
    assert told_tokens(EDIT) == 2 * told_tokens(one)


def test_while_it_is_encoded_an_edit_has_its_longer_template() -> None:
    """Of 64 tokens, where that of pictures from text has 34."""
    assert shown_tokens(None) == told_tokens(None) == 0
    assert shown_tokens(EDIT) == told_tokens(EDIT) + 30


def test_what_a_card_of_an_age_does() -> None:
    """For cuBLAS torch takes 32 MiB from 9.0 on, and it fuses attention in bf16 from 8.0 on."""
    found = {capability: Kernels.of(capability) for capability in ((7, 5), (8, 0), (8, 9), (9, 0))}
    assert [each.fused_attention for each in found.values()] == [False, True, True, True]
    assert [each.workspace // MIB for each in found.values()] == [8, 8, 8, 32]
