"""What images are compared by: plain pixels, a small classifier of the data's own classes, or a TorchScript file.

A TorchScript file is called on uint8 [n, 3, H, W], grey images with their channel repeated, and may give
  one tensor [n, D]          its features ("pool"): enough for fid, precision_recall and kid;
  (pool, spatial, logits)    a tuple, or a dictionary with some of these keys: for sfid and inception_score too.
`spatial` [n, c, h, w] are the maps that sFID looks at, of which it takes the first 7 channels. In the Inception network
of 2015-12-05, from which published numbers are, `pool` is pool_3 (2048 values), `spatial` the output of the first
convolution of mixed_6 (mixed_6/conv, 17 x 17: 2023 values of 7 channels), and `logits` are pool times the matrix of
the last layer, without its bias, for all 1008 outputs. Wrap a network that has them, `torch.jit.script` and `.save` it.

The port that NVIDIA publishes (inception-2015-12-05.pt) works as it is, by its options: return_features=True gives
pool, no_output_bias=True the class probabilities. It has no spatial maps to give.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jobs.data.sources import Reference
from jobs.errors import UserError
from jobs.evaluation.feature_classifier import SPATIAL_CHANNELS, load_classifier, shrunk, trained_classifier
from jobs.parallel.group import Group, on_main
from jobs.spec.metrics import METRICS
from jobs.storage.files import sha256_of_file

Parts = dict[str, Tensor]
"""Of n images: pool [n, D], spatial [n, S], probabilities [n, classes]; those that there are and that are wanted."""

INCEPTION, INCEPTION_WIDTH = "inception-2015-12-05", 2048
_DESCRIPTION = {"pool": "pooled features", "spatial": "spatial features", "probabilities": "class probabilities"}


@dataclass(frozen=True)
class Features:
    name: str
    """As shown wherever a number rests on these features."""
    sha256: str | None
    note: str
    """What a reader of a number must know."""
    comparable: bool
    """Whether numbers compare with the literature's: Inception features only."""
    extract: Callable[[Tensor, Collection[str]], Parts]
    """uint8 [n, C, H, W] on the device, and which parts are wanted."""
    widths: dict[str, int]
    """By part that there is."""

    @property
    def identity(self) -> str:
        """Names what was computed with them."""
        return self.sha256 or self.name

    def summary(self) -> dict:
        """As in evaluation.json."""
        return {"name": self.name, "sha256": self.sha256, "note": self.note, "comparable": self.comparable}

    def check(self, metrics: Collection[str]) -> None:
        """Raises UserError for a metric that they cannot give."""
        offered = ", ".join(f"{_DESCRIPTION[part]} ({width})" for part, width in self.widths.items())
        for metric in metrics:
            part = METRICS[metric].feature
            if part not in self.widths:
                raise UserError(f"metrics: {metric} needs {_DESCRIPTION[part]}, but {self.name} gives {offered}")


def open_features(features: str, image_size: int, channels: int, reference: Reference, cache: Path, group: Group) -> Features:
    """`pixels`, `classifier` (trained on the reference by the main rank, or found in `cache`), or a TorchScript file's path.

    Raises UserError where it cannot be had, or gives something else than features of such images.
    """
    if features == "pixels":
        name, note, extract = "pixels", "plain pixels: not comparable with Inception's numbers", _pixels
        sha256 = None
    elif features == "classifier":
        if reference.images is None:
            raise UserError(f"{reference.path}: has no images, which features: classifier is trained on")
        name, (extract, note, sha256) = "classifier", _classifier(reference, cache, group)
    else:
        name, (extract, note, sha256) = Path(features).name, _torchscript(features, group.device)
    probe = torch.zeros(2, channels, image_size, image_size, dtype=torch.uint8, device=group.device)
    with torch.no_grad():
        widths = {part: values.shape[1] for part, values in extract(probe, _DESCRIPTION).items()}
    comparable = name.startswith(INCEPTION) and widths["pool"] == INCEPTION_WIDTH
    if comparable:
        note += "; taken by its name for the network that published numbers rest on"
    return Features(name, sha256, note, comparable, extract, widths)


def _pixels(images: Tensor, wanted: Collection[str]) -> Parts:
    """Grey levels in [0, 1], larger images averaged down: the covariance of more would not fit in memory."""
    return {"pool": shrunk(images).flatten(1)}


def _classifier(reference: Reference, cache: Path, group: Group) -> tuple[Callable, str, str]:
    file = on_main(lambda: trained_classifier(reference.images, cache))
    network, accuracy = load_classifier(file)
    network.to(group.device)
    note = f"a small classifier trained on {reference.path}, {accuracy:.1%} right on held-out images: not comparable with " \
           "Inception's numbers"
    return lambda images, wanted: _from_network(network(images), str(file), len(images)), note, sha256_of_file(file)


def _torchscript(features: str, device: torch.device) -> tuple[Callable, str, str]:
    path = Path(features)
    if not path.is_file():
        raise UserError(f"{features}: no such file; evaluate.features is `pixels`, `classifier` or a TorchScript file")
    try:
        network = torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{features}: not a TorchScript file ({str(error).splitlines()[0]})") from error
    asks = {argument.name for argument in network.forward.schema.arguments}

    def call(images: Tensor, **options: bool):
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        try:
            # TensorFloat-32, the default for convolutions, moves features in their third digit.
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                return network(rgb, **options)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            said = str(error).strip().splitlines()[-1]
            raise UserError(f"{features}: fails on uint8 images {list(rgb.shape)}: {said}") from error

    def extract(images: Tensor, wanted: Collection[str]) -> Parts:
        parts: Parts = {}
        if "return_features" not in asks:
            return _from_network(call(images), features, len(images))
        if "pool" in wanted:
            parts = _from_network(call(images, return_features=True), features, len(images))
        if "probabilities" in wanted and "no_output_bias" in asks:
            parts["probabilities"] = call(images, no_output_bias=True)
        return parts

    sha256 = sha256_of_file(path)
    return extract, f"features of {path.name}, sha256 {sha256}", sha256


def _from_network(result, source: str, images: int) -> Parts:
    """What a network gave for `images` images, by part. Raises UserError for anything but the forms named above."""
    if isinstance(result, Tensor):
        result = {"pool": result}
    if isinstance(result, tuple) and len(result) == 3:
        result = dict(zip(("pool", "spatial", "logits"), result))
    if not (isinstance(result, dict) and "pool" in result and result.keys() <= {"pool", "spatial", "logits"}
            and all(isinstance(part, Tensor) and part.dim() >= 2 and len(part) == images for part in result.values())):
        raise UserError(f"{source}: must give one tensor of features for {images} images, (pool, spatial, logits) or a "
                        f"dictionary of these, not {_describe(result)}")
    parts = {"pool": result["pool"].flatten(1)}
    if "spatial" in result:
        spatial = result["spatial"]
        parts["spatial"] = (spatial[:, :SPATIAL_CHANNELS] if spatial.dim() == 4 else spatial).flatten(1)
    if "logits" in result:
        parts["probabilities"] = result["logits"].flatten(1).double().softmax(dim=1)
    return parts


def _describe(result) -> str:
    if isinstance(result, Tensor):
        return f"tensor {list(result.shape)}"
    if isinstance(result, dict):
        return "{" + ", ".join(f"{key}: {_describe(value)}" for key, value in result.items()) + "}"
    if isinstance(result, tuple):
        return "(" + ", ".join(map(_describe, result)) + ")"
    return type(result).__name__
