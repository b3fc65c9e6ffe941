"""The features `pixels`: grey levels of the images themselves."""

from collections.abc import Collection
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from jobs.data.sources import Reference
from jobs.evaluation.extractor import Extractor, Parts
from jobs.parallel.group import Group

LARGEST = 32  # pixels across: the covariance of more would not fit in memory


def open_extractor(reference: Reference, cache: Path, group: Group) -> Extractor:
    """The extractor of `pixels`; the reference does not matter."""
    return Extractor(_extract, "plain pixels: not comparable with Inception's numbers", None)


def _extract(images: Tensor, wanted: Collection[str]) -> Parts:
    return {"pool": shrunk(images).flatten(1)}


def shrunk(images: Tensor) -> Tensor:
    """uint8 [n, C, H, W] as grey levels in [0, 1]. Larger images are averaged down by halves to at most LARGEST pixels across;
    an odd size ends the halving."""
    x = images.float() / 255
    while x.shape[-1] > LARGEST and x.shape[-1] % 2 == 0:
        x = F.avg_pool2d(x, 2)
    return x
