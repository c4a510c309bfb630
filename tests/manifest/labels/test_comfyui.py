from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renderer.errors import UsageError
from renderer.manifest import labels
from renderer.manifest.labels import Told, comfyui
from renderer.manifest.labels.told import Texts, ToldLora
from tests.manifest.labels.making import exif, webp, with_texts, write

Graph = Mapping[str, Any]


def node(kind: str, **inputs: object) -> Graph:
    return {"class_type": kind, "inputs": inputs}


SIMPLE: Graph = {
    "3": node("KSampler", seed=77, steps=20, cfg=2.5, sampler_name="euler", scheduler="simple", denoise=1.0,
              model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
    "4": node("UNETLoader", unet_name="qwen_image_fp8.safetensors"),
    "5": node("EmptySD3LatentImage", width=1328, height=1024, batch_size=1),
    "6": node("CLIPTextEncode", text="a red fox in snow", clip=["8", 0]),
    "7": node("CLIPTextEncode", text="blurry", clip=["8", 0]),
    "8": node("CLIPLoader", clip_name="qwen.safetensors"),
    "9": node("VAEDecode", samples=["3", 0], vae=["10", 0]),
    "11": node("SaveImage", images=["9", 0]),
}  # fmt: skip


def read(graph: object) -> Told:
    found = comfyui.read(Texts({"prompt": json.dumps(graph)}))
    assert found is not None
    return found


class TestPrompt:
    def test_a_plain_graph(self, tmp_path: Path) -> None:
        """Sampler, texts, size and model, from the links; in a PNG and, as ComfyUI keeps it there, in a WebP."""
        told_by = (
            with_texts(tmp_path, {"prompt": SIMPLE, "workflow": {"nodes": [], "links": []}}),
            write(tmp_path, webp(exif(b"prompt:" + json.dumps(SIMPLE).encode(), tag=0x0110, kind=2)), "a.webp"),
        )
        for found in map(labels.read, told_by):
            assert (found.by, found.prompt, found.negative_prompt) == ("ComfyUI", "a red fox in snow", "blurry")
            assert (found.steps, found.cfg_scale, found.seed, found.width, found.height) == (20, 2.5, 77, 1328, 1024)
            assert (found.model, found.left_out) == ("qwen_image_fp8.safetensors", ())

    def test_values_that_are_linked(self) -> None:
        """A seed, a width and a text that other nodes hold, through several hops; texts joined by a node."""
        graph = {
            **SIMPLE,
            "3": node("KSampler", **{**SIMPLE["3"]["inputs"], "seed": ["20", 0], "steps": ["21", 0]}),
            "20": node("Seed (rgthree)", seed=["22", 0]),
            "21": node("PrimitiveInt", value=30),
            "22": node("Reroute", **{"": ["23", 0]}),
            "23": node("PrimitiveInt", value=78),
            "5": node("EmptyLatentImage", width=["24", 0], height=512, batch_size=1),
            "24": node("INTConstant", value=768),
            "6": node("CLIPTextEncode", text=["25", 0], clip=["8", 0]),
            "25": node("StringConcatenate", string_a=["26", 0], string_b="in snow", delimiter=", "),
            "26": node("PrimitiveStringMultiline", value="a red fox"),
        }
        found = read(graph)
        assert (found.seed, found.steps, found.width, found.height) == (78, 30, 768, 512)
        assert found.prompt == "a red fox, in snow"

    def test_the_advanced_sampler(self) -> None:
        """Noise, guider, schedule and sampler are nodes of their own; a model's LoRAs are said."""
        found = read({
            "1": node("SamplerCustomAdvanced", noise=["2", 0], guider=["3", 0], sampler=["4", 0], sigmas=["5", 0],
                      latent_image=["6", 0]),
            "2": node("RandomNoise", noise_seed=77),
            "3": node("CFGGuider", cfg=3.0, model=["7", 0], positive=["8", 0], negative=["9", 0]),
            "4": node("KSamplerSelect", sampler_name="res_multistep"),
            "5": node("BasicScheduler", scheduler="beta", steps=25, denoise=0.6, model=["7", 0]),
            "6": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
            "7": node("LoraLoaderModelOnly", lora_name="lightning.safetensors", strength_model=0.9, model=["10", 0]),
            "8": node("CLIPTextEncode", text="a fox"),
            "9": node("ConditioningZeroOut", conditioning=["8", 0]),
            "10": node("UNETLoader", unet_name="qwen.safetensors"),
        })  # fmt: skip
        assert (found.seed, found.steps, found.cfg_scale, found.model) == (77, 25, 3.0, "qwen.safetensors")
        assert (found.prompt, found.negative_prompt) == ("a fox", "")
        said = ("sampler res_multistep beta", "denoise 0.6")
        assert found.loras == (ToldLora("lightning", 0.9),)
        assert found.left_out == said

    def test_the_first_pass_counts_and_the_second_is_said(self) -> None:
        """Of two samplers, one behind the other, the picture is the first one's; so is what a detailer did said."""
        second = {**SIMPLE["3"]["inputs"], "seed": 1, "steps": 9, "denoise": 0.5, "latent_image": ["13", 0]}
        graph = {
            "2": node("KSampler", **second),
            **SIMPLE,
            "13": node("LatentUpscale", samples=["3", 0], width=2048, height=2048),
            "14": node("FaceDetailer", image=["9", 0], seed=5, steps=7, cfg=8.0),
        }
        found = read(graph)
        assert (found.seed, found.steps, found.width) == (77, 20, 1328)
        said = "; ".join(found.left_out)
        assert "another pass by KSampler (node 2)" in said
        assert "another pass by FaceDetailer (node 14)" in said
        assert "node LatentUpscale" in said

    def test_control_nets_and_pictures_are_said(self) -> None:
        """A conditioning that goes through a control net keeps its own side; a picture it began from is said."""
        graph = {
            **SIMPLE,
            "3": node("KSampler", **{**SIMPLE["3"]["inputs"], "positive": ["30", 0], "negative": ["30", 1],
                                     "latent_image": ["31", 0]}),
            "30": node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], image=["32", 0]),
            "31": node("VAEEncode", pixels=["32", 0]),
            "32": node("LoadImage", image="secret.png"),
        }  # fmt: skip
        found = read(graph)
        assert (found.prompt, found.negative_prompt) == ("a red fox in snow", "blurry")
        assert {"the picture it began from", "node ControlNetApplyAdvanced"} <= set(found.left_out)

    def test_a_graph_without_a_sampler_tells_nothing(self, tmp_path: Path) -> None:
        """And neither does a text under the same key that is no graph."""
        for prompt in ({"1": node("LoadImage", image="a.png")}, "a plain prompt", [1], {"1": 2}):
            with pytest.raises(UsageError, match="does not say how it was made"):
                labels.read(with_texts(tmp_path, {"prompt": prompt}))

    def test_circles_end(self) -> None:
        """Links that lead back to themselves are followed so far and no further."""
        loop = {
            **SIMPLE["3"]["inputs"],
            "model": ["4", 0],
            "positive": ["6", 0],
            "latent_image": ["3", 0],
            "seed": ["20", 0],
        }
        graph = {
            "3": node("KSampler", **loop),
            "4": node("LoraLoader", lora_name="x", model=["4", 0]),
            "6": node("StringConcatenate", string_a=["6", 0], string_b=["6", 0]),
            "20": node("Reroute", **{"": ["20", 0]}),
        }
        found = read(graph)
        assert (found.prompt, found.seed, found.model) == ("", None, None)

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def test_odd_graphs_break_nothing(self, data: st.DataObject) -> None:
        """Any value for any input, links to anywhere among them."""
        link: st.SearchStrategy[list[Any]] = st.builds(
            list, st.tuples(st.sampled_from([*SIMPLE, "99"]), st.integers(0, 2))
        )
        some = st.lists(st.integers(), max_size=3) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
        value = st.none() | st.integers() | st.floats() | st.text(max_size=4) | link | some
        graph = json.loads(json.dumps(SIMPLE))
        for name in data.draw(st.lists(st.sampled_from(sorted(SIMPLE)), max_size=6)):
            key = data.draw(st.sampled_from([*sorted(SIMPLE[name]["inputs"]), "lora_name", "positive", ""]))
            graph[name]["inputs"][key] = data.draw(value)
        found = comfyui.read(Texts({"prompt": json.dumps(graph)}))
        assert found is None or isinstance(found.prompt, str)


WORKFLOW = {
    "nodes": [
        {"id": 3, "type": "KSampler", "mode": 0, "widgets_values": [77, "randomize", 20, 2.5, "euler", "simple", 1],
         "inputs": [{"name": "model", "link": 1}, {"name": "positive", "link": 2}, {"name": "negative", "link": 3},
                    {"name": "latent_image", "link": 4}]},
        {"id": 4, "type": "UNETLoader", "widgets_values": ["qwen.safetensors", "default"]},
        {"id": 5, "type": "EmptySD3LatentImage", "widgets_values": [1328, 1024, 1]},
        {"id": 6, "type": "CLIPTextEncode", "widgets_values": ["a red fox"]},
        {"id": 7, "type": "CLIPTextEncode", "inputs": [{"name": "text", "widget": {"name": "text"}, "link": 5}],
         "widgets_values": ["unused"]},
        {"id": 8, "type": "PrimitiveNode", "widgets_values": ["blurry", "fixed"]},
        {"id": 9, "type": "KSampler", "mode": 4, "widgets_values": [1, "fixed", 2, 1, "euler", "simple", 1]},
    ],
    "links": [[1, 4, 0, 3, 0, "MODEL"], [2, 6, 0, 3, 1, "CONDITIONING"], [3, 7, 0, 3, 2, "CONDITIONING"],
              [4, 5, 0, 3, 3, "LATENT"], [5, 8, 0, 7, 0, "STRING"]],
}  # fmt: skip


class TestWorkflow:
    def test_the_editor_s_graph_alone(self, tmp_path: Path) -> None:
        """Values without names are read for the kinds that are known; nodes that are off are off."""
        found = labels.read(with_texts(tmp_path, {"workflow": WORKFLOW}))
        assert (found.prompt, found.negative_prompt, found.model) == ("a red fox", "blurry", "qwen.safetensors")
        assert (found.steps, found.cfg_scale, found.seed, found.width, found.height) == (20, 2.5, 77, 1328, 1024)
        assert found.left_out == ()
