"""Chunks into samples.h5, samples.npz and pictures; chunks that are missing, damaged or foreign."""

import json
import tracemalloc

import h5py
import numpy as np
import pytest
from PIL import Image
from small_chunks import WEIGHTS, contents, fill, flip, main, other_weights, zeros

from jobs.errors import UserError
from jobs.run.provenance import package_versions
from jobs.sampling.chunks import chunk_file, sampling_settings, write_chunk
from jobs.sampling.gather import READERS, check_samples, gather, gather_run, recorded_settings
from jobs.spec.reading.frozen import load_frozen
from jobs.spec.samplings import samplings

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
                     "timestep_respacing": "ddim10", "diffusion_steps": 40, "step": 12, "differs": "{}"}


def test_gathering_without_the_weights_goes_by_the_first_chunk(make_run):
    run = make_run()
    with pytest.raises(UserError, match=f"{run.samples}: no chunks to gather"):
        recorded_settings(run, main(run))
    images, made_with = fill(run)
    assert recorded_settings(run, main(run)) == made_with
    other_weights(chunk_file(run.samples, 1), run)
    with pytest.raises(UserError, match="chunk-00001.h5: made with other weights"):
        gather_run(run)
    flip(chunk_file(run.samples, 0), run)
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


def test_a_further_sampling_has_the_small_picture_alone(make_run):
    run = make_run("evaluate.respacings=[10]")
    _, made_with = fill(run)
    other = samplings(run.spec)[1]
    run.samples.rename(run.path / "elsewhere")
    run.samples.mkdir()
    (run.path / "elsewhere").rename(run.samples_folder(other))
    gather(run, made_with, other)
    names = {path.name for path in run.samples_folder(other).iterdir() if not path.name.startswith("chunk-")}
    assert names == {"samples.h5", "samples.png"}
