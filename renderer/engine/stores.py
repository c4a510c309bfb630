"""The packed store an engine streams from: found, or, for the small demo models, packed at first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from renderer import catalog
from renderer.catalog import Model
from renderer.demo import cache as demo
from renderer.errors import ModelError
from renderer.protocol import Setup
from renderer.system import lock
from renderer.system.folders import cache_folder
from renderer.weights import pack, places
from renderer.weights.identity import identify
from renderer.weights.store import Store, open_store


def find(setup: Setup, report: Callable[[str], None]) -> Store:
    """The setup's store. Raises `ModelError` when it is not whole, or holds another model, revision or precision."""
    if setup.store is None:
        model = catalog.find(setup.model)
        if not model.is_embedded:
            raise ModelError(f"{setup.model} is not packed", hint=f"renderer models pack {setup.model}")
        folder = _embedded(model, setup, report)
    else:
        folder = Path(setup.store)
    store = open_store(folder)
    wanted = setup.identity or identify(catalog.find(setup.model))
    if not store.index.source.is_of(wanted):
        message = f"{folder} is a store of {store.index.source}, and {wanted} is asked for"
        raise ModelError(message, hint=f"renderer models pack {setup.model}")
    if store.precision != setup.stored:
        raise ModelError(f"{folder} holds {store.precision} weights, and the job asks for {setup.stored}")
    return store


def _embedded(model: Model, setup: Setup, report: Callable[[str], None]) -> Path:
    """The store of a model of the package, made under a lock where it is not there yet."""
    files = places.collect(places.look(demo.located(model)))
    folder = cache_folder() / f"{model.id}-{model.revision}-packed-{setup.stored}"
    with lock.waited(folder.with_name(f"{folder.name}.lock")):
        try:
            open_store(folder)
        except ModelError:
            report(f"packing {model.id}, which comes with the package")
            pack.pack(files.networks, files.tokenizer, folder, setup.stored, identify(model), processor=files.processor)
    return folder
