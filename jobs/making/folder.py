"""The folder of pictures: whole or absent, with a record of how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.data.pictures import write_png
from jobs.errors import UserError
from jobs.making.prepare import RECORD
from jobs.making.sheet import FILM_SIDE, Tile, in_rows, sheet, write_film
from jobs.making.works import Made
from jobs.storage.files import atomic_path, read_json, write_json

OVERVIEW, STRIP, FILM = "overview.png", "film.png", "film.gif"
STAGES, STRIPPED, FILMED = 10, 4, 16  # stages and pictures on a strip; pictures in a film, at most
FILM_PIXELS = 1 << 18  # of all pictures in a frame: noise does not compress, and a film has up to sixty frames


def is_made(out: Path, record: dict[str, Any]) -> bool:
    """Whether `out` holds what `record` describes. Raises UserError where it holds pictures that were made otherwise."""
    file = out / RECORD
    if not file.is_file():
        return False
    theirs = read_json(file)
    if not isinstance(theirs, dict) or theirs.get("made") != json.loads(json.dumps(record)):
        raise UserError(f"--out {out}: holds pictures of another `iddpm make` ({file}); name a new folder")
    if missing := [name for name in theirs.get("files", []) if not (out / name).is_file()]:
        raise UserError(f"--out {out}: {missing[0]} is missing from these pictures; name a new folder")
    return True


def write_folder(out: Path, made: Made, frames: Sequence[np.ndarray], record: dict[str, Any]) -> None:
    """Write all files into the folder `out`, which is absent or empty. `frames` of a film: uint8 [N, S, S, C] each, or none."""
    with atomic_path(out.resolve()) as folder:
        folder.mkdir()
        write_png(folder / OVERVIEW, sheet(made.rows))
        for name, picture in made.pictures.items():
            write_png(folder / name, picture)
        for name, array in made.arrays.items():
            np.save(folder / name, array)
        if frames:
            write_png(folder / STRIP, sheet(strip(frames)))
            shown = max(1, min(FILMED, FILM_PIXELS // max(FILM_SIDE, frames[0].shape[1]) ** 2))
            write_film(folder / FILM, [sheet(in_rows([Tile(image) for image in frame[:shown]]), FILM_SIDE) for frame in frames])
        files = sorted(file.name for file in folder.iterdir())
        write_json(folder / RECORD, {"made": record, **made.facts, "files": files})


def strip(frames: Sequence[np.ndarray]) -> list[list[Tile]]:
    """Stages of the first pictures at even distances, a row for each picture; captions say how far the denoising is."""
    stages = np.unique(np.linspace(0, len(frames) - 1, min(STAGES, len(frames))).round().astype(int))
    captions = [f"{stage / max(1, len(frames) - 1):.0%}" for stage in stages]
    rows = [[Tile(frames[stage][picture]) for stage in stages] for picture in range(min(STRIPPED, len(frames[0])))]
    rows[-1] = [Tile(tile.image, caption) for tile, caption in zip(rows[-1], captions, strict=True)]
    return rows
