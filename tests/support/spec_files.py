"""Spec files in tests: the smallest one, the one run of a file, and the complaints about a file."""

from collections.abc import Sequence

import pytest

from jobs.errors import UserError
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.spec.reading.file import load

SMALLEST = "name: x\ndata: {path: digits, image_size: 32}\ntrain: {iterations: 1000}\n"


def complaints_about(path: str, overrides: Sequence[str] = ()) -> list[str]:
    """Return the lines of the complaint about a spec file."""
    with pytest.raises(UserError) as caught:
        load(path, overrides)
    return str(caught.value).split("\n")


def one_spec(path: str, overrides: Sequence[str] = ()) -> DiffusionSpec:
    """Return the spec of the one run in a spec file."""
    (run,) = load(path, overrides).runs
    assert isinstance(run.spec, DiffusionSpec)
    return run.spec
