"""Bits/dim of held-out examples: the variational bound, every example once."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from diffusion.losses import BitsPerDim, bits_per_dim
from diffusion.networks.unet import UNet
from jobs.data.dataset import ImageData, open_data
from jobs.data.fingerprints import kept_fingerprint
from jobs.data.pictures import to_x
from jobs.errors import StageFailed, UserError
from jobs.kinds.diffusion.build import build_diffusion, conditions
from jobs.kinds.diffusion.generation import NOTHING, Beside
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.kinds.held_out import LikelihoodSettings
from jobs.parallel.group import Group, any_rank, gather_rows
from jobs.parallel.interruption import Stopped
from jobs.randomness import generator_for, randn_from
from jobs.spec.kinds import OwnNumber
from jobs.spec.sections import Data


def open_held_out(settings: LikelihoodSettings, data: Data) -> ImageData:
    """Open evaluate.nll_data. Raises UserError where the data do not fit, or are fewer than nll_examples."""
    if settings.nll_data is None:
        raise UserError("evaluate.nll_data: nll_examples needs a held-out data set")
    held_out = open_data(settings.nll_data, data.image_size, data.channels, data.classes)
    if settings.nll_examples > len(held_out):
        raise UserError(f"evaluate.nll_examples: {settings.nll_examples}, but {settings.nll_data} has {len(held_out)} examples")
    return held_out


def basis(spec: DiffusionSpec, number: OwnNumber) -> dict[str, Any]:
    """Return what bits/dim depend on besides the network."""
    return {"clip_denoised": bool(spec.sample.clip_denoised), "timestep_respacing": dict(number.changes)["timestep_respacing"],
            "examples": number.examples, "data": kept_fingerprint(open_held_out(spec.evaluate, spec.data)),
            "batch_size": number.batch_size, "seed": spec.evaluate.seed}


def measure(spec: DiffusionSpec, network: UNet, number: OwnNumber, group: Group, on_pass: Callable[[], None],
            beside: Callable[[Tensor], Beside] = lambda x_start: NOTHING) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compute bits/dim of the first `number.examples` held-out examples over the chain that `number.changes` names.

    Over a shorter chain the result is a bound for that process, whose steps are longer. Returns a summary and arrays: total
    and prior [N] in the data's order, and the means over examples of vb, mse and xstart_mse [T], column t of step t.
    `beside`: a function of the examples [n, C, H, W] in [-1, 1]; the bound is that of the examples given what it returns.
    `on_pass` is called after each evaluation of the network. Raises Stopped on all ranks where it does on one, StageFailed that
    names the first timestep at which the network gave NaN or infinity.
    """
    held_out, count = open_held_out(spec.evaluate, spec.data), number.examples
    diffusion = build_diffusion(spec, group.device, dict(number.changes)["timestep_respacing"])
    # (index, total, prior) of every example: small. The terms per timestep are kept as sums.
    rows: list[Tensor] = [torch.zeros(0, 3, dtype=torch.float64, device=group.device)]
    sums = torch.zeros(3, diffusion.num_timesteps, dtype=torch.float64, device=group.device)
    stopped = False
    try:
        for batch in number.batches(group.rank, group.world_size):
            part = slice(batch * number.batch_size, min((batch + 1) * number.batch_size, count))
            x_start = to_x(torch.from_numpy(np.array(held_out.images[part])).to(group.device)).permute(0, 3, 1, 2)
            labels = held_out.labels[part] if held_out.labels is not None and spec.data.class_cond else None
            randn = randn_from(generator_for(group.device, spec.evaluate.seed, "bits per dim", batch), number.batch_size)
            bound = bits_per_dim(diffusion, network, x_start, randn, clip_denoised=bool(spec.sample.clip_denoised),
                                 model_kwargs={**conditions(labels, group.device), **beside(x_start)}, on_step=on_pass)
            if problem := _not_finite(bound, part, diffusion.timestep_map):
                raise StageFailed(f"bits/dim {problem}", kind="not finite")
            index = torch.arange(part.start, part.stop, dtype=torch.float64, device=group.device)
            rows.append(torch.stack([index, bound.total.double(), bound.prior.double()], dim=1))
            sums += torch.stack([term.double().sum(dim=0) for term in (bound.vb, bound.mse, bound.xstart_mse)])
    except Stopped:
        stopped = True
    if any_rank(stopped):
        raise Stopped
    gathered = gather_rows(torch.cat(rows))
    dist.all_reduce(sums)
    _, total, prior = gathered[gathered[:, 0].argsort()].T.cpu().numpy()
    vb, mse, xstart_mse = (sums / count).cpu().numpy()
    error = total.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    summary = {"value": float(total.mean()), "standard_error": None if math.isnan(error) else float(error),
               "prior": float(prior.mean()), "examples": count, "data": spec.evaluate.nll_data}
    return summary, {"total": total, "prior": prior, "vb": vb, "mse": mse, "xstart_mse": xstart_mse}


def _not_finite(bound: BitsPerDim, part: slice, timestep_map: list[int]) -> str | None:
    """Say at which timestep the terms of the examples `part` are not finite: the first on the way down; None: all are finite."""
    good = torch.stack([term.isfinite().all(dim=0) for term in (bound.vb, bound.mse, bound.xstart_mse)]).all(dim=0)
    if good.all() and bound.total.isfinite().all():
        return None
    bad = (~good).nonzero().flatten().tolist()
    where = f" since timestep {timestep_map[bad[-1]]}" if bad else ""
    return f"of examples {part.start} to {part.stop - 1} are not finite{where}: the network gave NaN or infinity"
