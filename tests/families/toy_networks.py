"""The toy family's torch half: what the engine asks of a family to build and call its networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from renderer.engine import calling, precision
from renderer.engine.adapters import NOTHING, Adapted
from renderer.engine.blocks import FastBlocks, ModuleBlocks
from renderer.engine.device import Device, computation_dtype
from renderer.engine.encoding import AskedPrompt, Encoded
from renderer.engine.inputs import NO_INPUTS, Inputs
from renderer.engine.riders import Halt, Stop
from renderer.engine.skeletons import Beforehand, Skeleton
from renderer.job import Job
from renderer.weights.store import BlockFile, Store, TensorPlace, load
from tests.families.toy import WIDTH


class Double(torch.nn.Module):
    """Image and text, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.img, self.txt = torch.nn.Module(), torch.nn.Module()
        self.img.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.txt.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.img.norm = torch.nn.Module()
        self.img.norm.scale = torch.nn.Parameter(torch.ones(WIDTH))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value = self.img.qkv(functional.normalize(image, dim=-1) * self.img.norm.scale).chunk(3, dim=-1)
        _, text_key, text_value = self.txt.qkv(functional.normalize(text, dim=-1)).chunk(3, dim=-1)
        keys, values = torch.cat((text_key, key), dim=1), torch.cat((text_value, value), dim=1)
        return image + functional.scaled_dot_product_attention(query, keys, values), text + text_value


class Single(torch.nn.Module):
    """The image alone; what its gate gives is computed beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(WIDTH, 4 * WIDTH, bias=False)

    def forward(self, image: torch.Tensor, *, gate: torch.Tensor) -> torch.Tensor:
        parts = self.linear(functional.normalize(image, dim=-1)).chunk(4, dim=-1)
        return image + gate * torch.tanh(parts[0] + parts[1]) * parts[2] + parts[3]


class Layer(torch.nn.Module):
    """Of the text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.q = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.k = torch.nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.normalize(hidden + self.k(torch.tanh(self.q(hidden))), dim=-1)


class Pipeline:
    """As DiffSynth's are called: noise, steps with guidance, a decode, a picture."""

    dit: Any
    vae: Any

    def __init__(self, encoded: Mapping[str, Encoded], dtype: torch.dtype) -> None:
        self._encoded, self._dtype = encoded, dtype
        self.cfg_guided_model_fn: Any = None

    def step(self, scheduler: Any, latents: torch.Tensor, *, progress_id: int, noise: torch.Tensor) -> torch.Tensor:
        return latents - noise / len(scheduler.timesteps) * (1 + progress_id)

    def vae_output_to_image(self, values: torch.Tensor) -> Image.Image:
        bytes_ = ((values[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return Image.fromarray(bytes_.permute(1, 2, 0).numpy())

    def __call__(
        self, *, prompt: str, negative_prompt: str, cfg_scale: float, height: int, width: int, seed: int,
        num_inference_steps: int, progress_bar_cmd: Callable[[torch.Tensor], Iterable[torch.Tensor]], **_: Any,
    ) -> Image.Image:  # fmt: skip
        size = (1, height // 16 * (width // 16), 16)
        latents = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(self._dtype)
        moments = torch.linspace(1000.0, 100.0, num_inference_steps)
        scheduler = SimpleNamespace(timesteps=moments)
        for number, _moment in enumerate(progress_bar_cmd(moments)):
            with_prompt, without = ({"text": self._text(words)} for words in (prompt, negative_prompt))
            noise = self.cfg_guided_model_fn(
                self.dit, cfg_scale, {"latents": latents}, with_prompt, without if cfg_scale != 1 else {}
            )
            latents = self.step(scheduler, latents, progress_id=number, noise=noise)
        return self.vae_output_to_image(self.vae.decode(latents, height, width))

    def _text(self, prompt: str) -> torch.Tensor | None:
        return self._encoded[prompt].embedding if prompt in self._encoded else None


class Dit(torch.nn.Module):
    """Two kinds of blocks, one after the other."""

    def __init__(self, outside: Mapping[str, torch.Tensor], doubles: Sequence[Any], singles: Sequence[Any]) -> None:
        super().__init__()
        self._outside = outside
        self.double_blocks, self.single_blocks = torch.nn.ModuleList(doubles), torch.nn.ModuleList(singles)

    def forward(self, *, latents: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        image = functional.linear(latents, self._outside["img_in.weight"])
        for block in self.double_blocks:
            image, text = block(image, text)
        for block in self.single_blocks:
            image = block(image)
        return image @ self._outside["img_in.weight"] / WIDTH


class Vae:
    def __init__(self, kernel: torch.Tensor) -> None:
        self._kernel = kernel

    def decode(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        square = latents.view(1, height // 16, width // 16, 16).permute(0, 3, 1, 2)
        values = functional.conv_transpose2d(functional.pixel_shuffle(square, 2), self._kernel, stride=2)
        return torch.tanh(functional.interpolate(values[:, :3], size=(height, width)))


class Gates:
    """What a step's gates give: a vector a single block."""

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights = weights

    def has(self, job: Job) -> bool:
        del job
        return True

    def prepare(self, jobs: Iterable[Job]) -> int:
        return 0 * len(list(jobs))

    def at(self, job: Job, step: int) -> torch.Tensor:
        return gates(self._weights, step / job.num_inference_steps)

    def forget(self, still_wanted: Iterable[Job]) -> None:
        del still_wanted


def gates(weights: torch.Tensor, moment: float) -> torch.Tensor:
    """[blocks, WIDTH]."""
    return torch.sigmoid(weights @ torch.full((WIDTH,), moment, dtype=weights.dtype))


def _read(file: BlockFile, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A file's tensors as they are computed with, however they are kept."""
    return precision.restored(load(file), precision.kept(file.tensors), dtype)


def build(store: Store, device: Device) -> Skeleton:
    dtype = computation_dtype(device)
    count = {name: len(store.section(name)) for name in ("double", "single", "text")}
    stops = {name: [Stop(name, number) for number in range(each)] for name, each in count.items()}
    outside = _read(store.outside("transformer"), dtype)
    checking: Future[None] = Future()
    checking.set_result(None)

    def tokenize(prompt: str) -> Any:
        return SimpleNamespace(input_ids=[ord(letter) % 8 for letter in prompt] or [0])

    with torch.device("meta"):
        templates = {"double": Double(), "single": Single(), "text": Layer()}
    parts = {
        "dit": Dit(outside, stops["double"], stops["single"]),
        "vae": Vae(_read(store.all("vae", "outside")[0], dtype)["decoder.toy.weight"]),
        "shared": _read(store.outside("text_encoder"), dtype)["shared.weight"],
        "layers": stops["text"],
        "tokenizer": tokenize,
    }
    return Skeleton(parts, templates, ("double", "single"), ("text",), tokenize, WIDTH, checking, lambda: None)


def pipeline(
    skeleton: Skeleton,
    encoded: Mapping[str, Encoded],
    device: Device,
    job: Job | None = None,
    controls: Sequence[Any] = (),
) -> Any:
    assert not controls
    del job
    pipe = Pipeline(encoded, computation_dtype(device))
    for name, part in skeleton.parts.items():
        setattr(pipe, name, part)
    return pipe


def encode(pipe: Any, prompt: AskedPrompt, _given: Inputs) -> Encoded:
    hidden = pipe.shared[pipe.tokenizer(prompt.text).input_ids][None]
    for layer in pipe.layers:
        hidden = layer(hidden)
    return Encoded(hidden, torch.ones(hidden.shape[:2]))


def arguments(job: Job, given: Inputs) -> dict[str, Any]:
    return calling.arguments(job, given)


def beforehand(
    skeleton: Skeleton, store: Store, device: Device, adapted: Callable[[Job], Adapted] = lambda _: NOTHING
) -> Beforehand:
    del skeleton, adapted
    files = store.all("transformer", "gate")
    dtype = computation_dtype(device)
    return Gates(torch.stack([_read(file, dtype)["gate.lin.weight"] for file in files]))


def given(halt: Halt, ready: torch.Tensor | None) -> Mapping[str, Any]:
    if halt.section != "single":
        return halt.kwargs
    assert ready is not None
    return {"gate": ready[halt.index]}


def fast_blocks(
    section: str, template: torch.nn.Module, places: Sequence[TensorPlace], plain: ModuleBlocks, operations: Any
) -> FastBlocks | None:
    del section, template, places, plain, operations
    return None


def renumber(section: str) -> Callable[[torch.nn.Module, int], None] | None:
    del section
    return None


def whole(store: Store, job: Job) -> Image.Image:
    """The picture by one plain call, every block a module in its place: what the engine has to give."""
    skeleton, dtype = build(store, "cpu"), computation_dtype("cpu")

    def blocks(name: str, kind: Callable[[], torch.nn.Module]) -> Iterator[torch.nn.Module]:
        for file in store.section(name):
            block = kind()
            block.load_state_dict(_read(file, dtype), assign=True)
            yield block.to(dtype)

    layers = list(blocks("text", Layer))
    pipe = pipeline(skeleton, {}, "cpu")
    pipe.layers = layers
    prompts = calling.prompts(job).values()
    pipe._encoded = {prompt.text: encode(pipe, prompt, NO_INPUTS) for prompt in prompts}
    weights = beforehand(skeleton, store, "cpu")
    moments = {"step": 0}

    class Gated(torch.nn.Module):
        def __init__(self, block: torch.nn.Module, index: int) -> None:
            super().__init__()
            self._block, self._index = block, index

        def forward(self, image: torch.Tensor) -> Any:
            ready = weights.at(job, moments["step"])
            assert ready is not None
            return self._block(image, gate=ready[self._index])

    singles = [Gated(block, index) for index, block in enumerate(blocks("single", Single))]
    pipe.dit = Dit(skeleton.parts["dit"]._outside, list(blocks("double", Double)), singles)

    def guided(model: Any, scale: float, shared: Any, positive: Any, negative: Any) -> torch.Tensor:
        found: torch.Tensor = model(**positive, **shared)
        if scale != 1:
            without = model(**negative, **shared)
            found = without + scale * (found - without)
        return found

    def steps(each: torch.Tensor) -> Iterator[torch.Tensor]:
        for number, moment in enumerate(each):
            moments["step"] = number
            yield moment

    pipe.cfg_guided_model_fn = guided
    with torch.no_grad():
        image: Image.Image = pipe(**calling.arguments(job, NO_INPUTS), progress_bar_cmd=steps)
    return image
