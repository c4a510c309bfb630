"""GPU memory of the streaming engine, by arithmetic: what is there at the moment of each stage at which most is.

Each function names the tensors that the code holds at its peak; `tests/estimate` counts them in that code itself, and
`tests/benchmarks/memory-h200.md` in what a GPU showed. docs/forecasts.md derives the whole.

Symbols: N tokens of the picture (one of 16 x 16 pixels), T of the prompt, D the DiT's width; 2 bytes a number in bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from renderer.catalog import DROPPED_TOKENS, MOST_TOKENS, Architecture
from renderer.estimate import decode as vae
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.estimate.terms import Estimate, Stage, Term, terms, total
from renderer.estimate.tokens import count_tokens
from renderer.estimate.weights import WeightBytes, weight_bytes
from renderer.job import Job, Stored
from renderer.text import MIB

BEHIND = 5
"""Tokens that DiffSynth puts behind a prompt."""

TURNING_SLOTS = 2
"""Slots that streamed blocks take turns in: one is computed with while the other is filled."""

MOST_RECORDED_ROWS = 3072
"""Tokens of image and text up to which a block's launches are recorded (`engine.recorded`): more keep the GPU busy."""

PIXELS_A_TOKEN = 256

CUBLAS_WORKSPACE = 32 * MIB
"""torch's, from compute capability 9.0; 8 MiB on older cards."""

FIXED_BYTES = 5 * MIB
"""The table of rotary frequencies (4 MiB) and small things."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a card's kernels do. Without fused attention all scores are in memory, in float32 and quadratic in tokens.

    `fp8` says that FP8 weights are multiplied as they are; otherwise each block is first scaled back to bf16.
    """

    fused_attention: bool = True
    fp8: bool = True
    workspace: int = CUBLAS_WORKSPACE

    @classmethod
    def of(cls, compute_capability: tuple[int, int], *, fp8: bool = True) -> Kernels:
        """Those of a card: fused attention from 8.0, FP8 products from 8.9, the large cuBLAS workspace from 9.0.

        torch has fused attention in bf16 from 8.0 on: flash is built for no older card, and the memory-efficient kernel
        takes float16 and float32 there (`can_use_mem_efficient_attention` in its `sdp_utils.cpp`). `fp8` False: FP8
        products are not wanted.
        """
        return cls(
            fused_attention=compute_capability >= (8, 0),
            fp8=fp8 and compute_capability >= (8, 9),
            workspace=CUBLAS_WORKSPACE if compute_capability >= (9, 0) else 8 * MIB + 128 * 1024,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """One picture's demands: its size in pixels, and the tokens of its prompts."""

    width: int
    height: int
    prompt_tokens: int = 64
    negative_tokens: int = 0
    guided: bool = True

    @classmethod
    def of(cls, job: Job) -> Work:
        """What a job asks for."""
        return cls(
            width=job.width,
            height=job.height,
            prompt_tokens=count_tokens(job.prompt),
            negative_tokens=count_tokens(job.negative_prompt),
            guided=job.cfg_scale != 1.0,
        )

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def tokens(self) -> int:
        """N."""
        return self.pixels // PIXELS_A_TOKEN

    @property
    def texts(self) -> tuple[int, ...]:
        """T of each pass: two with guidance."""
        return (self.prompt_tokens + BEHIND, *((self.negative_tokens + BEHIND,) if self.guided else ()))


@dataclass(frozen=True, slots=True)
class Streaming:
    """A model at one precision, streamed through `slots` slots on a card with such kernels.

    `recording` says that the launches of small pictures are recorded, which takes room that they can do without.
    """

    shape: Architecture
    precision: Stored
    slots: int
    kernels: Kernels = field(default_factory=Kernels)
    recording: bool = True

    @property
    def weights(self) -> WeightBytes:
        return weight_bytes(self.shape, self.precision)

    @property
    def multiplies_fp8(self) -> bool:
        """Whether blocks are computed with FP8 products."""
        return self.precision == "fp8" and self.kernels.fp8

    # -- what stays --

    def kept(self, works: Sequence[Work]) -> tuple[Term, ...]:
        """What is on the GPU from the beginning to the end."""
        weights = self.weights
        return terms(
            slots=self.slots * weights.block,
            networks_outside_the_blocks=weights.outside + weights.text_norm,
            VAE=weights.vae_kept,
            cuBLAS_workspaces=2 * self.kernels.workspace,  # of the stream that computes, and of the one that records
            rotary_frequencies=FIXED_BYTES + sum(self._turns(tokens) for tokens in {work.tokens for work in works}),
        )

    # -- small pictures --

    def recorded(self, works: Sequence[Work]) -> tuple[Term, ...]:
        """Where recordings find a rider's tensors, for the largest size there is."""
        if not any(map(self._texts_recorded, works)):
            return ()
        rows = MOST_RECORDED_ROWS * 2 * self.shape.width + self._turns(MOST_RECORDED_ROWS)
        return terms(recorded_launches=rows + 2 * 6 * self.shape.width * 2)

    def pools(self, works: Sequence[Work]) -> int:
        """What recorded blocks compute in, kept for each size of picture that is in flight: a block's inside."""
        sizes: dict[int, int] = {}
        for work in works:
            for text in self._texts_recorded(work):
                inside = total(self._inside(work.tokens, text)) - 2 * (work.tokens + text) * self.shape.width
                sizes[work.tokens] = max(sizes.get(work.tokens, 0), inside)
        return sum(sizes.values())

    def _texts_recorded(self, work: Work) -> list[int]:
        """T of the passes that are small enough to be recorded."""
        return [text for text in work.texts if self.recording and work.tokens + text <= MOST_RECORDED_ROWS]

    def _turns(self, tokens: int) -> int:
        """Rotary frequencies of a picture: half a head's width of complex64 a token."""
        return tokens * self.shape.head_width // 2 * 8

    # -- one block --

    def _inside(self, tokens: int, text: int) -> tuple[Term, ...]:
        return max(self._attention(tokens, text), self._mlp(tokens, text), key=total)

    def block(self, tokens: int, text: int) -> tuple[Term, ...]:
        """What one block has in memory for one rider, at the most, its input included."""
        parts = self._inside(tokens, text)
        if self.multiplies_fp8 or self.precision == "bf16":
            return parts
        weights = weight_bytes(self.shape, "bf16")
        restored = terms(block_scaled_back_to_bf16=weights.block)
        arriving = terms(a_weight_scaled_back=2 * weights.largest_of_block)
        return restored + max(parts, arriving, key=total)

    def _attention(self, tokens: int, text: int) -> tuple[Term, ...]:
        image, both = 2 * tokens * self.shape.width, 2 * (tokens + text) * self.shape.width
        if self.multiplies_fp8:
            scores = terms(queries_keys_values=3 * both, attention_output=both)
            projecting = terms(queries_keys_values=3 * both, FP8_rows=image // 2, projected=3 * image)
            return terms(block_input=both) + max(scores + self._scores(tokens + text), projecting, key=total)
        norms = terms(block_input=both, normed_and_modulated=2 * both)
        scores = terms(queries_keys_values_by_stream=3 * both, queries_keys_values=3 * both, attention_output=both)
        turning = terms(queries_keys_values_by_stream=3 * both, rotation_in_float32=2 * 2 * image + image)
        return norms + max(scores + self._scores(tokens + text), turning, key=total)

    def _scores(self, rows: int) -> tuple[Term, ...]:
        """All scores and their softmax in bf16, where attention is not fused."""
        if self.kernels.fused_attention:
            return ()
        return terms(attention_scores_twice=2 * 2 * self.shape.heads * rows**2)

    def _mlp(self, tokens: int, text: int) -> tuple[Term, ...]:
        """The wider stream's MLP; the narrower stream waits beside it."""
        image, both = 2 * tokens * self.shape.width, 2 * (tokens + text) * self.shape.width
        wide = 2 * max(tokens, text) * self.shape.width
        if self.multiplies_fp8:
            beside = both - image  # the text's result
            return terms(
                block_input=both,
                attention_output=both,
                residual_sums=wide + beside,
                FP8_rows=wide // 2,
                MLP_hidden=4 * wide,
                MLP_activated_FP8=2 * wide,
            )
        return terms(
            block_input=both,
            normed_and_modulated=4 * both,  # before attention and before the MLP
            attention_output=both,
            residual_sums=both,
            MLP_hidden=3 * 4 * wide,  # as it is, its sigmoid, their product
            image_MLP_output=image if text > tokens else 0,  # the text's comes second
        )

    # -- riders --

    def waiting(self, work: Work) -> int:
        """What a picture's riders hold while another computes, at the last block: their input, and what came out."""
        return sum(4 * (work.tokens + text) * self.shape.width for text in work.texts)

    def belongings(self, work: Work) -> int:
        """What a picture has for itself all the way: modulation vectors, rotary frequencies a pass, latents."""
        modulation = self.shape.layers * 2 * 6 * self.shape.width * 2
        latents = 5 * work.tokens * 64 * 2
        prompts = 2 * self.shape.text_width * sum(work.texts)
        return modulation + len(work.texts) * self._turns(work.tokens) + latents + prompts

    # -- the stages --

    def encode(self, works: Sequence[Work], together: Sequence[int] | None = None) -> Stage:
        """Text encoding: two of the encoder's layers, one of them in bf16, and all prompts that ride it.

        `together` are the tokens of the prompts of one sweep; without it, as many of `works` ride as the engine lets.
        """
        prompts = together if together is not None else self.group(works)
        weights, plain = self.weights, weight_bytes(self.shape, "bf16")
        scaled = self.precision == "fp8"
        longest = max(prompts, default=0) + DROPPED_TOKENS + BEHIND
        layer = terms(
            MLP_of_the_longest_prompt=3 * 2 * longest * self.shape.text_mlp_width,
            its_residuals=3 * 2 * longest * self.shape.text_width,
        )
        arriving = terms(a_weight_scaled_back=2 * plain.largest_of_text_block if scaled else 0)
        return Stage(
            "encode",
            self.kept(works)
            + terms(
                text_slots=2 * weights.text_block,
                text_layer_scaled_back_to_bf16=plain.text_block if scaled else 0,
                prompts=sum(self.prompt_bytes(tokens) for tokens in prompts),
            )
            + max(arriving, layer, key=total),
        )  # holes: none, for nothing was there before it that has gone since

    def group(self, works: Sequence[Work]) -> list[int]:
        """Tokens of the prompts that ride together: those of several pictures, up to what the engine lets ride."""
        found: list[int] = []
        left = MOST_TOKENS
        prompts = (text - BEHIND for work in works for text in work.texts)
        for tokens in sorted(prompts, reverse=True):
            if found and tokens + DROPPED_TOKENS > left:
                break
            found.append(tokens)
            left -= tokens + DROPPED_TOKENS
        return found

    def prompt_bytes(self, tokens: int) -> int:
        """What a prompt of so many tokens holds while it is encoded: every layer's hidden state, keys and values.

        transformers keeps the states of all layers, of which the last is wanted.
        """
        a_token = 2 * self.shape.text_width + 2 * 2 * self.shape.text_key_width
        return (tokens + DROPPED_TOKENS + BEHIND) * a_token * self.shape.text_layers

    def modulate(self, works: Sequence[Work]) -> Stage:
        """The modulation tables of a schedule: two slots of a block's two layers, and two blocks' layers in bf16."""
        plain = weight_bytes(self.shape, "bf16").modulation
        return Stage(
            "modulate",
            self.kept(works)
            + terms(
                modulation_slots=2 * self.weights.modulation,
                modulation_scaled_back_to_bf16=2 * plain if self.precision == "fp8" else 0,
            ),
            piece=self.weights.modulation,
        )

    def denoise(self, works: Sequence[Work]) -> Stage:
        """One block of one rider, and what all others hold meanwhile: `works` are the pictures in flight."""

        def moment(work: Work) -> tuple[Term, ...]:
            text = max(work.texts)
            others = sum(map(self.waiting, works)) - 4 * (work.tokens + text) * self.shape.width
            return self.block(work.tokens, text) + terms(waiting_riders=others)

        return Stage(
            "denoise",
            self.kept(works)
            + self.recorded(works)
            + max(map(moment, works), key=total)
            + terms(modulation_and_latents=sum(map(self.belongings, works))),
            piece=14 * self.shape.width * max(work.tokens for work in works),  # an MLP's rows, in FP8, and its result
            idle=self.pools(works),
        )

    def decode(self, works: Sequence[Work]) -> Stage:
        """The decode of the picture for which it takes most, while all others wait."""

        def moment(work: Work) -> tuple[Term, ...]:
            others = sum(map(self.waiting, works)) - self.waiting(work)  # its own riders have let go of everything
            return self.decoder(work).terms + terms(
                waiting_riders=others, modulation_and_latents=sum(map(self.belongings, works))
            )

        there = self.kept(works) + self.recorded(works) + max(map(moment, works), key=total)
        waiting = sum(map(self.waiting, works)) - min(map(self.waiting, works))
        piece = max(self.decoder(work).piece for work in works)
        return Stage("decode", there, piece=piece, between=waiting, idle=self.pools(works))

    def decoder(self, work: Work) -> vae.Decode:
        """The VAE's decode over its weights."""
        return vae.decode(self.shape.vae_width, work.width, work.height, fused=self.kernels.fused_attention)

    def stages(self, works: Sequence[Work], together: Sequence[int] | None = None) -> tuple[Stage, ...]:
        """All stages of pictures that are in flight at once."""
        return (self.encode(works, together), self.modulate(works), self.denoise(works), self.decode(works))

    def estimate(self, works: Sequence[Work], together: Sequence[int] | None = None) -> Estimate:
        """The peak of pictures that are in flight at once."""
        return Estimate(self.stages(works, together), CONTEXT_BYTES)
