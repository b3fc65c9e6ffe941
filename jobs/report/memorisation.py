"""Whether a model copies its training images: its samples' distances to them against those of images that it has not seen."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from jobs.data.dataset import ImageData, open_data
from jobs.report.evaluation import Z
from jobs.report.neighbours import nearest, searched
from jobs.report.run import RunReport
from jobs.spec.kinds import kind_of
from jobs.storage.opening import open_hdf5

COMPARED = 256
"""Samples, and images that were not trained on, whose nearest training images are looked for."""


@dataclass(frozen=True)
class Unseen:
    """What samples are compared with."""

    distances: np.ndarray
    """To the nearest training image, float64 [N], in grey levels."""
    whose: str
    """In words."""
    held_out: bool
    """False: these are training images, whose distances to the others count."""


@dataclass(frozen=True)
class Memorisation:
    """How near samples are to training images. Distances are root mean squares over pixels, in grey levels of 0 .. 255."""

    samples: int
    distance: float
    """Median distance of samples to the nearest training image."""
    unseen: float
    """The same of the images that samples are compared with."""
    whose: str
    nearer: float
    """Share of pairs of a sample and such an image in which the sample is the nearer to its training image; 0.5: alike. It is
    the Mann-Whitney statistic, as in the test for copies by Meehan, Chaudhuri & Dasgupta 2020."""
    error: float
    """Half of the 95 % interval of `nearer` where both distances have one distribution."""
    nearest: int
    """Samples that are nearer to a training image than every image that they are compared with."""

    @property
    def copies(self) -> bool:
        """Whether samples are nearer to training images than chance explains."""
        return self.nearer > 0.5 + self.error


def memorisation(run: RunReport, data: ImageData, unseen: Unseen) -> Memorisation | None:
    """Measure the first samples of a run; None for a run without samples."""
    def read() -> Memorisation:
        with open_hdf5(run.run.samples_h5) as file:
            samples = file["images"][:COMPARED]
        ours, theirs = nearest(samples, data.images)[1], unseen.distances
        n, m = len(ours), len(theirs)
        below = np.searchsorted(np.sort(theirs), ours, side="left"), np.searchsorted(np.sort(theirs), ours, side="right")
        nearer = 1 - float(np.mean(below)) / m  # ties count half
        return Memorisation(n, float(np.median(ours)), float(np.median(theirs)), unseen.whose, nearer,
                            Z * sqrt((n + m + 1) / (12 * n * m)), int((ours < theirs.min()).sum()))
    return run.read(run.run.samples_h5, read, None)


def training_data(runs: Sequence[RunReport]) -> dict[str, ImageData]:
    """Return the training data of each of `runs`, by name, where they can be opened on this machine. Each file is opened once."""
    by_path = {run.known_spec.data.path: run for run in runs}
    opened = {path: data for path, run in by_path.items() if (data := _opened(run))}
    return {run.name: opened[path] for run in runs if (path := run.known_spec.data.path) in opened}


def _opened(run: RunReport) -> ImageData | None:
    data = run.known_spec.data
    try:
        return open_data(data.path, data.image_size, data.channels)
    except Exception as error:  # the report may be written on a machine without the data
        run.remarks.append(f"training data: {str(error).splitlines()[0]}")
        return None


def memorisations(runs: Sequence[RunReport], data: Mapping[str, ImageData]) -> dict[str, Memorisation]:
    """Return what is known of those of `runs` that have samples and data, by name."""
    unseen: dict[str, Unseen] = {}
    found = {}
    for run in runs:
        if run.name not in data or not os.path.lexists(run.run.samples_h5):
            continue
        path = run.known_spec.data.path
        if path not in unseen:
            unseen[path] = unseen_images([one for one in runs if one.known_spec.data.path == path], data[run.name])
        if (one := memorisation(run, data[run.name], unseen[path])) is not None:
            found[run.name] = one
    return found


def unseen_images(runs: Sequence[RunReport], data: ImageData) -> Unseen:
    """Return the held-out images that any of `runs`, all trained on `data`, names; else training images."""
    for run in runs:
        spec = run.known_spec
        for other in kind_of(spec).held_out(spec):
            try:
                images = evenly_spaced(open_data(other.path, spec.data.image_size, spec.data.channels).images)
            except Exception:  # a UserError, or whatever a damaged file raises: the report may be written without the data
                continue
            return Unseen(nearest(images, data.images)[1], f"{len(images)} held-out images of {other.path}", True)
    chosen = evenly_spaced(searched(len(data)))
    return Unseen(nearest(data.images[chosen], data.images, not_itself=chosen)[1],
                  f"{len(chosen)} training images (to the others)", False)


def evenly_spaced(rows: np.ndarray) -> np.ndarray:
    """Return COMPARED of `rows`, or all where there are fewer: the first ones may be of one writer or class."""
    return np.asarray(rows[:: max(1, len(rows) // COMPARED)][:COMPARED])


def in_words(name: str, found: Memorisation) -> str:
    """Say what the numbers of the run `name` mean."""
    pairs = f"{100 * found.nearer:.0f} % of pairs of a sample and an unseen image, the sample is the nearer to a training image"
    verdict = "no sign of copies"
    if found.copies:
        verdict = ("more than chance: copies, images smoother than real ones, which lie near to many, or unseen images that are "
                   "unlike the training images")
    elif found.nearer < 0.5 - found.error:
        verdict = "no sign of copies; the samples are farther from the data than unseen images are"
    extreme = f"; {found.nearest} of {found.samples} samples are nearer than every unseen image" if found.nearest else ""
    return f"{name}: in {pairs} ({by_chance(found)}){extreme}: {verdict}."


def by_chance(found: Memorisation) -> str:
    return f"{100 * (0.5 - found.error):.0f} to {100 * (0.5 + found.error):.0f} % by chance"
