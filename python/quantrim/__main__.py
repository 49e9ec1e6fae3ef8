"""The program, `quantrim` or `python -m quantrim`: ready for Ctrl-C before it loads anything that takes time."""

from __future__ import annotations

import sys

from . import __version__
from .commands import at_once


def main() -> None:
    """Run the program with the words of its command line, and exit."""
    at_once.watch()
    from .commands import outcome, terminal

    terminal.open_standard_streams()
    if sys.argv[1:] == ["--version"]:  # nothing of numpy, typer and rich is needed for that
        sys.stdout.write(f"quantrim {__version__}\n")
        sys.exit(outcome.finish_output(0))
    from . import cli

    cli.main()


if __name__ == "__main__":
    main()
