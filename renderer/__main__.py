"""`python -m renderer` is the command `renderer`."""

import os
import sys


def main() -> int:
    """Run the command. Ctrl-C is one line also while it is still being imported."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # pydantic looks through all packages for them
    try:
        from renderer.cli import command  # noqa: PLC0415
        from renderer.system import signals  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    code = command.main()
    signals.end_with(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
