"""Read weights that other code wrote: .pt files of the reference and its descendants, and .safetensors.

Nothing in a file is trusted: no code in it runs, memory is bounded by the size of the network, and every tensor is checked.
"""

import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffusion.networks.null_class import with_null_class
from jobs.errors import UserError
from jobs.finite import not_finite
from jobs.kinds.diffusion.sections import OF_TRAINING
from jobs.kinds.protocol import model_of
from jobs.quantities import size
from jobs.run.checkpoints import Weights, mismatch
from jobs.spec.reading.frozen import difference, parse_frozen
from jobs.spec.sections import Spec
from jobs.storage.disk_errors import why_missing
from jobs.storage.names import listed, shortened

PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before the names of a network."""
STEP_KEYS = ("step", "global_step", "iteration", "iterations")
"""Where a dictionary around a state dict may say the training step."""
STEP_IN_NAMES = ((r"(?:model|ema_[0-9.]+_)(\d{6,})$", 1), (r"_(\d+)K(?:_|$)", 1000), (r"step[-_=]?(\d+)", 1))
"""Training steps in file names, each with its unit: model500000, ema_0.9999_500000; cifar10_uncond_50M_500K; step=500000."""
RATE_IN_NAMES = r"ema[-_](0?\.\d+)"
MOST_COPIES, SLACK = 20, 64 * 2 ** 20
"""A file may hold the weights so often (averages, an optimiser, in float64), and so many bytes besides."""


@dataclass(frozen=True)
class ForeignWeights:
    """Weights of the network of a spec, float32 on the CPU and finite, and what their file says of them."""

    weights: Weights
    step: int | None
    """Number of training steps behind the weights; None: the file does not say."""
    step_from: str
    """What says the step, in words."""
    ema_rate: str | None
    """The rate of the average that the weights are, where the file says it."""
    notes: list[str] = field(default_factory=list)
    """What was done to the file's content, for the user."""


@dataclass(frozen=True)
class StateDict:
    """The state dict in a file, not yet compared with any network."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    """Of a .safetensors file."""
    step: int | None
    """The training step that the content says."""
    notes: list[str]

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The shapes by name, without a part that all names begin with."""
        first = {name.partition(".")[0] for name in self.tensors}
        prefix = f"{first.pop()}." if len(first) == 1 else ""
        return {name.removeprefix(prefix): list(value.shape) for name, value in self.tensors.items()}


def read_state_dict(path: Path, network: int | None = None) -> StateDict:
    """Return the state dict in a .pt or .safetensors file. Runs no code in the file.

    `network`: bytes of the weights that it should hold, where they are known. Raises UserError where there is no state dict.
    """
    if not path.is_file():
        raise UserError(why_missing(path) or f"{path}: no such file")
    _check_size(path, network)
    content, metadata = _load(path)
    notes: list[str] = []
    found, step = _state_dict(path, content, notes)
    return StateDict(_without_prefixes(path, found, notes), metadata, step, notes)


def read_pt(path: Path) -> Any:
    """Return the content of a .pt file: dictionaries, lists, numbers, tensors. Runs no code in the file. Raises UserError."""
    _check_size(path, None)
    return _load(path)[0]


def read_weights(path: Path, spec: Spec) -> Weights:
    """Return the weights in a .pt or .safetensors file for the network of `spec`, as `open_weights` does."""
    return open_weights(path, spec).weights


def open_weights(path: Path, spec: Spec, read: StateDict | None = None) -> ForeignWeights:
    """Return the weights in a .pt or .safetensors file for the network of `spec`. Runs no code in the file.

    `read`: what `read_state_dict` returned for the file. A state dict may be inside another dictionary, and its names may have
    PREFIXES. Raises UserError where there is no state dict, or where names, shapes, forms or values do not fit the network.
    """
    with torch.device("meta"):
        network = model_of(spec).network(spec)
    expected = network.state_dict()
    if read is None:
        read = read_state_dict(path, sum(value.numel() * 4 for value in expected.values()))
    metadata, step, notes = read.metadata, read.step, list(read.notes)
    found = _without_first_part(read.tensors, expected, notes)
    for name, value in found.items():
        if problem := _form_problem(value):
            raise UserError(f"{path}: {shortened(str(name))} is {problem}; weights are dense tensors of real numbers")
    if longer := with_null_class(network, found):
        found = longer
        notes.append("gave the null class, which the file does not have, a small row of label_emb; training has to teach it")
    if problem := mismatch(expected, found):
        raise UserError(f"{path}: weights of another network: {problem}")
    # Copies, because tensors of a file may share memory, which safetensors refuses to write.
    weights = {name: value.detach().to(torch.float32, copy=True) for name, value in found.items()}
    if problem := not_finite(weights):
        raise UserError(f"{path}: {problem}")
    if "spec" in metadata:
        _check_recorded_spec(path, metadata["spec"], spec)
    step, step_from = _step(path, step, metadata)
    rate = metadata.get("ema_rate") or next(iter(re.findall(RATE_IN_NAMES, path.name)), "")
    return ForeignWeights(weights, step, step_from, shortened(rate) or None, notes)


def _check_size(path: Path, network: int | None) -> None:
    """Raise UserError for a file that could not hold weights of `network` bytes and nothing else, before anything is unpacked.

    Without `network`, for a file that holds twice as much as it takes on disk: torch packs nothing.
    """
    try:
        on_disk = bytes_there = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                bytes_there = max(bytes_there, sum(member.file_size for member in archive.infolist()))
    except (OSError, zipfile.BadZipFile, ValueError):
        return  # reading says better what is wrong
    if network is not None and bytes_there > MOST_COPIES * network + SLACK:
        raise UserError(f"{path}: holds {size(bytes_there)}, but the weights of the spec's network take {size(network)}")
    if network is None and bytes_there > 2 * on_disk + SLACK:
        raise UserError(f"{path}: holds {size(bytes_there)} in a file of {size(on_disk)}; weights take as much as they hold")


def _load(path: Path) -> tuple[Any, dict[str, str]]:
    """Return the content of the file and the metadata of a .safetensors file."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return load_file(path), file.metadata() or {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:  # a damaged pickle makes torch raise almost anything
        raise UserError(f"{path}: not a plain state dict of tensors ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return the useful part of a reader's message; torch's own message advises to run the code in the file."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds Python objects such as {shortened(found[1])}; loading them could run any code, so that is not done"
    lines = str(error).strip().splitlines()
    return shortened(lines[0]) if lines and not isinstance(error, UnpicklingError) else "damaged, or of another format"


def _state_dict(path: Path, content: Any, notes: list[str]) -> tuple[dict[str, Tensor], int | None]:
    """Return the one state dict in the content of a file, and the training step where the content says it."""
    if _is_state_dict(content):
        return content, None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a plain state dict of tensors, but {type(content).__name__}")
    inside = {key: value for key, value in content.items() if isinstance(key, str) and _is_state_dict(value)}
    if len(inside) > 1:
        raise UserError(f"{path}: holds several state dicts ({listed(inside)}); save the one to import in a file of its own")
    if not inside:
        if wrong := next((key for key, value in content.items() if isinstance(key, str) and not isinstance(value, Tensor)), None):
            raise UserError(f"{path}: not a plain state dict of tensors: {shortened(wrong)} is {type(content[wrong]).__name__}")
        raise UserError(f"{path}: not a plain state dict of tensors, but an empty dict, or one whose names are no text")
    (key, found), = inside.items()
    notes.append(f"took the state dict under {shortened(key)}")
    steps = [content[name] for name in STEP_KEYS if type(content.get(name)) is int and content[name] >= 0]
    return found, steps[0] if steps else None


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(isinstance(name, str) and isinstance(each, Tensor)
                                                              for name, each in value.items())


def _without_prefixes(path: Path, weights: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Return the weights without PREFIXES. torch.compile on a part of a network puts its own in the middle of names."""
    found: dict[str, Tensor] = {}
    taken = set()
    for name, value in weights.items():
        short = name
        while prefix := next((each for each in PREFIXES if short.startswith(each)), None):
            short = short.removeprefix(prefix)
            taken.add(prefix)
        if "._orig_mod." in short:
            short = short.replace("._orig_mod.", ".")
            taken.add("_orig_mod.")
        if short in found:
            raise UserError(f"{path}: has {shortened(short)} twice, with and without a prefix such as {PREFIXES[0]}")
        found[short] = value
    if taken:
        notes.append(f"took {' and '.join(sorted(taken, reverse=True))} off the names")
    return found


def _without_first_part(weights: dict[str, Tensor], expected: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Take off what stands before every name, such as "model.", where the names that are left are those of the network."""
    for first in {name.partition(".")[0] for name in weights} if len(weights) == len(expected) else ():
        short = {name.removeprefix(f"{first}."): value for name, value in weights.items()}
        if short.keys() == expected.keys() != weights.keys():
            notes.append(f"took {shortened(first)}. off the names")
            return short
    return weights


def _form_problem(value: Tensor) -> str | None:
    """Return what keeps a tensor from being weights, in words."""
    forms = {"a meta tensor, which has no values": value.is_meta, "nested": value.is_nested, "quantised": value.is_quantized,
             f"of layout {value.layout}": value.layout != torch.strided, f"of type {value.dtype}": not value.is_floating_point()}
    return next((words for words, is_so in forms.items() if is_so), None)


def _check_recorded_spec(path: Path, text: str, spec: Spec) -> None:
    """Compare `spec` with the one in the metadata of a .safetensors file: shapes do not show all.

    Raises UserError where settings that the weights depend on differ.
    """
    recorded = parse_frozen(text, f"{path}, its metadata")
    not_the_network = ("name", "data.path", "data.random_flip", "data.random_crop", "model.dropout", "vae.kl_warmup", "train",
                       "sample", "evaluate", "resources", *(f"diffusion.{key}" for key in OF_TRAINING))
    if changed := difference(recorded, spec, ignore=not_the_network):
        raise UserError(f"{path}: the spec inside differs from the one given:\n  " + "\n  ".join(changed))


def _step(path: Path, in_content: int | None, metadata: Mapping[str, str]) -> tuple[int | None, str]:
    """Return the training step, and what says it."""
    if metadata.get("step", "").isdecimal():
        return int(metadata["step"]), "its metadata"
    if in_content is not None:
        return in_content, "its content"
    for pattern, unit in STEP_IN_NAMES:
        if (found := re.search(pattern, path.stem)) and len(found[1]) <= 12:
            return int(found[1]) * unit, f"the name {shortened(path.name)}"
    if found := re.fullmatch(r"step-(\d{8,12})", path.resolve().parent.name):  # our own checkpoints
        return int(found[1]), f"the name {found[0]}"
    return None, "nothing"
