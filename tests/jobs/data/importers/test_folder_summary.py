"""Folders of pictures: every type is read, and the summary says what was done."""


import numpy as np
import pytest
from made_images import noise, save
from PIL import Image

from jobs.data.dataset import open_data
from jobs.data.importers.encoded import Form
from jobs.data.importers.folder import import_folder
from jobs.data.importers.writer import Writer


def remarks(*arguments, **options):
    return import_folder(*arguments, **options).remarks


@pytest.mark.parametrize("names, classes", [
    (["0", "1", "2", "10", "11"], ["0", "1", "2", "10", "11"]),
    (["9", "10", "009", "08"], ["08", "009", "9", "10"]),
    (["100", "20", "3x"], ["100", "20", "3x"]),
    (["-1", "10", "9"], ["-1", "10", "9"]),
    (["1", "10", "²"], ["1", "10", "²"]),
])
@pytest.mark.parametrize("labels", ["subfolder", "prefix"])
def test_classes_that_are_all_numbers_are_in_the_order_of_numbers(folder, output, names, classes, labels):
    for name in names:
        save(folder / (f"{name}/a.png" if labels == "subfolder" else f"{name}_a.png"), noise(8, 8))
    summary = import_folder(folder, Writer(output), Form(8, 1), labels)
    assert summary.classes == open_data(str(output), 8, 1, len(names)).class_names == classes
    data = open_data(str(output), 8, 1)
    by_path = sorted(names, key=lambda name: name if labels == "subfolder" else f"{name}_a.png")
    assert [data.class_names[label] for label in data.labels] == by_path
    order = "their numbers" if all(name.isascii() and name.isdigit() for name in names) else "the alphabet"
    assert summary.remarks[0] == f"classes in the order of {order}: {', '.join(classes)}"


def test_classes_with_nearly_one_name_are_named(folder, output):
    for name in ("Cat", "cat", "dog", "caf\u00e9", "cafe\u0301"):
        save(folder / name / "a.png", noise(8, 8))
    summary = import_folder(folder, Writer(output), Form(8, 1), "subfolder")
    assert len(summary.classes) == 5
    assert summary.remarks[1] == ("these classes have nearly the same name, and are kept apart: Cat, cafe\u0301, caf\u00e9, cat")


def test_every_type_that_pillow_reads_is_an_image(folder, output):
    image = noise(16, 16, 3)
    for suffix in ("tiff", "tif", "png", "ppm", "bmp", "webp", "gif", "jpg", "jp2", "tga", "pcx", "sgi", "dib", "qoi", "JPEG"):
        save(folder / f"a.{suffix}", image)
    for suffix in ("pgm", "pbm"):
        save(folder / f"a.{suffix}", noise(16, 16) if suffix == "pgm" else Image.fromarray(noise(16, 16)).convert("1"))
    assert import_folder(folder, Writer(output), Form(16, 3), "none").count == 17


def test_what_is_left_out_is_named_by_number_and_suffix(folder, output):
    save(folder / "a" / "one.png", noise(16, 16, 3))
    for name in ("Thumbs.db", "a/Thumbs.db", "desktop.ini", "a/README", ".DS_Store", "odd.\x1b[31m", "a/paper.pdf",
                 "a/drawing.eps", "a/data.h5"):
        (folder / name).write_bytes(b"x")
    (folder / ".git").mkdir()
    summary = import_folder(folder, Writer(output), Form(16, 3), "none")
    assert summary.count == 1
    assert summary.remarks[0].startswith("left out 10 files that are no pictures: 2 .db, 2 hidden, ")
    assert "1 without a suffix" in summary.remarks[0] and summary.remarks[0].isprintable()


def test_the_summary_says_what_was_done_to_the_images(folder, output):
    save(folder / "a.png", noise(16, 24, 3))
    save(folder / "b.png", noise(8, 8))
    save(folder / "c.gif", Image.fromarray(noise(8, 8, 3)), save_all=True, append_images=[Image.fromarray(noise(8, 8, 3))])
    turned = Image.Exif()
    turned[0x0112] = 6
    save(folder / "d.png", noise(8, 8, 3), exif=turned)
    save(folder / "e.png", noise(8, 8, 4))
    save(folder / "f.jpg", Image.new("CMYK", (8, 8)))
    save(folder / "g.png", noise(8, 8, 3))
    save(folder / "h.png", np.full((8, 8, 4), 255, np.uint8))
    assert remarks(folder, Writer(output), Form(8, 3), "none") == [
        "grey made RGB: 1, palettes made RGB: 1, CMYK made RGB: 1, transparent pixels laid over white: 1, "
        "first of several frames taken: 1, turned as EXIF says: 1, resized: 1, cropped to the middle square: 1"]
    assert "colours made grey: 7" in remarks(folder, Writer(output), Form(8, 1), "none")[0]


def test_12_bits_in_16_are_as_bright_as_8(folder, output):
    """One range for all images of the folder: what is darker stays darker."""
    ramp = np.tile(np.linspace(0, 4095, 8).astype(np.uint16), (8, 1))
    for number, (suffix, dimmed) in enumerate((("png", 1), ("tif", 2), ("png", 4))):
        save(folder / f"{number}.{suffix}", ramp // dimmed)
    save(folder / "eight.png", noise(8, 8))
    summary = import_folder(folder, Writer(output), Form(8, 1), "none")
    images = open_data(str(output), 8, 1).images[..., 0]
    for image, dimmed in zip(images[:3], (1, 2, 4), strict=True):
        np.testing.assert_array_equal(image, ramp // dimmed >> 4)
    assert images[0].max() == 255
    assert "3 images of 16 bits: no value needs more than 12, so 12 bits were made 8" in summary.remarks


def test_whole_16_bits_beside_12_set_the_range(folder, output):
    save(folder / "a.png", np.full((8, 8), 4095, np.uint16))
    save(folder / "b.png", np.full((8, 8), 65535, np.uint16))
    summary = import_folder(folder, Writer(output), Form(8, 1), "none")
    assert open_data(str(output), 8, 1).images[:, 0, 0, 0].tolist() == [15, 255]
    assert summary.remarks == ["16 bits made 8: 2"]


def test_the_command_prints_the_remarks(folder, output):
    from click.testing import CliRunner

    from slurm.cli.data.group import data
    for name in ("10", "2", "1"):
        save(folder / name / "a.png", noise(16, 16))
    (folder / "notes.txt").write_text("")
    done = CliRunner().invoke(data, ["folder", str(folder), str(output), "--image-size", "8", "--labels", "subfolder"])
    assert done.exit_code == 0
    assert done.output.splitlines()[-4:] == [
        f"{output}: 3 images, 3 classes", "classes in the order of their numbers: 1, 2, 10", "grey made RGB: 3, resized: 3",
        "left out 1 file that is no picture: 1 .txt"]
