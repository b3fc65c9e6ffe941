"""Cached arrays: read back, or computed again."""

import errno
from pathlib import Path

import numpy as np

from jobs.storage.cache import cache_folder, load_arrays, store_arrays


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


def test_a_cache_that_cannot_be_written_is_read_where_it_is_and_written_elsewhere(tmp_path, monkeypatch):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs" / ".cache"
    store_arrays(theirs / "a.npz", {"mean": np.arange(3.0)})
    assert cache_folder(theirs, ours) == theirs and not ours.exists()
    monkeypatch.setattr(Path, "touch", refused(Path.touch, theirs))
    for _ in range(2):
        assert cache_folder(theirs, ours) == ours
    store_arrays(ours / "b.npz", {"mean": np.zeros(1)})
    assert load_arrays(ours / "a.npz")["mean"].tolist() == [0, 1, 2]
    assert [file.name for file in theirs.iterdir()] == ["a.npz"]


def test_a_cache_that_cannot_be_made_is_made_elsewhere(tmp_path):
    (tmp_path / "file").touch()
    assert cache_folder(tmp_path / "file" / ".cache", tmp_path / "ours") == tmp_path / "ours"
    (tmp_path / "runs").symlink_to("/nonexistent")
    assert cache_folder(tmp_path / "runs" / ".cache", tmp_path / "ours") == tmp_path / "ours"


def refused(touch, folder):
    """`touch` on a file system that is read-only below `folder`."""
    def only_elsewhere(path, *arguments, **options):
        if folder in path.parents:
            raise OSError(errno.EROFS, "Read-only file system")
        return touch(path, *arguments, **options)
    return only_elsewhere
