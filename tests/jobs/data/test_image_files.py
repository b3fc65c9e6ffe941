"""One image file: what of it is kept, and how it gets its size."""

import struct
import zlib

import numpy as np
import pytest
from made_images import noise, save
from PIL import Image

from jobs.data import image_files
from jobs.data.dataset import open_data
from jobs.data.image_files import list_images
from jobs.data.importers.encoded import Form
from jobs.data.importers.folder import import_folder
from jobs.data.importers.writer import Writer


def decode_image(*arguments):
    """The pixels of the image, or the reason why there are none."""
    found = image_files.decode_image(*arguments)
    return found if isinstance(found, str) else found.pixels


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "images"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "data.h5"


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
    assert import_folder(folder, Writer(output), Form(8, 3), "none").count == 1
    np.testing.assert_array_equal(open_data(str(output), 8, 3).images[0], pixels)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_damaged_bytes_give_an_image_or_a_reason(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", noise(20, 20, 3))
    whole = path.read_bytes()
    for position in range(0, len(whole), max(len(whole) // 60, 1)):
        path.write_bytes(whole[:position] + bytes(byte ^ 0xFF for byte in whole[position:position + 4])
                         + whole[position + 4:])
        result = decode_image(path, 8, 3)
        assert isinstance(result, str) or (result.shape == (8, 8, 3) and result.dtype == np.uint8)


@pytest.mark.parametrize("image, message", [
    (Image.new("F", (8, 8), 0.5), "floating-point pixels, whose range is not known; convert it to 8 or 16 bits first"),
    (Image.new("LAB", (8, 8)), "pixels of mode LAB; convert it to RGB first"),
    (Image.fromarray(np.full((8, 8), 70000, np.int32)), "values from 70000 to 70000, more than 16 bits; convert it"),
    (Image.fromarray(np.full((8, 8), -1, np.int32)), "values from -1 to -1, more than 16 bits; convert it"),
])
def test_tiff_whose_range_is_not_known_is_refused(tmp_path, image, message):
    assert decode_image(save(tmp_path / "a.tiff", image), 8, 3).startswith(message)


def colour_png_of_16_bits(path, pixels):
    """Pillow cannot write these: uint16 [H, W, 3] as a PNG."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()))
    return path


def test_colours_of_16_bits(tmp_path):
    whole = noise(8, 8, 3)
    path = colour_png_of_16_bits(tmp_path / "a.png", whole.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode_image(path, 8, 3), whole)
    dark = colour_png_of_16_bits(tmp_path / "b.png", whole.astype(np.uint16) * 16)
    assert decode_image(dark, 8, 3) == \
        "colours of 16 bits that need 12, so it would come out nearly black; convert it to 8 bits first"


def test_the_first_page_of_a_tiff(tmp_path):
    pages = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    found = image_files.decode_image(save(tmp_path / "a.tiff", pages[0], save_all=True, append_images=pages[1:]), 8, 3)
    np.testing.assert_array_equal(found.pixels, np.asarray(pages[0]))
    assert found.done == {"frame"}


@pytest.mark.slow
def test_an_enormous_picture_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (30_000, 30_000)).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", 8, 1).startswith("not decodable (Image size (900000000 pixels) exceeds limit")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "b.png")
    assert decode_image(tmp_path / "b.png", 8, 1) == "10000x10000 pixels: suspected decompression bomb"


def test_listing_counts_what_is_no_picture(tmp_path):
    save(tmp_path / "a.png", noise(8, 8))
    for number in range(12):
        (tmp_path / f"x.{'abcdefghijkl'[number]}").write_text("")
    listing = list_images(tmp_path)
    assert listing.images == ["a.png"] and listing.others.total() == 12
    assert listing.left_out().endswith(", 4 others")
