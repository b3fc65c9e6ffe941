"""The images that samples are made of, where a kind makes them of others: the samples of another run, or a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.data.dataset import ImageData
from jobs.data.fingerprints import kept_fingerprint
from jobs.data.sources import open_images
from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.kinds import Given, given_kind, given_of
from jobs.spec.references import given_problems, is_in_study
from jobs.spec.sections import Spec


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Images that samples are made of: sample i of image i."""

    data: ImageData

    def rows(self, indices: range) -> np.ndarray:
        """Return the images of the samples `indices`, uint8 [n, H, W, C]."""
        return np.array(self.data.images[indices.start:indices.stop])

    def labels(self, indices: range) -> np.ndarray | None:
        """Return the classes of the samples `indices`, int64 [n]; None where the images have none."""
        return None if self.data.labels is None else self.data.labels[indices.start:indices.stop]


def given_file(run: RunDir, given: Given) -> str:
    """Return the file with the images that samples of `run` are made of."""
    if given.run is None:
        assert given.path is not None, "images are in a run or in a file"
        return given.path
    other = RunDir(run.path.parent / given.run if is_in_study(given.run) else Path(given.run))
    return str(other.samples_h5)


def open_given(run: RunDir) -> GivenImages | None:
    """Open the images that samples of `run` are made of; None where they are made of noise alone.

    Raises UserError where the file is missing or damaged, or does not fit.
    """
    spec, given = run.spec, given_of(run.spec)
    return None if given is None else GivenImages(_opened(spec, given, given_file(run, given)))


def given_facts(run: RunDir) -> dict[str, str] | None:
    """Return what samples of `run` depend on in the images that they are made of: never their place. None as `open_given`.

    Raises UserError as `open_given` does.
    """
    opened = open_given(run)
    return None if opened is None else {"sha256": kept_fingerprint(opened.data, run.path.parent.parent / ".cache")}


def given_file_problems(spec: Spec) -> list[str]:
    """Return why the file that samples of `spec` are made of does not fit, if they are made of a file."""
    given = given_of(spec)
    if given is None or given.path is None:
        return []
    try:
        _opened(spec, given, given.path)
    except UserError as error:
        return [str(error)]
    return []


def foreign_given_problems(specs: Sequence[Spec]) -> list[str]:
    """Return why samples of runs of other studies do not fit the `specs`, each once, as far as these runs exist."""
    found: dict[str, None] = {}
    for spec in specs:
        given = given_of(spec)
        if given and given.run and not is_in_study(given.run) and (other := RunDir(Path(given.run))).spec_file.is_file():
            found |= {f"{key}: {message}": None for key, message in given_problems(spec, other.spec)}
    return list(found)


def _opened(spec: Spec, given: Given, path: str) -> ImageData:
    data, kind = open_images(path), given_kind(spec)
    assert kind is not None, "a kind with `given`"
    count, size, _, channels = data.images.shape
    classes = None
    if data.labels is not None:
        if (lowest := int(data.labels.min())) < 0:
            raise UserError(f"{given.key}: {path} has the label {lowest}; labels are whole numbers from 0")
        classes = max(int(data.labels.max()) + 1, spec.data.classes or 0)  # some classes may have no image
    for problem in kind.given_problems(spec, size, channels, classes, count):
        raise UserError(f"{given.key}: {path} {problem}")
    return data
