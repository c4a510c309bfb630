"""Frozen values: what is rendered, what was rendered, and the fingerprint that ties the two.

    value         what all of these have in common
    conditions    what goes into a picture besides its prompts: pictures, LoRAs, ControlNets
    request       a job: all that a picture's bits depend on besides the weights; a picture; the fingerprint
    sidecar       what is known of a picture that has been rendered
    letters_read  what was read in a picture, held against what it is to say
    precisions    what a precision and a profile say of weights: their codec, and whether they are multiplied so

Knows nothing of YAML, engines or folders.
"""

from renderer.job.conditions import ControlNet, Edit, ExtraNetwork, Input, InputFile, Lora
from renderer.job.letters_read import Box, LetteringRead, ReadLine, Take, TextRead
from renderer.job.request import (
    MAX_SEED,
    RENDERING_VERSION,
    USUALLY_FORGIVEN,
    BlockArithmetic,
    DeviceArithmetic,
    Embed,
    EngineName,
    Expect,
    Forgiven,
    Format,
    Job,
    Keep,
    Lettering,
    ModelIdentity,
    Picture,
    Place,
    Precision,
    Profile,
    Schedule,
    ScheduleKind,
    Shift,
    Stored,
    Weights,
    canonical,
    derive_seed,
    fingerprint,
)
from renderer.job.sidecar import (
    SIDECAR_VERSION,
    Bytes,
    Engine,
    FileFacts,
    Gpu,
    LayerFacts,
    Memory,
    Seconds,
    Sharing,
    Sidecar,
    Software,
    Start,
    Timing,
)
from renderer.job.value import Size, Value

__all__ = [
    "MAX_SEED",
    "RENDERING_VERSION",
    "SIDECAR_VERSION",
    "USUALLY_FORGIVEN",
    "BlockArithmetic",
    "Box",
    "Bytes",
    "ControlNet",
    "DeviceArithmetic",
    "Edit",
    "Embed",
    "Engine",
    "EngineName",
    "Expect",
    "ExtraNetwork",
    "FileFacts",
    "Forgiven",
    "Format",
    "Gpu",
    "Input",
    "InputFile",
    "Job",
    "Keep",
    "LayerFacts",
    "Lettering",
    "LetteringRead",
    "Lora",
    "Memory",
    "ModelIdentity",
    "Picture",
    "Place",
    "Precision",
    "Profile",
    "ReadLine",
    "Schedule",
    "ScheduleKind",
    "Seconds",
    "Sharing",
    "Shift",
    "Sidecar",
    "Size",
    "Software",
    "Start",
    "Stored",
    "Take",
    "TextRead",
    "Timing",
    "Value",
    "Weights",
    "canonical",
    "derive_seed",
    "fingerprint",
]
