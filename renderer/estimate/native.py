"""Memory of the native engine: DiffSynth's own pipeline, picture after picture, one pass after the other.

`resident` at bf16 keeps every weight on the GPU. At fp8 each linear layer is scaled up to bf16 as it is used. The
profiles that are bounded (`fp8`, `disk`) take up weights for as long as the device's memory in use is below the limit,
and give a network's back before the next one's turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from renderer.catalog import Shape
from renderer.estimate.memory import BEHIND, CONTEXT_BYTES, DROPPED, FIXED_BYTES, Kernels, Streaming, Work
from renderer.estimate.terms import Estimate, Stage, Term, terms, total
from renderer.estimate.weights import weight_bytes
from renderer.job import Precision, Profile

EARLY_CONTEXT_BYTES = 600 * 2**20
"""On the device beside the allocator while DiffSynth still takes weights up: later kernels are not loaded yet."""


@dataclass(frozen=True, slots=True)
class Native:
    """A model at one precision by one of DiffSynth's profiles. `vram_bytes` is the limit of a bounded one."""

    shape: Shape
    precision: Precision
    profile: Profile
    vram_bytes: int | None = None
    kernels: Kernels = field(default_factory=Kernels)

    @property
    def _plain(self) -> Streaming:
        """How blocks are computed in bf16."""
        return Streaming(self.shape, "bf16", 0, self.kernels)

    @property
    def bounded(self) -> bool:
        """Whether weights are taken up only below a limit."""
        return self.profile in ("fp8", "disk") and self.vram_bytes is not None

    def networks(self) -> dict[str, int]:
        """Bytes of each network's weights as they are stored; the text encoder without its head and vision tower."""
        weights, shape = weight_bytes(self.shape, self.precision), self.shape
        return {
            "DiT": shape.layers * (weights.block + weights.modulation) + weights.outside,
            "text encoder": shape.text_layers * weights.text_block + weights.embedding + weights.text_norm,
            "VAE": weights.vae,
        }

    def stages(self, work: Work) -> tuple[Stage, ...]:
        """Encoding, denoising, decoding of one picture."""
        return (self._encode(work), self._denoise(work), self._decode(work))

    def estimate(self, work: Work) -> Estimate:
        """The peak of one picture."""
        return Estimate(self.stages(work), CONTEXT_BYTES)

    # -- the stages --

    def _encode(self, work: Work) -> Stage:
        plain = self._plain
        longest = max(work.texts)
        states = plain.prompt_bytes(longest - BEHIND)
        layer = 3 * 2 * (longest + DROPPED) * self.shape.text_mlp_width
        layer += self._casting(weight_bytes(self.shape, "bf16").largest_of_text_block)
        work_terms = terms(prompt_states=states, one_layer=layer)
        return Stage("encode", self._weights("text encoder", total(work_terms)) + work_terms)

    def _denoise(self, work: Work) -> Stage:
        """One block of one pass; the other pass comes after it."""
        plain = self._plain
        block = plain.block(work.tokens, max(work.texts))
        belongings = terms(
            latents_and_frequencies=8 * work.tokens * 64 * 2 + 2 * work.tokens * self.shape.head_width * 4,
            a_layer_in_bf16=self._casting(weight_bytes(self.shape, "bf16").modulation // 4),
        )
        return Stage("denoise", self._weights("DiT", total(block + belongings)) + block + belongings)

    def _decode(self, work: Work) -> Stage:
        vae = self._plain.vae(work)
        belongings = terms(latents_and_frequencies=8 * work.tokens * 64 * 2)
        return Stage("decode", self._weights("VAE", total(vae)) + vae + belongings)

    def _casting(self, largest: int) -> int:
        """A layer's weights in bf16, while it is computed from stored FP8 or from the host."""
        return 0 if self.precision == "bf16" and self.profile == "resident" else 2 * largest

    def _weights(self, network: str, beside: int) -> tuple[Term, ...]:
        sizes = self.networks()
        fixed = terms(cuBLAS_workspace=self.kernels.workspace, rotary_frequencies=FIXED_BYTES)
        if not self.bounded:
            return fixed + terms(all_weights=sum(sizes.values()))
        assert self.vram_bytes is not None
        room = max(0, self.vram_bytes - EARLY_CONTEXT_BYTES - beside)
        return fixed + terms(weights_taken_up=min(sizes[network], room))
