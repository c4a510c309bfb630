"""bitsandbytes' forms, by the layout that diffusers saves: what they are packed to, and what is refused of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file, save_file

from renderer.errors import ModelError
from renderer.weights.checkpoint import open_checkpoint
from tests.weights import foreign
from tests.weights.foreign import Foreign, Tensors
from tests.weights.readers.test_scaled import source, store, transformer
from tests.weights.tiny import Source, restored

__all__ = ["source"]

LAYER = "transformer_blocks.0.attn.to_q"
FORMS: dict[str, Callable[[Tensors], Foreign]] = {
    "nf4": foreign.nf4,
    "nf4, scales in eight bits": lambda tensors: foreign.nf4(tensors, nested=True),
    "fp4": lambda tensors: foreign.nf4(tensors, kind="fp4"),
    "nf4, rows within blocks": lambda tensors: foreign.nf4(tensors, block=24, nested=True),
    "int8": foreign.llm_int8,
}


class TestRead:
    @pytest.mark.parametrize("form", FORMS)
    def test_packed_as_what_it_stands_for(self, source: Source, form: str) -> None:
        """At fp8, a network in each form makes the store of the bf16 network that its numbers make."""
        path = transformer(source)
        made = FORMS[form](load_file(path))
        with restored(source.folder):
            save_file(made.plain, path)
            expected = store(source, "fp8")
            save_file(made.tensors, path)
            found = open_checkpoint("transformer", [path])
            assert found.tensors[f"{LAYER}.weight"].reader == "bitsandbytes"
            assert found.tensors.keys() == made.plain.keys()
            assert store(source, "fp8") == expected

    def test_its_own_table(self) -> None:
        """The sixteen numbers of nf4 that are written here are the paper's: quantiles of the normal distribution."""
        normal = torch.distributions.Normal(0.0, 1.0)
        offset = 0.9677083
        above = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1])
        below = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1])
        numbers = torch.cat([above, torch.zeros(1), below]).sort().values
        assert torch.allclose(foreign.NF4, numbers / numbers.max(), atol=1e-4)


# ---- what is refused -------------------------------------------------------------------------------------------------

Change = Callable[[Tensors], object]


def without(suffix: str) -> Change:
    return lambda tensors: tensors.pop(f"{LAYER}.{suffix}")


def having(suffix: str, tensor: torch.Tensor) -> Change:
    return lambda tensors: tensors.update({f"{LAYER}.{suffix}": tensor})


def state(**changes: object) -> Change:
    told = {"quant_type": "nf4", "blocksize": 64, "shape": [16, 16], "dtype": "bfloat16"}
    return having("weight.quant_state.bitsandbytes__nf4", foreign.mark(told | changes))


def nested(tensors: Tensors) -> Foreign:
    return foreign.nf4(tensors, nested=True)


REFUSALS: dict[str, tuple[Callable[[Tensors], Foreign], Change, str]] = {
    "no state": (foreign.nf4, without("weight.quant_state.bitsandbytes__nf4"), "neither a state nor scales"),
    "no weight": (foreign.nf4, without("weight"), "which is not there"),
    "no table": (foreign.nf4, without("weight.quant_map"), "wants a quant_map of 16 F32, and it is not there"),
    "no scales": (foreign.nf4, without("weight.absmax"), "wants a absmax of 4 F32, and it is not there"),
    "no scales' scales": (nested, without("weight.nested_absmax"), "wants a absmax of 4 F32, and it is U8"),
    "a short table": (foreign.nf4, having("weight.quant_map", torch.ones(15)), r"it is F32 \[15\]"),
    "another shape": (foreign.nf4, state(shape=[16, 18]), r"is said to be \[16, 18\] in four bits"),
    "odd rows": (foreign.nf4, state(shape=[256, 1]), "in four bits"),
    "no shape": (foreign.nf4, state(shape=[-16, -16]), "none of nf4"),
    "blocks of nothing": (foreign.nf4, state(blocksize=0), "none of nf4"),
    "another kind": (foreign.nf4, state(quant_type="fp4"), "none of nf4"),
    "a state of scales": (nested, state(), "tells no blocks of its scales"),
    "half of them": (foreign.nf4, having("weight.nested_quant_map", torch.ones(256)), "not kept in eight bits"),
    "two states": (foreign.nf4, having("weight.quant_state.bitsandbytes__fp4", foreign.mark({})), "state"),
    "int8 without scales": (foreign.llm_int8, without("SCB"), "neither a state nor scales"),
    "int8 with too few": (foreign.llm_int8, having("SCB", torch.ones(3)), "wants a scale for each of its 16 rows"),
    "scales of nothing": (foreign.llm_int8, without("weight"), "which is not there"),
    "scales of another": (foreign.llm_int8, having("weight", torch.ones(16, 16)), "has the scales of a matrix in int8"),
}


class TestRefused:
    @pytest.mark.parametrize("case", REFUSALS)
    def test_by_name(self, source: Source, case: str) -> None:
        """What is not whole is refused, with its file, its tensor and what to do."""
        form, change, says = REFUSALS[case]
        path = transformer(source)
        made = form(load_file(path))
        change(made.tensors)
        with restored(source.folder):
            save_file(made.tensors, path)
            with pytest.raises(ModelError, match=says) as raised:
                open_checkpoint("transformer", [path])
        assert str(path) in raised.value.message
        assert raised.value.hint

    def test_mutations(self, source: Source) -> None:
        """Of 60 files with a tensor lost, renamed, retyped, reshaped or doubled, none is opened."""
        path = transformer(source)
        numbers = random.Random(3)  # noqa: S311  # the same every time
        whole = [form(load_file(path)) for form in (foreign.nf4, nested, foreign.llm_int8)]
        with restored(source.folder):
            for number in range(60):
                made = whole[number % len(whole)]
                made = made._replace(tensors=dict(made.tensors))
                name = foreign.spoiled(made, numbers, number)
                save_file(made.tensors, path)
                with pytest.raises(ModelError) as raised:
                    open_checkpoint("transformer", [path])
                assert str(path) in raised.value.message, name


def test_a_method_that_is_not_read(source: Source) -> None:
    """Where the folder's config says how it was quantised, that is named before anything is called damaged."""
    path = transformer(source)
    config = path.with_name("config.json")
    with restored(source.folder):
        config.write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
        assert open_checkpoint("transformer", [path])
        config.write_text('{"quantization_config": {"quant_method": "sdnq"}}')
        with pytest.raises(ModelError, match=r"config\.json says that it is quantised by sdnq") as raised:
            open_checkpoint("transformer", [path])
    assert "bf16 file" in raised.value.hint
