"""LPIPS: the library's own figure from weights that lie here, in a process of its own; and what is said without it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from renderer.report import perception
from renderer.system.files import sha256_of
from renderer.text import installing

lpips = pytest.importorskip("lpips", reason="it comes with the extra lpips")

ROOT = Path(__file__).resolve().parents[2]
_CONVOLUTIONS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
"""AlexNet's, by their numbers among torchvision's layers: channels out and in, and a side."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of torch's with random weights in AlexNet's shapes, under a name that tells their hash."""
    dice = torch.Generator().manual_seed(1)
    tensors = {}
    for number, (out, into, side) in _CONVOLUTIONS.items():
        tensors[f"features.{number}.weight"] = torch.randn(out, into, side, side, generator=dice) / side
        tensors[f"features.{number}.bias"] = torch.randn(out, generator=dice) / 10
    folder = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(tensors, folder / "new.pth")
    return (folder / "new.pth").rename(folder / f"alexnet-owt-{sha256_of(folder / 'new.pth')[:8]}.pth")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One, and the same with a little noise and with much."""
    folder, dice = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    first = dice.integers(60, 196, (64, 96, 3))
    found = []
    for most in (0, 10, 60):
        noise = dice.integers(-most, most + 1, first.shape)
        found.append(folder / f"{most}.png")
        Image.fromarray((first + noise).astype(np.uint8)).save(found[-1])
    return found


@pytest.fixture
def cache(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights are where torch's library would have them."""
    monkeypatch.setenv("TORCH_HOME", str(weights.parents[2]))
    monkeypatch.setattr(perception, "ALEXNET", weights.name)
    return weights


def test_the_library_s_own_figure(cache: Path, pictures: list[Path]) -> None:
    """0 for the same picture, more for more noise; what the library says with such a trunk, without any fetching."""
    found = perception.distances([(pictures[0], other) for other in pictures])
    assert found.reason == ""
    same, little, much = found.values
    assert same == pytest.approx(0, abs=1e-6)
    assert 0 < little < much
    net: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    tensors = torch.load(cache, weights_only=True)
    for part in (net.net.slice1, net.net.slice2, net.net.slice3, net.net.slice4, net.net.slice5):
        for number, layer in part.named_children():
            if int(number) in _CONVOLUTIONS:
                layer.load_state_dict({leaf: tensors[f"features.{number}.{leaf}"] for leaf in ("weight", "bias")})
    one, other = (lpips.im2tensor(lpips.load_image(str(path))) for path in (pictures[0], pictures[2]))
    assert much == pytest.approx(float(net(one, other).detach()), rel=1e-4)


def test_what_is_said_without_it(
    cache: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the library or the weights are not, or are other ones: why, and what to do. Nothing is fetched."""
    pair = [(pictures[0], pictures[1])]
    assert perception.distances([]) == perception.Distances()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda _: None)
        assert perception.distances(pair).reason == f"lpips is not installed: {installing('lpips')}"
        assert installing("lpips") in (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    wrong = tmp_path / "hub" / "checkpoints" / cache.name
    with monkeypatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path))
        reason = perception.distances(pair).reason
        assert reason == f"AlexNet's weights are not at {wrong}: put {perception.ALEXNET_URL} there"
        assert not (tmp_path / "hub").exists()
        wrong.parent.mkdir(parents=True)
        wrong.write_bytes(b"no weights")
        assert "is not what its name says, by its SHA-256" in perception.distances(pair).reason


def test_where_torch_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch says itself, by the same variables."""
    for given in ({"TORCH_HOME": "/a"}, {"XDG_CACHE_HOME": "/b"}, {}):
        with monkeypatch.context() as patch:
            for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
                patch.delenv(name, raising=False)
            for name, value in given.items():
                patch.setenv(name, value)
            assert perception.weights_file() == Path(torch.hub.get_dir()) / "checkpoints" / perception.ALEXNET
