"""GPU memory of the streaming engine, by arithmetic: what is there at the moment of each stage at which most is.

What is the family's (a block's inside, a prompt's states, a decode) is asked of its terms (`estimate.family_costs`);
what is the engine's is here: slots, riders that wait, what is recorded. docs/forecasts.md derives the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from renderer.catalog import DROPPED_TOKENS, MOST_TOKENS, Architecture
from renderer.estimate import family_costs
from renderer.estimate.companies import MOST_RECORDED_TOGETHER, MOST_ROWS_TOGETHER, companies, is_small
from renderer.estimate.family_costs import Computed, Costs, Decode
from renderer.estimate.fitted import CONTEXT_BYTES
from renderer.estimate.looking import shown_bytes
from renderer.estimate.terms import Estimate, Stage, Term, terms, total
from renderer.estimate.weights import WeightBytes, weight_bytes
from renderer.estimate.work import BEHIND, Kernels, Work
from renderer.job import BlockArithmetic, Stored
from renderer.weights.codecs import CODECS

TURNING_SLOTS = 2
"""Slots that streamed blocks take turns in: one is computed with while the other is filled."""

CHANNELS = 4
"""Of a layer: red, green, blue, and how much of it covers what is behind."""

FILLED_UP_ROWS = 256
"""Beside them at the most: what fills texts and images up to as many as a product wants (`engine.side_by_side`)."""


@dataclass(frozen=True, slots=True)
class Streaming:
    """A model at one precision, streamed through `slots` slots on a card with such kernels.

    `recording` says that the launches of small pictures are recorded, and `together` of how many rows small pictures
    go through a block as one, which take room that they can do without.
    """

    shape: Architecture
    precision: Stored
    slots: int
    kernels: Kernels = field(default_factory=Kernels)
    recording: bool = True
    together: int = MOST_ROWS_TOGETHER

    @property
    def weights(self) -> WeightBytes:
        return weight_bytes(self.shape, self.precision)

    @property
    def costs(self) -> Costs:
        """Its family's terms."""
        return family_costs.of(self.shape)

    @property
    def arithmetic(self) -> BlockArithmetic:
        """What blocks are multiplied in: as they are stored, where the card can."""
        own = CODECS[self.precision].arithmetic
        return own if own in self.kernels.products else "bf16"

    @property
    def restores(self) -> bool:
        """Whether each block is decoded to bf16 before it is computed with."""
        return self.arithmetic != CODECS[self.precision].arithmetic

    @property
    def unpacked(self) -> int:
        """Bytes of the one block that all others are unpacked to, where weights are multiplied in another form."""
        codec = CODECS[self.precision]
        packed = codec.multiplied_as != codec.name and not self.restores
        return weight_bytes(self.shape, codec.multiplied_as).block if packed else 0

    @property
    def _way(self) -> Computed:
        return Computed(self.shape, self.precision, self.arithmetic, self.kernels)

    @property
    def _is_plain(self) -> bool:
        return CODECS[self.precision].is_plain

    def _places(self, tokens: int) -> int:
        return self.costs.places(self.shape, tokens)

    # -- what stays --

    def kept(self, works: Sequence[Work]) -> tuple[Term, ...]:
        """What is on the GPU from the beginning to the end."""
        weights = self.weights
        looks = terms(vision_tower_outside_the_blocks=weights.looking) if any(work.edited for work in works) else ()
        unpacked = terms(block_unpacked_to_be_multiplied=self.unpacked) if self.unpacked else ()
        return (
            terms(
                slots=self.slots * weights.block,
                networks_outside_the_blocks=weights.outside + weights.text_norm,
                VAE=weights.vae_kept,
                cuBLAS_workspaces=2
                * self.kernels.workspace,  # of the stream that computes, and of the one that records
                rotary_frequencies=self.costs.FIXED_BYTES + sum(map(self._places, {work.tokens for work in works})),
            )
            + unpacked
            + looks
        )

    # -- small pictures --

    def companies(self, works: Sequence[Work]) -> list[tuple[tuple[int, int], ...]]:
        """Tokens of image and text of all passes, by which go through a block together: split and masked ones alone.

        None do where attention is not fused: its scores would be of all of them at once.
        """
        passes = [
            ((work.tokens, text), work.split or (bool(work.mask_rows) and not number))
            for work in works
            for number, text in enumerate(work.texts)
        ]
        alone = self.arithmetic == "bf16" or not self.kernels.fused_attention
        sizes = [None if by_itself else size for size, by_itself in passes]
        return [
            tuple(passes[number][0] for number in group) for group in companies(sizes, 0 if alone else self.together)
        ]

    def is_recorded(self, company: Sequence[tuple[int, int]]) -> bool:
        """Whether those that go together are few and small enough for that."""
        return self.recording and is_small(company)

    def recorded(self, works: Sequence[Work]) -> tuple[Term, ...]:
        """Where recordings find riders' tensors, for the most rows there may be."""
        found = [company for company in self.companies(works) if self.is_recorded(company)]
        if not found:
            return ()
        most = MOST_RECORDED_TOGETHER
        rows = (most + FILLED_UP_ROWS) * 2 * self.shape.width + self._places(most)
        return terms(recorded_launches=rows + sum(map(len, set(found))) * self.costs.vectors(self.shape))

    def pools(self, works: Sequence[Work]) -> int:
        """What recorded blocks compute in, kept for each size of picture that is in flight: a block's inside."""
        sizes: dict[int, int] = {}
        for company in self.companies(works):
            if self.is_recorded(company):
                tokens, text = _sums(company)
                inside = total(self.costs.inside(self._way, tokens, text)) - 2 * (tokens + text) * self.shape.width
                sizes[tokens] = max(sizes.get(tokens, 0), inside)
        return sum(sizes.values())

    # -- one block --

    def block(self, tokens: int, text: int) -> tuple[Term, ...]:
        """What one block has in memory for one rider, or for several together, at the most, their input included."""
        parts = self.costs.inside(self._way, tokens, text)
        if not self.restores:
            return parts
        weights = weight_bytes(self.shape, "bf16")
        restored = terms(block_scaled_back_to_bf16=weights.block)
        arriving = terms(a_weight_scaled_back=2 * weights.largest_of_block)
        return restored + max(parts, arriving, key=total)

    # -- riders --

    def waiting(self, work: Work) -> int:
        """What a picture's riders hold while another computes, at the last block: their input, and what came out.

        Where ControlNets hold it: for each what it looks at, and their last results, with what they were added to. With
        regions, which row sees which, in bf16.
        """
        blocks = sum(4 * (work.tokens + text) * self.shape.width for text in work.texts)
        return blocks + len(work.texts) * self.held_by_controls(work) + 2 * work.mask_rows**2

    def held_by_controls(self, work: Work) -> int:
        """What ControlNets leave with one pass of a picture."""
        return 2 * (work.controls + 2) * work.own_tokens * self.shape.width if work.controls else 0

    def belongings(self, work: Work) -> int:
        """What a picture has for itself all the way: modulation vectors, rotary frequencies a pass, latents."""
        modulation = self.shape.layers * self.costs.vectors(self.shape) * (3 if work.split else 2) // 2
        prompts = 2 * self.shape.text_width * sum(work.texts)
        places = len(work.texts) * self._places(work.tokens)
        return modulation + places + self.costs.latents(work.tokens) + prompts

    # -- the stages --

    def encode(self, works: Sequence[Work], together: Sequence[int] | None = None) -> Stage:
        """Text encoding: two of the encoder's layers, one of them in bf16, and all prompts that ride it.

        `together` are the tokens of the prompts of one sweep; without it, as many of `works` ride as the engine lets.
        """
        prompts = together if together is not None else self.group(works)
        looks = any(work.edited for work in works)
        weights, plain = self.weights, weight_bytes(self.shape, "bf16")
        layer = self.costs.encoder_layer(self.shape, max(prompts, default=0) + DROPPED_TOKENS + BEHIND)
        arriving = terms(a_weight_scaled_back=0 if self._is_plain else 2 * plain.largest_of_text_block)
        return Stage(
            "encode",
            self.kept(works)
            + terms(
                text_slots=2 * weights.text_block,
                text_layer_scaled_back_to_bf16=0 if self._is_plain else plain.text_block,
                prompts=sum(self.costs.prompt_bytes(self.shape, tokens) for tokens in prompts),
                pixels_shown_to_the_vision_tower=shown_bytes(sum(prompts)) if looks else 0,
            )
            + max(arriving, layer, key=total),
        )  # holes: none, for nothing was there before it that has gone since

    def group(self, works: Sequence[Work], most: int = MOST_TOKENS) -> list[int]:
        """Tokens of the prompts that ride together: those of several pictures, up to so many that the engine lets."""
        found: list[int] = []
        left = most
        prompts = (text - BEHIND + work.template_tokens for work in works for text in work.texts)
        for tokens in sorted(prompts, reverse=True):
            if found and tokens + DROPPED_TOKENS > left:
                break
            found.append(tokens)
            left -= tokens + DROPPED_TOKENS
        return found

    def modulate(self, works: Sequence[Work]) -> Stage:
        """The modulation tables of a schedule: two slots of a block's two layers, and two blocks' layers in bf16."""
        plain = weight_bytes(self.shape, "bf16").modulation
        return Stage(
            "modulate",
            self.kept(works)
            + terms(
                modulation_slots=2 * self.weights.modulation,
                modulation_scaled_back_to_bf16=0 if self._is_plain else 2 * plain,
            ),
            piece=self.weights.modulation,
        )

    def denoise(self, works: Sequence[Work]) -> Stage:
        """One block of those that go together, and what all others hold meanwhile: `works` are those in flight."""
        all_waiting = sum(map(self.waiting, works))

        def moment(rows: tuple[int, int]) -> tuple[Term, ...]:
            return self.block(*rows) + terms(waiting_riders=all_waiting - 4 * sum(rows) * self.shape.width)

        together = [_sums(company) for company in self.companies(works)]
        moments = [*map(moment, together), *self._masks(works, all_waiting)]
        return Stage(
            "denoise",
            self.kept(works)
            + self.recorded(works)
            + max(moments, key=total)
            + terms(modulation_and_latents=sum(map(self.belongings, works)), **self.gates_by_token(works)),
            piece=self.costs.piece(self.shape, max(tokens for tokens, _ in together)),
            idle=self.pools(works),
        )

    def _masks(self, works: Sequence[Work], waiting: int) -> Iterator[tuple[Term, ...]]:
        """Where rows are masked: as the mask is made, in float32 and then in bf16; beside a block, as it is padded."""
        for work in works:
            if rows := work.mask_rows:
                own = 4 * rows * self.shape.width
                yield terms(mask_in_the_making=6 * rows**2, waiting_riders=waiting - 2 * rows**2)
                block = self.block(work.tokens, work.texts[0])
                yield block + terms(mask_padded=2 * rows**2, waiting_riders=waiting - own)

    def gates_by_token(self, works: Sequence[Work]) -> dict[str, int]:
        """In DiffSynth's own block, gates of attention and of the MLP a token, where a picture's are split."""
        most = max((work.tokens for work in works if work.split), default=0)
        return {"gates_of_each_token": 4 * most * self.shape.width} if most and self.arithmetic == "bf16" else {}

    def image(self, works: Sequence[Work]) -> Stage:
        """A picture that goes in becomes latents, while all others wait; the one for which it takes most."""
        return self._by_the_vae("image", works, [work for work in works if work.encoded], self.encoder)

    def decode(self, works: Sequence[Work]) -> Stage:
        """The decode of the picture for which it takes most, while all others wait."""
        return self._by_the_vae("decode", works, works, self.decoder)

    def _by_the_vae(
        self, name: str, works: Sequence[Work], those: Sequence[Work], what: Callable[[Work], Decode]
    ) -> Stage:
        def moment(work: Work) -> tuple[Term, ...]:
            own = self.waiting(work)  # its riders have nothing then, but for what is one with others' results
            others = sum(map(self.waiting, works)) - (own // 2 if self._shared(works, work) else own)
            return what(work).terms + terms(
                waiting_riders=others, modulation_and_latents=sum(map(self.belongings, works))
            )

        there = self.kept(works) + self.recorded(works) + max(map(moment, those), key=total)
        waiting = sum(map(self.waiting, works)) - min(map(self.waiting, works))
        piece = max(what(work).piece for work in those)
        return Stage(name, there, piece=piece, between=waiting, idle=self.pools(works))

    def _shared(self, works: Sequence[Work], work: Work) -> bool:
        """Whether a picture's riders go together with another picture's."""
        own = {(work.tokens, text) for text in work.texts}
        return any(len(each) > len(work.texts) and own & set(each) for each in self.companies(works))

    def decoder(self, work: Work) -> Decode:
        """The VAE's decode over its weights; of layers, one after the other, beside those that are there already."""
        found = self.costs.decode(self.shape, work.width, work.height, fused=self.kernels.fused_attention)
        if work.layer_num is None:
            return found
        each = 2 * CHANNELS * work.pixels
        return replace(found, terms=found.terms + terms(decoded_layers=(work.decoded + 1) * each))

    def encoder(self, work: Work) -> Decode:
        """The VAE's way from a picture to latents, over its weights; of several, where it takes most."""
        fused = self.kernels.fused_attention
        sizes = work.encoded or ((work.width, work.height),)
        ways = [self.costs.encode(self.shape, width, height, fused=fused) for width, height in sizes]
        return max(ways, key=lambda way: total(way.terms))

    def stages(self, works: Sequence[Work], together: Sequence[int] | None = None) -> tuple[Stage, ...]:
        """All stages of pictures that are in flight at once."""
        image = (self.image(works),) if any(work.encoded for work in works) else ()
        return (self.encode(works, together), self.modulate(works), *image, self.denoise(works), self.decode(works))

    def estimate(self, works: Sequence[Work], together: Sequence[int] | None = None) -> Estimate:
        """The peak of pictures that are in flight at once."""
        return Estimate(self.stages(works, together), CONTEXT_BYTES)


def _sums(company: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Tokens of all images, and of all texts."""
    return sum(tokens for tokens, _ in company), sum(text for _, text in company)
