"""Downsampled ImageNet as a data set."""

import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from made_images import noise

from jobs.data.dataset import open_data
from jobs.data.importers import writer
from jobs.data.importers.averaged import average
from jobs.data.importers.imagenet_npz import import_imagenet_npz
from jobs.data.importers.writer import Writer
from jobs.errors import UserError

IMAGES = noise(30, 4, 4, 3)
LABELS = np.random.default_rng(0).integers(1, 1001, 30)


def rows(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def put(path, images=IMAGES, labels=LABELS, write=np.savez, **others):
    path.parent.mkdir(exist_ok=True)
    write(path, data=rows(images), labels=labels, mean=np.zeros(images[0].size), **others)
    return path


def put_all(folder):
    for number in range(1, 11):
        part = slice(3 * number - 3, 3 * number)
        put(folder / f"train_data_batch_{number}.npz", IMAGES[part], LABELS[part])
    put(folder / "val_data.npz", IMAGES[:4], LABELS[:4], np.savez_compressed)
    return folder


def import_them(sources, output, split="train", size=4, **options):
    return import_imagenet_npz(sources, Writer(output), split, **options), open_data(str(output), size, 3, 1000)


def test_a_folder_of_ten_files(tmp_path, output, monkeypatch):
    monkeypatch.setattr(writer, "_BLOCK", 2)
    folder = put_all(tmp_path / "in4")
    summary, data = import_them([folder], output)
    assert isinstance(data.images, np.memmap) and summary.count == 30
    np.testing.assert_array_equal(data.images, IMAGES)  # batch 10 comes after batch 9
    assert data.labels.tolist() == (LABELS - 1).tolist()
    assert summary.remarks[0] == "10 files: train_data_batch_1.npz to train_data_batch_10.npz"
    assert data.source == f"downsampled ImageNet, 10 files of {folder}"
    _, data = import_them([folder], output, "val")
    np.testing.assert_array_equal(data.images, IMAGES[:4])
    assert data.source == f"downsampled ImageNet, 1 file of {folder}"


def test_files_one_by_one_and_folders_of_parts(tmp_path, output):
    folder = put_all(tmp_path / "in4")
    files = [folder / f"train_data_batch_{number}.npz" for number in (3, 1)]
    np.testing.assert_array_equal(import_them(files, output)[1].images, np.concatenate([IMAGES[6:9], IMAGES[:3]]))
    (tmp_path / "part2").mkdir()
    for number in range(6, 11):
        os.rename(folder / f"train_data_batch_{number}.npz", tmp_path / "part2" / f"train_data_batch_{number}.npz")
    np.testing.assert_array_equal(import_them([folder, tmp_path / "part2"], output)[1].images, IMAGES)
    one = put(tmp_path / "one" / "train_64x64.npz")
    np.testing.assert_array_equal(import_them([one.parent], output)[1].images, IMAGES)


def test_images_pass_through_memory_in_blocks(tmp_path, output, monkeypatch):
    monkeypatch.setattr(writer, "_BLOCK", 20)
    files = [put(tmp_path / f"{number}.npz", np.zeros((500, 32, 32, 3), np.uint8), np.ones(500, int)) for number in range(4)]
    tracemalloc.start()
    try:
        import_imagenet_npz(files, Writer(output), "train", image_size=20)
        assert tracemalloc.get_traced_memory()[1] < 3 << 20  # of 6 MB of images; float64 takes eight times as much of a block
    finally:
        tracemalloc.stop()


def test_class_names_and_averaging(tmp_path, output):
    (tmp_path / "map_clsloc.txt").write_text("".join(f"n{7000 - n:08d} {n} name_{n}\n" for n in range(1, 1001)))
    source = put(tmp_path / "val_data.npz")
    _, data = import_them([source], output, size=3, class_names=tmp_path / "map_clsloc.txt", image_size=3)
    assert [data.class_names[label] for label in data.labels] == [f"name_{label}" for label in LABELS]
    np.testing.assert_array_equal(data.images, average(IMAGES, 3))
    assert data.source.endswith("val_data.npz, averaged from 4x4 to 3x3")
    with pytest.raises(UserError, match="val_data.npz: images are 4x4, smaller than image_size 8"):
        import_them([source], output, image_size=8)
    (tmp_path / "few.txt").write_text("n00000001 1 one")
    with pytest.raises(UserError, match="few.txt: names 1 of the classes, but there is a class number"):
        import_them([source], output, class_names=tmp_path / "few.txt")


def test_missing_and_doubled_files(tmp_path, output, assert_nothing_written):
    folder = put_all(tmp_path / "in4")
    files = [folder / f"train_data_batch_{number}.npz" for number in range(1, 11)]
    os.symlink(files[0], tmp_path / "link.npz")
    put(tmp_path / "copy" / "train_data_batch_1.npz")
    put(tmp_path / "large.npz", noise(3, 8, 8, 3), LABELS[:3])
    for sources, message in (
            ([files[0], files[1], files[0]], "train_data_batch_1.npz: is there twice, also as .*in4/train_data_batch_1.npz"),
            ([files[0], tmp_path / "link.npz"], "link.npz: is there twice"),
            ([files[0], tmp_path / "copy" / "train_data_batch_1.npz"], "copy/train_data_batch_1.npz: is there twice"),
            ([files[0], tmp_path / "large.npz"], "large.npz: images are 8x8, but those of .*batch_1.npz are 4x4"),
            ([tmp_path / "gone.npz"], "gone.npz: no such file"),
            ([tmp_path / "copy", tmp_path / "gone"], "of ImageNet's 10 training files there is no train_data_batch_2.npz, .*"
                                                     "give the files one by one if you want only some")):
        with pytest.raises(UserError, match=message):
            import_them(sources, output)
    files[6].unlink()
    with pytest.raises(UserError, match="in4: of ImageNet's 10 training files there is no train_data_batch_7.npz;"):
        import_them([folder], output)
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "train_data_batch_1").write_bytes(b"")
    with pytest.raises(UserError, match=r"pickles: has no train\*.npz \(ImageNet's pickles are not read; fetch the npz version"):
        import_them([tmp_path / "pickles"], output)
    with zipfile.ZipFile(tmp_path / "part1.zip", "w") as archive:
        archive.write(files[0], "part1/train_data_batch_1.npz")
    with pytest.raises(UserError, match="part1.zip: has no data and no labels; it holds: part1/train_.*_1.npz; unpack it first"):
        import_them([tmp_path / "part1.zip"], output)
    with pytest.raises(UserError, match=r"copy: has no val\*.npz; it holds: train_data_batch_1.npz"):
        import_them([tmp_path / "copy"], output, "val")
    assert_nothing_written()


class Malice:
    def __reduce__(self):
        return os.mkdir, ("trap",)


@pytest.mark.parametrize("arrays, message", [
    ({"data": rows(IMAGES)}, "has no labels; it holds: data.npy"),
    ({"arr_0": IMAGES}, "has no data and no labels; it holds: arr_0.npy; `iddpm data npz` imports it"),
    ({"data": IMAGES, "labels": LABELS}, r"data.npy is uint8 \[30, 4, 4, 3\]; it must be uint8 \[N, 3 \* S \* S\]"),
    ({"data": rows(IMAGES) / 255, "labels": LABELS}, r"data.npy is float64 \[30, 48\]"),
    ({"data": rows(IMAGES)[:, :47], "labels": LABELS}, "data.npy is .*; 47 values are no square image of three colours"),
    ({"data": rows(IMAGES)[:0], "labels": LABELS[:0]}, r"data.npy is uint8 \[0, 48\]"),
    ({"data": np.asfortranarray(rows(IMAGES)), "labels": LABELS}, "data.npy is stored in Fortran order"),
    ({"data": rows(IMAGES), "labels": LABELS[:29]}, "29 labels for 30 images"),
    ({"data": rows(IMAGES), "labels": LABELS * 1.0}, r"labels.npy is float64 \[30\]; labels must be whole numbers"),
    ({"data": rows(IMAGES), "labels": np.full(30, np.nan)}, r"labels.npy is float64 \[30\]"),
    ({"data": rows(IMAGES), "labels": np.arange(30)}, "label 0 of image 0 is outside 1 .. 1000; 1 such labels in all"),
    ({"data": rows(IMAGES), "labels": LABELS + 1000}, "is outside 1 .. 1000; 30 such labels"),
    ({"data": rows(IMAGES), "labels": np.full(30, -3)}, "label -3 of image 0 is outside 1 .. 1000"),
    ({"data": rows(IMAGES), "labels": np.full(30, 2 ** 64 - 1, np.uint64)}, "label 18446744073709551615 of image 0"),
    ({"data": rows(IMAGES), "labels": np.array([Malice()] * 30)}, "labels.npy is object"),
    ({"data": np.array([Malice()]), "labels": LABELS}, "data.npy is object"),
])
def test_files_that_do_not_fit_are_named(tmp_path, output, monkeypatch, arrays, message, assert_nothing_written):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=f"a.npz: (data.npy: |labels.npy: )?.*{message}"):
        import_them([tmp_path / "a.npz"], output)
    assert not os.path.exists("trap")
    assert_nothing_written()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_damage_is_named_and_nothing_written(tmp_path, output, write, assert_nothing_written):
    first, source = put(tmp_path / "first.npz"), put(tmp_path / "a.npz", write=write)
    whole = source.read_bytes()
    start = whole.index(b"data.npy")
    pixels = whole.index(rows(IMAGES).tobytes()[:20]) if write is np.savez else start + 200
    flipped = [whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:] for place in (pixels, pixels + 100, start + 60)]
    for content in (whole[:len(whole) // 2], whole[:-10], b"", whole[:200], pickle.dumps({"data": 1}), *flipped):
        source.write_bytes(content)
        with pytest.raises(UserError, match="a.npz: "):
            import_them([first, source], output)
    assert_nothing_written()
