"""Metrics of any samples, another model's for one, against any reference: what the evaluation stage does, on one process."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.data.sources import open_images, open_reference, reference_problems
from jobs.errors import UserError
from jobs.evaluation.features import open_features
from jobs.evaluation.metrics.registry import measure, named, parts_needed
from jobs.evaluation.reference import reference_identity, reference_statistics
from jobs.parallel.group import process_group


def score(samples: str, reference: str, features: str, metrics: Sequence[str], cache: Path, batch_size: int, threads: int,
          on_batch: Callable[[int], None] = lambda total: None) -> dict:
    """`metrics` of the images in `samples`: samples, features, reference, metrics and headline as in evaluation.json.

    `samples` is what `jobs.data.sources.open_images` opens, `reference` what `open_reference` does. `on_batch(images)`
    is called before each batch, with the number of images of the set that it is of. Raises UserError for what does not fit.
    """
    ours = open_images(samples)
    _, height, width, channels = ours.images.shape
    if height != width:
        raise UserError(f"{samples}: images are {height}x{width}; they must be square")
    theirs = open_reference(reference, height, channels)
    if problems := reference_problems(theirs, metrics, features):
        raise UserError("\n".join(problems))
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", threads) as group:
        extractor = open_features(features, height, channels, theirs, cache, group)
        extractor.check(metrics)
        known = reference_statistics(theirs, reference_identity(theirs), extractor, parts_needed(metrics, of_reference=True),
                                     group, batch_size, cache, lambda: on_batch(len(theirs.images)))
        found = measure(ours.images, metrics, extractor, known, group, batch_size, lambda: on_batch(len(ours)))
    return {"path": samples, "samples": len(ours), "features": extractor.summary(),
            "reference": {"path": reference, "images": len(theirs.images) if theirs.images else None},
            "metrics": found, "headline": named(found, extractor)}
