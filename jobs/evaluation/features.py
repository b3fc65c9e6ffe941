"""The features that images are compared by: built-in ones (`jobs.spec.features.BUILT_IN`), or those of a TorchScript file."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from jobs.data.sources import Reference
from jobs.errors import UserError
from jobs.evaluation.extractor import Extractor, Parts
from jobs.evaluation.torchscript import open_torchscript
from jobs.parallel.group import Group
from jobs.spec.features import BUILT_IN
from jobs.spec.metrics import METRICS, labelled

INCEPTION, INCEPTION_WIDTH = "inception-2015-12-05", 2048
_DESCRIPTION = {"pool": "pooled features", "spatial": "spatial features", "probabilities": "class probabilities"}


@dataclass(frozen=True)
class Features:
    name: str
    """As shown beside every number that rests on these features."""
    sha256: str | None
    note: str
    """A reader of such a number must know this."""
    comparable: bool
    """Whether numbers compare with the literature's: true of Inception features only."""
    extract: Callable[[Tensor, Collection[str]], Parts]
    """Takes uint8 [n, C, H, W] on the device, and the parts that are wanted."""
    widths: dict[str, int]
    """Number of values per image, by part that exists."""

    @property
    def identity(self) -> str:
        """Changes with the network: names results that were computed with these features."""
        return self.sha256 or self.name

    def summary(self) -> dict:
        """As in evaluation.json."""
        return {"name": self.name, "sha256": self.sha256, "note": self.note, "comparable": self.comparable}

    def check(self, metrics: Collection[str]) -> None:
        """Raises UserError for a metric that these features cannot give."""
        offered = ", ".join(f"{_DESCRIPTION[part]} ({width})" for part, width in self.widths.items())
        for metric in metrics:
            part = METRICS[metric].feature
            if part not in self.widths:
                raise UserError(f"metrics: {metric} needs {_DESCRIPTION[part]}, but {self.name} gives {offered}")

    def check_classes(self, metrics: Collection[str], classes: int | None) -> None:
        """Raises UserError where one of `metrics` compares labels of `classes` classes with a file's outputs, which are others.

        None: nobody knows how many classes there are. A built-in network has the reference's own classes.
        """
        for metric in labelled(metrics) if classes and self.name not in BUILT_IN else []:
            if (outputs := self.widths["probabilities"]) != classes:
                raise UserError(f"metrics: {metric} needs one output for each of {classes} classes, in the order of the labels, "
                                f"but {self.name} gives class probabilities ({outputs})")


def open_features(features: str, image_size: int, channels: int, reference: Reference, cache: Path, group: Group) -> Features:
    """The features named `features`: one of BUILT_IN, or the path of a TorchScript file.

    `cache` is the folder where trained built-in networks are kept. All ranks call this function. Raises UserError where
    there is no such network, or its output on images [n, `channels`, `image_size`, `image_size`] is no features.
    """
    if features in BUILT_IN:
        opened: Extractor = import_module(BUILT_IN[features].module).open_extractor(reference, cache, group)
    else:
        opened = open_torchscript(features, group.device)
    name, note = Path(features).name, opened.note
    probe = torch.zeros(2, channels, image_size, image_size, dtype=torch.uint8, device=group.device)
    with torch.no_grad():
        widths = {part: values.shape[1] for part, values in opened.extract(probe, _DESCRIPTION).items()}
    comparable = name.startswith(INCEPTION) and widths["pool"] == INCEPTION_WIDTH
    if comparable:
        note += "; taken by its name for the network that published numbers rest on"
    return Features(name, opened.sha256, note, comparable, opened.extract, widths)
