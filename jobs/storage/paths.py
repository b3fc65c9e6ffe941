"""Paths as users write them: ~ and ~user are home folders, also where no shell has replaced them (--runs=~/scratch, a spec)."""

import os

from jobs.errors import UserError


def expanded(path: str) -> str:
    """Replace a leading ~ or ~user by that home folder. Raises UserError where there is none: no folder is to be called ~."""
    if not path.startswith("~"):
        return path
    found = os.path.expanduser(path)
    if found.startswith("~"):
        user = path[1:].partition("/")[0]
        whose = f"no user `{user}` with a home folder here" if user else "no home folder: HOME is not set"
        raise UserError(f"{path}: there is {whose}; for a file whose name begins with ~ write ./{path}")
    return found
