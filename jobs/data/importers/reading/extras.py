"""Libraries that are installed only by who needs them: the extras of setup.cfg."""

from importlib.util import find_spec

from jobs.errors import UserError


def need(library: str, extra: str) -> None:
    """Raise UserError that says how to install the extra, unless `library` is installed."""
    if find_spec(library) is None:
        raise UserError(f"needs {library}: pip install 'iddpm[{extra}]'")
