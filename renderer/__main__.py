"""`python -m renderer` is the command `renderer`."""

import sys


def main() -> int:
    """Run the command. Ctrl-C is one line also while it is still being imported."""
    try:
        from renderer.cli import command  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
