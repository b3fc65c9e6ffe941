"""Fixtures of the tests of this room."""

import h5py
import pytest
from made_hdf5 import IMAGES, LABELS


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with real.h5, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("real.h5", "w") as file:
        file["images"], file["labels"] = IMAGES, LABELS
    return tmp_path
