"""ComfyUI: a graph of nodes under `prompt`, or the editor's own under `workflow`.

The sampler is looked for, and from it the links are followed back to texts, size, seed and model. What stands in the
graph and could not be taken over is said: other passes, LoRAs without a name, nodes of kinds that are not known here.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from renderer.errors import shorten
from renderer.manifest.labels import comfyui_workflow, told
from renderer.manifest.labels.told import MAX_PROMPT, Texts, Told

_MAX_NODES = 10_000
_MAX_HOPS = 100
_MAX_VISITS = 20_000
_MAX_SAMPLERS = 16

_SEEDS = ("seed", "noise_seed", "noise")
_LATENTS = ("latent_image", "latent", "samples", "latent_samples")
_TO_LATENTS = (*_LATENTS, "pixels", "image", "")
_TEXTS = ("text", "prompt", "string", "value", "text_g", "clip_l", "t5xxl", "text_l", "positive_prompt", "")
_VALUES = ("value", "int", "float", "number", "a", "")
_BESIDE = frozenset(
    {"model", "clip", "vae", "image", "pixels", "latent", "samples", "mask", "control_net", "style_model"}
)
"""Links that lead to no prompt."""

_PLAIN = re.compile(
    r"K?Sampler(Advanced|Custom|CustomAdvanced|Select)?|(CLIP|UNET|VAE|DualCLIP|Checkpoint)Loader(Simple|GGUF)?|"
    r"UnetLoaderGGUF|CLIPLoaderGGUF|CLIPTextEncode|(Empty\w*|SD3)Latent(Image)?|EmptySD3LatentImage|VAEDecode(Tiled)?|"
    r"(Save|Preview)Image|ConditioningZeroOut|RandomNoise|BasicScheduler|BasicGuider|CFGGuider|Primitive\w*|Reroute|"
    r"Note|MarkdownNote|LoraLoader(ModelOnly)?|ModelSampling(AuraFlow|SD3|Flux)|String\w*|(INT|FLOAT)?Constant\w*"
)
"""Kinds of nodes that a picture's values come from, or that change nothing."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: its kind, and its inputs: values, or links to other nodes."""

    kind: str
    inputs: Mapping[str, Any]


def read(texts: Texts) -> Told | None:
    """What ComfyUI's graph tells of the picture's first pass."""
    graph = _graph(texts.fields("prompt"))
    if not any(graph.samplers()):
        graph = _graph(comfyui_workflow.as_prompt(texts.fields("workflow")))
    samplers = list(graph.samplers())
    if not samplers:
        return None
    first = min(samplers, key=lambda name: graph.rank(name, samplers))
    return _tell(graph, first, [name for name in samplers if name != first])


def _graph(prompt: Mapping[str, Any]) -> _Graph:
    nodes: dict[str, Node] = {}
    for name, node in list(prompt.items())[:_MAX_NODES]:
        kind, inputs = (node.get("class_type"), node.get("inputs")) if isinstance(node, dict) else (None, None)
        if isinstance(kind, str) and isinstance(inputs, dict):
            nodes[name] = Node(kind, inputs)
    return _Graph(nodes)


def _tell(graph: _Graph, first: str, more: Iterable[str]) -> Told:
    """What the sampler named `first` was fed with; `more` are the other samplers."""
    inputs = graph.nodes[first].inputs
    guider = graph.follow(inputs.get("guider"))
    around = inputs if guider is None else guider.inputs
    positive = graph.texts(around.get("positive", around.get("conditioning")), "positive")
    prompt, tags = told.without_tags(", ".join(positive))
    model, named = graph.model(around.get("model", inputs.get("model")))
    loras, unclear = told.loras(named)
    width, height, pictured = graph.size(_first(inputs, _LATENTS))
    schedule = inputs.get("sigmas")
    cfg = graph.value(around.get("cfg"), ("cfg", "cfg_scale", *_VALUES))
    left_out = [*unclear, *tags, *_sampler(graph, inputs)]
    left_out += [f"{len(positive)} prompts joined into one"] if len(positive) > 1 else []
    left_out += ["the picture it began from"] if pictured else []
    left_out += [f"another pass by {graph.nodes[name].kind} (node {shorten(name, 20)})" for name in more]
    return Told(
        by="ComfyUI",
        prompt=prompt,
        negative_prompt=", ".join(graph.texts(around.get("negative"), "negative")),
        model=model or None,
        steps=told.whole(graph.value(inputs.get("steps", schedule), ("steps", "sigmas", *_VALUES))),
        cfg_scale=1.0 if guider is not None and guider.kind == "BasicGuider" else told.number(cfg),
        width=width,
        height=height,
        seed=told.whole(graph.value(_first(inputs, _SEEDS), (*_SEEDS, *_VALUES))),
        loras=tuple(loras),
        left_out=told.cut([*left_out, *graph.other_kinds({first, *more})]),
    )


def _sampler(graph: _Graph, inputs: Mapping[str, Any]) -> list[str]:
    """What is left out of how a sampler samples."""
    name = graph.value(inputs.get("sampler_name", inputs.get("sampler")), ("sampler_name",))
    schedule = graph.value(inputs.get("scheduler", inputs.get("sigmas")), ("scheduler",))
    denoise = told.number(graph.value(inputs.get("denoise", inputs.get("sigmas")), ("denoise",)))
    partly = [f"denoise {denoise:g}"] if denoise is not None and denoise < 1 else []
    return [*told.sampler(name, schedule), *partly]


def _first(inputs: Mapping[str, Any], names: Iterable[str]) -> object:
    """The first input of one of these names."""
    return next((inputs[name] for name in names if name in inputs), None)


@dataclass(slots=True)
class _Graph:
    """Nodes by name. However they are linked, in circles too, no more than so many are looked at."""

    nodes: Mapping[str, Node]
    visits: int = field(default=_MAX_VISITS)

    def follow(self, value: object) -> Node | None:
        """The node that a value is a link to."""
        name = _link(value)
        self.visits -= 1
        return self.nodes.get(name) if name is not None and self.visits > 0 else None

    def value(self, value: object, names: Iterable[str]) -> object:
        """A value, or what stands under one of these names in the nodes that it is linked to; None where nothing is."""
        names = tuple(names)
        for _ in range(_MAX_HOPS):
            if _link(value) is None:
                return value
            node = self.follow(value)
            if node is None:
                return None
            value = next((node.inputs[name] for name in names if name in node.inputs), None)
        return None

    # -- samplers

    def samplers(self) -> Iterator[str]:
        """The nodes that make a picture out of noise."""
        count = 0
        for name, node in self.nodes.items():
            seeded = any(seed in node.inputs for seed in _SEEDS)
            if seeded and ("sampler" in node.kind.casefold() or {"steps", "cfg"} <= node.inputs.keys()):
                count += 1
                if count > _MAX_SAMPLERS:
                    return
                yield name

    def rank(self, name: str, samplers: Iterable[str]) -> tuple[int, bool, int, str]:
        """How far a sampler is from where the picture began: one that no other of `samplers` feeds comes first."""
        before = self._above(name)
        feeding = sum(other in before for other in samplers)
        inputs = self.nodes[name].inputs
        return feeding, not any(latent in inputs for latent in _LATENTS), int(name) if name.isdecimal() else 0, name

    def _above(self, name: str) -> set[str]:
        """All nodes that feed one."""
        seen: set[str] = set()
        waiting = [name]
        while waiting and len(seen) < _MAX_NODES:
            node = self.nodes.get(waiting.pop())
            links = {link for value in node.inputs.values() if (link := _link(value))} if node else set()
            waiting += links - seen
            seen |= links
        return seen

    # -- texts

    def texts(self, value: object, side: str) -> list[str]:
        """The prompts that a conditioning is made of, each once. One that is zeroed out says nothing."""
        found: dict[str, None] = {}
        seen: set[str] = set()
        waiting = deque([value])
        while waiting:
            name = _link(waiting.popleft())
            node = self.follow([name, 0]) if name is not None and name not in seen else None
            if name is None or node is None:
                continue
            seen.add(name)
            if "zeroout" in node.kind.casefold():
                continue
            if side in node.inputs:
                own = node.inputs[side]
                found |= {own: None} if isinstance(own, str) and own.strip() else {}
                waiting.append(own)
                continue
            written = [text for key in _TEXTS if (text := self.text(node.inputs.get(key)).strip())]
            found |= dict.fromkeys(written)
            if not written:
                waiting += [link for key, link in node.inputs.items() if key not in _BESIDE]
        return [told.words(text) for text in found]

    def text(self, value: object, depth: int = 0) -> str:
        """A text, or what the nodes that it is linked to make of theirs."""
        if isinstance(value, str):
            return value[:MAX_PROMPT]
        node = self.follow(value) if depth < _MAX_HOPS else None
        if node is None:
            return ""
        if {"string_a", "string_b"} <= node.inputs.keys():
            parts = [self.text(node.inputs[key], depth + 1) for key in ("string_a", "string_b")]
            between = node.inputs.get("delimiter")
            return (between if isinstance(between, str) else "").join(parts)[:MAX_PROMPT]
        return next((text for key in _TEXTS if (text := self.text(node.inputs.get(key), depth + 1))), "")

    # -- model and size

    def model(self, value: object) -> tuple[str, list[tuple[object, object]]]:
        """The model's file that a link leads to, and the LoRAs on the way with their strengths, the nearest last."""
        loras: list[tuple[object, object]] = []
        seen: set[str] = set()
        while (name := _link(value)) is not None and name not in seen:
            seen.add(name)
            node = self.follow(value)
            if node is None:
                break
            inputs = node.inputs
            for key in ("unet_name", "ckpt_name", "model_name", "gguf_name"):
                if isinstance(file := self.value(inputs.get(key), _TEXTS), str):
                    return file, loras[::-1]
            if isinstance(file := inputs.get("lora_name"), str):
                strength = inputs.get("strength_model", inputs.get("strength"))
                loras.append((file, self.value(strength, _VALUES)))
            stacked = [each for each in inputs.values() if isinstance(each, dict) and each.get("on", True)]
            loras += [(each["lora"], each.get("strength")) for each in reversed(stacked) if each.get("lora")]
            value = inputs.get("model", inputs.get(""))
        return "", loras[::-1]

    def size(self, value: object) -> tuple[int | None, int | None, bool]:
        """Width and height of the latent that a link leads to; and whether it was made of another picture."""
        for _ in range(_MAX_HOPS):
            node = self.follow(value)
            if node is None:
                break
            if {"width", "height"} <= node.inputs.keys():
                sides = (self.value(node.inputs[side], (side, *_VALUES)) for side in ("width", "height"))
                width, height = (told.whole(side, told.MAX_SIDE) for side in sides)
                return width, height, False
            value = next((node.inputs[name] for name in _TO_LATENTS if name in node.inputs), None)
            if _link(value) is None:
                return None, None, True
        return None, None, False

    def other_kinds(self, known: Iterable[str]) -> list[str]:
        """The kinds of nodes whose meaning is not known here."""
        known = set(known)
        kinds = (node.kind for name, node in self.nodes.items() if name not in known)
        return [f"node {shorten(kind, 40)}" for kind in dict.fromkeys(kinds) if _PLAIN.fullmatch(kind[:80]) is None]


def _link(value: object) -> str | None:
    """The name of the node that a value is a link to: a pair of a name and an output's number."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int):  # noqa: PLR2004
        return str(value[0])
    return None
