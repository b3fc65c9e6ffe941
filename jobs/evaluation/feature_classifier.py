"""The features `classifier`: a small network trained on the reference's own classes, in under a minute, without a download."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.data.dataset import ImageData
from jobs.data.fingerprints import kept_fingerprint
from jobs.data.sources import Reference
from jobs.errors import UserError
from jobs.evaluation.extractor import SPATIAL_CHANNELS, Extractor, parts_of_output
from jobs.evaluation.pixels import shrunk
from jobs.parallel.group import Group, on_main
from jobs.randomness import derived_seed, generator_for
from jobs.storage.cache import load_arrays, store_arrays
from jobs.storage.files import sha256_of_file, sha256_of_json
from jobs.terminal import printable

WIDTH, STEPS, BATCH_SIZE, LR = 64, 600, 128, 3e-3
HELD_OUT = 10  # each tenth image is left out of training, to measure the classifier's accuracy
_VERSION = 1  # to be raised when anything but the data changes the weights


class Classifier(nn.Module):
    """uint8 [n, C, H, W] -> pool [n, WIDTH], spatial [n, SPATIAL_CHANNELS, H / 2, W / 2] and logits [n, classes].

    After training, the mean square of pool and of spatial over images is 1, because kid grows with the cube of the scale.
    """

    scales: Tensor

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTH // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH // 2, WIDTH, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.output = nn.Linear(WIDTH, classes)
        self.register_buffer("scales", torch.ones(2))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(self.conv1(2 * shrunk(images) - 1))
        spatial = F.relu(self.conv2(x))
        pool = F.relu(self.conv3(spatial)).mean(dim=(2, 3))
        return self.scales[0] * pool, self.scales[1] * spatial[:, :SPATIAL_CHANNELS], self.output(pool)


def open_extractor(reference: Reference, cache: Path, group: Group) -> Extractor:
    """The extractor of `classifier`. Raises UserError where the reference has no labelled images."""
    data = reference.images
    if data is None:
        raise UserError(f"{reference.path}: has no images, but features: classifier is trained on images of the reference")
    file = on_main(lambda: trained_classifier(data, cache))
    network, accuracy = load_classifier(file)
    network.to(group.device)
    note = f"a small classifier trained on {reference.path}, {accuracy:.1%} right on held-out images: not comparable with " \
           "Inception's numbers"
    return Extractor(lambda images, wanted: parts_of_output(network(images), str(file), len(images)), note, sha256_of_file(file))


def trained_classifier(data: ImageData, cache: Path) -> Path:
    """The file in the folder `cache` with the weights of the classifier trained on `data`; trains it where there is no file.

    The file is named by the content of the data, so all runs on these data share it. Raises UserError without labels.
    """
    if data.labels is None:
        raise UserError(f"{printable(data.source)}: has no labels, which features: classifier is trained on")
    file = cache / f"classifier-{sha256_of_json({'data': kept_fingerprint(data, cache), 'version': _VERSION})[:16]}.npz"
    if load_arrays(file) is None:
        network, accuracy = _train(data, data.labels)
        weights = {key: value.numpy() for key, value in network.state_dict().items()}
        store_arrays(file, {"accuracy": np.float64(accuracy), **weights})
    return file


def load_classifier(file: Path) -> tuple[Classifier, float]:
    """The network in evaluation mode, and its accuracy (0 to 1) on images left out of training.

    Raises UserError where `file` cannot be read.
    """
    arrays = load_arrays(file)
    if arrays is None:
        raise UserError(f"{file}: missing or damaged; evaluate again, which trains the classifier anew")
    accuracy = float(arrays.pop("accuracy"))
    weights = {key: torch.from_numpy(array) for key, array in arrays.items()}
    network = Classifier(weights["conv1.weight"].shape[1], weights["output.weight"].shape[0])
    network.load_state_dict(weights)
    return network.eval(), accuracy


def _train(data: ImageData, all_labels: np.ndarray) -> tuple[Classifier, float]:
    """A trained network and its accuracy. Trains on the CPU, so that data give the same weights with and without a GPU."""
    images, labels = data.images, torch.from_numpy(all_labels)
    held_out = np.arange(len(data)) % HELD_OUT == HELD_OUT - 1
    own = torch.from_numpy(np.flatnonzero(~held_out))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("classifier", "weights"))
        network = Classifier(images.shape[3], int(labels.max()) + 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR)
    generator = generator_for("cpu", "classifier", "batches")
    for step in range(STEPS):
        chosen = own[torch.randint(len(own), (BATCH_SIZE,), generator=generator)].unique()  # sorted, as HDF5 needs indices
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        loss = F.cross_entropy(network(_tensor(images, chosen.numpy()))[2], labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tested = np.flatnonzero(held_out)[:10_000]
    return network, _test_and_scale(network, images, labels, tested if len(tested) else np.arange(len(data)))


def _test_and_scale(network: Classifier, images: np.ndarray, labels: Tensor, tested: np.ndarray) -> float:
    """Return the accuracy on the images of indices `tested`. Also set the network's `scales` from these images."""
    right, squares = 0, []
    with torch.no_grad():
        for rows in np.array_split(tested, -(-len(tested) // BATCH_SIZE)):
            pool, spatial, logits = network(_tensor(images, rows))
            right += int((logits.argmax(dim=1) == labels[rows]).sum())
            squares.append(torch.stack([pool.square().mean(), spatial.square().mean()]))
    network.scales.copy_(torch.stack(squares).mean(dim=0).clamp(min=1e-12).rsqrt())
    return right / len(tested)


def _tensor(images: np.ndarray, rows: np.ndarray) -> Tensor:
    """uint8 [n, C, H, W] of the images [N, H, W, C] of indices `rows`."""
    return torch.from_numpy(np.array(images[rows])).permute(0, 3, 1, 2)
