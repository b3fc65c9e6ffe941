import pytest

from jobs.parallel.group import process_group


@pytest.fixture
def group(tmp_path):
    """A group of one in this process."""
    with process_group(tmp_path / "meeting", threads=1) as group:
        yield group
