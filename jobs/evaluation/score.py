"""Metrics of any samples against any reference, on one process: `iddpm score`, for samples of other models too."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.data.compared import Opened, open_compared
from jobs.data.sources import remarks_of
from jobs.evaluation.features import open_features
from jobs.evaluation.metrics.registry import check_labels, measure, named, parts_needed
from jobs.evaluation.reference import reference_identity, reference_statistics
from jobs.parallel.group import process_group
from jobs.storage.cache import cache_folder


def score(samples: str, reference: str, features: str, metrics: Sequence[str], cache: Path, batch_size: int, threads: int,
          on_batch: Callable[[int], None] = lambda total: None, opened: Opened | None = None) -> dict:
    """`metrics` of the images in `samples`: samples, features, reference, metrics and headline as in evaluation.json; remarks.

    `opened` is what `open_compared` gave, if it was called before. Before each batch `on_batch(n)` is called, where n is the
    number of images in the set that is being read. Raises UserError for samples, reference, features and metrics that do not
    go together.
    """
    ours, theirs = opened or open_compared(samples, reference, metrics, features)
    _, height, _, channels = ours.images.shape
    number_of_theirs = len(theirs.images) if theirs.images else 0
    with tempfile.TemporaryDirectory() as folder, process_group(Path(folder) / "meeting", threads) as group:
        cache = cache_folder(cache, Path(folder) / "cache")
        extractor = open_features(features, height, channels, theirs, cache, group)
        extractor.check(metrics)
        extractor.check_classes(metrics, theirs.classes)
        check_labels(ours.labels, metrics, extractor)
        known = reference_statistics(theirs, reference_identity(theirs, cache), extractor,
                                     parts_needed(metrics, of_reference=True), group, batch_size, cache,
                                     lambda: on_batch(number_of_theirs))
        found = measure(ours.images, metrics, extractor, known, group, batch_size, lambda: on_batch(len(ours)),
                        labels=ours.labels)
    return {"path": samples, "samples": len(ours), "features": extractor.summary(),
            "reference": {"path": reference, "images": number_of_theirs or None},
            "metrics": found, "headline": named(found, extractor),
            "remarks": [remark for images in (ours, theirs.images) if images for remark in remarks_of(images)]}
