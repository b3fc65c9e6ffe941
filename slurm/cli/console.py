"""Print tables with rich."""

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from jobs.terminal import steered, trusted

PIPE_WIDTH = 160  # characters; a pipe has no width of its own, and rich would fold values at 80


class _Plain(Console):
    """Takes every text for what it is: without markup, and with its control characters written out."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(steered(text), **options)


def console() -> Console:
    """rich's console for standard output: as wide as the terminal, or PIPE_WIDTH in a pipe. Numbers are not colored."""
    return _Plain(file=trusted(sys.stdout), highlight=False, markup=False, emoji=False,
                  width=None if sys.stdout.isatty() else PIPE_WIDTH)
