"""Chunks into samples.h5, samples.npz and pictures; chunks that are missing, damaged or foreign."""

import json
import shutil
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jobs.data.sources import open_images, remarks_of
from jobs.errors import UserError
from jobs.run.provenance import package_versions
from jobs.sampling.chunks import Chunk, chunk_file, chunk_indices, number_of_chunks, read_chunk, sampling_settings, write_chunk
from jobs.sampling.gather import READERS, check_samples, gather, gather_run, recorded_settings
from jobs.spec.reading.frozen import load_frozen
from jobs.spec.samplings import samplings

WEIGHTS = "ab" * 32  # stands for the checksum of the weights


def fill(run, device="cpu"):
    """Write chunks of random images as sampling would; all images [N, H, W, C], and the settings they are made with."""
    spec, data, rng, made = run.spec, run.spec.data, np.random.default_rng(0), []
    made_with = sampling_settings(spec, WEIGHTS)
    for number in range(number_of_chunks(spec)):
        indices = np.array(chunk_indices(spec, number))
        made.append(rng.integers(0, 256, (len(indices), data.image_size, data.image_size, data.channels), np.uint8))
        labels = indices % data.num_classes if data.class_cond else None
        write_chunk(chunk_file(run.samples, number), Chunk(made[-1], indices, labels, device), made_with)
    return np.concatenate(made), made_with


def main(run):
    return samplings(run.spec)[0]


def zeros(start, stop):
    """Black samples start .. stop - 1."""
    indices = np.arange(start, stop)
    return Chunk(np.zeros((len(indices), 8, 8, 1), np.uint8), indices, indices, "cpu")


def contents(run):
    """The bytes of every file in samples/, hidden ones too."""
    return {path.name: path.read_bytes() for path in run.samples.iterdir()}


UNCONDITIONAL = ("data.class_cond=false", "data.num_classes=null")


@pytest.mark.parametrize("overrides", [
    (), ("sample.num_samples=8",), ("sample.num_samples=3",), ("sample.batch_size=1",),
    (*UNCONDITIONAL, "data.channels=3", "data.image_size=16", "model.attention_resolutions=[8]"),
])
def test_all_forms_hold_the_chunks_one_after_the_other(make_run, overrides):
    run = make_run(*overrides)
    images, made_with = fill(run)
    gather(run, made_with, main(run))

    spec, count = run.spec, run.spec.sample.num_samples
    with h5py.File(run.samples_h5, "r") as file:
        np.testing.assert_array_equal(file["images"], images)
        np.testing.assert_array_equal(file["sample_index"], np.arange(count))
        assert (file["images"].dtype, file["sample_index"].dtype) == (np.uint8, np.int64)
        assert file["images"].chunks == (min(spec.sample.batch_size, count), *images.shape[1:])
        names = {"images", "sample_index", "labels"} if spec.data.class_cond else {"images", "sample_index"}
        assert set(file) == names
        if spec.data.class_cond:
            np.testing.assert_array_equal(file["labels"], np.arange(count) % 10)
            assert file["labels"].dtype == np.int64
    with np.load(run.samples / "samples.npz") as file:
        assert file.files == (["arr_0", "arr_1"] if spec.data.class_cond else ["arr_0"])
        np.testing.assert_array_equal(file["arr_0"], images)
        assert (file["arr_0"].dtype, file["arr_0"].shape) == (np.uint8, images.shape)
        if spec.data.class_cond:
            np.testing.assert_array_equal(file["arr_1"], np.arange(count) % 10)
            assert file["arr_1"].dtype == np.int64


def test_samples_say_where_they_come_from(make_run, tmp_path):
    run = make_run("sample.sampler=ddim", "sample.timestep_respacing=ddim10")
    _, made_with = fill(run, device="NVIDIA Something")
    write_chunk(chunk_file(run.samples, 1), zeros(4, 8), made_with)
    gather(run, made_with, main(run))
    with h5py.File(run.samples_h5, "r") as file:
        facts = dict(file.attrs)
    (tmp_path / "spec.yaml").write_text(facts.pop("spec"))
    assert load_frozen(tmp_path / "spec.yaml") == run.spec
    assert json.loads(facts.pop("settings")) == made_with
    assert json.loads(facts.pop("packages")) == package_versions()
    assert facts == {"weights_sha256": WEIGHTS, "device": "NVIDIA Something, cpu", "sampler": "ddim",
                     "timestep_respacing": "ddim10", "diffusion_steps": 40}


# What is wrong with chunks -------------------------------------------------------------------------------------------

def _remove(file, run):
    file.unlink()


def _flip(file, run):
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)


def _truncate(file, run):
    file.write_bytes(file.read_bytes()[:-100])


def _empty(file, run):
    file.write_bytes(b"")


def _other_weights(file, run):
    write_chunk(file, zeros(4, 8), sampling_settings(run.spec, "cd" * 32))


def _other_seed(file, run):
    spec = run.spec.model_copy(update={"sample": run.spec.sample.model_copy(update={"seed": 7})})
    write_chunk(file, zeros(4, 8), sampling_settings(spec, WEIGHTS))


def _neighbour(file, run):
    shutil.copy(chunk_file(run.samples, 0), file)


WRONG = [(_remove, "chunk-00001.h5: missing"), (_flip, "chunk-00001.h5: cannot be read .damaged"),
         (_truncate, "chunk-00001.h5: cannot be read .damaged"), (_empty, "chunk-00001.h5: cannot be read .damaged"),
         (_other_weights, "chunk-00001.h5: made with other weights or settings: weights_sha256 cdcd.* instead of abab"),
         (_other_seed, "chunk-00001.h5: made with other weights or settings: sample.seed 7 instead of 0"),
         (_neighbour, "chunk-00001.h5: does not hold the samples 4 to 7")]


@pytest.mark.parametrize("harm, message", WRONG, ids=[harm.__name__[1:] for harm, _ in WRONG])
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
    _flip(chunk_file(run.samples, 2), run)
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
    whole = path.read_bytes()
    if data.draw(st.booleans(), label="cut"):
        damaged = whole[:data.draw(st.integers(0, len(whole) - 1))]
    else:
        damaged = bytearray(whole)
        damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="chunk-00000.h5: cannot be read"):
        read_chunk(path, range(2), {"seed": 0})


def test_gathering_without_the_weights_goes_by_the_first_chunk(make_run):
    run = make_run()
    with pytest.raises(UserError, match=f"{run.samples}: no chunks to gather"):
        recorded_settings(run, main(run))
    images, made_with = fill(run)
    assert recorded_settings(run, main(run)) == made_with
    _other_weights(chunk_file(run.samples, 1), run)
    with pytest.raises(UserError, match="chunk-00001.h5: made with other weights"):
        gather_run(run)
    _flip(chunk_file(run.samples, 0), run)
    with pytest.raises(UserError, match="chunk-00000.h5: cannot be read .* computes it again"):
        recorded_settings(run, main(run))


# Afterwards ----------------------------------------------------------------------------------------------------------

def test_gathering_again_leaves_samples_alone_and_replaces_what_is_missing_beside_them(make_run):
    run = make_run()
    _, made_with = fill(run)
    gather(run, made_with, main(run))
    before, inode = contents(run), run.samples_h5.stat().st_ino
    for chunk in run.samples.glob("chunk-*.h5"):
        chunk.unlink()
    (run.samples / "samples.npz").unlink()
    run.samples_png.unlink()
    gather(run, made_with, main(run))
    assert run.samples_h5.stat().st_ino == inode
    after = contents(run)
    assert after["samples.png"] == before["samples.png"]
    with np.load(run.samples / "samples.npz") as file, h5py.File(run.samples_h5, "r") as samples:
        np.testing.assert_array_equal(file["arr_0"], samples["images"])
    assert set(after) == {"samples.h5", "samples.npz", "samples.png", "samples-grid.png"}


def test_samples_are_checked_before_they_are_used(make_run):
    run = make_run()
    _, made_with = fill(run)
    with pytest.raises(UserError, match=f"{run.samples_h5}: missing; run `iddpm sample {run.path}`"):
        check_samples(run, made_with)
    gather(run, made_with, main(run))
    check_samples(run, made_with)
    with pytest.raises(UserError, match="samples.h5: made with other .*: weights_sha256 abab.* instead of cdcd"):
        check_samples(run, sampling_settings(run.spec, "cd" * 32))
    with h5py.File(run.samples_h5, "r") as file:
        place = file["images"].id.get_chunk_info(0).byte_offset
    damaged = bytearray(run.samples_h5.read_bytes())
    damaged[place + 5] ^= 1  # one pixel
    run.samples_h5.write_bytes(damaged)
    with pytest.raises(UserError, match="samples.h5: cannot be read .damaged.*Remove it, and `iddpm sample"):
        check_samples(run, made_with)


def test_memory_does_not_grow_with_the_number_of_chunks(make_run):
    chunk = 256 * 32 * 32
    peaks = []
    for count in (3072, 12288):
        run = make_run("data.image_size=32", "data.channels=1", "sample.batch_size=256", f"sample.num_samples={count}",
                       "model.attention_resolutions=[16]", folder=str(count))
        _, made_with = fill(run)
        gather(run, made_with, main(run))  # whatever is imported or cached once
        for path in (run.samples_h5, run.samples / "samples.npz"):
            path.unlink()
        tracemalloc.start()
        gather(run, made_with, main(run))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    few, many = peaks
    # Between none and all of those that the readers may hold are there at once, as it happens; 36 more chunks are 9 MiB.
    assert many < few + (READERS + 1) * chunk + 50_000 and max(peaks) < 2_000_000, peaks


# Pictures ------------------------------------------------------------------------------------------------------------

def test_pictures_have_a_tile_for_each_of_the_first_samples(make_run):
    run = make_run("sample.num_samples=120", "sample.batch_size=30")
    images, made_with = fill(run)
    gather(run, made_with, main(run))
    tile = 8 * 8 + 2  # eightfold, and the gap
    for name, columns, rows in (("samples.png", 4, 4), ("samples-grid.png", 10, 10)):
        with Image.open(run.samples / name) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (columns * tile + 2, rows * tile + 2))
            pixels = np.array(picture)
        for index in (0, 1, columns, columns * rows - 1):
            top, left = 2 + index // columns * tile, 2 + index % columns * tile
            np.testing.assert_array_equal(pixels[top:top + 64:8, left:left + 64:8], images[index, :, :, 0])
            np.testing.assert_array_equal(pixels[top + 7:top + 64:8, left + 7:left + 64:8], images[index, :, :, 0])


def test_few_samples_leave_the_rest_of_the_grid_white(make_run):
    run = make_run(*UNCONDITIONAL, "data.channels=3", "sample.num_samples=6")
    images, made_with = fill(run)
    gather(run, made_with, main(run))
    with Image.open(run.samples_png) as picture:
        assert (picture.mode, picture.size) == ("RGB", (4 * 66 + 2, 2 * 66 + 2))
        pixels = np.array(picture)
    np.testing.assert_array_equal(pixels[2 + 66:66 + 66:8, 2 + 66:66 + 66:8], images[5])
    assert (pixels[66:, 2 * 66:] == 255).all()


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
