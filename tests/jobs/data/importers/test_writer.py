"""The file of a new data set: whole or absent, and never in the place of another file."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from made_images import noise, save

from jobs.data.dataset import fingerprint, open_built_in, open_data
from jobs.data.importers import encoded
from jobs.data.importers.digits import import_digits
from jobs.data.importers.encoded import Form
from jobs.data.importers.folder import import_folder
from jobs.data.importers.writer import Writer
from jobs.errors import UserError


@pytest.fixture
def five(folder):
    """A folder of five images."""
    for number in range(5):
        save(folder / f"{number}.png", noise(8, 8, 3))
    return folder


@pytest.mark.parametrize("name, count", [("digits", 1500), ("digits-test", 297)])
def test_a_built_in_data_set_as_a_file(output, name, count):
    summary = import_digits(name, Writer(output))
    assert (summary.count, summary.skipped, summary.classes) == (count, [], list("0123456789"))
    data = open_data(str(output), 8, 1, 10)
    assert isinstance(data.images, np.memmap) and fingerprint(data) == fingerprint(open_built_in(name))
    assert (data.source, data.class_names) == (f"scikit-learn handwritten digits, {name}", list("0123456789"))
    with h5py.File(output) as file:
        assert file.attrs["skipped"] == 0


def test_an_interruption_leaves_the_old_file_and_nothing_else(five, output, monkeypatch):
    monkeypatch.setattr(encoded, "_BLOCK", 2)
    import_digits("digits-test", Writer(output))
    before = output.read_bytes()

    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_folder(five, Writer(output, interrupt), Form(8, 3, "skip"), "none")
    assert output.read_bytes() == before and os.listdir(output.parent) == ["data.h5"]
    import_folder(five, Writer(output), Form(8, 3, "skip"), "none")
    assert len(open_data(str(output), 8, 3)) == 5


def test_output_never_replaces_another_kind_of_file(five, output, tmp_path):
    (tmp_path / "precious.npz").write_bytes(b"results of a month")
    for taken in (tmp_path / "precious.npz", five):
        with pytest.raises(UserError, match=f"{taken}: exists and is not an HDF5 file; choose another output"):
            import_folder(five, Writer(taken), Form(8, 3), "none")
    assert (tmp_path / "precious.npz").read_bytes() == b"results of a month"


@pytest.mark.parametrize("limit", [30_000, 100_000, 900_000])
def test_a_full_disk_is_named_and_the_process_lives(tmp_path, output, assert_nothing_written, limit):
    # A limit on file sizes fails as a full disk does. HDF5 itself would end such a process with a segmentation fault.
    source = tmp_path / "a.npz"
    np.savez_compressed(source, np.zeros((300, 32, 32, 3), np.uint8))
    code = f"""
import resource, sys
from pathlib import Path
from jobs.data.importers.npz import import_npz
from jobs.data.importers.writer import Writer
from jobs.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    import_npz(Path({str(source)!r}), Writer(Path({str(output)!r})))
except UserError as error:
    sys.exit(0 if str(error).startswith({f"{output}: no space left"!r}) else str(error))
sys.exit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert_nothing_written()
