from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from renderer.errors import UsageError
from renderer.job import Lora
from renderer.manifest import labels
from renderer.manifest.labels import LABEL_READERS, Told, a1111, told
from renderer.manifest.labels.told import COMMENT, Texts, ToldLora
from renderer.outputs import metadata
from tests.making import make_job
from tests.manifest.labels.making import A1111, exif, jpeg, webp, with_texts, write
from tests.outputs.test_metadata import origin_of

LIGHTNING = "lightx2v/Qwen-Image-Lightning/4steps-V2.0"


def values(found: Told) -> tuple[object, ...]:
    return (found.steps, found.cfg_scale, found.seed, found.width, found.height)


def left_out(found: Told) -> str:
    """In words, what a job does not hold, and LoRAs, which are perhaps not here."""
    return "; ".join([*(lora.words for lora in found.loras), *found.left_out])


class TestA1111:
    def test_prompt_settings_and_what_is_left_out(self, tmp_path: Path) -> None:
        """The LoRA's tag is taken out of the prompt and said; weights stay, being the prompt's own words."""
        found = labels.read(with_texts(tmp_path, {"parameters": A1111}))
        assert found.by == "parameters"
        assert (found.prompt, found.negative_prompt) == (
            "masterpiece, (a cat:1.2)\nsecond line",
            "lowres, bad\nanatomy",
        )
        assert (*values(found), found.model) == (20, 7.0, 1234567890, 512, 768, "v1-5-pruned")
        assert found.left_out == ("sampler DPM++ 2M Karras",)
        assert found.loras == (ToldLora("x", 1.0, "1234"),)

    def test_hires_and_adetailer_are_said(self) -> None:
        """Whatever the settings say that no job has is said, hashes and versions apart."""
        line = (
            "Denoising strength: 0.45, Hires upscale: 2, Hires upscaler: R-ESRGAN 4x+, ADetailer model: face.pt, "
            'ADetailer prompt: "calm, smiling", VAE hash: 12, Lora hashes: "d: 1", RNG: CPU'
        )
        found = a1111.parse(f"{A1111}, {line}")
        assert found is not None
        said = left_out(found)
        for each in (
            "Denoising strength 0.45",
            "Hires upscale 2",
            "ADetailer model face.pt",
            "calm, smiling",
            "RNG CPU",
        ):
            assert each in said
        assert "hash" not in said

    @pytest.mark.parametrize(
        ("prompt", "bare"),
        [("a <lora:x:0.8> b", "a b"), ("a, <lora:x:1>", "a"), ("<lora:x:1>, a", "a"), ("a, <lora:x:1>, b", "a, b"),
         ("a\n<lora:x:1>", "a"), ("<lyco:y> a <hypernet:z:1>", "a"), ("a < b > c", "a < b > c"),
         ("a,<lora:x:1><lora:y:1>,b", "a, b"), ("plain,  text ,", "plain,  text ,")],
    )  # fmt: skip
    def test_tags_leave_nothing_behind(self, prompt: str, bare: str) -> None:
        """A prompt without tags stays as it is; a tag takes its own comma along."""
        assert told.without_tags(prompt)[0] == bare

    def test_a_long_run_of_spaces_is_gone_through_once(self) -> None:
        """Where tags were is looked for in one go, and not from each space anew."""
        began = time.process_time()
        assert told.without_tags(f"a{' ' * 19_900}b <lora:x:1>")[0] == f"a{' ' * 19_900}b"
        assert time.process_time() - began < 0.1

    def test_our_own_text_says_nothing_is_left_out(self) -> None:
        """What we write in this form for others is read back whole, tags and all."""
        found = a1111.parse(metadata.write_parameters(origin_of(make_job("a <lora:x:1> b"))))
        assert found is not None
        assert (found.prompt, found.left_out, found.loras) == ("a <lora:x:1> b", (), ())

    def test_our_own_loras(self) -> None:
        """Tags that we have put behind the prompt are LoRAs; those that stand in it are its own words."""
        loras = (
            Lora(source="loras/ink, v2.safetensors", identity="ab" * 32, weight=-0.25, file_hash="0123456789ab"),
            Lora(source=LIGHTNING, identity=LIGHTNING),
        )
        job = make_job("a <lora:x:1>").model_copy(update={"loras": loras, "schedule": "lightning"})
        text = metadata.write_parameters(origin_of(job))
        assert text.startswith("a <lora:x:1> <lora:ink_v2:-0.25> <lora:Qwen-Image-Lightning-4steps-V2.0-bf16:1>\n")
        assert 'Lora hashes: "ink_v2: 0123456789ab", LoRAs: 2' in text
        found = a1111.parse(text)
        assert found is not None
        assert (found.prompt, found.schedule, found.left_out) == ("a <lora:x:1>", "lightning", ())
        assert found.loras == (
            ToldLora("ink_v2", -0.25, "0123456789ab"),
            ToldLora("Qwen-Image-Lightning-4steps-V2.0-bf16", 1.0),
        )

    @settings(max_examples=200, deadline=None)
    @given(st.text() | st.text('Steps: ,"{}[]\n-x1') | st.text().map(lambda text: f"{A1111}\n{text}"))
    def test_no_text_breaks_the_parser(self, text: str) -> None:
        """Whatever stands there, the answer is a value or None."""
        found = a1111.parse(text)
        assert found is None or isinstance(found.prompt, str)

    def test_hostile_settings_take_no_time(self) -> None:
        """A megabyte that begins a list two hundred thousand times: 43 s of the processor once, now a moment."""
        began = time.process_time()
        a1111.parse("x\nSteps: 1, " + "a:[1," * 200_000)
        assert time.process_time() - began < 0.5


SWARM: dict[str, dict[str, Any]] = {
    "sui_image_params": {
        "prompt": "a red fox <lora:fur:0.5>", "negativeprompt": "bad", "model": "Qwen-Image", "seed": 77, "steps": 20,
        "cfgscale": 4.0, "aspectratio": "1:1", "width": 1328, "height": 1328, "sampler": "dpmpp_2m",
        "scheduler": "karras", "loras": ["snow"], "loraweights": ["0.8"], "refinermethod": "PostApply",
        "swarm_version": "0.9.7.0",
    },
    "sui_extra_data": {"date": "2025-01-01"},
}  # fmt: skip

FOOOCUS = {
    "base_model": "juggernautXL", "base_model_hash": "1", "prompt": "a red fox", "negative_prompt": "bad", "seed": "77",
    "steps": 30, "guidance_scale": 4.0, "resolution": "(1152, 896)", "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras", "loras": [["offset.safetensors", 0.1, "hash"]], "styles": ["Fooocus V2"], "sharpness": 2.0,
    "metadata_scheme": "fooocus", "version": "Fooocus v2.5.5", "refiner_model": "None",
}  # fmt: skip

FOOOCUS_AS_A1111 = """a red fox
Negative prompt: bad
Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 77, Size: 1152x896, CFG scale: 4, Sharpness: 2, \
ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernautXL, Model hash: 1, Performance: Speed, \
Styles: "['Fooocus V2']", Lora hashes: "offset: 1", Lora weights: "offset: 0.1", Metadata scheme: a1111, \
Version: Fooocus v2.5.5"""

INVOKE = {
    "app_version": "5.6.0", "generation_mode": "sdxl_txt2img", "positive_prompt": "a red fox", "negative_prompt": "bad",
    "width": 1024, "height": 768, "seed": 77, "rand_device": "cpu", "cfg_scale": 7.5, "steps": 30,
    "scheduler": "dpmpp_3m_k", "model": {"key": "k", "name": "Juggernaut XL", "base": "sdxl"},
    "loras": [{"model": {"name": "fur"}, "weight": 0.75}], "controlnets": [{"a": 1}], "hrf_enabled": True,
}  # fmt: skip

NOVELAI = {
    "prompt": "a red fox", "steps": 28, "height": 1216, "width": 832, "scale": 5.0, "seed": 77, "sampler": "k_euler",
    "uc": "bad", "n_samples": 1, "noise_schedule": "native", "sm": True, "signed_hash": "abc",
}  # fmt: skip

DRAW_THINGS = {
    "c": 'a red <fox> & "friend"', "uc": "bad", "seed": 77, "steps": 20, "scale": 4.5, "size": "1024x768",
    "sampler": "DPM++ 2M",
    "model": "qwen_image_1.0_q8p.ckpt", "strength": 0.7, "lora": [{"model": "fur.ckpt", "weight": 0.6}],
    "v2": {"hiresFix": False},
}  # fmt: skip

MFLUX = {
    "mflux_version": "0.9.6", "model": "dev", "prompt": "a red fox", "negative_prompt": None, "seed": 77, "steps": 14,
    "guidance": 3.5, "width": 1024, "height": 560, "quantize": 8, "precision": "mlx.core.bfloat16",
    "lora_paths": ["/home/x/fur.safetensors"], "lora_scales": [0.8], "generation_time_seconds": 61.0,
    "controlnet_image_path": None, "image_strength": 0.4,
}  # fmt: skip


def xmp(comment: str) -> bytes:
    escaped = comment.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return (
        '<x:xmpmeta><rdf:RDF><rdf:Description><exif:UserComment>\n <rdf:Alt>\n  <rdf:li xml:lang="x-default">'
        f"{escaped}</rdf:li></rdf:Alt></exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def in_comment(folder: Path, fields: Mapping[str, Any], code: bytes = b"", encoding: str = "utf-8") -> Path:
    return write(folder, jpeg(exif(code + json.dumps(fields).encode(encoding))), "a.jpg")


class TestSwarmUi:
    def test_png_and_jpeg(self, tmp_path: Path) -> None:
        """The same JSON under `parameters`, and in a comment."""
        for path in (
            with_texts(tmp_path, {"parameters": SWARM}),
            in_comment(tmp_path, SWARM, b"UNICODE\0", "utf-16-le"),
        ):
            found = labels.read(path)
            assert (found.by, found.prompt, found.negative_prompt) == ("SwarmUI", "a red fox", "bad")
            assert (*values(found), found.model) == (20, 4.0, 77, 1328, 1328, "Qwen-Image")
            assert (
                left_out(found) == "LoRA fur at 0.5; LoRA snow at 0.8; sampler dpmpp_2m karras; refinermethod PostApply"
            )


class TestFooocus:
    @pytest.mark.parametrize("form", [FOOOCUS, FOOOCUS_AS_A1111])
    def test_both_schemes(self, tmp_path: Path, form: object) -> None:
        """Its own, which is JSON, and AUTOMATIC1111's; either in a PNG or a comment."""
        found = labels.read(with_texts(tmp_path, {"parameters": form, "fooocus_scheme": "x"}))
        assert (found.prompt, found.negative_prompt, found.model) == ("a red fox", "bad", "juggernautXL")
        assert values(found) == (30, 4.0, 77, 1152, 896)
        assert "offset" in left_out(found)
        assert "Fooocus V2" in left_out(found)
        assert "harpness 2" in left_out(found)
        if not isinstance(form, str):
            assert labels.read(in_comment(tmp_path, FOOOCUS, bytes(8))).by == "Fooocus"


class TestInvokeAi:
    def test_the_label_of_today(self, tmp_path: Path) -> None:
        """Prompts, settings, the model's name; LoRAs, control nets and what else is there are said."""
        found = labels.read(with_texts(tmp_path, {"invokeai_metadata": INVOKE, "invokeai_graph": "{}"}))
        assert (found.by, found.prompt, found.negative_prompt) == ("InvokeAI", "a red fox", "bad")
        assert (*values(found), found.model) == (30, 7.5, 77, 1024, 768, "Juggernaut XL")
        assert left_out(found) == "LoRA fur at 0.75; sampler dpmpp_3m_k; controlnets; hrf_enabled True"

    def test_the_labels_of_old(self, tmp_path: Path) -> None:
        """`sd-metadata` and `Dream`, with the negative prompt in brackets."""
        image = {"prompt": [{"prompt": "a red fox [bad]", "weight": 1.0}], "steps": 50, "cfg_scale": 7.5, "seed": 77,
                 "width": 512, "height": 640, "sampler": "k_euler", "type": "txt2img"}  # fmt: skip
        path = with_texts(tmp_path, {"sd-metadata": {"model_weights": "sd-1.5", "image": image}})
        dream = '"a red fox [bad]" -s 50 -S 77 -W 512 -H 640 -C 7.5 -A k_euler'
        for found in (labels.read(path), labels.read(with_texts(tmp_path, {"Dream": dream}))):
            assert (found.by, found.prompt, found.negative_prompt) == ("InvokeAI", "a red fox", "bad")
            assert (*values(found), found.left_out) == (50, 7.5, 77, 512, 640, ())


class TestNovelAi:
    def test_png_webp_and_the_fourth_version(self, tmp_path: Path) -> None:
        """Keys of a PNG, the same in one comment, and prompts that are captions."""
        around = {"Software": "NovelAI", "Source": "Stable Diffusion XL", "Description": "a red fox"}
        whole = {**around, "Comment": json.dumps(NOVELAI)}
        comment = exif(b"ASCII\0\0\0" + json.dumps(whole).encode())
        for path in (with_texts(tmp_path, whole), write(tmp_path, webp(comment), "a.webp")):
            found = labels.read(path)
            assert (found.by, found.prompt, found.negative_prompt) == ("NovelAI", "a red fox", "bad")
            assert (*values(found), left_out(found)) == (28, 5.0, 77, 832, 1216, "sm True")
        caption = {"base_caption": "a den", "char_captions": [{"char_caption": "a fox", "centers": []}]}
        fourth = {**NOVELAI, "v4_prompt": {"caption": caption, "use_coords": False}}
        assert labels.read(with_texts(tmp_path, {**around, "Comment": fourth})).prompt == "a den, a fox"


class TestDrawThings:
    def test_xmp_and_exif(self, tmp_path: Path) -> None:
        """Short names in a comment, XMP's or EXIF's; a picture it began from is said."""
        text = json.dumps(DRAW_THINGS)
        packet = xmp(text)
        in_png = with_texts(tmp_path, {"XML:com.adobe.xmp": packet.decode()})
        in_exif = write(tmp_path, webp(exif(text.encode())), "a.webp")
        for path in (write(tmp_path, jpeg(xmp=packet), "a.jpg"), in_png, in_exif):
            found = labels.read(path)
            assert (found.by, found.prompt, found.negative_prompt) == ("Draw Things", 'a red <fox> & "friend"', "bad")
            assert values(found) == (20, 4.5, 77, 1024, 768)
            said = "LoRA fur.ckpt at 0.6; strength 0.7 (it began from a picture); sampler DPM++ 2M"
            assert left_out(found) == said


class TestMflux:
    def test_its_comment(self, tmp_path: Path) -> None:
        """JSON without a word on how it is written; of a LoRA's path the name is enough."""
        found = labels.read(in_comment(tmp_path, MFLUX))
        assert (found.by, found.prompt, found.negative_prompt, found.model) == ("mflux", "a red fox", "", "dev")
        assert values(found) == (14, 3.5, 77, 1024, 560)
        assert left_out(found) == "LoRA fur at 0.8; quantize 8; image_strength 0.4"


class TestAny:
    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def test_odd_json_breaks_no_reader(self, data: st.DataObject) -> None:
        """Fields of any kind in any place: each reader tells something, or None, and raises nothing."""
        anything = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        )
        for fields in (SWARM["sui_image_params"], FOOOCUS, INVOKE, NOVELAI, DRAW_THINGS, MFLUX):
            odd = {key: data.draw(anything) for key in data.draw(st.lists(st.sampled_from(sorted(fields)), max_size=4))}
            text = json.dumps({**fields, **odd})
            keys = ("parameters", "invokeai_metadata", "Comment", "sd-metadata", "prompt", "workflow", COMMENT)
            texts = dict.fromkeys(keys, text) | {"Software": "NovelAI"}
            wrapped = {**texts, "parameters": f'{{"sui_image_params": {text}}}', "sd-metadata": f'{{"image": {text}}}'}
            for given_texts in (texts, wrapped):
                for reader in LABEL_READERS:
                    found = reader(Texts(given_texts))
                    assert found is None or isinstance(found.prompt, str)

    def test_a_damaged_label_of_ours_is_passed_over(self, tmp_path: Path) -> None:
        """What does not fit the schema is not believed; the next label is asked."""
        for own in ("{", "[]", "null", '{"origin_version": 1}', '{"origin_version": 2}', "9" * 100_000, "[" * 100_000):
            assert labels.read(with_texts(tmp_path, {"renderer": own, "parameters": A1111})).by == "parameters"

    def test_unknown_fields_in_our_label_are_refused(self, tmp_path: Path) -> None:
        """The label's fields are a closed list."""
        own = json.loads(origin_of(make_job()).model_dump_json())
        with pytest.raises(UsageError, match="does not say how it was made"):
            labels.read(with_texts(tmp_path, {"renderer": {**own, "path": "/etc/passwd"}}))

    @pytest.mark.parametrize(
        ("value", "meant"),
        [(3, 3), ("3", 3), (3.0, 3), (2**64, 2**64), (-1, None), ("-1", None), (True, None), (1.5, None), ("", None),
         (float("nan"), None), (float("inf"), None), (None, None), ([1], None), ("9" * 30, None),
         ("\x1f4", 4), (" 7\n", 7)],
    )  # fmt: skip
    def test_whole_numbers(self, value: object, meant: int | None) -> None:
        """Numbers in any dress, and nothing else."""
        assert told.whole(value) == meant
        assert meant is None or meant > 10**6 or told.number(value) == meant
