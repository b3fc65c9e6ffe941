import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image

from jobs import data_import
from jobs.data import fingerprint, open_data
from jobs.data_import import import_cifar10, import_digits, import_folder, import_npz
from jobs.errors import UserError
from jobs.image_files import decode_image

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    """Write an image file; `pixels` is an array or a PIL image. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def attributes(path):
    with h5py.File(path) as file:
        return dict(file.attrs)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "data.h5"


def assert_nothing_written(output):
    assert not output.parent.exists() or list(output.parent.iterdir()) == []


@pytest.mark.parametrize("split, name, count", [("train", "digits", 1500), ("test", "digits-test", 297)])
def test_digits(output, split, name, count):
    summary = import_digits(output, split)
    assert (summary.count, summary.skipped, summary.classes) == (count, [], list("0123456789"))
    data = open_data(str(output), 8, 1, 10)
    assert isinstance(data.images, np.memmap) and fingerprint(data) == fingerprint(open_data(name, 8, 1))
    assert attributes(output)["skipped"] == 0


# One image ----------------------------------------------------------------------------------------------------------

def test_an_image_of_the_right_size_is_not_touched(tmp_path):
    pixels = noise(8, 8, 3)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "a.png", pixels), 8, 3), pixels)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "a.bmp", pixels), 8, 3), pixels)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "a.webp", pixels, lossless=True), 8, 3), pixels)


def test_grey_and_colour(tmp_path):
    grey, colour = noise(8, 8), noise(8, 8, 3)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "g.png", grey), 8, 1), grey[..., None])
    np.testing.assert_array_equal(decode_image(save(tmp_path / "g.png", grey), 8, 3), np.repeat(grey[..., None], 3, 2))
    luma = colour @ [0.299, 0.587, 0.114]
    result = decode_image(save(tmp_path / "c.png", colour), 8, 1)
    assert result.shape == (8, 8, 1) and abs(result[..., 0] - luma).max() <= 1


def test_whole_halvings_are_averages(tmp_path):
    pixels = noise(32, 32, 3)
    means = pixels.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
    assert abs(decode_image(save(tmp_path / "a.png", pixels), 8, 3) - means).max() <= 2  # PIL rounds four times


def test_halved_then_bicubic_then_the_middle(tmp_path):
    image = Image.fromarray(noise(70, 100, 3))
    expected = image.resize((50, 35), Image.Resampling.BOX).resize((46, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "a.png", image), 32, 3), np.asarray(expected)[:, 7:39])


def test_the_longer_side_is_cut_in_the_middle(tmp_path):
    pixels = noise(8, 14, 3)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "a.png", pixels), 8, 3), pixels[:, 3:11])
    tall = pixels.transpose(1, 0, 2)
    np.testing.assert_array_equal(decode_image(save(tmp_path / "b.png", tall), 8, 3), tall[3:11])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palettes_become_colours_before_resizing(tmp_path, suffix):
    indexed = Image.fromarray(noise(20, 20, 3)).quantize(64)
    expected = decode_image(save(tmp_path / "rgb.png", indexed.convert("RGB")), 8, 3)
    np.testing.assert_array_equal(decode_image(save(tmp_path / f"p.{suffix}", indexed), 8, 3), expected)


def test_exif_orientation_is_applied(tmp_path):
    pixels = noise(8, 12, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    path = save(tmp_path / "a.png", pixels, exif=exif)
    np.testing.assert_array_equal(decode_image(path, 8, 3), np.rot90(pixels, -1)[2:10])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_over_white(tmp_path, mode):
    image = Image.new(mode, (8, 8), (0, 0, 0, 255) if mode == "RGBA" else (0, 255))
    image.putalpha(Image.fromarray(np.repeat(np.array([[0, 102, 255, 255]], np.uint8), 8, 0).repeat(2, 1)))
    result = decode_image(save(tmp_path / "a.png", image), 8, 3)
    np.testing.assert_array_equal(result[0, ::2], [[255] * 3, [153] * 3, [0] * 3, [0] * 3])


def test_transparent_colours_become_white(tmp_path):
    indices = np.zeros((8, 8), np.uint8)
    indices[:, 4:] = 1
    indexed = Image.fromarray(indices)
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    gif = decode_image(save(tmp_path / "a.gif", indexed, transparency=0), 8, 3)
    rgb = decode_image(save(tmp_path / "a.png", indexed.convert("RGB"), transparency=(10, 20, 30)), 8, 3)
    for result in (gif, rgb):
        np.testing.assert_array_equal(result[:, :4], np.full((8, 4, 3), 255))
        np.testing.assert_array_equal(result[:, 4:], np.broadcast_to([40, 50, 60], (8, 4, 3)))


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    pixels = noise(8, 8)
    path = save(tmp_path / "a.png", pixels.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode_image(path, 8, 1)[..., 0], pixels)
    np.testing.assert_array_equal(decode_image(path, 8, 3)[..., 2], pixels)


def test_cmyk_and_one_bit(tmp_path):
    cmyk = decode_image(save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95), 8, 3)
    assert abs(cmyk - np.array([255.0, 0, 0])).max() < 4
    bits = Image.fromarray(noise(8, 8)).convert("1")
    np.testing.assert_array_equal(decode_image(save(tmp_path / "b.png", bits), 8, 1)[..., 0], np.asarray(bits) * 255)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert abs(decode_image(path, 8, 3) - np.array([255.0, 0, 0])).max() < 4


def test_damaged_metadata_spoils_no_image(folder, output):
    pixels = noise(8, 8, 3)
    save(folder / "a.png", pixels, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    assert import_folder(folder, output, 8, "none", 3, "refuse").count == 1
    np.testing.assert_array_equal(open_data(str(output), 8, 3).images[0], pixels)


# A folder -----------------------------------------------------------------------------------------------------------

def small_folder(folder):
    """Three classes; images in the order of their paths. Returns pixels and class names in that order."""
    names = ["bee/b.png", "bee/deeper/a.png", "ant/c.png", "cat/a.PNG", "ant/a_1.png"]
    pixels = {name: noise(8, 8, 3) for name in names}
    for name in names:
        save(folder / name, pixels[name])
    ordered = sorted(names)
    return np.stack([pixels[name] for name in ordered]), [name.split("/")[0] for name in ordered]


def test_folder_with_labels_by_subfolder(folder, output, monkeypatch):
    monkeypatch.setattr(data_import, "_BLOCK", 2)
    pixels, names = small_folder(folder)
    (folder / "ant" / "notes.txt").write_text("not an image")
    (folder / ".cache").mkdir()
    save(folder / ".cache" / "thumbnail.png", noise(8, 8, 3))
    (folder / "ant" / "._a_1.png").write_bytes(b"what some systems leave behind")
    reports = []
    summary = import_folder(folder, output, 8, "subfolder", 3, "refuse", lambda *pair: reports.append(pair))
    assert (summary.count, summary.skipped, summary.classes) == (5, [], ["ant", "bee", "cat"])
    assert reports == [(2, 5), (4, 5), (5, 5)]
    data = open_data(str(output), 8, 3, 3)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, pixels)
    assert [data.class_names[label] for label in data.labels] == names
    assert data.source == f"folder {folder}, 8x8, labels: subfolder"
    assert os.listdir(output.parent) == ["data.h5"]


def test_folder_with_labels_by_prefix(folder, output):
    for name in ("dog_1.png", "sub/cat_2_x.png", "cat_1.png"):
        save(folder / name, noise(8, 8))
    assert import_folder(folder, output, 8, "prefix", 1, "refuse").classes == ["cat", "dog"]
    assert open_data(str(output), 8, 1, 2).labels.tolist() == [0, 1, 0]


def test_folder_without_labels(folder, output):
    pixels, _ = small_folder(folder)
    assert import_folder(folder, output, 8, "none", 3, "refuse").classes == []
    data = open_data(str(output), 8, 3)
    assert data.labels is None and data.class_names == []
    np.testing.assert_array_equal(data.images, pixels)


@pytest.mark.parametrize("labels, reason", [("subfolder", "not in a sub-folder, so it has no label"),
                                            ("prefix", 'no class name before a "_" in its file name')])
def test_an_image_whose_class_is_unknown_is_bad(folder, output, labels, reason):
    save(folder / "x" / "a_1.png", noise(8, 8))
    save(folder / "plain.png", noise(8, 8))
    with pytest.raises(UserError, match=f"plain.png: {reason}"):
        import_folder(folder, output, 8, labels, 1, "refuse")
    assert_nothing_written(output)
    assert import_folder(folder, output, 8, labels, 1, "skip").skipped == [("plain.png", reason)]


def odd_images(folder, monkeypatch):
    """Files that cannot be used, each in class "odd", and what is said of each; beside them two good ones."""
    whole = noise(40, 40, 3)
    expected = {}
    for suffix in ("jpg", "png", "gif", "webp", "bmp"):
        path = save(folder / "odd" / f"cut.{suffix}", whole)
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
        expected[f"odd/cut.{suffix}"] = "not decodable"
    save(folder / "odd" / "tail.jpg", whole)
    (folder / "odd" / "tail.jpg").write_bytes((folder / "odd" / "tail.jpg").read_bytes()[:-10])
    expected["odd/tail.jpg"] = "not decodable"
    (folder / "odd" / "empty.png").write_bytes(b"")
    expected["odd/empty.png"] = "zero bytes"
    (folder / "odd" / "text.jpeg").write_text("this is no image")
    expected["odd/text.jpeg"] = "not a JPEG, PNG, GIF, WebP or BMP image"
    save(folder / "odd" / "tiff.tmp", whole, format="TIFF").rename(folder / "odd" / "tiff.png")
    expected["odd/tiff.png"] = "not a JPEG, PNG, GIF, WebP or BMP image"
    save(folder / "odd" / "small.png", noise(7, 30, 3))
    expected["odd/small.png"] = "30x7, smaller than image_size 8; it would be enlarged"
    os.symlink(folder / "nowhere", folder / "odd" / "link.png")
    expected["odd/link.png"] = "not decodable ([Errno 2] No such file or directory"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    save(folder / "odd" / "bomb.png", noise(50, 50, 3))
    expected["odd/bomb.png"] = "50x50 pixels: suspected decompression bomb"
    save(folder / "odd" / "bigger-bomb.png", noise(100, 100, 3))
    expected["odd/bigger-bomb.png"] = "not decodable (Image size (10000 pixels) exceeds limit"
    good = noise(2, 8, 8, 3)
    save(folder / "ant" / "a.png", good[0])
    save(folder / "zebra" / "a.png", good[1])
    return good, expected


def test_bad_images_are_all_counted_and_ten_named(folder, output, monkeypatch):
    monkeypatch.setattr(data_import, "_BLOCK", 4)
    _, expected = odd_images(folder, monkeypatch)
    with pytest.raises(UserError) as error:
        import_folder(folder, output, 8, "subfolder", 3, "refuse")
    first, *lines, last = str(error.value).splitlines()
    assert first == (f"{folder}: 13 of 15 images cannot be used, nothing was written; "
                     "mend or remove them, or leave them out with --on-error skip:")
    assert len(lines) == 10 and last == "  and 3 more"
    for line, (path, reason) in zip(lines, sorted(expected.items())):
        assert line.startswith(f"  {path}: {reason}")
    assert_nothing_written(output)


def test_bad_images_are_skipped_and_listed(folder, output, monkeypatch):
    monkeypatch.setattr(data_import, "_BLOCK", 4)
    good, expected = odd_images(folder, monkeypatch)
    summary = import_folder(folder, output, 8, "subfolder", 3, "skip")
    assert summary.count == 2 and [path for path, _ in summary.skipped] == sorted(expected)
    for path, reason in summary.skipped:
        assert reason.startswith(expected[path])
    data = open_data(str(output), 8, 3, 3)
    np.testing.assert_array_equal(data.images, good)
    # "odd" has no image left but keeps its id.
    assert summary.classes == data.class_names == ["ant", "odd", "zebra"] and data.labels.tolist() == [0, 2]
    assert attributes(output)["skipped"] == 13
    assert os.listdir(output.parent) == ["data.h5"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_bytes_give_an_image_or_a_reason(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", noise(20, 20, 3))
    whole = path.read_bytes()
    for position in range(0, len(whole), max(len(whole) // 60, 1)):
        path.write_bytes(whole[:position] + bytes(byte ^ 0xFF for byte in whole[position:position + 4])
                         + whole[position + 4:])
        result = decode_image(path, 8, 3)
        assert isinstance(result, str) or (result.shape == (8, 8, 3) and result.dtype == np.uint8)


def test_when_no_image_is_left(folder, output):
    save(folder / "a.png", noise(4, 4))
    with pytest.raises(UserError, match=r"1 of 1 images cannot be used, nothing was written:\n  a.png: 4x4, smaller"):
        import_folder(folder, output, 8, "none", 1, "skip")
    assert_nothing_written(output)


def test_folders_without_images(tmp_path, folder, output):
    with pytest.raises(UserError, match="images: no such folder"):
        import_folder(folder, output, 8, "none", 3, "skip")
    folder.mkdir()
    (folder / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"images: no images \(.jpg, .*\) in it or below; 1 other files"):
        import_folder(folder, output, 8, "none", 3, "skip")
    with pytest.raises(UserError, match="image_size is 0; it must be at least 1"):
        import_folder(folder, output, 0, "none", 3, "skip")
    assert_nothing_written(output)


def test_linked_folders_are_followed_once(tmp_path, folder, output):
    save(tmp_path / "elsewhere" / "a.png", noise(8, 8))
    save(folder / "ant" / "a.png", noise(8, 8))
    os.symlink(tmp_path / "elsewhere", folder / "bee")
    assert import_folder(folder, output, 8, "subfolder", 1, "refuse").classes == ["ant", "bee"]
    os.symlink(folder, folder / "ant" / "loop")
    with pytest.raises(UserError, match="ant/loop: leads to a folder that is read already"):
        import_folder(folder, output, 8, "subfolder", 1, "refuse")


def test_file_names_of_any_bytes(folder, output):
    name = os.fsdecode(b"a\xff\n.png")
    save(folder / "ok.png", noise(8, 8))
    (folder / name).write_bytes(b"")
    with pytest.raises(UserError) as error:
        import_folder(folder, output, 8, "none", 1, "refuse")
    assert "\n  a\\udcff\\n.png: zero bytes" in str(error.value).encode("utf-8").decode()
    assert import_folder(folder, output, 8, "none", 1, "skip").skipped == [("a\\udcff\\n.png", "zero bytes")]
    (folder / name).unlink()
    save(folder / os.fsdecode(b"\xff") / "x.png", noise(8, 8))
    save(folder / "plain" / "x.png", noise(8, 8))
    classes = import_folder(folder, output, 8, "subfolder", 1, "skip").classes
    assert open_data(str(output), 8, 1, 2).class_names == classes == ["plain", os.fsdecode(b"\xff")]


def test_many_long_class_names(folder, output):
    names = [f"{number:04d}-" + "long" * 30 for number in range(600)]  # together 75 KB
    for name in names:
        save(folder / name / "x.bmp", np.zeros((1, 1), np.uint8))
    assert import_folder(folder, output, 1, "subfolder", 1, "refuse").classes == names
    assert open_data(str(output), 1, 1, 600).class_names == names


def test_an_interruption_leaves_the_old_file_and_nothing_else(folder, output, monkeypatch):
    monkeypatch.setattr(data_import, "_BLOCK", 2)
    import_digits(output, "test")
    before = output.read_bytes()
    small_folder(folder)

    def interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_folder(folder, output, 8, "none", 3, "skip", interrupt)
    assert output.read_bytes() == before and os.listdir(output.parent) == ["data.h5"]
    import_folder(folder, output, 8, "none", 3, "skip")
    assert len(open_data(str(output), 8, 3)) == 5


def test_output_never_replaces_another_kind_of_file(folder, output, tmp_path):
    small_folder(folder)
    (tmp_path / "precious.npz").write_bytes(b"results of a month")
    for taken in (tmp_path / "precious.npz", folder):
        with pytest.raises(UserError, match=f"{taken}: exists and is not an HDF5 file; choose another output"):
            import_folder(folder, taken, 8, "none", 3, "refuse")
    assert (tmp_path / "precious.npz").read_bytes() == b"results of a month"


@pytest.mark.parametrize("limit", [30_000, 100_000, 900_000])
def test_a_full_disk_is_named_and_the_process_lives(tmp_path, output, limit):
    # A limit on file sizes fails as a full disk does. HDF5 itself would end such a process with a segmentation fault.
    source = tmp_path / "a.npz"
    np.savez_compressed(source, np.zeros((300, 32, 32, 3), np.uint8))
    code = f"""
import resource, sys
from jobs.data_import import import_npz
from jobs.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    import_npz({str(source)!r}, {str(output)!r})
except UserError as error:
    sys.exit(0 if str(error).startswith({f"{output}: no space left"!r}) else str(error))
sys.exit("no error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert_nothing_written(output)


# CIFAR-10 -----------------------------------------------------------------------------------------------------------

class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, which made the archive."""
    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCH_NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
CIFAR_IMAGES = noise(18, 32, 32, 3)
CIFAR_LABELS = list(RNG.permutation(18) % 10)


def cifar_members(**changes):
    """Files of the archive, three images in each; `changes` replace entries of data_batch_2."""
    members = {"batches.meta": {"num_cases_per_batch": 3, "label_names": CLASSES, "num_vis": 3072}}
    for number, name in enumerate(BATCH_NAMES):
        part = slice(3 * number, 3 * number + 3)
        members[name] = {"batch_label": name, "labels": [int(label) for label in CIFAR_LABELS[part]],
                         "data": np.stack([image.transpose(2, 0, 1).ravel() for image in CIFAR_IMAGES[part]]),
                         "filenames": ["a_s_000004.png"] * 3}
    members["data_batch_2"].update(changes)
    return {name: python2_pickle(value) for name, value in members.items()}


def make_archive(path, members, folder="cifar-10-batches-py"):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {**members, "readme.html": b"hello"}.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("split, part", [("train", slice(0, 15)), ("test", slice(15, 18))])
def test_cifar10(tmp_path, output, unpacked, split, part):
    source = make_archive(tmp_path / "cifar-10-python.tar.gz", cifar_members())
    if unpacked:
        source = tmp_path / "cifar-10-batches-py"
        source.mkdir()
        for name, content in cifar_members().items():
            (source / name).write_bytes(content)
    summary = import_cifar10(source, output, split)
    data = open_data(str(output), 32, 3, 10)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, CIFAR_IMAGES[part])
    assert data.labels.tolist() == CIFAR_LABELS[part]
    assert (summary.count, summary.classes, data.class_names) == (len(data), CLASSES, CLASSES)
    assert data.source == f"CIFAR-10, {split}"


class Malice:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, exec, getattr, np.save, np.load])
def test_a_pickle_runs_no_code(tmp_path, output, function):
    trap = tmp_path / "trap"
    arguments = {exec: (f"import os; os.mkdir({str(trap)!r})",), getattr: (1, "real")}.get(function, (str(trap),))
    members = {**cifar_members(), "data_batch_2": pickle.dumps({b"data": Malice(function, *arguments)}, 2)}
    with pytest.raises(UserError, match="data_batch_2 is not .*it asks for .*which no image data needs"):
        import_cifar10(make_archive(tmp_path / "a.tar.gz", members), output, "train")
    assert not trap.exists()
    assert_nothing_written(output)


@pytest.mark.parametrize("changes, message", [
    ({"data": np.zeros((3, 3071), np.uint8)}, r"data_batch_2: data is uint8 \[3, 3071\]; it must be uint8"),
    ({"data": np.zeros((3, 3072), np.float32)}, r"data is float32 \[3, 3072\]"),
    ({"data": np.zeros(3072, np.uint8)}, r"data is uint8 \[3072\]"),
    ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"data is uint8 \[0, 3072\]"),
    ({"data": [1, 2]}, "data is list"),
    ({"labels": [0, 1]}, "data_batch_2: labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, 10]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": [0, 1, "cat"]}, "labels must be 3 numbers in 0 .. 9"),
    ({"labels": None}, "labels must be 3 numbers in 0 .. 9"),
])
def test_bad_cifar_batches_are_named(tmp_path, output, changes, message):
    with pytest.raises(UserError, match=f"a.tar.gz: .*{message}"):
        import_cifar10(make_archive(tmp_path / "a.tar.gz", cifar_members(**changes)), output, "train")
    assert_nothing_written(output)


def test_incomplete_cifar_archives(tmp_path, output):
    members = cifar_members()
    incomplete = {name: content for name, content in members.items() if name not in ("data_batch_3", "data_batch_5")}
    archive = make_archive(tmp_path / "a.tar.gz", incomplete)
    with pytest.raises(UserError, match="has no cifar-10-batches-py/data_batch_3.* data_batch_3, data_batch_5"):
        import_cifar10(archive, output, "train")
    assert import_cifar10(archive, output, "test").count == 3
    elsewhere = make_archive(tmp_path / "b.tar.gz", members, folder="cifar-100-python")
    with pytest.raises(UserError, match="b.tar.gz: has no cifar-10-batches-py/batches.meta"):
        import_cifar10(elsewhere, output, "test")
    nameless = make_archive(tmp_path / "c.tar.gz", {**members, "batches.meta": python2_pickle([])})
    with pytest.raises(UserError, match="batches.meta has no label_names"):
        import_cifar10(nameless, output, "test")


def test_damaged_cifar_archives(tmp_path, output):
    archive = make_archive(tmp_path / "a.tar.gz", cifar_members())
    whole = archive.read_bytes()
    checksum_wrong = whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]
    for content in (whole[:len(whole) // 2], whole[:-3], checksum_wrong, b"", b"no archive" * 100, whole[:5]):
        archive.write_bytes(content)
        with pytest.raises(UserError, match="a.tar.gz: not a whole tar archive"):
            import_cifar10(archive, output, "train")
    with pytest.raises(UserError, match="missing.tar.gz: no such file; give cifar-10-python.tar.gz or"):
        import_cifar10(tmp_path / "missing.tar.gz", output, "train")
    members = cifar_members()
    members["data_batch_4"] = members["data_batch_4"][:-2000]
    with pytest.raises(UserError, match="data_batch_4 is not a CIFAR-10 pickle, or a damaged one"):
        import_cifar10(make_archive(tmp_path / "b.tar.gz", members), output, "train")
    assert_nothing_written(output)


# .npz ---------------------------------------------------------------------------------------------------------------

NPZ_IMAGES = noise(7, 4, 4, 3)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("images, labels", [("arr_0", "arr_1"), ("images", "labels")])
def test_npz(tmp_path, output, monkeypatch, write, images, labels):
    monkeypatch.setattr(data_import, "_BLOCK", 3)
    write(tmp_path / "a.npz", **{images: NPZ_IMAGES, labels: np.arange(7, dtype=np.int32)})
    assert import_npz(tmp_path / "a.npz", output).count == 7
    data = open_data(str(output), 4, 3, 7)
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.images, NPZ_IMAGES)
    assert data.labels.tolist() == list(range(7)) and data.source == f"npz file {tmp_path / 'a.npz'}"


def test_npz_without_labels(tmp_path, output):
    np.savez(tmp_path / "a.npz", NPZ_IMAGES)
    import_npz(tmp_path / "a.npz", output)
    assert open_data(str(output), 4, 3).labels is None


@pytest.mark.parametrize("arrays, message", [
    ({"x": NPZ_IMAGES}, "has neither arr_0 nor images; it holds: x.npy"),
    ({"arr_0": NPZ_IMAGES.astype(np.float32)}, r"arr_0.npy is float32 \[7, 4, 4, 3\]; it must be uint8 \[N, H, W, C\]"),
    ({"arr_0": NPZ_IMAGES[0]}, r"arr_0.npy is uint8 \[4, 4, 3\]"),
    ({"arr_0": NPZ_IMAGES[:0]}, r"arr_0.npy is uint8 \[0, 4, 4, 3\]"),
    ({"arr_0": np.asfortranarray(NPZ_IMAGES)}, "arr_0.npy is stored in Fortran order"),
    ({"arr_0": np.array([Malice(os.mkdir, "trap")])}, r"arr_0.npy is object \[1\]"),
    ({"arr_0": NPZ_IMAGES, "arr_1": np.array([Malice(os.mkdir, "trap")] * 7)}, r"arr_1.npy is object \[7\]"),
    ({"arr_0": NPZ_IMAGES, "arr_1": np.zeros(7)}, r"arr_1.npy is float64 \[7\]; labels must be whole numbers \[N\]"),
    ({"arr_0": NPZ_IMAGES, "arr_1": np.zeros(6, int)}, "6 labels for 7 images"),
    ({"arr_0": NPZ_IMAGES, "labels": np.full(7, -1)}, "labels.npy must hold 7 labels of 0 and up"),
])
def test_bad_npz_contents_are_named(tmp_path, output, monkeypatch, arrays, message):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=f"a.npz: {message}"):
        import_npz(tmp_path / "a.npz", output)
    assert not (tmp_path / "trap").exists()
    assert_nothing_written(output)


def test_damaged_npz_files(tmp_path, output):
    source = tmp_path / "a.npz"
    np.savez(source, NPZ_IMAGES)
    whole = source.read_bytes()
    one_bit = bytearray(whole)
    one_bit[whole.index(NPZ_IMAGES.tobytes()) + 100] ^= 1
    for content in (bytes(one_bit), whole[:-30], whole[:200], b"", b"no zip" * 100):
        source.write_bytes(content)
        with pytest.raises(UserError, match="a.npz: not an .npz file, or a damaged one"):
            import_npz(source, output)
    with pytest.raises(UserError, match="missing.npz: no such file"):
        import_npz(tmp_path / "missing.npz", output)
    with pytest.raises(UserError, match="not an .npz file"):
        import_npz(tmp_path, output)
    assert_nothing_written(output)


@pytest.mark.parametrize("claimed, message", [(9, "ends in image 7 of 9"), (5, "goes on after the last of 5 images")])
def test_an_npz_header_that_miscounts(tmp_path, output, claimed, message):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (claimed, 4, 4, 3)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + NPZ_IMAGES.tobytes())
    with pytest.raises(UserError, match=message):
        import_npz(tmp_path / "a.npz", output)
    assert_nothing_written(output)


def test_npz_is_not_overwritten_by_its_own_data_set(tmp_path):
    source = tmp_path / "a.npz"
    np.savez(source, NPZ_IMAGES)
    with pytest.raises(UserError, match="a.npz: exists and is not an HDF5 file"):
        import_npz(source, source)
    np.testing.assert_array_equal(np.load(source)["arr_0"], NPZ_IMAGES)


def test_npz_passes_through_memory_in_blocks(tmp_path, output):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((5000, 32, 32, 3), np.uint8))  # 15 MB
    tracemalloc.start()
    try:
        import_npz(tmp_path / "a.npz", output)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5e6
    assert len(open_data(str(output), 32, 3)) == 5000
