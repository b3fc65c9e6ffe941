"""What images are compared by: plain pixels, or a feature extractor in a TorchScript file."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from jobs.errors import UserError

MAX_PIXELS = 32


@dataclass(frozen=True)
class Features:
    """`extract`: uint8 [n, C, H, W] on the device -> float [n, D]."""

    name: str
    """As shown wherever a number rests on these features."""
    sha256: str | None
    note: str
    """What a reader of a number must know."""
    extract: Callable[[Tensor], Tensor]


def open_features(features: str, device: torch.device) -> Features:
    """`pixels`, or the TorchScript file of that path. Raises UserError where it cannot be loaded."""
    if features == "pixels":
        return Features("pixels", None, "Fréchet distance of plain pixels: not comparable with Inception FID", _pixels)
    path = Path(features)
    if not path.is_file():
        raise UserError(f"{features}: no such file; evaluate.features is `pixels` or a TorchScript file")
    try:
        network = torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{features}: not a TorchScript file ({str(error).splitlines()[0]})") from error
    asks = {argument.name for argument in network.forward.schema.arguments}
    options = {"return_features": True} if "return_features" in asks else {}

    def extract(images: Tensor) -> Tensor:
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        try:
            result = network(rgb, **options)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            said = str(error).strip().splitlines()[-1]
            raise UserError(f"{features}: fails on uint8 images {list(rgb.shape)}: {said}") from error
        if not isinstance(result, Tensor):
            raise UserError(f"{features}: must give one tensor of features, not {type(result).__name__}")
        return result.flatten(1)

    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Features(path.name, sha256, f"features of {path.name}, sha256 {sha256}", extract)


def _pixels(images: Tensor) -> Tensor:
    """Grey levels in [0, 1], images above MAX_PIXELS averaged down: the covariance of more would not fit in memory."""
    x = images.float() / 255
    while x.shape[-1] > MAX_PIXELS and x.shape[-1] % 2 == 0:
        x = F.avg_pool2d(x, 2)
    return x.flatten(1)
