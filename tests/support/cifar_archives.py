"""The archives of CIFAR-10 and CIFAR-100, with few images."""

import io
import pickle
import struct
import tarfile

import numpy as np
from made_images import noise


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, which made the archive."""
    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCH_NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
CIFAR_IMAGES = noise(18, 32, 32, 3)
CIFAR_LABELS = list(np.random.default_rng(0).permutation(18) % 10)


def cifar_members(**changes):
    """Files of the archive, three images in each; `changes` replace entries of data_batch_2."""
    members = {"batches.meta": {"num_cases_per_batch": 3, "label_names": CLASSES, "num_vis": 3072}}
    for number, name in enumerate(BATCH_NAMES):
        part = slice(3 * number, 3 * number + 3)
        members[name] = {"batch_label": name, "labels": [int(label) for label in CIFAR_LABELS[part]],
                         "data": np.stack([image.transpose(2, 0, 1).ravel() for image in CIFAR_IMAGES[part]]),
                         "filenames": ["a_s_000004.png"] * 3}
    members["data_batch_2"].update(changes)
    return {name: python2_pickle(value) for name, value in members.items()}


def make_archive(path, members, folder="cifar-10-batches-py"):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {**members, "readme.html": b"hello"}.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def cifar100_members(**changes):
    """Files of CIFAR-100's archive, nine images in each split, of 3 fine and 2 coarse classes; `changes` are of `train`."""
    members = {"meta": {"fine_label_names": ["apple", "bear", "cup"], "coarse_label_names": ["food", "beasts"]}}
    for name, part in (("train", slice(0, 9)), ("test", slice(9, 18))):
        members[name] = {"data": np.stack([image.transpose(2, 0, 1).ravel() for image in CIFAR_IMAGES[part]]),
                         "fine_labels": [0, 1, 2] * 3, "coarse_labels": [0, 1, 0] * 3, "batch_label": name}
    members["train"].update(changes)
    return {name: python2_pickle(value) for name, value in members.items()}
