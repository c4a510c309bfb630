"""The manifest's fields: their names, kinds and ranges.

A mapping is checked on its own, without its surroundings; what a job lacks, or what fits no model, shows later. The
JSON Schema comes from the same declarations. Knows nothing of files, lines or pictures.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from renderer.job import AskedPrecision, Embed, Format, Shift
from renderer.manifest.additions import MOST_LORAS, LoraItem, ScheduleText
from renderer.manifest.complaints import MAX_WORD_LENGTH
from renderer.manifest.control_kinds import MOST_CONTROLNETS, MOST_REGIONS, ControlNetItem, RegionFields
from renderer.manifest.kinds import (
    MAX_PROMPT_LENGTH,
    AmountOfBytes,
    AsWritten,
    CombinationFields,
    MatrixName,
    ModelText,
    PathText,
    Prompt,
    Seed,
    Side,
    SizeText,
    Steps,
    Within,
)
from renderer.manifest.lettering_kinds import MOST_RETAKES, LetteringText

MAX_PICTURES = 10_000
"""How many pictures a manifest makes at most when it does not say."""

MAX_ALLOWED = 100_000
"""How many it may say."""

MOST_PRIORITY = 1000
"""A manifest's, and the least is as far below 0."""

MOST_IMAGES = 8
"""Pictures that one edit may look at."""

MOST_LAYERS = 16
"""Into which one picture is taken apart."""

_STRICT = ConfigDict(strict=True, extra="forbid")


def _without(*pairs: tuple[str, str]) -> dict[str, Any]:
    """The JSON Schema's words for "these two keys exclude each other"."""
    return {"allOf": [{"not": {"required": list(pair)}} for pair in pairs]}


@with_config(_STRICT)
class ExpectFields(TypedDict, total=False):
    """Limits that fail a picture when it exceeds them."""

    seconds: Annotated[float, Within(0, 10**9), Field(description="Seconds for the whole picture")]
    vram: Annotated[AmountOfBytes, Field(description="GPU memory, in bytes or like 10GiB")]
    ram: Annotated[AmountOfBytes, Field(description="Memory of the worker's process, in bytes or like 10GiB")]
    lettering: Annotated[float, Within(0, 1), Field(description="The share of each text that has to be read")]


EXCLUDING = (
    ("size", "sizes"),
    ("size", "width"),
    ("size", "height"),
    ("sizes", "width"),
    ("sizes", "height"),
    ("seed", "seeds"),
    ("seeds", "count"),
    ("steps", "num_inference_steps"),
)
"""Fields that say the same thing in two ways: a mapping may give one of each pair."""


@with_config(ConfigDict(**_STRICT, json_schema_extra=_without(*EXCLUDING)))
class JobFields(TypedDict, total=False):
    """A job: one prompt, and the pictures to make of it."""

    id: Annotated[
        str,
        Field(min_length=1, max_length=MAX_WORD_LENGTH, description="Names the pictures; numbered when missing"),
    ]
    prompt: Annotated[Prompt, Field(description="What to draw; {name} stands for a value; {{red|blue}} is one of both")]
    negative_prompt: Annotated[str, Field(max_length=MAX_PROMPT_LENGTH, description="What to keep out")]
    model: Annotated[
        ModelText,
        Field(description="Qwen/Qwen-Image, demo, a folder in their layout, or safetensors files by the part they are"),
    ]
    precision: Annotated[
        AskedPrecision, Field(description="How weights are kept and multiplied; auto: as suits the machine")
    ]
    cfg_scale: Annotated[float, Within(1, 30), Field(description="Guidance; 1 is none")]
    num_inference_steps: Annotated[Steps, Field(description="Denoising steps; steps is the short form")]
    steps: Annotated[Steps, Field(description="Denoising steps")]
    loras: Annotated[list[LoraItem], Field(max_length=MOST_LORAS, description="What is added to the model, in order")]
    schedule: Annotated[
        str | Shift,
        ScheduleText,
        Field(description="How noise falls: auto goes with the LoRAs; qwen-image, lightning, or a shift"),
    ]
    image: Annotated[PathText, Field(description="A picture to draw over, from the manifest's folder; or a pattern")]
    images: Annotated[
        list[PathText],
        Field(
            min_length=1,
            max_length=MOST_IMAGES,
            description="Pictures to edit, or one to take apart; one of them may be a pattern",
        ),
    ]
    layers: Annotated[int, Within(1, MOST_LAYERS), Field(description="Into how many a picture is taken apart")]
    controlnets: Annotated[
        list[ControlNetItem],
        Field(min_length=1, max_length=MOST_CONTROLNETS, description="Networks that hold the picture to others"),
    ]
    context_image: Annotated[
        PathText, Field(description="A picture that stands beside it, for LoRAs that have learned to look at one")
    ]
    regions: Annotated[
        list[RegionFields],
        Field(min_length=1, max_length=MOST_REGIONS, description="Parts with prompts of their own, by masks"),
    ]
    strength: Annotated[
        float, Within(0.01, 1), Field(description="How much of the image is drawn anew: 1 is all of it")
    ]
    mask: Annotated[PathText, Field(description="What of the image is drawn anew is white; {stem} is the image's name")]
    mask_blur: Annotated[
        int, Within(0, 256), Field(description="How far the mask's edge is softened, in steps of 8 pixels")
    ]
    size: Annotated[SizeText, Field(description='Like "1328x1328", or a ratio like "16:9"')]
    sizes: Annotated[list[SizeText], Field(min_length=1, max_length=1000, description="Several sizes")]
    width: Annotated[Side, Field(description="Pixels, a multiple of 16")]
    height: Annotated[Side, Field(description="Pixels, a multiple of 16")]
    seed: Annotated[Seed, Field(description="Derived from the job's content when missing")]
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=100_000, description="Several seeds")]
    count: Annotated[int, Within(1, 10_000), Field(description="That many seeds: seed, seed + 1, and so on")]
    rows: Annotated[PathText, Field(description="A table (.csv, .tsv, .jsonl, .txt): each row makes a job's pictures")]
    matrix: Annotated[
        dict[MatrixName, Annotated[list[AsWritten], Field(min_length=1)]],
        Field(min_length=1, max_length=20, description="Names and their values; every combination makes a picture"),
    ]
    include: Annotated[
        list[CombinationFields], Field(max_length=1000, description="Combinations to add; each gives all of the names")
    ]
    exclude: Annotated[
        list[Annotated[CombinationFields, Field(min_length=1)]],
        Field(max_length=1000, description="Combinations to leave out; each gives some of the names"),
    ]
    sample: Annotated[
        int, Within(1, 100_000), Field(description="So many combinations of rows and matrix, drawn by sample_seed")
    ]
    sample_seed: Annotated[Seed, Field(description="What sample and choices are drawn by; 0 when missing")]
    lettering: Annotated[
        LetteringText, Field(description="Texts to read back: auto (those in quotation marks), a list, or none")
    ]
    retake: Annotated[
        int, Within(0, MOST_RETAKES), Field(description="So many times more, with other seeds, where a text is wrong")
    ]
    format: Annotated[Format, Field(description="Of the file; webp without loss, jpeg at quality 95")]
    embed: Annotated[Embed, Field(description="What the file says of itself: prompt and settings, less, or nothing")]
    expect: ExpectFields


@with_config(_STRICT)
class HeadFields(TypedDict, total=False):
    """A manifest without its jobs."""

    version: Annotated[int, Within(1, 1), Field(description="The manifest language's version")]
    name: Annotated[
        str,
        Field(min_length=1, max_length=MAX_WORD_LENGTH, description="Folder under outputs/; default: the file's stem"),
    ]
    output: Annotated[
        str,
        Field(
            min_length=1,
            max_length=300,
            description="Pictures' names: {id}, {index}, {seed}, {width}, {height}, {model}, {hash}, a matrix's names",
        ),
    ]
    max_pictures: Annotated[int, Within(1, MAX_ALLOWED), Field(description="More than that is refused as a mistake")]
    priority: Annotated[
        float, Within(-MOST_PRIORITY, MOST_PRIORITY), Field(description="Of several manifests, the higher comes first")
    ]
    extends: Annotated[PathText, Field(description="A manifest whose head, vars and defaults hold where these do not")]
    vars: Annotated[
        dict[MatrixName, AsWritten],
        Field(min_length=1, max_length=1000, description="Names and a text each, for braces in all jobs"),
    ]


@with_config(ConfigDict(**_STRICT, json_schema_extra={"required": ["jobs"]}))
class ManifestFields(HeadFields, total=False):
    """What to render: a list of jobs, and what they have in common."""

    defaults: Annotated[JobFields, Field(description="Any of a job's fields, for the jobs that do not give them")]
    jobs: Annotated[list[Prompt | JobFields], Field(min_length=1, description="Jobs, or just their prompts")]
