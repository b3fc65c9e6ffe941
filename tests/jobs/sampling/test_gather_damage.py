"""Chunks and samples that are not right are found and named."""

import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_chunks import WEIGHTS, contents, damaged, fill, flip, main, other_weights, zeros

from jobs.data.sources import open_images, remarks_of
from jobs.errors import UserError
from jobs.sampling.chunks import Chunk, chunk_file, read_chunk, sampling_settings, write_chunk
from jobs.sampling.gather import check_samples, gather, recorded_settings

# What is wrong with chunks -------------------------------------------------------------------------------------------

def _remove(file, run):
    file.unlink()


def _truncate(file, run):
    file.write_bytes(file.read_bytes()[:-100])


def _empty(file, run):
    file.write_bytes(b"")


def _other_seed(file, run):
    spec = run.spec.model_copy(update={"sample": run.spec.sample.model_copy(update={"seed": 7})})
    write_chunk(file, zeros(4, 8), sampling_settings(spec, WEIGHTS))


def _neighbour(file, run):
    shutil.copy(chunk_file(run.samples, 0), file)


WRONG = [(_remove, "chunk-00001.h5: missing"), (flip, "chunk-00001.h5: cannot be read .damaged"),
         (_truncate, "chunk-00001.h5: cannot be read .damaged"), (_empty, "chunk-00001.h5: cannot be read .damaged"),
         (other_weights, "chunk-00001.h5: made with other weights or settings: weights_sha256 cdcd.* instead of abab"),
         (_other_seed, "chunk-00001.h5: made with other weights or settings: sample.seed 7 instead of 0"),
         (_neighbour, "chunk-00001.h5: does not hold the samples 4 to 7")]


@pytest.mark.parametrize("harm, message", WRONG, ids=[harm.__name__.strip('_') for harm, _ in WRONG])
def test_a_chunk_that_is_not_right_is_named_and_nothing_is_written(make_run, harm, message):
    run = make_run()
    _, made_with = fill(run)
    harm(chunk_file(run.samples, 1), run)
    before = contents(run)
    with pytest.raises(UserError, match=f"^{run.samples}/{message}") as caught:
        gather(run, made_with, main(run))
    assert "chunk-00000" not in str(caught.value) and "chunk-00002" not in str(caught.value)
    assert contents(run) == before


def test_all_that_is_wrong_is_named_at_once_but_not_without_end(make_run):
    run = make_run()
    _, made_with = fill(run)
    _remove(chunk_file(run.samples, 0), run)
    flip(chunk_file(run.samples, 2), run)
    with pytest.raises(UserError) as caught:
        gather(run, made_with, main(run))
    named = [line.split(": ")[0] for line in str(caught.value).splitlines()[:-1]]
    assert named == [str(chunk_file(run.samples, 0)), str(chunk_file(run.samples, 2))]
    assert f"`iddpm sample {run.path}` computes" in str(caught.value)

    many = make_run("sample.batch_size=1", "sample.num_samples=500", folder="many")
    with pytest.raises(UserError, match="chunk-00009.h5: missing\n... and 490 more\n"):
        gather(many, sampling_settings(many.spec, WEIGHTS), main(many))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_flipped_bits_and_any_cut_are_found(tmp_path_factory, data):
    # Some flips end HDF5's process with a segmentation fault, so they have to be found before it looks at the file.
    path = tmp_path_factory.mktemp("damage") / "chunk-00000.h5"
    write_chunk(path, Chunk(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), None, "cpu"), {"seed": 0})
    path.write_bytes(damaged(data, path.read_bytes()))
    with pytest.raises(UserError, match="chunk-00000.h5: cannot be read"):
        read_chunk(path, range(2), {"seed": 0})


@pytest.mark.slow
@pytest.mark.parametrize("code", ["pass", "file.attrs['seen'] = 1", "file['mine'] = 1"])
def test_samples_that_a_notebook_opened_to_write_are_still_samples(make_run, code, capsys):
    run = make_run()
    images, made_with = fill(run)
    gather(run, made_with, main(run))
    whole = run.samples_h5.read_bytes()
    notebook = f"import h5py, sys\nwith h5py.File(sys.argv[1], 'r+') as file:\n    {code}"
    subprocess.run([sys.executable, "-c", notebook, str(run.samples_h5)], check=True)
    assert (run.samples_h5.read_bytes() == whole) == (code == "pass")
    check_samples(run, made_with)
    assert recorded_settings(run, main(run)) == made_with
    told = f"{run.samples_h5}: another program wrote to this file; " in capsys.readouterr().out
    assert told == (code != "pass")
    found = open_images(str(run.samples_h5))
    np.testing.assert_array_equal(found.images[0:len(images)], images)
    assert len(remarks_of(found)) == (code != "pass")


def test_samples_that_a_notebook_changed_are_damaged(make_run):
    run = make_run()
    _, made_with = fill(run)
    gather(run, made_with, main(run))
    with h5py.File(run.samples_h5, "r+") as file:
        file["images"][3, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="samples.h5: cannot be read .damaged: its checksum is not the recorded one"):
        check_samples(run, made_with)
    with pytest.raises(UserError, match="samples.h5: cannot be read .damaged: its checksum is not the recorded one"):
        open_images(str(run.samples_h5))
