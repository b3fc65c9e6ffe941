"""Sheets for a person: where pictures stand, how they are enlarged, and what captions do."""

import numpy as np
import pytest
from PIL import Image

from jobs.making.folder import strip
from jobs.making.sheet import GAP, SIDE, Tile, in_rows, sheet, write_film


def pictures(count: int, size: int = 8, channels: int = 1) -> list[np.ndarray]:
    return list(np.random.RandomState(0).randint(0, 256, (count, size, size, channels), dtype=np.uint8))


@pytest.mark.parametrize("size, enlarged", [(8, 112), (28, 112), (32, 128), (64, 128), (100, 100), (256, 256)])
def test_small_pictures_are_enlarged_by_a_whole_factor(size, enlarged):
    image = pictures(1, size)[0]
    page = sheet([[Tile(image)]])
    assert page.shape == (enlarged + 2 * GAP, enlarged + 2 * GAP, 1)
    factor = enlarged // size
    assert (page[GAP:-GAP:factor, GAP:-GAP:factor] == image).all() and (page[:GAP] == 255).all()


def test_rows_of_different_lengths_and_with_captions():
    images = pictures(3, channels=3)
    page = sheet([[Tile(images[0], "a"), Tile(images[1])], [Tile(images[2])]])
    assert page.shape[1:] == (2 * SIDE + 3 * GAP, 3)
    captioned, plain = sheet([[Tile(images[0], "a")]]), sheet([[Tile(images[0])]])
    assert captioned.shape[0] > plain.shape[0] and (captioned[GAP + SIDE:] < 255).any() and (plain[GAP + SIDE:] == 255).all()


def test_a_long_caption_stays_below_its_picture():
    images = pictures(2)
    page = sheet([[Tile(images[0], "a very long name of a file " * 20), Tile(images[1])]])
    assert (page[GAP + SIDE:, GAP + SIDE:] == 255).all() and (page[GAP + SIDE:, :GAP + SIDE] < 255).any()


def test_captions_may_be_of_any_characters():
    assert sheet([[Tile(pictures(1)[0], "数字 \x1b[31m\n ä")]]).shape[1] == SIDE + 2 * GAP


def test_two_or_four_channels_are_shown_as_grey():
    assert sheet([[Tile(image)] for image in pictures(2, channels=4)]).shape[2] == 1


@pytest.mark.parametrize("count, rows", [(1, [1]), (6, [6]), (7, [3, 3, 1]), (16, [4, 4, 4, 4])])
def test_tiles_are_laid_out_nearly_as_a_square(count, rows):
    assert [len(row) for row in in_rows([Tile(image) for image in pictures(count)])] == rows


def test_a_strip_shows_the_first_and_the_last_stage_of_at_most_four_pictures():
    frames = [np.stack(pictures(6)) for _ in range(61)]
    rows = strip(frames)
    assert [len(row) for row in rows] == [10] * 4
    assert rows[-1][0].caption == "0%" and rows[-1][-1].caption == "100%" and not rows[0][0].caption
    assert [len(row) for row in strip(frames[:1])] == [1] * 4


def test_a_film_of_grey_sheets_keeps_their_greys(tmp_path):
    sheets = [np.full((20, 20, 1), value, np.uint8) for value in (0, 100, 255)]
    write_film(tmp_path / "a.gif", sheets)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 3
        for number, page in enumerate(sheets):
            film.seek(number)
            assert (np.asarray(film.convert("L")) == page[:, :, 0]).all()
