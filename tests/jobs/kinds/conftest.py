"""Fixtures of the tests of this room."""

import pytest

from jobs.parallel.group import process_group


@pytest.fixture
def published(golden):
    """The golden network's weights, as a published checkpoint holds them."""
    return golden.formula_weights(golden.facts("unet_uncond32")["state_dict"])


@pytest.fixture
def group(tmp_path):
    """A group of one in this process."""
    with process_group(tmp_path / "meeting", threads=1) as group:
        yield group
