"""Memory of the native engine: DiffSynth's own pipeline, picture after picture, one pass after the other.

`resident` keeps every weight on the GPU; what is not plain is scaled up to bf16 as it is used, a linear layer at a
time. The profiles that are bounded take up weights for as long as the device's memory in use is below the limit,
and give a network's back before the next one's turn. The VAE is on the GPU all the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from renderer.catalog import DROPPED_TOKENS, Architecture
from renderer.estimate.family_costs import Decode
from renderer.estimate.fitted import (
    CONTEXT_BYTES,
    EARLY_CONTEXT_BYTES,
    NATIVE_HOLES_MOST,
    NATIVE_HOLES_OF_WEIGHTS,
    NATIVE_HOLES_OF_WORK,
)
from renderer.estimate.memory import Streaming
from renderer.estimate.terms import Estimate, Stage, Term, terms, total
from renderer.estimate.weights import weight_bytes
from renderer.estimate.work import BEHIND, Kernels, Work
from renderer.job import Profile, Stored
from renderer.job.precisions import BOUNDED
from renderer.weights.codecs import CODECS


@dataclass(frozen=True, slots=True)
class Native:
    """A model at one precision by one of DiffSynth's profiles. `vram_bytes` is the limit of a bounded one."""

    shape: Architecture
    precision: Stored
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
        return self.profile in BOUNDED and self.vram_bytes is not None

    def networks(self, *, looks: bool = False) -> dict[str, int]:
        """Bytes of each network's weights on the GPU; the text encoder without its head, and its tower if it looks."""
        weights, shape = weight_bytes(self.shape, self.precision), self.shape
        return {
            "DiT": shape.layers * (weights.block + weights.modulation) + weights.outside,
            "text encoder": shape.text_layers * weights.text_block
            + weights.embedding
            + weights.text_norm
            + (weights.vision if looks else 0),
            "VAE": weights.vae_kept,
        }

    def stages(self, work: Work) -> tuple[Stage, ...]:
        """Encoding, denoising, decoding of one picture."""
        image = (self._by_the_vae("image", self._plain.encoder(work), work),) if work.encoded else ()
        decode = self._by_the_vae("decode", self._plain.decoder(work), work)
        return (self._encode(work), *image, self._denoise(work), decode)

    def estimate(self, work: Work) -> Estimate:
        """The peak of one picture."""
        return Estimate(self.stages(work), CONTEXT_BYTES)

    def needed(self, work: Work) -> int:
        """Bytes of tensors without which it does not fit: where weights are taken up below a limit, without them."""
        least = replace(self, vram_bytes=0) if self.bounded else self
        return least.estimate(work).allocated

    # -- the stages --

    def _encode(self, work: Work) -> Stage:
        """One prompt: the text encoder's layers, of which it keeps all states."""
        longest = max(work.texts)
        layer = 3 * 2 * (longest + DROPPED_TOKENS) * (self.shape.text_mlp_width + self.shape.text_width)
        cast = self._cast(weight_bytes(self.shape, "bf16").largest_of_text_block)
        beside = terms(
            prompt_states=self._plain.costs.prompt_bytes(self.shape, longest - BEHIND), one_layer=layer + cast
        )
        return self._stage("encode", "text encoder", beside, piece=cast, looks=bool(work.edited))

    def _denoise(self, work: Work) -> Stage:
        """One block of one pass; the other comes after it. The layer that is computed is there in bf16."""
        shape, text = self.shape, max(work.texts)
        both, wide = (2 * rows * shape.width for rows in (work.tokens + text, max(work.tokens, text)))
        block = self._plain.block(work.tokens, text)
        computing = terms(
            held_through_the_block=7 * both,
            MLP_activated=4 * wide,
            MLP_output=wide,
            a_layer_in_bf16=self._cast(weight_bytes(shape, "bf16").largest_of_block),
        )
        beside = max(block, computing, key=total) + terms(
            latents_and_frequencies=8 * work.tokens * 64 * 2 + 2 * work.tokens * shape.head_width * 4
        )
        beside += terms(**self._plain.gates_by_token([work]))
        if work.controls:
            beside += terms(left_by_ControlNets=self._plain.held_by_controls(work))
        if rows := work.mask_rows:  # in bf16, and padded beside a block; it takes more only while nothing else is there
            beside += terms(which_row_sees_which=2 * 2 * rows**2)
        return self._stage("denoise", "DiT", beside, piece=8 * shape.width * work.tokens, looks=bool(work.edited))

    def _by_the_vae(self, name: str, way: Decode, work: Work) -> Stage:
        beside = way.terms + terms(latents_and_frequencies=8 * work.tokens * 64 * 2)
        return self._stage(name, "VAE", beside, piece=way.piece, looks=bool(work.edited))

    def _cast(self, weights: int) -> int:
        """A layer's weights in bf16, while it is computed from what is stored, or from the host."""
        return 0 if CODECS[self.precision].is_plain and self.profile == "resident" else 2 * weights

    def _stage(self, name: str, network: str, beside: tuple[Term, ...], piece: int, *, looks: bool) -> Stage:
        """A stage with the weights that are on the GPU: all, or as many as a limit on the device's use leaves room for.

        What the allocator holds in vain is in use as well, and leaves room for less.
        """
        sizes = self.networks(looks=looks)
        fixed = terms(cuBLAS_workspace=self.kernels.workspace, rotary_frequencies=self._plain.costs.FIXED_BYTES)
        if not self.bounded:
            return Stage(name, fixed + terms(all_weights=sum(sizes.values())) + beside, piece)
        assert self.vram_bytes is not None
        wanted = 0 if network == "VAE" else sizes[network]
        bare = Stage(name, fixed + terms(VAE=sizes["VAE"]) + beside, piece)
        holes = (
            min(NATIVE_HOLES_MOST, round(NATIVE_HOLES_OF_WORK * total(beside)))
            if network == "DiT"
            else bare.reserved - bare.bytes
        )
        room = max(0, self.vram_bytes - EARLY_CONTEXT_BYTES - bare.bytes - holes)
        taken = min(wanted, round(room / (1 + NATIVE_HOLES_OF_WEIGHTS)))
        vain = holes + round(NATIVE_HOLES_OF_WEIGHTS * taken)
        return Stage(name, bare.terms + terms(weights_taken_up=taken), vain=vain)
