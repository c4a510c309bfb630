"""Two figures that others know as well, held against what they are by their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from renderer.report import likeness
from renderer.report.likeness import Colours


def random(height: int = 24, width: int = 32, seed: int = 1) -> Colours:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noisy(pixels: Colours, most: int) -> Colours:
    noise = np.random.default_rng(2).integers(-most, most + 1, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def test_the_same_bits() -> None:
    """There is no ratio then, and nothing is more similar."""
    pixels = random()
    assert likeness.psnr_db(pixels, pixels.copy()) is None
    assert likeness.ssim(pixels, pixels.copy()) == pytest.approx(1.0)


def test_psnr() -> None:
    """One step everywhere is 48.13 dB, and ten are 20 less."""
    pixels = np.full((16, 16, 3), 100, np.uint8)
    assert likeness.psnr_db(pixels, pixels + 1) == pytest.approx(48.1308, abs=1e-4)
    assert likeness.psnr_db(pixels + 10, pixels) == pytest.approx(28.1308, abs=1e-4)


def test_ssim_of_plain_pictures() -> None:
    """Where nothing varies only the means are compared."""
    one, other = np.full((16, 20, 3), 100, np.uint8), np.full((16, 20, 3), 150, np.uint8)
    stable = (0.01 * 255) ** 2
    assert likeness.ssim(one, other) == pytest.approx((2 * 100 * 150 + stable) / (100**2 + 150**2 + stable))


def test_ssim_by_its_definition() -> None:
    """A single window, summed up place by place."""
    one, other = random(11, 11), random(11, 11, seed=3)
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = (pixels @ np.array([0.299, 0.587, 0.114]) for pixels in (one, other))
    mean, mean_too = (window * x).sum(), (window * y).sum()
    spread, spread_too = (window * (x - mean) ** 2).sum(), (window * (y - mean_too) ** 2).sum()
    common = (window * (x - mean) * (y - mean_too)).sum()
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean * mean_too + first) * (2 * common + second)
    expected /= (mean**2 + mean_too**2 + first) * (spread + spread_too + second)
    assert likeness.ssim(one, other) == pytest.approx(expected)


def test_more_noise_is_less_alike() -> None:
    """Both figures fall."""
    pixels = random()
    found = [
        (likeness.psnr_db(pixels, worse), likeness.ssim(pixels, worse))
        for worse in (noisy(pixels, n) for n in (2, 20, 90))
    ]
    assert found == sorted(found, reverse=True)
    assert found[2][1] < 0.9 < found[0][1]
