"""Open samples and the reference that they are compared with. No torch here: what does not fit shows at once."""

from collections.abc import Collection

from jobs.data.dataset import ImageData
from jobs.data.sources import Reference, open_images, open_reference, reference_problems
from jobs.errors import UserError
from jobs.quantities import plural
from jobs.spec.metrics import labelled

Opened = tuple[ImageData, Reference]
"""The samples and the reference."""


def open_compared(samples: str, reference: str, metrics: Collection[str], features: str) -> Opened:
    """Open `samples` as `open_images` does, and `reference` as `open_reference` does.

    Raises UserError if one of the two cannot be opened, or if samples, reference, metrics and features do not go together.
    """
    ours, theirs = open_images(samples), open_reference(reference)
    if theirs.images:
        _check_same_kind(samples, ours.images.shape, reference, theirs.images.images.shape)
    problems = [f"{samples}: has no labels (/labels in an HDF5 file, arr_1 in an .npz), which {metric} needs"
                for metric in labelled(metrics) if ours.labels is None]
    if problems := problems + reference_problems(theirs, metrics, features):
        raise UserError("\n".join(problems))
    return ours, theirs


def _check_same_kind(samples: str, ours: tuple[int, ...], reference: str, theirs: tuple[int, ...]) -> None:
    """Raise UserError, which begins with the unusual file, if images of shapes [N, H, W, C] cannot be compared."""
    if ours[1:] == theirs[1:]:
        return
    sides = [(samples, ours, "those of the samples"), (reference, theirs, "those of the reference")]
    sides.sort(key=lambda side: side[1][3] in (1, 3))  # of grey, RGB and others, others come first
    (path, (_, height, width, depth), _), (other, (_, other_height, other_width, other_depth), words) = sides
    raise UserError(f"{path}: images are {height}x{width} with {plural(depth, 'channel')}, but {words}, {other}, are "
                    f"{other_height}x{other_width} with {plural(other_depth, 'channel')}")
