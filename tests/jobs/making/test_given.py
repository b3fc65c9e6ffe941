"""Given pictures: every type that Pillow reads fits the network, and what cannot be used is named in one sentence."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jobs.errors import UserError
from jobs.making.given import read_mask, read_picture
from jobs.spec.sections import Data

GREY = Data(path="digits", image_size=8, channels=1)
COLOUR = Data(path="digits", image_size=8, channels=3)


def test_a_picture_of_the_right_size_is_taken_as_it_is(picture):
    found = read_picture(picture(), GREY)
    assert found.remark == "" and found.pixels.shape == (8, 8, 1) and found.size == (8, 8)
    with Image.open(found.path) as image:
        assert (found.pixels[:, :, 0] == np.asarray(image)).all()


@pytest.mark.parametrize("name, mode, size, data, remark", [
    ("a.png", "L", 16, GREY, "16x16 pixels; resized: 8x8 pixels are used"),
    ("a.png", "L", (8, 12), GREY, "8x12 pixels; cropped to the middle square: 8x8 pixels are used"),
    ("a.png", "L", 8, COLOUR, "8x8 pixels; grey made RGB: 8x8 pixels are used"),
    ("a.jpg", "RGB", (30, 20), GREY,
     "30x20 pixels; colours made grey, resized, cropped to the middle square: 8x8 pixels are used"),
    ("a.png", "RGBA", 8, COLOUR, "8x8 pixels; transparent pixels laid over white: 8x8 pixels are used"),
    ("a.gif", "P", 8, COLOUR, "8x8 pixels; palettes made RGB: 8x8 pixels are used"),
    ("a.jpg", "CMYK", 8, COLOUR, "8x8 pixels; CMYK made RGB: 8x8 pixels are used"),
    ("a.png", "1", 8, GREY, ""),
    ("a.webp", "RGB", 8, COLOUR, ""),
    ("a.tiff", "L", 8, GREY, ""),
])
def test_what_is_done_to_a_picture_is_said_in_a_sentence(picture, name, mode, size, data, remark):
    file = picture(name, size, mode)
    found = read_picture(file, data)
    assert found.remark == (f"{file}: {remark}" if remark else "") and found.pixels.shape == (8, 8, data.channels)


def test_deep_grey_keeps_its_range(tmp_path):
    values = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)  # a camera's 12 bits
    Image.fromarray(values).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png", GREY)
    assert found.pixels.min() == 0 and found.pixels.max() == 255 and "16 bits made 8" in found.remark


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (200, 10)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = read_picture(tmp_path / "a.gif", GREY)
    assert (found.pixels == 200).all() and "first of several frames taken" in found.remark


def test_a_photograph_is_turned_as_its_camera_was_held_and_so_is_the_size_of_its_mask(tmp_path, mask):
    pixels = np.zeros((16, 8), np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    found = read_picture(tmp_path / "a.png", GREY)
    assert found.size == (16, 8) and (found.pixels[:4] == 255).all() and not found.pixels[4:].any()
    assert read_mask(mask(size=(16, 8)), found)[4:].all()


@pytest.mark.parametrize("content, message", [
    (b"", "zero bytes"),
    (b"no picture", "not an image of a type that Pillow reads"),
    (b"\x89PNG\r\n\x1a\n" + bytes(30), "not an image of a type that Pillow reads"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image of a type that Pillow reads"),
])
def test_files_that_are_no_pictures(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/a.png: {message}$"):
        read_picture(tmp_path / "a.png", GREY)


def test_a_damaged_picture(picture):
    file = picture("a.png", 64)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a.png: not decodable \("):
        read_picture(file, GREY)


def test_a_picture_that_is_too_small(picture):
    with pytest.raises(UserError, match="a.png: 7x9, smaller than image_size 8; it would be enlarged$"):
        read_picture(picture("a.png", (7, 9)), GREY)


def test_a_picture_whose_header_promises_too_many_pixels(tmp_path, picture):
    content = bytearray(picture("a.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="a.png: .*(60000|exceeds limit|decompression bomb)"):
        read_picture(tmp_path / "a.png", GREY)


def test_a_folder_and_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("pipe", "a named pipe"), (".", "a folder")):
        with pytest.raises(UserError, match=f"not a file, but {what}$"):
            read_picture(tmp_path / name, GREY)


def test_floating_point_pixels(tmp_path):
    Image.fromarray(np.random.rand(8, 8).astype(np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="a.tiff: floating-point pixels, whose range is not known"):
        read_picture(tmp_path / "a.tiff", GREY)


def test_a_mask_is_white_where_pixels_are_made_anew(picture, mask):
    anew = read_mask(mask(), read_picture(picture(), GREY))
    assert anew.dtype == bool and anew[4:].all() and not anew[:4].any()


def test_a_mask_is_resized_and_cropped_like_its_picture(picture, mask):
    found = read_picture(picture("a.png", (40, 30)), GREY)
    anew = read_mask(mask(size=(40, 30)), found)
    assert anew.shape == (8, 8) and anew[4:].all() and not anew[:4].any()


def test_a_mask_may_be_of_any_type(picture, tmp_path):
    given = read_picture(picture(), GREY)
    for name, mode, white in (("m.jpg", "RGB", "white"), ("m.bmp", "1", 1), ("m.png", "RGBA", (255, 255, 255, 255)),
                              ("n.png", "I;16", 65535)):
        image = Image.new(mode, (8, 8))
        image.paste(white, (0, 0, 4, 8))
        if mode == "RGBA":
            image.paste((0, 0, 0, 255), (4, 0, 8, 8))
        image.save(tmp_path / name)
        anew = read_mask(tmp_path / name, given)
        assert anew[:, :4].all() and not anew[:, 4:].any(), mode


@pytest.mark.parametrize("size, white, message", [
    ((8, 10), slice(1, 2), "the mask is 8x10 pixels and PICTURE is 8x8; they must be equal"),
    ((16, 16), slice(1, 2), "the mask is 16x16 pixels and PICTURE is 8x8; they must be equal"),
    (8, slice(0), "the mask is black everywhere, and only white pixels are made anew"),
    (8, slice(2), "the mask is white everywhere, and only black pixels of PICTURE stay"),
])
def test_masks_that_do_not_fit(picture, mask, size, white, message):
    given = read_picture(picture(), GREY)
    with pytest.raises(UserError) as caught:
        read_mask(file := mask("m.png", size, white), given)
    assert str(caught.value) == f"{file}: {message.replace('PICTURE', str(given.path))}"


def test_a_mask_that_is_not_there(picture, tmp_path):
    with pytest.raises(UserError, match="none.png: no such mask$"):
        read_mask(tmp_path / "none.png", read_picture(picture(), GREY))
