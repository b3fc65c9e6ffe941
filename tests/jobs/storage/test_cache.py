"""Cached arrays: read back, or computed again."""

import numpy as np

from jobs.storage.cache import load_arrays, store_arrays


def test_arrays_come_back_and_missing_or_damaged_files_give_none(tmp_path):
    file = tmp_path / ".cache" / "a.npz"
    assert load_arrays(file) is None
    store_arrays(file, {"mean": np.arange(3.0), "covariance": np.eye(3)})
    found = load_arrays(file)
    assert found.keys() == {"mean", "covariance"} and found["mean"].tolist() == [0, 1, 2]
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:-30], whole.replace(b"mean", b"m\x00an", 1)):
        file.write_bytes(content)
        assert load_arrays(file) is None
