"""What `compute-sanitizer` watches: every kernel there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from renderer.benchmarks import kernels
from renderer.engine import int4_kernels, int8_kernels, scaled_kernels, vae_kernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="interpreted only where there is no GPU")
def test_every_kernel_is_launched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is added is watched too."""
    launched: set[str] = set()
    found: set[str] = set()
    for module in (scaled_kernels, int4_kernels, int8_kernels, vae_kernels):
        source = Path(module.__file__ or "").read_text(encoding="utf-8")
        for name in re.findall(r"(_\w+)\[(?:\(|grid\])", source):
            kernel = getattr(module, name)
            found.add(name)
            monkeypatch.setattr(module, name, Noted(kernel, name, launched))
    kernels.main()
    assert capsys.readouterr().out == "launched 30 kernels\n"
    assert len(found) >= 8
    assert launched == found


class Noted:
    """A kernel that says that it was launched."""

    def __init__(self, kernel: object, name: str, launched: set[str]) -> None:
        self._kernel, self._name, self._launched = kernel, name, launched

    def __getitem__(self, grid: object) -> object:
        self._launched.add(self._name)
        return self._kernel[grid]  # type: ignore[index]
