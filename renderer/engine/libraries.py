"""torch, transformers and DiffSynth, imported without what no picture needs: two thirds of the seconds.

Imported plainly, DiffSynth brings torch's compiler and sympy for functions that are never called here; for training it
brings pandas and torchvision; transformers brings losses, and a search through all that is installed. While these two
are imported, something empty stands in the place of each, and no longer: whoever wants the real thing later has it.
Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LOG = logging.getLogger(__name__)

_WANTED = ("diffsynth.pipelines.qwen_image", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")

_THEIRS = ("diffsynth", "transformers")


def _index_transform() -> Any:
    """A context for masks that are made by vmap, loaded by whoever makes one so."""
    return importlib.import_module("torch._dynamo._trace_wrapped_higher_order_op").TransformGetItemToIndex()


def _download(*arguments: Any, **options: Any) -> Any:
    """A hub's download, by its client once there is one."""
    return importlib.import_module("modelscope").snapshot_download(*arguments, **options)


_LEFT_OUT: Mapping[str, Mapping[str, Any] | None] = {
    "torch.nn.attention.flex_attention": None,  # brings sympy, and DiffSynth compiles it at once
    "diffsynth.core.data": {},  # data sets, with pandas, torchvision and imageio
    "diffsynth.models.siglip2_image_encoder": {"Siglip2ImageEncoder": object},  # for LoRAs made of pictures
    "diffsynth.models.dinov3_image_encoder": {"DINOv3ImageEncoder": object},
    "modelscope": {"snapshot_download": _download},
    "transformers.loss.loss_utils": {"LOSS_MAPPING": {}},
    "torch._dynamo._trace_wrapped_higher_order_op": {"TransformGetItemToIndex": _index_transform},
}
"""Modules, by what stands in them instead; None: they cannot be imported. Both libraries do without."""

_MARKS = ("disable", "allow_in_graph", "assume_constant_result")
"""What both libraries mark functions with for torch's compiler, and what would bring it."""

_SIGHT = "is_torchvision_available"
_NOT_HERE = (
    "is_torch_flex_attn_available",
    "is_torch_distributed_available",
    _SIGHT,
    "is_sklearn_available",
    "is_scipy_available",
)
"""Questions of transformers' that are answered with no: what follows from a yes is more that nobody needs."""


_EVERY = metadata.packages_distributions
"""The search through all that is installed, also while something quicker stands in its place."""


def are_there() -> bool:
    """Whether somebody has imported them, or begun to."""
    return any(name in sys.modules for name in _THEIRS)


def load() -> None:
    """Have them imported, where they are not yet. Raises what an import raises.

    A version of theirs that does not go without what is left out is imported with it.
    """
    if are_there():
        return
    try:
        with _left_out():
            for name in _WANTED:
                importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  # whatever another version says of it
        LOG.warning("DiffSynth is imported with all that it asks for, which takes longer: %s", error)
        for name in [each for each in sys.modules if each.partition(".")[0] in _THEIRS]:
            del sys.modules[name]
        for name in _WANTED:
            importlib.import_module(name)


def see() -> None:
    """Have transformers prepare pictures as it does where it is imported plainly: with torchvision.

    Modules of its that were imported as if that were not there go, and are imported anew when they are asked for.
    """
    blind = [name for name, module in list(sys.modules.items()) if vars(module).get(_SIGHT) is _no]
    for name in blind:
        del sys.modules[name]
        package, _, own = name.rpartition(".")
        vars(sys.modules[package]).pop(own, None)
    if blind:
        videos = importlib.import_module("transformers.video_processing_utils")
        held_against = {"BaseVideoProcessor": videos.BaseVideoProcessor}  # a processor's part is, and may not be it
        vars(importlib.import_module("transformers")).update(held_against)


@contextlib.contextmanager
def _left_out() -> Iterator[None]:
    """While this lasts, imports find nothing where something is left out."""
    import torch  # noqa: PLC0415  # seconds, when they are wanted

    with contextlib.ExitStack() as stack:
        for name, content in _LEFT_OUT.items():
            module = None if content is None else ModuleType(name)
            if module is not None:
                module.__spec__ = ModuleSpec(name, None)
                vars(module).update(content or {})
            stack.enter_context(_put(sys.modules, name, module))
        stack.enter_context(_put(vars(torch), "_dynamo", _Compiler("torch._dynamo")))
        for mark in _MARKS:
            stack.enter_context(_put(vars(torch.compiler), mark, _marked))
        stack.enter_context(_put(vars(metadata), "packages_distributions", _Distributions))
        answers = importlib.import_module("transformers.utils.import_utils")
        faces = [vars(answers), vars(importlib.import_module("transformers.utils"))]
        for face in faces:
            for question in _NOT_HERE:
                stack.enter_context(_put(face, question, _no))
        yield


@contextlib.contextmanager
def _put(where: dict[str, Any], name: str, what: Any) -> Iterator[None]:
    """Let `what` stand there, and what stood there before stand there again; what has taken its place stays."""
    missing = object()
    before = where.get(name, missing)
    where[name] = what
    try:
        yield
    finally:
        if where.get(name, missing) is what:
            if before is missing:
                del where[name]
            else:
                where[name] = before


class _Distributions(Mapping[str, list[str]]):
    """What `packages_distributions` gives: for a package the distributions that it may have come from.

    One of the package's own name is the one that transformers takes, and is found without a look at all the others.
    """

    def __getitem__(self, package: str) -> list[str]:
        for name in (package.replace("_", "-"), package):
            with contextlib.suppress(metadata.PackageNotFoundError):
                metadata.distribution(name)
                return [name]
        return list(_EVERY()[package])

    def __iter__(self) -> Iterator[str]:
        return iter(_EVERY())

    def __len__(self) -> int:
        return len(_EVERY())


class _Compiler(ModuleType):
    """Stands for torch's compiler where both libraries mark what it is not to look into: nothing is compiled here."""

    def __getattr__(self, name: str) -> Any:
        """A mark, or a part of the real one, once somebody has imported it."""
        if name in _MARKS:
            return _marked
        with contextlib.suppress(KeyError):
            return sys.modules[f"torch._dynamo.{name}"]
        raise AttributeError(name)


def _marked(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    return function or _marked


def _no(*_: Any) -> bool:
    return False
