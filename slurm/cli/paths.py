"""Types of arguments that are paths: ~ and ~user are home folders, also in --runs=~/scratch, which no shell replaces."""

import os
from pathlib import Path
from typing import Any

import click

from jobs.errors import UserError
from jobs.storage.paths import expanded


class ExpandedPath(click.Path):
    """A path, which need not exist, with ~ and ~user replaced."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. An unknown home folder is a mistake in the argument."""
        try:
            return super().convert(expanded(os.fspath(value)), param, ctx)
        except UserError as error:
            self.fail(str(error), param, ctx)


PATH = ExpandedPath(path_type=Path)
PATH_OR_NAME = ExpandedPath()
"""Stays text: a path, or a name such as `digits`."""
