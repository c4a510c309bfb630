"""Frozen values: what is rendered, what was rendered, and the fingerprint that ties the two.

    request       a job: all that a picture's bits depend on besides the weights; a picture; the fingerprint
    sidecar       what is known of a picture that has been rendered
    precisions    what a precision and a profile say of weights: their codec, and whether they are multiplied so

Knows nothing of YAML, engines or folders.
"""

from renderer.job.request import (
    MAX_SEED,
    RENDERING_VERSION,
    BlockArithmetic,
    DeviceArithmetic,
    Embed,
    EngineName,
    Expect,
    Format,
    Job,
    Keep,
    ModelIdentity,
    Picture,
    Place,
    Precision,
    Profile,
    Schedule,
    Size,
    Stored,
    Value,
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
    Memory,
    Seconds,
    Sharing,
    Sidecar,
    Software,
    Timing,
)

__all__ = [
    "MAX_SEED",
    "RENDERING_VERSION",
    "SIDECAR_VERSION",
    "BlockArithmetic",
    "Bytes",
    "DeviceArithmetic",
    "Embed",
    "Engine",
    "EngineName",
    "Expect",
    "FileFacts",
    "Format",
    "Gpu",
    "Job",
    "Keep",
    "Memory",
    "ModelIdentity",
    "Picture",
    "Place",
    "Precision",
    "Profile",
    "Schedule",
    "Seconds",
    "Sharing",
    "Sidecar",
    "Size",
    "Software",
    "Stored",
    "Timing",
    "Value",
    "Weights",
    "canonical",
    "derive_seed",
    "fingerprint",
]
