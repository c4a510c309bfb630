"""What a picture says of itself to other tools, and back again: what any picture or sidecar tells of its making.

Three ways of saying it, for three kinds of readers: AUTOMATIC1111's `parameters`, which image sites and prompt readers
take; an XMP packet with the IPTC digital source type, which says that a picture was generated; and our own JSON, the
only one that keeps every character. The same job always gets the same labels: they hold no times and no paths.

What is read comes from strangers: sizes are bounded, values are checked, and nothing of it is a path or a template.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Annotated, Literal
from xml.sax.saxutils import escape

from PIL import Image
from pydantic import Field

from renderer import artifacts, encode
from renderer.encode import NO_LABELS, Labels
from renderer.errors import UsageError, shorten
from renderer.job import MAX_SEED, RENDERING_VERSION, Job, Keep, ModelIdentity, Sidecar, Software, Value
from renderer.layout import SIDECAR_SUFFIX

ORIGIN_KEY = "renderer"
PARAMETERS_KEY = "parameters"
MAX_PICTURE_BYTES = 2**30
MAX_TEXT = 2**20
"""Characters of one label that are looked at; a manifest's prompts are a hundred times shorter."""

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SAMPLER = "Euler"
"""What other tools call DiffSynth's flow-matching scheduler."""


class Origin(Value):
    """Where a picture comes from: our own label. Everything its bits depend on, and nothing of when or where."""

    origin_version: Literal[1] = 1
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rendering_version: int = RENDERING_VERSION
    job: Job
    model: ModelIdentity
    software: Software


@dataclass(frozen=True, slots=True)
class Told:
    """What a picture or sidecar tells of its making; None where it does not say. `by` is who wrote it down."""

    by: Literal["sidecar", "renderer", "parameters"]
    prompt: str
    negative_prompt: str = ""
    model: str | None = None
    precision: str | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    fingerprint: str | None = None
    software: Software | None = None


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_labels(origin: Origin, keep: Keep) -> Labels:
    """The labels of a picture that is kept like this. `basic` says how it came to be, not what was asked for."""
    if keep.embed == "none":
        return NO_LABELS
    if keep.embed == "basic":
        return Labels(xmp=_write_xmp(origin.software.renderer))
    told, own = write_parameters(origin), origin.model_dump_json()
    if keep.format == "png":
        texts = {PARAMETERS_KEY: told, ORIGIN_KEY: own}
        return Labels(texts=texts, xmp=_write_xmp(origin.software.renderer, origin.job.prompt))
    return Labels(comment=told, xmp=_write_xmp(origin.software.renderer, origin.job.prompt, own))


def write_parameters(origin: Origin) -> str:
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
        "Model hash": (model.content_sha256 or "")[:10],
        "Model": job.model,
        "Model revision": model.revision or "",
        "Precision": job.precision,
        "Version": f"renderer {origin.software.renderer}",
    }
    pairs = ", ".join(f"{key}: {_quote(value)}" for key, value in settings.items() if value)
    negative = f"Negative prompt: {_disarm(job.negative_prompt)}\n" if job.negative_prompt.strip() else ""
    return f"{_disarm(job.prompt)}\n{negative}{pairs}"


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


def _write_xmp(version: str, prompt: str = "", own: str = "") -> str:
    more = ""
    if prompt:
        text = escape(_XML_UNFIT.sub("", prompt))
        more += f'\n   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>'
    if own:
        more += f"\n   <renderer:origin>{escape(_XML_UNFIT.sub('', own))}</renderer:origin>"
    return _XMP.format(source=GENERATED, tool=escape(f"renderer {version}"), more=more)


# ---- reading ---------------------------------------------------------------------------------------------------------


def read(path: Path) -> Told:
    """What a picture or a sidecar tells of its making. Raises `UsageError` when it tells nothing that can be used."""
    if path.suffix == SIDECAR_SUFFIX:
        sidecar = artifacts.read_sidecar(path)
        if sidecar is None:
            raise UsageError(f"{path} is no sidecar of this version")
        return told_by_sidecar(sidecar)
    labels = read_labels(path)
    if (origin := _read_origin(labels)) is not None:
        return _told_by_job("renderer", origin.job, origin.fingerprint, origin.software)
    for text in (labels.texts.get(PARAMETERS_KEY, ""), labels.comment):
        if (told := parse_parameters(text)) is not None:
            return told
    hint = "its sidecar may know: name that instead" if path.with_suffix(".json").is_file() else ""
    raise UsageError(f"{path} does not say how it was made", hint=hint)


def told_by_sidecar(sidecar: Sidecar) -> Told:
    """What a sidecar tells."""
    return _told_by_job("sidecar", sidecar.job, sidecar.fingerprint, sidecar.software)


def _told_by_job(by: Literal["sidecar", "renderer"], job: Job, fingerprint: str, software: Software) -> Told:
    return Told(
        by=by,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        model=job.model,
        precision=job.precision,
        steps=job.num_inference_steps,
        cfg_scale=job.cfg_scale,
        width=job.width,
        height=job.height,
        seed=job.seed,
        fingerprint=fingerprint,
        software=software,
    )


def read_labels(path: Path) -> Labels:
    """A picture's labels, from its head alone: no pixel is looked at. Raises `UsageError` for what is no picture."""
    if not path.is_file():
        raise UsageError(f"there is no picture {path}")
    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise UsageError(f"{path} is larger than a picture")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            texts = {key: str(value) for key, value in image.info.items() if isinstance(key, str)}
            return Labels(
                texts={key: texts[key][:MAX_TEXT] for key in (PARAMETERS_KEY, ORIGIN_KEY) if key in texts},
                comment=_read_comment(image)[:MAX_TEXT],
                xmp=_as_text(image.info.get("xmp", image.info.get(encode.XMP_KEY, "")))[:MAX_TEXT],
            )
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, EOFError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path} cannot be read as a picture: {shorten(str(error))}") from error


def _as_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read_comment(image: Image.Image) -> str:
    """EXIF's UserComment, whose first eight bytes say how the rest is written."""
    value = image.getexif().get_ifd(encode.EXIF_IFD).get(encode.USER_COMMENT, b"")
    if not isinstance(value, bytes):
        return str(value)
    kind, text = value[:8], value[8:]
    if kind == b"UNICODE\0":
        return text.decode("utf-16-le" if _is_little_endian(text) else "utf-16-be", "replace").removeprefix("\ufeff")
    return (text if kind in {b"ASCII\0\0\0", bytes(8)} else value).decode("utf-8", "replace")


def _is_little_endian(text: bytes) -> bool:
    """Guess the byte order, on which writers disagree, by where the zeros of its many ASCII letters are."""
    return text[1::2].count(0) > text[0::2].count(0)


_OWN_IN_XMP = re.compile(r"<renderer:origin>([^<]*)</renderer:origin>")


def _read_origin(labels: Labels) -> Origin | None:
    text = labels.texts.get(ORIGIN_KEY, "")
    if not text and (found := _OWN_IN_XMP.search(labels.xmp)):
        text = unescape(found[1])
    try:
        return Origin.model_validate_json(text) if text else None
    except ValueError:
        return None


# -- any tool's `parameters`

_KEY = re.compile(r"\s*(\w[\w /-]{0,80}):[ \t]*")
_MAX_SETTINGS = 1000


def parse_parameters(text: str) -> Told | None:
    """What a text in AUTOMATIC1111's form tells, whichever tool wrote it; None when it is no such text."""
    lines = text[:MAX_TEXT].split("\n")
    starts = [number for number, line in enumerate(lines) if line.startswith("Steps:")]
    settings = _parse_settings(lines[starts[-1]]) if starts else {}
    if not settings:
        return None
    above = lines[: starts[-1]]
    split = next((number for number, line in enumerate(above) if line.startswith("Negative prompt:")), len(above))
    negative = "\n".join(above[split:]).removeprefix("Negative prompt:").strip()
    prompt = "\n".join(above[:split]).strip()
    width, height = _parse_size(settings.get("Size", ""))
    return Told(
        by="parameters",
        prompt=prompt,
        negative_prompt=negative,
        model=settings.get("Model"),
        precision=settings.get("Precision"),
        steps=_whole(settings.get("Steps"), 10_000),
        cfg_scale=_number(settings.get("CFG scale")),
        width=width,
        height=height,
        seed=_whole(settings.get("Seed"), MAX_SEED),
    )


def _parse_settings(line: str) -> Mapping[str, str]:
    """Pairs of `key: value`; a value is JSON, or goes to the next comma. The first of a key counts."""
    settings: dict[str, str] = {}
    at = 0
    while at < len(line) and len(settings) < _MAX_SETTINGS:
        found = _KEY.match(line, at)
        if found is None:
            at = _after_comma(line, at)
            continue
        at = found.end()
        value, end = _parse_json(line, at) if line[at : at + 1] in {'"', "{", "["} else (None, at)
        after = _after_comma(line, end)
        settings.setdefault(found[1].strip(), line[at:after].rstrip(", ") if value is None else value)
        at = after
    return settings


def _after_comma(line: str, at: int) -> int:
    comma = line.find(",", at)
    return len(line) if comma < 0 else comma + 1


def _parse_json(line: str, at: int) -> tuple[str | None, int]:
    try:
        value, end = json.JSONDecoder().raw_decode(line, at)
    except (ValueError, RecursionError):
        return None, at
    return (value if isinstance(value, str) else line[at:end]), end


def _parse_size(text: str) -> tuple[int | None, int | None]:
    found = re.fullmatch(r"([0-9]{1,6}) ?x ?([0-9]{1,6})", text)
    return (int(found[1]), int(found[2])) if found else (None, None)


def _whole(text: str | None, highest: int) -> int | None:
    if text is None or re.fullmatch(r"[0-9]{1,19}", text) is None:
        return None
    return int(text) if int(text) <= highest else None


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,20})?", text) else None
