"""Try the TorchScript file of evaluate.features on two images, in a process of its own: the caller loads no torch.

jobs.run.extractor_check starts this module, and reads the one line of JSON that it prints: {"problem": text or null}.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from jobs.data.sources import open_reference
from jobs.errors import UserError
from jobs.evaluation.features import open_features
from jobs.evaluation.metrics.registry import parts_needed
from jobs.evaluation.reference import given_statistics
from jobs.parallel.group import Group

OF_A_GPU = ("cuda", "not implemented for")  # words in the errors of a network that only works on a GPU, where there is none


def problem(features: str, image_size: int, channels: int, reference: str, metrics: list[str]) -> str | None:
    """Return why `metrics` cannot be computed from these features and this reference; None if nothing speaks against it."""
    group = Group(0, 1, torch.device("cpu"), dist.HashStore())
    try:
        opened = open_reference(reference, image_size, channels)
        found = open_features(features, image_size, channels, opened, Path(), group)
        found.check(metrics)
        found.check_classes(metrics, opened.classes)
        given_statistics(opened, found, parts_needed(metrics, of_reference=True))
    except UserError as error:
        return None if any(words in str(error).lower() for words in OF_A_GPU) else str(error)
    return None


def main() -> None:
    """Read the arguments of `problem` as JSON from standard input."""
    warnings.simplefilter("ignore")  # torch says that TorchScript is old
    print(json.dumps({"problem": problem(**json.load(sys.stdin))}))
