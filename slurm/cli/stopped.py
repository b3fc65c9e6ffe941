"""Ctrl-C ends every command with exit status 130, which shells expect of a program that was stopped by hand."""

import sys
from typing import Any

import click

STOPPED = 130


class Commands(click.Group):
    """A group of commands. click itself would end a stopped command with 1, the status of a failure."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(STOPPED)
