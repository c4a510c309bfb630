"""How alike two pictures are, in two figures that are known: arrays in, numbers out. Knows no files."""

from __future__ import annotations

from typing import Any

import numpy as np

Colours = np.ndarray[Any, np.dtype[np.uint8]]
"""Height x width x 3, of 8 bits each."""

_Plane = np.ndarray[Any, np.dtype[np.float64]]

_LARGEST = 255.0

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""

_WINDOW, _SIGMA = 11, 1.5
_STABLE_MEAN, _STABLE_CONTRAST = (0.01 * _LARGEST) ** 2, (0.03 * _LARGEST) ** 2
"""The window and the constants of Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural
Similarity."""


def psnr_db(one: Colours, other: Colours) -> float | None:
    """Peak signal-to-noise ratio over all three colours, in decibels; None where every bit is the same."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return None if error == 0.0 else float(10 * np.log10(_LARGEST**2 / error))


def ssim(one: Colours, other: Colours) -> float:
    """Structural similarity of what is light and dark, from -1 to 1, which is the same; sides are 11 at the least."""
    first, second = (pixels.astype(np.float64) @ np.array(_LUMA) for pixels in (one, other))
    mean, mean_too = _smoothed(first), _smoothed(second)
    spread = _smoothed(first * first) - mean * mean
    spread_too = _smoothed(second * second) - mean_too * mean_too
    common = _smoothed(first * second) - mean * mean_too
    above = (2 * mean * mean_too + _STABLE_MEAN) * (2 * common + _STABLE_CONTRAST)
    below = (mean * mean + mean_too * mean_too + _STABLE_MEAN) * (spread + spread_too + _STABLE_CONTRAST)
    return float((above / below).mean())


def _smoothed(plane: _Plane) -> _Plane:
    """By a Gaussian window, wherever all of it lies within."""
    places = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-(places**2) / (2 * _SIGMA**2))
    window /= window.sum()
    for axis in (0, 1):
        plane = np.lib.stride_tricks.sliding_window_view(plane, _WINDOW, axis) @ window
    return plane
