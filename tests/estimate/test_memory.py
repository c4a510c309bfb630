from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffsynth.models.qwen_image_controlnet import BlockWiseControlBlock
from diffsynth.models.qwen_image_dit import QwenImageTransformerBlock

from renderer import catalog
from renderer.catalog import DROPPED_TOKENS, MOST_TOKENS
from renderer.demo.members import DemoDiT
from renderer.engine import fp8_reference, scaled_blocks
from renderer.engine.modulation import PickImage, PickText, ReadyModulation
from renderer.engine.side_by_side import Arranged, Arrangement, Places
from renderer.estimate import Kernels, Native, Streaming, Work, decide, duration, estimate_peak, weight_bytes
from renderer.estimate.terms import total
from renderer.estimate.work import BEHIND
from renderer.job import Edit, Input, Profile, Stored
from renderer.machine.rates import SOME_GPU
from renderer.planning import placement
from tests.estimate.tape import Tape, fused_attention
from tests.making import make_job

SHAPE = catalog.QWEN_IMAGE_ARCHITECTURE
WIDTH = SHAPE.width


class Fused:
    """The kernels of `fp8_kernels`, as far as memory goes: what each makes, and nothing beside it."""

    @staticmethod
    def room_for(x: torch.Tensor, *_: Any) -> fp8_reference.Rows:
        values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
        return fp8_reference.Rows(values, torch.empty(x.shape[0], device=x.device), x.shape[0])

    rows_are_alike = staticmethod(lambda: True)

    modulate = activate = room_for

    @staticmethod
    def quantise_into(*_: Any) -> None:
        pass

    @staticmethod
    def add(x: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.empty_like(x)

    @staticmethod
    def add_and_modulate(x: torch.Tensor, *_: Any) -> tuple[torch.Tensor, fp8_reference.Rows]:
        return torch.empty_like(x), Fused.room_for(x)

    @staticmethod
    def place(*_: Any) -> None:
        pass

    @staticmethod
    def multiply(x: fp8_reference.Rows, weight: torch.Tensor, *_: Any, out: torch.Tensor | None = None) -> torch.Tensor:
        if out is not None:
            return out
        return torch.empty(x.count, weight.shape[0], dtype=torch.bfloat16, device=x.values.device)


def rider(
    tokens: int, text: int
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor], ReadyModulation]:
    image, words = (torch.empty(1, rows, WIDTH, dtype=torch.bfloat16) for rows in (tokens, text))
    turns = (torch.empty(tokens, 64, dtype=torch.complex64), torch.empty(text, 64, dtype=torch.complex64))
    return image, words, turns, ReadyModulation(torch.empty(2, 6 * WIDTH, dtype=torch.bfloat16))


class TestOneBlock:
    @pytest.mark.parametrize(("tokens", "text"), [(1024, 31), (6889, 31), (6889, 517), (256, 600)])
    def test_bf16_is_what_diffsynths_block_holds(self, monkeypatch: pytest.MonkeyPatch, tokens: int, text: int) -> None:
        """The terms of a block in bf16 are the tensors that DiffSynth's block has at its peak, byte by byte."""
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
        with torch.device("meta"):
            block = QwenImageTransformerBlock(WIDTH, SHAPE.heads, SHAPE.head_width).to(torch.bfloat16)
            block.img_mod, block.txt_mod = PickImage(), PickText()
            image, words, turns, ready = rider(tokens, text)
            with torch.no_grad(), Tape() as tape:
                block(image=image, text=words, temb=ready, image_rotary_emb=turns)
        held = total(Streaming(SHAPE, "bf16", 2).block(tokens, text)) - image.nbytes - words.nbytes
        assert held == pytest.approx(tape.peak, rel=0.002)

    @pytest.mark.parametrize("tokens", [1024, 6889])
    def test_a_controlnets_block_holds_less(self, tokens: int) -> None:
        """Than the block before it, at any precision: it is that block which is forecast."""
        with torch.device("meta"):
            block = BlockWiseControlBlock(WIDTH).to(torch.bfloat16)
            image, condition = (torch.empty(1, tokens, WIDTH, dtype=torch.bfloat16) for _ in range(2))
            with torch.no_grad(), Tape() as tape:
                block(image, condition)
        for precision in ("bf16", "fp8", "int8"):
            assert tape.peak + image.nbytes < total(Streaming(SHAPE, precision, 2).block(tokens, 31))

    @pytest.mark.parametrize("text", [31, 200])
    def test_which_row_sees_which(self, demo_folder: Path, text: int) -> None:
        """What DiffSynth makes of masks: at its peak the forecast's, by all bytes of rows times rows."""
        assert demo_folder
        dit, tokens = DemoDiT().to(torch.bfloat16), 1024
        latents, image = (torch.empty(shape, dtype=torch.bfloat16) for shape in ((1, 16, 64, 64), (1, tokens, 160)))
        prompt, ones = torch.zeros(1, text, 128, dtype=torch.bfloat16), torch.ones(1, text, dtype=torch.long)
        masks = torch.ones(1, 1, 1, 64, 64, dtype=torch.bfloat16)
        with torch.no_grad(), Tape() as tape:
            given = latents, prompt, ones, [prompt], [ones], masks, 512, 512, image, [(1, 32, 32)]
            found = dit.process_entity_masks(*given)
        rows = tokens + 2 * text
        assert found[2].nbytes == 2 * rows**2
        assert tape.peak == pytest.approx(6 * rows**2, rel=0.15)
        assert tape.peak >= 6 * rows**2
        work = Work(512, 512, prompt_tokens=text - BEHIND, region_tokens=text, guided=False)
        assert work.mask_rows == rows
        streaming = Streaming(SHAPE, "fp8", 2)
        plain = Work(512, 512, prompt_tokens=2 * text - BEHIND, guided=False)
        assert streaming.waiting(work) - streaming.waiting(plain) == 2 * rows**2
        making, _ = streaming._masks([work], streaming.waiting(work))
        assert total(making) == 6 * rows**2 + streaming.waiting(plain)
        peaks = [total(streaming.denoise([each]).terms) for each in (work, plain)]
        assert peaks[0] - peaks[1] >= 2 * 2 * rows**2

    def test_what_controlnets_leave_with_a_rider(self) -> None:
        """What each looks at, the last results, and what those were added to: of its own tokens, a pass."""
        plain, held = Work(1024, 1024), Work(1024, 1024, controls=2)
        streaming, image = Streaming(SHAPE, "fp8", 2), 2 * 4096 * WIDTH
        assert streaming.waiting(held) - streaming.waiting(plain) == 2 * 4 * image
        assert len(held.encoded) == 2
        native = [Native(SHAPE, "bf16", "resident", None, Kernels()).estimate(each) for each in (plain, held)]
        stages = [next(stage for stage in each.stages if stage.name == "denoise") for each in native]
        assert stages[1].bytes - stages[0].bytes == 4 * image
        assert duration.block_flops(SHAPE, held) - duration.block_flops(SHAPE, plain) == 2 * 2 * 4 * WIDTH**2 * 4096

    @pytest.mark.parametrize(("own", "edited"), [(1024, 4096), (4096, 4096), (256, 1024)])
    def test_bf16_with_a_picture_that_is_edited(self, monkeypatch: pytest.MonkeyPatch, own: int, edited: int) -> None:
        """With `zero_cond_t`, DiffSynth's block holds two gates of each token besides: the MLP's and attention's."""
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
        work = Work(16 * own // 16, 16 * 16, prompt_tokens=300, edited=((16 * edited // 16, 16 * 16),), split=True)
        text = work.texts[0]
        with torch.device("meta"):
            block = QwenImageTransformerBlock(WIDTH, SHAPE.heads, SHAPE.head_width).to(torch.bfloat16)
            block.img_mod, block.txt_mod = PickImage(), PickText()
            image, words, turns, _ = rider(work.tokens, text)
            ready = ReadyModulation(torch.empty(3, 6 * WIDTH, dtype=torch.bfloat16))
            index = torch.zeros(1, work.tokens, dtype=torch.int)
            with torch.no_grad(), Tape() as tape:
                block(image=image, text=words, temb=ready, image_rotary_emb=turns, modulate_index=index)
        streaming = Streaming(SHAPE, "bf16", 2)
        held = total(streaming.block(work.tokens, text)) - image.nbytes - words.nbytes
        held += sum(streaming.gates_by_token([work]).values())
        assert held == pytest.approx(tape.peak, rel=0.03)

    @pytest.mark.parametrize(
        "company", [[(1024, 131)], [(6889, 131)], [(6889, 517)], [(1024, 131)] * 8, [(1024, 40), (576, 131), (1024, 9)]]
    )
    def test_fp8_is_what_our_block_holds(self, monkeypatch: pytest.MonkeyPatch, company: list[tuple[int, int]]) -> None:
        """The terms of a block in FP8 are the tensors that ours has at its peak, whatever the kernels do inside.

        Of one rider, and of several that go through it together.
        """
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
        with torch.device("meta"):
            riders = [
                dict(zip(("image", "text", "image_rotary_emb", "temb"), rider(*size), strict=True)) for size in company
            ]
            shapes = {"qkv": 3 * WIDTH, "out": WIDTH, "up": 4 * WIDTH, "down": WIDTH}
            stream = scaled_blocks.Stream(
                norm_q=torch.empty(128),
                norm_k=torch.empty(128),
                **{name: (torch.empty(rows, 1), torch.empty(1), torch.empty(1)) for name, rows in shapes.items()},
            )
            order = Arrangement(tuple(company), aligned=16)
            places = Places.of(order, torch.device("meta"))
            kind = SimpleNamespace(
                operations=Fused, shape=(SHAPE.heads, SHAPE.head_width), arrange=lambda *_: Arranged(order, places)
            )
            block = scaled_blocks.ScaledBlock(stream, stream, cast("scaled_blocks.ScaledBlocks", kind), torch.empty(1))
            with torch.no_grad(), Tape() as tape:
                block.together(riders)
        tokens, text = (sum(each) for each in zip(*company, strict=True))
        held = total(Streaming(SHAPE, "fp8", 2).block(tokens, text)) - 2 * (tokens + text) * WIDTH
        assert held == pytest.approx(tape.peak, rel=0.02)  # texts are filled up to 16 rows

    def test_without_a_fused_kernel_attention_is_quadratic(self) -> None:
        """Twice the side has four times the tokens: sixteen times the scores, but four times all else."""
        plain = Streaming(SHAPE, "fp8", 2, Kernels(fused_attention=False))
        fused = Streaming(SHAPE, "fp8", 2)
        assert 3.9 < total(fused.block(4096, 31)) / total(fused.block(1024, 31)) < 4.1
        assert total(plain.block(16384, 31)) / total(plain.block(4096, 31)) > 13
        assert total(plain.block(6889, 31)) > 10 * total(fused.block(6889, 31))

    def test_without_a_fused_kernel_riders_go_alone(self) -> None:
        """Where int8 is multiplied and attention is not fused (7.5), scores of several at once would be in memory."""
        works = [Work(512, 512)] * 2
        assert len(Streaming(SHAPE, "int8", 2, Kernels.of((7, 5))).companies(works)) == 4
        assert len(Streaming(SHAPE, "int8", 2, Kernels.of((8, 0))).companies(works)) == 1
        assert Streaming(SHAPE, "int8", 2, Kernels.of((7, 5))).arithmetic == "int8"

    @pytest.mark.parametrize(
        ("capability", "fused"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 0), True)]
    )
    def test_attention_in_bf16_is_fused_from_8_0_on(self, capability: tuple[int, int], fused: bool) -> None:  # noqa: FBT001
        """No fused kernel of torch's takes bf16 on an older card: not flash, nor the memory-efficient one."""
        assert Kernels.of(capability).fused_attention == fused

    def test_a_card_without_fp8_products_scales_a_block_back(self) -> None:
        """Below compute capability 8.9 one block in bf16 is there besides its slot."""
        old = Streaming(SHAPE, "fp8", 2, Kernels.of((8, 6)))
        names = {term.name for term in old.denoise([Work(512, 512)]).terms}
        assert "block scaled back to bf16" in names
        assert "block scaled back to bf16" not in {term.name for term in Streaming(SHAPE, "fp8", 2).block(1024, 31)}

    def test_four_bits_are_unpacked_to_one_block(self) -> None:
        """Of int8's size, beside the slots and from the beginning, where int8 is multiplied; else they are scaled back.

        A card of 6 GB renders 1328x1328, with guidance.
        """
        found = Streaming(SHAPE, "int4", 2)
        unpacked = {term.name: term.bytes for term in found.kept([Work(512, 512)])}["block unpacked to be multiplied"]
        assert unpacked == weight_bytes(SHAPE, "int8").block
        assert not found.restores
        old = Streaming(SHAPE, "int4", 2, Kernels.of((7, 0)))
        assert old.restores
        assert not old.unpacked
        assert not Streaming(SHAPE, "int8", 2).unpacked
        assert found.estimate([Work(1328, 1328)]).reserved < 6e9


class TestWhatAPictureHas:
    """For itself, while others compute."""

    def test_an_edit_with_two_kinds_of_tokens_has_a_third_table(self) -> None:
        """`zero_cond_t` has one more time in its tables: of image and text, of what is edited as if it were done."""
        streaming = Streaming(SHAPE, "fp8", 2)
        plain, split = (Work(256, 256, edited=((256, 256),), split=each) for each in (False, True))
        more = streaming.belongings(split) - streaming.belongings(plain)
        assert more == SHAPE.layers * 6 * WIDTH * 2

    def test_results_that_are_one_piece_stay_while_a_picture_of_them_is_decoded(self) -> None:
        """Those that went through the last block as one: half of what the decoded one's riders had is still there."""
        works = [Work(256, 256, guided=False)] * 2
        found = {}
        for precision in ("bf16", "fp8"):  # at bf16 each goes alone
            streaming = Streaming(SHAPE, precision, 2)
            terms = {term.name: term.bytes for term in streaming.decode(works).terms}
            found[precision] = terms["waiting riders"] / streaming.waiting(works[0])
        assert found == {"bf16": 1.0, "fp8": 1.5}

    def test_of_pictures_that_go_in_the_largest_is_forecast(self) -> None:
        """Wherever it stands among them; and where attention is not fused, its scores are there."""
        small, large = (256, 256), (1024, 1024)
        streaming = Streaming(SHAPE, "fp8", 2)
        ways = [total(streaming.encoder(Work(256, 256, edited=edited)).terms) for edited in ((large,), (small, large))]
        assert ways[0] == ways[1] > total(streaming.encoder(Work(256, 256, edited=(small,))).terms)
        old = Streaming(SHAPE, "fp8", 2, Kernels(fused_attention=False))
        assert total(old.encoder(Work(1024, 1024, edited=(large,))).terms) > ways[0]


class TestWeights:
    def test_a_store_is_forecast_to_a_part_in_a_thousand(self) -> None:
        """The arithmetic gives the bytes of the store that was packed and measured (tests/benchmarks)."""
        assert weight_bytes(SHAPE, "fp8").store == pytest.approx(29_727_698_697, rel=0.001)

    def test_what_four_bits_take(self) -> None:
        """A machine with 16 GB of memory holds a sweep's blocks; the store is half of FP8's, but for what stays bf16.

        From the real shapes, by the layout of the store itself.
        """
        found, fp8 = weight_bytes(SHAPE, "int4"), weight_bytes(SHAPE, "fp8")
        assert found.store_of_text < 17e9
        assert 60 * found.block < 8e9
        assert found.block < 0.55 * fp8.block
        assert found.modulation < 0.55 * fp8.modulation
        assert found.text_block < 0.55 * fp8.text_block
        assert fp8.store_of_text == fp8.store - fp8.vision

    @pytest.mark.parametrize("precision", ["bf16", "fp8"])
    def test_fp8_halves_what_is_multiplied(self, precision: Stored) -> None:
        """A block is half as large at fp8, and what stays bf16 is not."""
        fp8, bf16 = weight_bytes(SHAPE, "fp8"), weight_bytes(SHAPE, "bf16")
        assert fp8.block == pytest.approx(bf16.block / 2, rel=0.01)
        assert fp8.vae == bf16.vae == weight_bytes(SHAPE, precision).vae


class TestEstimate:
    def test_stages_come_one_after_another(self) -> None:
        """The peak is the largest stage, not the sum, and every byte of it has a name."""
        found = estimate_peak(catalog.QWEN_IMAGE, 1328, 1328)
        assert found.allocated == max(stage.bytes for stage in found.stages) < sum(s.bytes for s in found.stages)
        assert found.peak.name == "encode"
        assert estimate_peak(catalog.QWEN_IMAGE, 2048, 2048).peak.name == "denoise"
        assert all(term.bytes > 0 and term.name for stage in found.stages for term in stage.terms)

    def test_each_argument_counts(self) -> None:
        """A larger size, longer prompts, guidance, company, precision and slots all show, in the stages they are of."""
        usual: dict[str, Any] = {"width": 1328, "height": 1024, "prompt_tokens": 100, "slots": 4, "in_flight": 2}
        base = estimate_peak(catalog.QWEN_IMAGE, **usual)
        more: list[dict[str, Any]] = [
            {"width": 1600}, {"in_flight": 3}, {"slots": 5}, {"precision": "bf16"}, {"prompt_tokens": 500},
        ]  # fmt: skip
        for stage in ("denoise", "decode"):
            there = base.stage(stage).bytes
            for change in more:
                assert estimate_peak(catalog.QWEN_IMAGE, **{**usual, **change}).stage(stage).bytes > there, change
            assert estimate_peak(catalog.QWEN_IMAGE, **{**usual, "cfg_scale": 1.0}).stage(stage).bytes < there
        longer = estimate_peak(catalog.QWEN_IMAGE, **{**usual, "prompt_tokens": 500})
        assert longer.stage("encode").bytes > base.stage("encode").bytes

    def test_profiles_of_diffsynth(self) -> None:
        """All weights in bf16 are 52 GiB and more; a limit is kept to by weights that are taken up."""
        resident = estimate_peak(catalog.QWEN_IMAGE, 1328, 1328, precision="bf16", profile="resident")
        assert 52 * 2**30 < resident.allocated < 57 * 2**30
        bounded = estimate_peak(catalog.QWEN_IMAGE, 512, 512, profile="fp8", vram_bytes=16 * 2**30)
        assert 14 * 2**30 < bounded.allocated < 16 * 2**30


class TestNative:
    """DiffSynth's own engine: weights as its profiles keep them."""

    def test_the_vision_tower_is_there_where_pictures_are_edited(self) -> None:
        """From the first stage to the last; pictures from text come without it."""
        model = Native(SHAPE, "bf16", "resident")
        plain, edits = model.stages(Work(512, 512)), model.stages(Work(512, 512, edited=((512, 512),)))
        kept = [{term.name: term.bytes for term in stage.terms}["all weights"] for stage in (*plain, *edits)]
        assert set(kept[: len(plain)]) == {kept[0]}
        assert set(kept[len(plain) :]) == {kept[0] + weight_bytes(SHAPE, "bf16").vision}

    @pytest.mark.parametrize(
        ("precision", "profile", "copied"),
        [("bf16", "resident", False), ("bf16", "disk", True), ("fp8", "fp8", True), ("fp8", "resident", True)],
    )
    def test_a_layer_that_is_not_there_as_it_is_computed_is_copied(
        self,
        precision: Stored,
        profile: Profile,
        copied: bool,  # noqa: FBT001  # pytest's
    ) -> None:
        """From the host, or scaled up to bf16: beside its encoder's states, a layer's weights."""
        encode, *_ = Native(SHAPE, precision, profile, 2**35 if profile != "resident" else None).stages(Work(512, 512))
        weights = 2 * weight_bytes(SHAPE, "bf16").largest_of_text_block
        assert ({term.name: term.bytes for term in encode.terms}["one layer"] >= weights) is copied

    def test_what_it_needs_has_no_weights_in_it_that_a_limit_keeps_out(self) -> None:
        """Taken up as there is room: a picture fits without them; a profile that keeps all needs all."""
        bounded = Native(SHAPE, "fp8", "fp8", 2**34)
        assert bounded.needed(Work(512, 512)) < 2**32 < bounded.estimate(Work(512, 512)).allocated
        resident = Native(SHAPE, "fp8", "resident")
        assert resident.needed(Work(512, 512)) == resident.estimate(Work(512, 512)).allocated > 2**34


def test_a_prompt_that_is_longer_than_any_group_is_encoded_all_the_same() -> None:
    """Alone; of shorter ones as many as fit, with their template."""
    streaming = Streaming(SHAPE, "fp8", 2)
    assert streaming.group([Work(512, 512, prompt_tokens=5000)]) == [5000]
    short = MOST_TOKENS // 4 - DROPPED_TOKENS
    assert streaming.group([Work(512, 512, prompt_tokens=short, guided=False)] * 5) == [short] * 4


def test_passes_that_a_mask_holds_go_alone() -> None:
    """Guidance's other pass knows no regions, and goes with the others; where scores are in memory, nobody does."""
    plain, masked = Work(512, 512, guided=False), Work(512, 512, prompt_tokens=100, region_tokens=40)
    both = [plain, masked, plain]
    alone, *others = Streaming(SHAPE, "fp8", 2).companies(both)
    assert alone == ((masked.tokens, masked.texts[0]),)
    assert sum(map(len, others)) == 3 > len(others)
    old = Streaming(SHAPE, "fp8", 2, Kernels(fused_attention=False))
    assert [len(each) for each in old.companies(both)] == [1] * 4


def test_a_picture_that_goes_in_is_forecast() -> None:
    """It has a stage of its own, and the VAE's way in takes time; pictures from noise have neither."""
    streaming = Streaming(SHAPE, "fp8", 2)
    plain, over = Work(1024, 1024), Work(1024, 1024, takes_in=True)
    assert [stage.name for stage in streaming.estimate([plain]).stages] == ["encode", "modulate", "denoise", "decode"]
    assert "image" in [stage.name for stage in streaming.estimate([plain, over]).stages]
    assert streaming.encoder(over).terms != streaming.decoder(over).terms
    assert duration.decode_seconds(SHAPE, over, SOME_GPU) > 1.5 * duration.decode_seconds(SHAPE, plain, SOME_GPU)


def test_an_edit_is_forecast() -> None:
    """What is edited is more tokens in every block, has latents made of it, and tokens of the prompt."""
    images = Input(sha256="0" * 64, width=640, height=480), Input(sha256="1" * 64, width=64, height=64)
    edit = Edit(images=images, pixels=1024 * 1024, zero_cond_t=True)
    job = make_job("make it red", side=1024).model_copy(update={"edit": edit})
    work, plain = Work.of(job), Work.of(make_job("make it red", side=1024))
    assert work.edited == ((1184, 896), (1024, 1024))
    assert work.tokens == plain.tokens + 1184 * 896 // 256 + 4096
    assert work.prompt_tokens > plain.prompt_tokens + 2 * 190
    for precision in ("bf16", "fp8"):
        streaming = Streaming(SHAPE, precision, 2)
        there, without = streaming.estimate([work]), streaming.estimate([plain])
        assert [stage.name for stage in there.stages] == ["encode", "modulate", "image", "denoise", "decode"]
        assert all(there.stage(stage.name).bytes > stage.bytes for stage in without.stages)
    assert streaming.companies([plain, work, plain])[0] == ((work.tokens, work.texts[0]),)  # alone
    assert duration.decode_seconds(SHAPE, work, SOME_GPU) > 1.8 * duration.decode_seconds(SHAPE, plain, SOME_GPU)
    (demand,) = placement._demands([job])
    assert decide.Series.of(demand).work == work
