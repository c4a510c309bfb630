"""FP8 blocks: the reference against DiffSynth's own block, and on a GPU the kernels at its width."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from renderer.demo import members
from renderer.engine import (
    arithmetic,
    device,
    fp8_reference,
    microbenchmark,
    precision,
    probe,
    product_trial,
    stores,
    worker,
)
from renderer.engine.blocks import Blocks, ModuleBlocks
from renderer.engine.fp8_reference import FAST_ACCUMULATION, Rows
from renderer.engine.modulation import ReadyModulation
from renderer.engine.scaled_blocks import ScaledBlocks
from renderer.estimate.companies import MOST_ROWS_OF_TWO, MOST_ROWS_TOGETHER, companies
from renderer.families.qwen_image import networks
from renderer.job import RENDERING_VERSION
from renderer.protocol import Setup
from renderer.weights.store import Store

HEADS, HEAD = 5, 32
WIDTH = HEADS * HEAD


@pytest.fixture(scope="module")
def store() -> Store:
    return stores.find(Setup(model="demo", precision="fp8", profile="stream"), lambda _: None)


@pytest.fixture(scope="module")
def slot(store: Store) -> torch.Tensor:
    file = store.blocks("transformer")[1]
    buffer = torch.empty(file.bytes, dtype=torch.uint8)
    file.read_into(buffer)
    return buffer


@pytest.fixture(scope="module")
def plain(store: Store) -> ModuleBlocks:
    skeleton = networks.build(store, "cpu")
    return ModuleBlocks(skeleton.templates["transformer"], store.blocks("transformer")[0].tensors)


@pytest.fixture
def fp8(store: Store, plain: ModuleBlocks) -> ScaledBlocks:
    attention = plain._template.get_submodule("attn")
    places = store.blocks("transformer")[0].tensors
    return ScaledBlocks(plain, places, attention.num_heads, attention.head_dim, fp8_reference)


def inputs(store: Store, image: int = 48, text: int = 7) -> dict[str, Any]:
    """What a block is called with: random values of the size they have in a network."""
    width = store.blocks("transformer")[0].tensors[0].shape[1]
    dice = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=dice).bfloat16()

    head = members.DIT_HEAD_WIDTH
    turns = tuple(
        torch.polar(torch.ones(rows, head // 2), torch.randn(rows, head // 2, generator=dice)) for rows in (image, text)
    )
    ready = ReadyModulation(0.3 * random(2, 6 * width))
    return {
        "image": random(1, image, width),
        "text": random(1, text, width),
        "temb": ready,
        "image_rotary_emb": turns,
        "attention_mask": None,
        "enable_fp8_attention": False,
        "modulate_index": None,
        "kv_cache": None,
    }


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative Frobenius error."""
    return float((found.float() - expected.float()).norm() / expected.float().norm())


class TestBlock:
    def test_it_computes_what_diffsynth_s_block_does(
        self, store: Store, slot: torch.Tensor, plain: ModuleBlocks, fp8: ScaledBlocks
    ) -> None:
        """Both streams come out as from the bf16 block, but for FP8's rounding of activations."""
        given = inputs(store)
        expected = plain.arrive(1, slot)(**given)
        found = fp8.arrive(1, slot)(**given)
        for one, other, before in zip(found, expected, (given["text"], given["image"]), strict=True):
            assert one.shape == other.shape
            assert error(one, other) < 0.05
            assert error(one, other) < 0.2 * error(before, other), "it changed nothing that matters"

    def test_what_is_edited_is_modulated_apart(
        self, store: Store, slot: torch.Tensor, plain: ModuleBlocks, fp8: ScaledBlocks
    ) -> None:
        """With `zero_cond_t` its tokens have vectors of their own, as in the bf16 block, and no others' are touched."""
        given, own = inputs(store), 20
        apart = 0.3 * torch.randn((1, 6 * WIDTH), generator=torch.Generator().manual_seed(9)).bfloat16()
        index = torch.tensor([[0] * own + [1] * (48 - own)], dtype=torch.int)
        ready = ReadyModulation(torch.cat([given["temb"].both, apart]))
        edit = {**given, "temb": ready, "modulate_index": index}
        expected, found, bare = plain.arrive(1, slot)(**edit), fp8.arrive(1, slot)(**edit), fp8.arrive(1, slot)(**given)
        for one, other in zip(found, expected, strict=True):
            assert error(one, other) < 0.05
        assert error(bare[1][:, own:], expected[1][:, own:]) > 5 * error(found[1][:, own:], expected[1][:, own:])
        assert error(bare[1][:, :own], expected[1][:, :own]) < 0.2 * error(bare[1][:, own:], expected[1][:, own:])

    def test_a_change_of_any_weight_is_seen(self, store: Store, slot: torch.Tensor, fp8: ScaledBlocks) -> None:
        """No tensor of the slot is left out: zero one, and the block gives something else."""
        given = inputs(store)
        before = fp8.arrive(1, slot)(**given)
        for place in store.blocks("transformer")[0].tensors:
            if place.name.endswith("bias"):
                continue  # the demo's may be zero already
            damaged = slot.clone()
            damaged[place.offset : place.offset + place.bytes] = 0
            fp8.forget()
            after = fp8.arrive(1, damaged)(**given)
            assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True)), place.name

    def test_loras_leave_the_products_as_they_are(
        self, store: Store, slot: torch.Tensor, plain: ModuleBlocks, fp8: ScaledBlocks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each layer's counts, as in the bf16 block; one that adds nothing changes no bit, and pieces change none."""
        given = inputs(store)
        bare, dice = fp8.arrive(1, slot)(**given), torch.Generator().manual_seed(8)
        shapes = {place.name: place.shape for place in store.blocks("transformer")[0].tensors}
        layers = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) > 1]
        added = {}
        for layer in layers:
            rows, columns = shapes[f"{layer}.weight"]
            down, up = (torch.randn(size, generator=dice).bfloat16() / 8 for size in ((4, columns), (rows, 4)))
            added[layer] = [(down, up), (down / 2, -up)]
        zero = {layer: [(down, 0 * up) for down, up in pairs] for layer, pairs in added.items()}
        assert all(map(torch.equal, fp8.arrive(1, slot)(**given, adapted=zero), bare))
        expected = plain.arrive(1, slot)(**given, adapted=added)
        found = fp8.arrive(1, slot)(**given, adapted=added)
        for one, other, before in zip(found, expected, bare, strict=True):
            assert error(one, other) < 0.05
            assert error(one, other) < 0.2 * error(before, other)
        seen = set()
        for layer in layers:
            alone = fp8.arrive(1, slot)(**given, adapted={layer: added[layer]})
            seen.add(tuple(float(part.double().sum()) for part in alone))
        assert len(seen) == len(layers)
        monkeypatch.setattr("renderer.engine.scaled_reference.PIECE_BYTES", 2 * 7 * 160)
        pieces = fp8.arrive(1, slot)(**given, adapted=added)
        assert all(error(one, other) < 0.002 for one, other in zip(pieces, found, strict=True))

    def test_what_is_rare_takes_the_plain_road(
        self, store: Store, slot: torch.Tensor, plain: ModuleBlocks, fp8: ScaledBlocks
    ) -> None:
        """Asked for what is asked for rarely, the block is DiffSynth's own, bit by bit."""
        given = {**inputs(store), "enable_fp8_attention": True}
        expected = plain.arrive(1, slot)(**given)
        found = fp8.arrive(1, slot)(**given)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

    def test_the_cpu_gets_its_own_products(self, store: Store, plain: ModuleBlocks) -> None:
        """Where nothing multiplies FP8, weights are scaled back."""
        chosen = arithmetic.choose(plain._template, store.blocks("transformer")[0].tensors, "cpu")
        assert chosen.arithmetic == device.arithmetic_of("cpu")


def choose(store: Store, plain: ModuleBlocks, *, fp8: bool = True) -> Blocks:
    """The DiT's blocks, as the engine chooses them on a GPU."""
    template, places = plain._template, store.section("transformer")[0].tensors
    fast = functools.partial(networks.fast_blocks, "transformer", template)
    return arithmetic.choose(template, places, "cuda", stored=fp8, fast=fast)


def test_sums_are_fast_wherever_fp8_is_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was decided once, and is a part of a picture's bits: blocks, their rates and `doctor` ask for the same."""
    asked: list[bool] = []

    def product(_one: Any, _other: Any, *, use_fast_accum: bool, **_: Any) -> torch.Tensor:
        asked.append(use_fast_accum)
        return torch.full((128, 128), 128.0)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    rows = Rows(SimpleNamespace(is_cuda=True), torch.ones(4), 4)
    assert fp8_reference.multiply(rows, torch.ones(8, 8), torch.ones(8), torch.ones(8)).shape[0] == 4
    microbenchmark.Bench("cpu", microbenchmark.CPU_SIZES).fp8_product()
    assert probe._fp8_product(torch, "cpu")
    assert len(asked) > 2
    assert set(asked) == {FAST_ACCUMULATION}
    assert (RENDERING_VERSION, FAST_ACCUMULATION) == (1, True)


class Wrong:
    """The reference, but for one thing that is wrong with it."""

    ARITHMETIC, LARGEST_ERROR = fp8_reference.ARITHMETIC, fp8_reference.LARGEST_ERROR
    as_stored, widened = staticmethod(fp8_reference.as_stored), staticmethod(fp8_reference.widened)

    def __init__(self, wrong: str) -> None:
        self._wrong = wrong
        self.tried: set[tuple[int, int, int]] = set()

    def quantise(self, x: torch.Tensor) -> Rows:
        rows = fp8_reference.quantise(x)
        if self._wrong == "quantised values 30 % wrong":
            rows.values[:] = (rows.values.float() / 1.3).to(torch.float8_e4m3fn)
        if self._wrong == "other scales for many rows" and x.shape[0] == 608:
            rows.scale[-1] *= 1 + 2**-20
        return rows

    def multiply(self, x: Rows, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        self.tried.add((x.count, *weight.shape))
        match self._wrong:
            case "rows' scales are one":
                x = Rows(x.values, torch.ones_like(x.scale), x.count)
            case "columns' scales are their mean":
                scale = scale.mean().expand_as(scale)
            case "no bias":
                bias = torch.zeros_like(bias)
            case "one row":
                if x.count == 1:
                    raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul\nand more")
            case "out of memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            case _:
                pass
        product = fp8_reference.multiply(x, weight, scale, bias)
        if self._wrong == "the last of many rows" and x.count > 128:
            product[-1] *= 0.8
        if self._wrong == "other sums for many rows" and x.count == 608:
            product[-1, 0] += product[-1, 0].abs() / 128
        if self._wrong == "NaN":
            product[0, 0] = float("nan")
        return product if self._wrong != "padded" else torch.cat((product, product))


@pytest.fixture
def trial(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Wrong]:
    """Let a card be new enough, and its products be these; the trial is on the CPU."""

    def install(wrong: str) -> Wrong:
        operations = Wrong(wrong)
        monkeypatch.setattr(precision, "multiplies", lambda codec, _device: not codec.is_plain)
        monkeypatch.setattr(arithmetic, "operations", lambda _arithmetic, _device: operations)
        monkeypatch.setattr(arithmetic, "_REFUSED", arithmetic._Refused())
        complaint, shares = product_trial.complaint, product_trial.shares
        monkeypatch.setattr(product_trial, "complaint", lambda found, shapes, _: complaint(found, shapes, "cpu"))
        monkeypatch.setattr(product_trial, "shares", lambda found, blocks, _: shares(found, blocks, "cpu", 608))
        return operations

    return install


class TestTrial:
    def test_what_works_is_chosen(
        self, trial: Callable[[str], Wrong], store: Store, plain: ModuleBlocks, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Every product of a block is tried, with queries, keys and values as one, by few rows and by many."""
        operations = trial("")
        chosen = choose(store, plain)
        assert chosen.arithmetic == "fp8"
        assert chosen.shares  # type: ignore[attr-defined]  # fast blocks
        wide = 4 * WIDTH
        shapes = {(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (wide, WIDTH), (WIDTH, wide)}
        assert operations.tried >= {(rows, *shape) for rows in (1, 128, 6889, 608) for shape in shapes}
        assert (arithmetic.refused(), caplog.messages) == ("", [])

    def test_it_goes_as_far_as_companies_do(self) -> None:
        """No riders that go together have more rows than are tried, nor a rider's attention more tokens."""
        tried = inspect.signature(product_trial.shares).parameters["most_rows"].default
        dice = random.Random(0)  # noqa: S311
        for most in (40, 400, 4000, MOST_ROWS_TOGETHER):
            for _ in range(100):
                sizes = [(dice.randint(1, most), dice.randint(1, 60)) for _ in range(dice.randint(2, 40))]
                for company in companies(sizes, MOST_ROWS_TOGETHER):
                    assert len(company) == 1 or sum(sum(sizes[each]) for each in company) <= tried
        assert (max(product_trial.ATTENDED), tried) == (MOST_ROWS_TOGETHER, MOST_ROWS_OF_TWO)

    @pytest.mark.parametrize(
        "wrong",
        [
            "quantised values 30 % wrong",
            "rows' scales are one",
            "columns' scales are their mean",
            "no bias",
            "one row",
            "the last of many rows",
            "NaN",
            "padded",
        ],
    )
    def test_what_does_not_is_multiplied_in_bf16(
        self,
        wrong: str,
        trial: Callable[[str], Wrong],
        store: Store,
        plain: ModuleBlocks,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """What fails or is wrong, at any shape, is not used: said once in the log, and in every picture's sidecar."""
        trial(wrong)
        chosen = choose(store, plain)
        assert chosen.arithmetic == "bf16"
        assert len(caplog.messages) == 1
        assert "multiplied in bf16" in arithmetic.refused()
        assert arithmetic.refused() in worker._notes()
        assert "\n" not in arithmetic.refused()
        assert wrong != "one row" or "CUBLAS_STATUS_NOT_SUPPORTED" in arithmetic.refused()

    @pytest.mark.parametrize(
        ("wrong", "said"), [("other sums", "have other bits among 608"), ("other scales", "scaled otherwise among 608")]
    )
    def test_where_many_rows_have_other_bits_riders_go_alone(
        self, trial: Any, store: Store, plain: ModuleBlocks, caplog: pytest.LogCaptureFixture, wrong: str, said: str
    ) -> None:
        """One number in the last place is enough; they are multiplied in FP8 nevertheless, and the log says it."""
        trial(f"{wrong} for many rows")
        chosen = choose(store, plain)
        assert (chosen.arithmetic, chosen.shares) == ("fp8", False)  # type: ignore[attr-defined]  # fast blocks
        assert said in caplog.text
        assert arithmetic.refused() == ""

    def test_where_attention_of_many_has_other_bits_riders_go_alone(
        self, trial: Callable[[str], Wrong], store: Store, plain: ModuleBlocks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A library may split its sums otherwise for a batch."""
        attention = torch.nn.functional.scaled_dot_product_attention

        def split(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = attention(query, key, value)
            return found if len(query) == 1 else found * (1 + 2**-7)

        trial("")
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", split)
        assert not choose(store, plain).shares  # type: ignore[attr-defined]  # fast blocks

    def test_out_of_memory_says_nothing_of_products(
        self, trial: Callable[[str], Wrong], store: Store, plain: ModuleBlocks
    ) -> None:
        """It is told as what it is."""
        trial("out of memory")
        with pytest.raises(torch.OutOfMemoryError):
            choose(store, plain)
        assert arithmetic.refused() == ""

    def test_who_wants_no_products_tries_none(
        self, trial: Callable[[str], Wrong], store: Store, plain: ModuleBlocks
    ) -> None:
        """FP8 weights that are to be multiplied in bf16."""
        operations = trial("no bias")
        chosen = choose(store, plain, fp8=False)
        assert chosen.arithmetic == "bf16"
        assert not operations.tried


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("rows", [1, 5, 37, 128, 300])
def test_the_kernels_on_a_gpu(rows: int) -> None:
    """On a real GPU also FP8 rows and their products are the reference's, within one rounding."""
    from renderer.engine import fp8_kernels  # noqa: PLC0415  # Triton, only where there is a GPU

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda").bfloat16()

    x, vectors = random(rows, 3072), random(2, 6 * 3072)
    whose = (torch.arange(rows, device="cuda") % 2).int()
    for name, given in (
        ("quantise", (x,)),
        ("activate", (x,)),
        ("modulate", (x, vectors, whose, 0)),
        ("modulate", (x, vectors, whose, 3)),
    ):
        one, other = getattr(fp8_kernels, name)(*given), getattr(fp8_reference, name)(*given)
        values = [found.values[:rows].float() * found.scale[:rows, None] for found in (one, other)]
        assert error(*values) < 1e-3
    weight = fp8_reference.quantise(random(9216, 3072))
    product = fp8_kernels.multiply(fp8_kernels.quantise(x), weight.values, weight.scale, random(9216) * 0)
    exact = x.float() @ (weight.values.float() * weight.scale[:, None]).t()
    assert error(product, exact) < 0.05
