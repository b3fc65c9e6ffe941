"""What tests of the importers share."""

import pytest


@pytest.fixture
def folder(tmp_path):
    """Where a test puts its images."""
    return tmp_path / "images"


@pytest.fixture
def output(tmp_path):
    """The data set to write."""
    return tmp_path / "out" / "data.h5"


@pytest.fixture
def assert_nothing_written(output):
    """assert_nothing_written(): neither the data set nor a temporary file of it."""
    def check():
        assert not output.parent.exists() or list(output.parent.iterdir()) == []
    return check
