"""What is asked of a machine, and what its kernels do: a picture's demands, a card's products and attention."""

from __future__ import annotations

from dataclasses import dataclass

from renderer.catalog import DROPPED_TOKENS, EDIT_DROPPED_TOKENS
from renderer.estimate.looking import told_tokens
from renderer.estimate.tokens import count_tokens
from renderer.job import BlockArithmetic, Job
from renderer.text import MIB
from renderer.weights.codecs import CODECS

BEHIND = 5
"""Tokens that DiffSynth puts behind a prompt."""

PIXELS_A_TOKEN = 256

CUBLAS_WORKSPACE = 32 * MIB
"""torch's, from compute capability 9.0; 8 MiB on older cards."""

_FUSED_CAPABILITY = (8, 0)

_OWN_PRODUCTS = frozenset(codec.arithmetic for codec in CODECS.values() if not codec.is_plain)
"""What stored weights are multiplied in as they are, by some codec or other."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a card's kernels do. Without fused attention all scores are in memory, in float32 and quadratic in tokens.

    `products` are the arithmetics in which it multiplies weights as they are stored; a block whose weights are kept for
    another is decoded to bf16 first.
    """

    fused_attention: bool = True
    products: frozenset[BlockArithmetic] = _OWN_PRODUCTS
    workspace: int = CUBLAS_WORKSPACE

    @classmethod
    def of(cls, compute_capability: tuple[int, int], *, stored: bool = True) -> Kernels:
        """Those of a card: fused attention from 8.0, a codec's products from what it says, cuBLAS' workspace from 9.0.

        torch has fused attention in bf16 from 8.0 on: flash is built for no older card, and the memory-efficient kernel
        takes float16 and float32 there (`can_use_mem_efficient_attention` in its `sdp_utils.cpp`). `stored` False: no
        products of stored weights are wanted.
        """
        able = {each.arithmetic for each in CODECS.values() if compute_capability >= each.capability}
        return cls(
            fused_attention=compute_capability >= _FUSED_CAPABILITY,
            products=_OWN_PRODUCTS & able if stored else frozenset(),
            workspace=CUBLAS_WORKSPACE if compute_capability >= (9, 0) else 8 * MIB + 128 * 1024,
        )

    @classmethod
    def of_cpu(cls, *, stored: bool = True) -> Kernels:
        """Those of a CPU: products of what some codecs keep, for which it needs no units of its own."""
        able = frozenset(each.arithmetic for each in CODECS.values() if each.on_cpu)
        return cls(products=able if stored else frozenset())


WorkKind = tuple[int, int, bool, bool, tuple[tuple[int, int], ...], bool, int | None, int, bool, bool]
"""Size, guidance, what goes in, what it is taken apart into, what holds it, whether it has regions and a context."""


@dataclass(frozen=True, slots=True)
class Work:
    """One picture's demands: its size in pixels, the tokens of its prompts, and whether a picture goes in.

    `edited` are the sizes in which pictures that it edits go in, and `split` is DiffSynth's `zero_cond_t` of these: the
    prompts' tokens are then with those that the text encoder makes of them. `layer_num` is a job's, where it is taken
    apart: the whole and so many layers are denoised together, and what goes in stands beside them. `controls` is how
    many ControlNets hold it, `region_tokens` are those of its regions' prompts, with what DiffSynth puts behind each,
    and `context` says that a picture of its own size stands beside it all the way.
    """

    width: int
    height: int
    prompt_tokens: int = 64
    negative_tokens: int = 0
    guided: bool = True
    takes_in: bool = False
    edited: tuple[tuple[int, int], ...] = ()
    split: bool = False
    layer_num: int | None = None
    controls: int = 0
    region_tokens: int = 0
    context: bool = False

    @classmethod
    def of(cls, job: Job) -> Work:
        """What a job asks for."""
        edit, told = job.edit, told_tokens(job.edit)
        sizes = [edit.size_of(image) for image in edit.images] if edit else []
        return cls(
            width=job.width,
            height=job.height,
            prompt_tokens=count_tokens(job.prompt) + told,
            negative_tokens=count_tokens(job.negative_prompt) + told,
            guided=job.cfg_scale != 1.0,
            takes_in=job.input_image is not None or job.layer_input_image is not None,
            edited=tuple((size.width, size.height) for size in sizes),
            split=edit is not None and edit.zero_cond_t,
            layer_num=job.layer_num,
            controls=len(job.controlling),
            region_tokens=sum(count_tokens(region.prompt) + BEHIND for region in job.regions),
            context=job.context_image is not None,
        )

    @property
    def kind(self) -> WorkKind:
        """What makes a kind of pictures, whatever their prompts."""
        sizes = self.width, self.height, self.guided, self.takes_in, self.edited, self.split
        return *sizes, self.layer_num, self.controls, self.region_tokens > 0, self.context

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def tokens(self) -> int:
        """N: its own, and those of what it edits; of one that is taken apart, its layers' and those of what goes in."""
        own = self.pixels * (self.decoded + (self.layer_num is not None) + self.context)
        return (own + sum(width * height for width, height in self.edited)) // PIXELS_A_TOKEN

    @property
    def decoded(self) -> int:
        """Pictures that are decoded: one, or the whole and its layers."""
        return 1 + (self.layer_num or 0)

    @property
    def own_tokens(self) -> int:
        """Of N, its own."""
        return self.pixels // PIXELS_A_TOKEN

    @property
    def template_tokens(self) -> int:
        """What the template of its prompts has more, while they are encoded, than that of a picture from text."""
        return EDIT_DROPPED_TOKENS - DROPPED_TOKENS if self.edited else 0

    @property
    def encoded(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the pictures that become latents before the first step."""
        return (*[(self.width, self.height)] * (self.takes_in + self.controls + self.context), *self.edited)

    @property
    def mask_rows(self) -> int:
        """Rows of the first pass where a mask says which sees which; 0 where there are no regions."""
        return self.tokens + self.texts[0] if self.region_tokens else 0

    @property
    def texts(self) -> tuple[int, ...]:
        """T of each pass: two with guidance. Prompts of regions are in the first alone."""
        first = self.prompt_tokens + BEHIND + self.region_tokens
        return (first, *((self.negative_tokens + BEHIND,) if self.guided else ()))
