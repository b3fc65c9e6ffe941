"""HDF5 files are opened to be read: without HDF5's lock, and not while they are written."""

import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest

from jobs.data.dataset import open_data
from jobs.data.sources import open_images
from jobs.errors import UserError
from jobs.storage.opening import is_hdf5, open_hdf5
from jobs.storage.sealed import as_bytes, open_sealed

IMAGES = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4, 1)


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = IMAGES
    return tmp_path / "a.h5"


@pytest.fixture
def opened_elsewhere(path):
    """A function that opens `path` in another process, with a mode of h5py, until the test ends."""
    processes = []

    def start(mode, **options):
        code = f"import h5py, sys; file = h5py.File({str(path)!r}, {mode!r}, **{options!r}); file.attrs['x'] = 1\n"
        code += "file.flush(); print('open', flush=True); sys.stdin.read()" if mode != "r" else ""
        code = code if mode != "r" else code.replace("file.attrs['x'] = 1", "print('open', flush=True); sys.stdin.read()")
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout.readline() == b"open\n"
        return process
    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("open_it", [open_hdf5, lambda path: open_data(str(path), 4, 1), lambda path: open_images(str(path))])
def test_a_file_open_for_writing_in_another_process_is_not_called_damaged(path, opened_elsewhere, open_it):
    opened_elsewhere("r+")
    with pytest.raises(UserError, match=f"^{path}: open for writing in another process") as caught:
        open_it(path)
    assert "damaged" not in str(caught.value)


@pytest.mark.slow
def test_a_file_that_a_link_leads_to_and_another_process_writes(path, opened_elsewhere, tmp_path):
    layout = h5py.VirtualLayout(IMAGES.shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(path), "images", IMAGES.shape)
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    opened_elsewhere("r+")
    with pytest.raises(UserError, match="open for writing in another process"):
        open_data(str(tmp_path / "virtual.h5"), 4, 1)


@pytest.mark.slow
def test_a_program_that_was_killed_while_it_wrote_leaves_a_mark(path, opened_elsewhere):
    path.unlink()
    process = opened_elsewhere("w", libver="latest")
    with pytest.raises(UserError, match="open for writing in another process"):
        open_hdf5(path)
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="the one that wrote it was killed, and `h5clear -s FILE` takes its mark away"):
        open_hdf5(path)


@pytest.mark.slow
def test_files_open_for_reading_are_read_and_keep_nobody_from_writing(path, opened_elsewhere):
    opened_elsewhere("r").communicate(b"")
    with open_hdf5(path) as file:
        np.testing.assert_array_equal(file["images"][:], IMAGES)
        opened_elsewhere("r+")


def test_file_systems_without_locks(path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(38, "Function not implemented")
    monkeypatch.setattr(fcntl, "flock", refuse)
    np.testing.assert_array_equal(open_data(str(path), 4, 1).images, IMAGES)


def test_a_variable_that_demands_a_lock_which_is_not_to_be_had(path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(38, "Unable to synchronously open file (unable to lock file, errno = 38, 'Function not implemented')")
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(UserError, match="HDF5_USE_FILE_LOCKING=TRUE demands it; unset HDF5_USE_FILE_LOCKING"):
        open_data(str(path), 4, 1)


def test_pixels_that_look_like_the_end_of_an_archive(tmp_path):
    images = IMAGES.copy()
    images[11, 0, :, 0], images[11, 1, :, 0] = list(b"PK\x05\x06"), 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = images
    with open(tmp_path / "a.h5", "ab") as file:
        file.write(bytes(30))
    assert zipfile.is_zipfile(tmp_path / "a.h5")
    np.testing.assert_array_equal(open_data(str(tmp_path / "a.h5"), 4, 1).images, images)
    np.testing.assert_array_equal(open_images(str(tmp_path / "a.h5")).images, images)


def test_an_archive_in_the_place_of_a_data_set(tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    with pytest.raises(UserError, match="a.npz: an .npz file .* not an HDF5 file; `iddpm data npz` makes one from it"):
        open_data(str(tmp_path / "a.npz"), 4, 1)


def test_what_is_no_file_is_refused_and_waits_for_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match=f"^{name}: not a regular file"):
            open_data(str(name), 4, 1)
        with pytest.raises(UserError, match=f"^{name}: not a regular file"):
            open_images(str(name))


def test_the_signature_behind_a_user_block(tmp_path, path):
    for size in (0, 512, 4096):
        with h5py.File(tmp_path / "b.h5", "w", userblock_size=size) as file:
            file["x"] = 1
        assert is_hdf5(tmp_path / "b.h5")
    (tmp_path / "c").write_bytes(b"x" * 512 + b"\x89HDF")
    assert is_hdf5(path) and not is_hdf5(tmp_path / "c")


@pytest.mark.slow
def test_a_sealed_file_open_for_writing(path, opened_elsewhere):
    path.write_bytes(as_bytes({"images": IMAGES}, {}))
    open_sealed(path).close()
    opened_elsewhere("r+")
    with pytest.raises(UserError, match="open for writing in another process"):
        open_sealed(path)
