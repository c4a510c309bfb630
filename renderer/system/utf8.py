"""Files have the names that manifests give them, whatever the locale: Python's UTF-8 mode, where it is not on already.

In a locale of another encoding (ISO-8859-1, or C with that mode forbidden) Python cannot make a file called 你好.png.
The mode is chosen when Python starts, so the program starts itself again, in the same process.
"""

from __future__ import annotations

import os
import sys

_MODE = "PYTHONUTF8"
_STREAMS = "PYTHONIOENCODING"


def restart() -> None:
    """Start this program again in UTF-8 mode, unless it is in it, or was asked to be and is not.

    Streams keep the encoding that they have: it is the terminal's. Arguments keep their bytes.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get(_MODE) == "1" or not sys.executable:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    environment = {_STREAMS: encoding, **os.environ, _MODE: "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606  # ourselves
