"""The accuracy of a classifier on noisy images that it has not seen: every example once in each quarter of the timesteps."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import GaussianDiffusion
from diffusion.losses import TOP, classification_losses
from diffusion.networks.half_unet import HalfUNet
from jobs.data.dataset import ImageData, open_data
from jobs.data.fingerprints import kept_fingerprint
from jobs.data.pictures import to_x
from jobs.errors import StageFailed
from jobs.kinds.noisy_classifier.build import build_process
from jobs.kinds.noisy_classifier.kind import ACCURACY, CROSS_ENTROPY, TOP5
from jobs.kinds.noisy_classifier.quarters import quarters
from jobs.kinds.noisy_classifier.sections import ClassifierSpec
from jobs.parallel.group import Group, any_rank, gather_rows
from jobs.parallel.interruption import Stopped
from jobs.randomness import generator_for, randn_from
from jobs.spec.kinds import OwnNumber

TERMS = {ACCURACY: "accuracy", TOP5: f"accuracy_top{TOP}", CROSS_ENTROPY: "loss"}
"""Terms of `classification_losses` by key in evaluation.json."""


def held_out(spec: ClassifierSpec) -> ImageData:
    """Open evaluate.data, or the training data where there is none. Raises UserError where the data do not fit."""
    data = spec.data
    return open_data(spec.evaluate.data or data.path, data.image_size, data.channels, data.classes)


def basis(spec: ClassifierSpec, number: OwnNumber) -> dict[str, Any]:
    """Return what the accuracy depends on besides the network."""
    return {"examples": number.examples, "data": kept_fingerprint(held_out(spec)), "batch_size": number.batch_size,
            "seed": spec.evaluate.seed}


@torch.no_grad()
def measure(spec: ClassifierSpec, network: HalfUNet, number: OwnNumber, group: Group,
            on_pass: Callable[[], None]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measure accuracy and cross entropy on the first `number.examples` held-out examples.

    Each example is seen once in every quarter of the timesteps; the means over t weigh quarters by their numbers of steps.
    Returns a summary, with those of `number.beside` under their keys, and arrays [N, quarters] by key, in the data's order.
    `on_pass` is called after each evaluation of the network. Raises Stopped on all ranks where it does on one, StageFailed where
    the network gave NaN or infinity.
    """
    data, count, process = held_out(spec), number.examples, build_process(spec, group.device)
    parts, keys = quarters(process.num_timesteps), [number.key, *number.beside]
    rows: list[Tensor] = [torch.zeros(0, 1 + len(keys) * len(parts), dtype=torch.float64, device=group.device)]
    stopped = False
    try:
        for batch in number.batches(group.rank, group.world_size):
            part = slice(batch * number.batch_size, min((batch + 1) * number.batch_size, count))
            found = _terms(spec, network, process, data, part, parts, batch, on_pass)
            columns = [torch.arange(part.start, part.stop, dtype=torch.float64, device=group.device)[:, None],
                       *(found[TERMS[key]].double() for key in keys)]
            rows.append(torch.cat(columns, dim=1))
    except Stopped:
        stopped = True
    if any_rank(stopped):
        raise Stopped
    gathered = gather_rows(torch.cat(rows))
    # Added up in the order of the examples, so that the number of ranks changes nothing.
    values = gathered[gathered[:, 0].argsort()][:, 1:].cpu().numpy().reshape(count, len(keys), len(parts))
    arrays = {key: np.ascontiguousarray(values[:, index]) for index, key in enumerate(keys)}
    weights = np.array([len(each) for each in parts]) / process.num_timesteps
    summaries = {key: _summary(spec, of_key, weights) for key, of_key in arrays.items()}
    return summaries.pop(number.key) | summaries, arrays


def _terms(spec: ClassifierSpec, network: HalfUNet, process: GaussianDiffusion, data: ImageData, part: slice,
           parts: list[range], batch: int, on_pass: Callable[[], None]) -> dict[str, Tensor]:
    """Return the terms [n, quarters] of the examples `part`, which are batch number `batch`."""
    settings, device = spec.evaluate, process.device
    assert data.labels is not None, "open_data was asked for labels"
    x_start = to_x(torch.from_numpy(np.array(data.images[part])).to(device)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(data.labels[part]).to(device)
    found = []
    for quarter, steps in enumerate(parts):
        stream = settings.seed, "accuracy", batch, quarter
        drawn = torch.randint(len(steps), (settings.batch_size,), generator=generator_for("cpu", *stream, "timesteps"))
        t = (steps.start + drawn[:len(labels)]).to(device)
        noise = randn_from(generator_for(device, *stream, "noise"), settings.batch_size)(x_start)
        found.append(classification_losses(process, network, x_start, t, noise, labels))
        on_pass()
    terms = {name: torch.stack([each[name] for each in found], dim=1) for name in found[0]}
    if not terms["loss"].isfinite().all():
        raise StageFailed(f"the cross entropy of examples {part.start} to {part.stop - 1} is not finite: the network gave NaN or "
                          "infinity", kind="not finite")
    return terms


def _summary(spec: ClassifierSpec, values: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """Return the mean of `values` [N, quarters] over t and examples, its standard error, and the mean of each quarter."""
    each, count = values @ weights, len(values)
    error = float(each.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    own = spec.evaluate.data or spec.data.path
    return {"value": float(each.mean()), "standard_error": error, "quarters": values.mean(axis=0).tolist(), "examples": count,
            "data": own if spec.evaluate.data else f"{own}, on which it was trained"}
