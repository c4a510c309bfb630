"""What a picture says of itself, to us and to other tools.

Three ways of saying it, for three kinds of readers: AUTOMATIC1111's `parameters`, which image sites and prompt readers
take; an XMP packet with the IPTC digital source type, which says that a picture was generated; and our own JSON, the
only one that keeps every character. The same job always gets the same labels: they hold no times and no paths.

`labels` reads them again, and other tools' besides.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal
from xml.sax.saxutils import escape

from pydantic import Field

from renderer.catalog import MODELS
from renderer.job import RENDERING_VERSION, ControlNet, ExtraNetwork, Job, Keep, ModelIdentity, Shift, Software, Value
from renderer.outputs.encode import NO_LABELS, Labels
from renderer.text import decimal

ORIGIN_KEY = "renderer"
PARAMETERS_KEY = "parameters"
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""Where a picture went in."""

SAMPLER = "Euler"
"""What other tools call DiffSynth's flow-matching scheduler."""


class PictureOrigin(Value):
    """Where a picture comes from: our own label. Everything its bits depend on, and nothing of when or where."""

    origin_version: Literal[1] = 1
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rendering_version: int = RENDERING_VERSION
    job: Job
    model: ModelIdentity
    software: Software


def write_labels(origin: PictureOrigin, keep: Keep) -> Labels:
    """The labels of a picture that is kept like this. `basic` says how it came to be, not what was asked for."""
    if keep.embed == "none":
        return NO_LABELS
    if keep.embed == "basic":
        return Labels(xmp=_write_xmp(origin))
    told, own = write_parameters(origin), origin.model_dump_json()
    if keep.format == "png":
        texts = {PARAMETERS_KEY: told, ORIGIN_KEY: own}
        return Labels(texts=texts, xmp=_write_xmp(origin, origin.job.prompt))
    return Labels(comment=told, xmp=_write_xmp(origin, origin.job.prompt, own))


def write_layer_labels(origin: PictureOrigin, keep: Keep) -> Labels:
    """The labels of such a picture's layers, which are PNGs: the same words, where those have them."""
    return write_labels(origin, keep.model_copy(update={"format": "png"})) if origin.job.layers else NO_LABELS


def write_parameters(origin: PictureOrigin) -> str:
    """AUTOMATIC1111's `parameters`: the prompt, the negative one, and one line of settings that begins with `Steps:`.

    Prompts are copied so that no line of theirs is taken for a line of this form.
    """
    job, model = origin.job, origin.model
    settings = {
        "Steps": str(job.num_inference_steps),
        "Sampler": SAMPLER,
        "CFG scale": str(job.cfg_scale),
        "Seed": str(job.seed),
        "Size": f"{job.width}x{job.height}",
        "Denoising strength": f"{job.denoising_strength:g}" if job.input_image else "",
        "Mask blur": str(job.inpaint_blur_size or ""),
        "Layers": str(job.layers or ""),
        "Model hash": (model.content_sha256 or "")[:10],
        "Model": job.model,
        "Model revision": model.revision or "",
        "Precision": job.precision,
        "Schedule": _schedule(job),
        "Lora hashes": ", ".join(f"{_tag_name(lora)}: {lora.file_hash}" for lora in job.loras if lora.file_hash),
        "LoRAs": str(len(job.loras) or ""),
        "Regions": str(len(job.regions) or ""),
        **{f"ControlNet {number}": _controlnet(net) for number, net in enumerate(job.controlnets)},
        "Version": f"renderer {origin.software.renderer}",
    }
    pairs = ", ".join(f"{key}: {_quote(value)}" for key, value in settings.items() if value)
    negative = f"Negative prompt: {_disarm(job.negative_prompt)}\n" if job.negative_prompt.strip() else ""
    tags = "".join(f" <lora:{_tag_name(lora)}:{decimal(lora.weight)}>" for lora in job.loras)
    return f"{_disarm(job.prompt)}{tags}\n{negative}{pairs}"


def _controlnet(net: ControlNet) -> str:
    """A ControlNet in the words of sd-webui-controlnet; its picture is prepared by nobody here."""
    told = {
        "Module": "none",
        "Model": _tag_name(net),
        "Weight": decimal(net.scale),
        "Resize Mode": "Crop and Resize",
        "Guidance Start": decimal(net.start),
        "Guidance End": decimal(net.end),
    }
    return ", ".join(f"{key}: {value}" for key, value in told.items())


def _tag_name(extra: ExtraNetwork) -> str:
    """What other tools call a LoRA: its file's name without the ending, and without what ends a tag or a pair."""
    row = MODELS.get(extra.source)
    name = Path(row.file_name).stem if row is not None else extra.name
    return re.sub(r"[<>:,\s]+", "_", name)


def _schedule(job: Job) -> str:
    """How noise falls, where it is not as the model's own."""
    if isinstance(job.schedule, Shift):
        return f"shift {job.schedule.shift:g}"
    return "" if job.schedule == "qwen-image" else job.schedule


def _disarm(prompt: str) -> str:
    """A prompt as it can stand in `parameters`: no line begins with `Steps:`, none says `Negative prompt:`."""
    plain = _XML_UNFIT.sub("", prompt.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub(r"(?m)^Steps:", " Steps:", plain.replace("Negative prompt:", "Negative prompt :"))


def _quote(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:\n"]', value) else value


_XML_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmlns:renderer="urn:renderer:1">
   <Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>
   <xmp:CreatorTool>{tool}</xmp:CreatorTool>{more}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def _write_xmp(origin: PictureOrigin, prompt: str = "", own: str = "") -> str:
    more = ""
    if prompt:
        text = escape(_XML_UNFIT.sub("", prompt))
        more += f'\n   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>'
    if own:
        more += f"\n   <renderer:origin>{escape(_XML_UNFIT.sub('', own))}</renderer:origin>"
    source = EDITED if _is_of_another(origin.job) else GENERATED
    return _XMP.format(source=source, tool=escape(f"renderer {origin.software.renderer}"), more=more)


def _is_of_another(job: Job) -> bool:
    """Whether something of a picture that went in is in it; one that only holds it to edges or depth is not."""
    gaps = any(net.mask for net in job.controlling)
    return gaps or any(each is not None for each in (job.input_image, job.edit, job.layer_input_image))
