"""Features of a TorchScript file.

The file's network is called on uint8 [n, 3, H, W], grey images with their channel repeated. It may give
  one tensor [n, D]          the features ("pool"): enough for fid, precision_recall and kid;
  (pool, spatial, logits)    a tuple, or a dictionary with some of these keys: for sfid and inception_score too.
`spatial` [n, c, h, w] are the maps of sFID, which takes the first 7 channels. In the Inception network of 2015-12-05, which
published numbers rest on, `pool` is pool_3 (2048 values), `spatial` is the output of the first convolution of mixed_6
(mixed_6/conv, 17 x 17: 2023 values of 7 channels), and `logits` are pool times the matrix of the last layer, without its
bias, for all 1008 outputs. Wrap a network that has these outputs, `torch.jit.script` and `.save` the wrapper.

The port that NVIDIA publishes (inception-2015-12-05.pt) works unchanged, by its options: return_features=True gives pool,
no_output_bias=True gives the class probabilities. The port gives no spatial maps.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from jobs.errors import UserError
from jobs.evaluation.extractor import Extractor, Parts, parts_of_output, probabilities_of_output
from jobs.spec.features import CHOICES
from jobs.storage.disk_errors import why_missing
from jobs.storage.files import sha256_of_file
from jobs.storage.names import shortened


def open_torchscript(file: str, device: torch.device) -> Extractor:
    """The extractor of the TorchScript file `file`. Raises UserError where there is none."""
    path = Path(file)
    if not path.is_file():
        raise UserError(why_missing(file) or f"{file}: no such file; evaluate.features is {CHOICES}")
    try:
        network = torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{file}: not a TorchScript file ({shortened(str(error).splitlines()[0].partition('. ')[0])})") from error
    try:
        options = {argument.name for argument in network.forward.schema.arguments}
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{file}: a TorchScript file without a function forward") from error

    def call(images: Tensor, **chosen: bool):
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        try:
            # TensorFloat-32 would change features in their third digit; the process group has switched it off.
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                return network(rgb, **chosen)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            message = str(error).strip().splitlines()[-1]
            raise UserError(f"{file}: fails on uint8 images {list(rgb.shape)}: {message}") from error

    def extract(images: Tensor, wanted: Collection[str]) -> Parts:
        parts: Parts = {}
        if "return_features" not in options:
            return parts_of_output(call(images), file, len(images))
        if "pool" in wanted:
            parts = parts_of_output(call(images, return_features=True), file, len(images))
        if "probabilities" in wanted and "no_output_bias" in options:
            parts["probabilities"] = probabilities_of_output(call(images, no_output_bias=True), file, len(images))
        return parts

    sha256 = sha256_of_file(path)
    return Extractor(extract, f"features of {path.name}, sha256 {sha256}", sha256)
