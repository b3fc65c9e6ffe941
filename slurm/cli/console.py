"""Print tables with rich."""

import sys

from rich.console import Console

PIPE_WIDTH = 160  # characters; a pipe has no width of its own, and rich would fold values at 80


def console() -> Console:
    """rich's console for standard output: as wide as the terminal, or PIPE_WIDTH in a pipe. Numbers are not colored."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
