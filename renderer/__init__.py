"""A batch render pipeline on DiffSynth-Studio: YAML manifests in, pictures with sidecars out."""

__version__ = "0.1.0"
