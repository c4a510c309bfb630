"""The packed store an engine streams from: found, or, for the small demo model, packed at first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from renderer import catalog
from renderer.demo import cache as demo
from renderer.errors import ModelError
from renderer.job import ModelIdentity
from renderer.protocol import Setup
from renderer.system import lock
from renderer.system.folders import cache_folder
from renderer.weights import pack
from renderer.weights.identity import identify
from renderer.weights.store import Store, open_store


def find(setup: Setup, report: Callable[[str], None]) -> Store:
    """The setup's store. Raises `ModelError` when it is not whole, or holds another model, revision or precision."""
    if setup.store is None:
        if setup.model != catalog.DEMO.id:
            raise ModelError(f"{setup.model} is not packed", hint=f"renderer models pack {setup.model}")
        folder = _demo(setup, report)
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


def _demo(setup: Setup, report: Callable[[str], None]) -> Path:
    """The demo model's store, made under a lock where it is not there yet."""
    model = catalog.DEMO
    source = demo.folder()
    folder = cache_folder() / f"demo-{model.revision}-packed-{setup.stored}"
    with lock.waited(folder.with_name(f"{folder.name}.lock")):
        try:
            open_store(folder)
        except ModelError:
            report("packing the demo model")
            files = {part.role: sorted(source.glob(part.files)) for part in catalog.NETWORK_FILES}
            identity = ModelIdentity(id=model.id, revision=model.revision)
            pack.pack(files, source / catalog.TOKENIZER, folder, setup.stored, identity)
    return folder
