"""Data are hashed once per file, and again whenever the file is another."""

import os
import time

import h5py
import numpy as np
import pytest

from jobs.data import fingerprints
from jobs.data.dataset import fingerprint, open_data
from jobs.data.fingerprints import kept_fingerprint
from jobs.data.sources import open_images
from jobs.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)


@pytest.fixture
def hashed(monkeypatch):
    """The data that were hashed, in order; each use is as in a new process."""
    found = []

    def counted(data):
        found.append(data)
        return fingerprint(data)
    monkeypatch.setattr(fingerprints, "fingerprint", counted)
    monkeypatch.setattr(fingerprints, "_known", {})
    return found


def use(path, cache, new_process=True):
    if new_process:
        fingerprints._known.clear()
    data = open_images(str(path))
    assert kept_fingerprint(data, cache) == fingerprint(data)


def make(path, images=IMAGES, age=10):
    """A data set that was last written `age` seconds ago."""
    with h5py.File(path, "w") as file:
        file["images"] = images
    os.utime(path, (time.time() - age,) * 2)


def test_a_file_is_hashed_once(tmp_path, hashed):
    make(tmp_path / "a.h5")
    for _ in range(3):
        use(tmp_path / "a.h5", tmp_path / "cache")
    assert len(hashed) == 1
    np.savez(tmp_path / "b.npz", IMAGES)
    os.utime(tmp_path / "b.npz", (1, 1))
    for _ in range(3):
        use(tmp_path / "b.npz", tmp_path / "cache")
    assert len(hashed) == 2


def test_a_process_remembers_without_a_folder(tmp_path, hashed):
    make(tmp_path / "a.h5")
    for _ in range(3):
        use(tmp_path / "a.h5", None, new_process=False)
    assert len(hashed) == 1


@pytest.mark.parametrize("change", ["content", "time", "replaced", "size"])
def test_a_changed_file_is_hashed_anew(tmp_path, hashed, change):
    path = tmp_path / "a.h5"
    make(path)
    use(path, tmp_path / "cache")
    before = os.stat(path)
    if change == "content":
        make(path, IMAGES ^ 1, age=5)
    elif change == "time":
        os.utime(path, (5, 5))
    elif change == "size":
        make(path, IMAGES[:9])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        make(tmp_path / "other.h5", IMAGES ^ 1)
        os.utime(tmp_path / "other.h5", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(tmp_path / "other.h5", path)
    use(path, tmp_path / "cache", new_process=False)
    assert len(hashed) == 2


def test_a_file_written_a_moment_ago_is_not_remembered(tmp_path, hashed):
    """Its next change may have the same time."""
    for age in (0, -100):
        make(tmp_path / "a.h5", age=age)
        use(tmp_path / "a.h5", tmp_path / "cache")
        use(tmp_path / "a.h5", tmp_path / "cache", new_process=False)
    assert len(hashed) == 4 and not (tmp_path / "cache").exists()


def test_a_file_replaced_while_it_is_open_is_not_mixed_up(tmp_path, hashed):
    make(tmp_path / "a.h5")
    data = open_data(str(tmp_path / "a.h5"), 4, 1)
    make(tmp_path / "b.h5", IMAGES ^ 1)
    os.replace(tmp_path / "b.h5", tmp_path / "a.h5")
    assert kept_fingerprint(data, tmp_path / "cache") == fingerprint(data)
    use(tmp_path / "a.h5", tmp_path / "cache")
    assert len(hashed) == 2


@pytest.mark.parametrize("gone", [False, True])
def test_a_source_of_a_virtual_dataset_counts(tmp_path, hashed, gone):
    make(tmp_path / "source.h5")
    layout = h5py.VirtualLayout(IMAGES.shape, np.uint8)
    layout[:] = h5py.VirtualSource("source.h5", "images", IMAGES.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    os.utime(tmp_path / "a.h5", (1, 1))
    use(tmp_path / "a.h5", tmp_path / "cache")
    if gone:
        (tmp_path / "source.h5").unlink()
        with pytest.raises(UserError, match="which is missing"):
            use(tmp_path / "a.h5", tmp_path / "cache")
    else:
        make(tmp_path / "source.h5", IMAGES ^ 1, age=5)
        use(tmp_path / "a.h5", tmp_path / "cache")
        assert len(hashed) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"sha256": 1}', '{"files": [], "version": 1, "sha256": "00"}'])
def test_a_damaged_memory_is_written_anew(tmp_path, hashed, content):
    make(tmp_path / "a.h5")
    use(tmp_path / "a.h5", tmp_path / "cache")
    file, = (tmp_path / "cache").iterdir()
    whole = file.read_text()
    file.write_text(content)
    use(tmp_path / "a.h5", tmp_path / "cache")
    assert len(hashed) == 2 and file.read_text() == whole


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, hashed):
    make(tmp_path / "a.h5")
    (tmp_path / "cache").write_text("a file")
    use(tmp_path / "a.h5", tmp_path / "cache")
    assert len(hashed) == 1


def test_built_in_data_are_in_no_file(tmp_path, hashed):
    use("digits-test", tmp_path / "cache")
    assert len(hashed) == 1 and not (tmp_path / "cache").exists()


def test_runs_that_share_a_file_hash_it_once_and_other_data_are_refused(tmp_path, hashed):
    from types import SimpleNamespace

    from jobs.run.preflight import check_same_data
    make(tmp_path / "a.h5")
    runs = [SimpleNamespace(path=tmp_path / "runs" / "study" / name, spec=SimpleNamespace(data=SimpleNamespace(path="a.h5")))
            for name in ("one", "two")]
    for run in [*runs, *runs]:
        run.path.mkdir(parents=True, exist_ok=True)
        fingerprints._known.clear()
        check_same_data(run, open_data(str(tmp_path / "a.h5"), 4, 1))
    assert len(hashed) == 1
    make(tmp_path / "a.h5", IMAGES ^ 1, age=5)
    with pytest.raises(UserError, match="not the data that .* was trained on so far"):
        check_same_data(runs[0], open_data(str(tmp_path / "a.h5"), 4, 1))
