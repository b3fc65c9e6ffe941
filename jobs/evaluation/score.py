"""Metrics of any samples against any reference, on one process: `iddpm score`, for samples of other models too."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.data.sources import open_images, open_reference, reference_problems, remarks_of
from jobs.errors import UserError
from jobs.evaluation.features import open_features
from jobs.evaluation.metrics.registry import measure, named, parts_needed
from jobs.evaluation.reference import reference_identity, reference_statistics
from jobs.parallel.group import process_group
from jobs.quantities import plural
from jobs.storage.cache import cache_folder


def check_same_kind(samples: str, ours: tuple[int, ...], reference: str, theirs: tuple[int, ...]) -> None:
    """Raise UserError, which begins with the unusual file, if images of shapes [N, H, W, C] cannot be compared."""
    if ours[1:] == theirs[1:]:
        return
    sides = [(samples, ours, "those of the samples"), (reference, theirs, "those of the reference")]
    sides.sort(key=lambda side: side[1][3] in (1, 3))  # of grey, RGB and others, others come first
    (path, (_, height, width, depth), _), (other, (_, other_height, other_width, other_depth), words) = sides
    raise UserError(f"{path}: images are {height}x{width} with {plural(depth, 'channel')}, but {words}, {other}, are "
                    f"{other_height}x{other_width} with {plural(other_depth, 'channel')}")


def score(samples: str, reference: str, features: str, metrics: Sequence[str], cache: Path, batch_size: int, threads: int,
          on_batch: Callable[[int], None] = lambda total: None) -> dict:
    """`metrics` of the images in `samples`: samples, features, reference, metrics and headline as in evaluation.json; remarks.

    `samples` is a path that `jobs.data.sources.open_images` opens, `reference` one that `open_reference` opens. Before each
    batch `on_batch(n)` is called, where n is the number of images in the set that is being read. Raises UserError for
    samples, reference, features and metrics that do not go together.
    """
    ours = open_images(samples)
    _, height, _, channels = ours.images.shape
    theirs = open_reference(reference)
    if theirs.images:
        check_same_kind(samples, ours.images.shape, reference, theirs.images.images.shape)
    if problems := reference_problems(theirs, metrics, features):
        raise UserError("\n".join(problems))
    number_of_theirs = len(theirs.images) if theirs.images else 0
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", threads) as group:
        cache = cache_folder(cache, Path(folder) / "cache")
        extractor = open_features(features, height, channels, theirs, cache, group)
        extractor.check(metrics)
        known = reference_statistics(theirs, reference_identity(theirs, cache), extractor,
                                     parts_needed(metrics, of_reference=True), group, batch_size, cache,
                                     lambda: on_batch(number_of_theirs))
        found = measure(ours.images, metrics, extractor, known, group, batch_size, lambda: on_batch(len(ours)))
    return {"path": samples, "samples": len(ours), "features": extractor.summary(),
            "reference": {"path": reference, "images": number_of_theirs or None},
            "metrics": found, "headline": named(found, extractor),
            "remarks": [remark for images in (ours, theirs.images) if images for remark in remarks_of(images)]}
