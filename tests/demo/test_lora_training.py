"""How the demo model's LoRAs are trained, in a few steps of few pictures; and what the ones that are shipped draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from renderer import catalog
from renderer.demo import cache
from renderer.demo.train import draw, lora_training
from renderer.demo.train.lora_training import LoraPlan, LoraTrainer, Prompted
from renderer.weights.adapters.landing import land
from renderer.weights.adapters.targets import targets_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trainer() -> LoraTrainer:
    torch.manual_seed(1)
    return LoraTrainer(CPU, 4, lambda name: "mod" not in name, cache.folder())


@pytest.fixture(scope="module")
def prompted(trainer: LoraTrainer) -> Prompted:
    return Prompted(trainer, 0, 64, draw.blueprint)


def test_trained_and_saved(trainer: LoraTrainer, prompted: Prompted, tmp_path: Path) -> None:
    """It begins as the model itself, learns, and each of its keys lands on a layer of the model."""
    patches, _, tokens, lengths, sizes = prompted.batch(2)
    sigma, text = torch.full((2,), 0.5), (trainer.text(tokens), lengths)
    plain = trainer.velocity(patches, sigma, text, sizes, adapted=False)
    assert torch.equal(trainer.velocity(patches, sigma, text, sizes, adapted=True), plain)
    for loss_of in (lora_training.flow, lora_training.strides):
        before = [factor.detach().clone() for factor in trainer.factors]
        losses: list[float] = []

        def loss(act: object = loss_of, losses: list[float] = losses) -> torch.Tensor:
            assert callable(act)
            found: torch.Tensor = act(trainer, prompted, 2)
            losses.append(found.item())
            return found

        trainer.train(LoraPlan(100.0, 2, 2, 1e-3), loss, lambda **_: None)
        assert len(losses) == 2
        assert all(value > 0 for value in losses)
        assert any(not torch.equal(one, other) for one, other in zip(before, trainer.factors, strict=True))
    assert not torch.equal(trainer.velocity(patches, sigma, text, sizes, adapted=True), plain)
    trainer.save(tmp_path / "it.safetensors", {"modelspec.license": "Apache-2.0"})
    landed = land(tmp_path / "it.safetensors", targets_of(catalog.find("demo")))
    assert len(landed.layers) == 5 * len(trainer.blocks[0]) == 5 * 12


def test_a_blueprint_is_lines_on_blue() -> None:
    """Where colours change, and nowhere else."""
    picture = torch.zeros(1, 3, 32, 32)
    picture[..., 8:24, 8:24] = 1
    found = draw.blueprint(picture)
    blue = torch.tensor(draw.BLUE)
    assert torch.allclose(found[0, :, 2, 2], blue)
    assert torch.allclose(found[0, :, 16, 16], blue)
    assert torch.allclose(found[0, :, 16, 8], torch.ones(3))
