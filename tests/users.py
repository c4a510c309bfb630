"""What another user than root sees: everything here may be read by root, which no test of rights would notice."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
_NOBODY = 65534


def as_another(prepare: Callable[[Path], None], do: Callable[[Path], list[str]]) -> list[str]:
    """What `do` gives as another user, in a folder that everybody may enter and root has prepared."""
    root = Path(tempfile.mkdtemp(prefix="renderer-test-"))
    said: list[str] = []
    ours, theirs = os.pipe()
    try:
        root.chmod(0o777)
        prepare(root)
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setegid(_NOBODY)
                os.seteuid(_NOBODY)
                said = do(root)
            except BaseException:  # noqa: BLE001 - it is told there, not here
                said = [traceback.format_exc()]
            finally:
                os.write(theirs, json.dumps(said).encode())
                os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, "rb") as stream:
            said = json.loads(stream.read() or b"[]")
        os.waitpid(child, 0)
        return said
    finally:
        shutil.rmtree(root)
