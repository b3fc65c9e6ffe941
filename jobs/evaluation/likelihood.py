"""Bits/dim of held-out examples: the variational bound, every example once."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from diffusion.losses import bits_per_dim
from diffusion.networks.unet import UNet
from jobs.data.dataset import ImageData, open_data
from jobs.data.pictures import to_x
from jobs.errors import UserError
from jobs.kinds.diffusion import build_diffusion
from jobs.parallel.group import Group, any_rank, gather_rows
from jobs.parallel.interruption import Stopped
from jobs.randomness import generator_for, randn_from
from jobs.spec.sections import Spec


def open_held_out(spec: Spec) -> ImageData:
    """evaluate.nll_data. Raises UserError where it does not fit, or has fewer than nll_examples."""
    settings, data = spec.evaluate, spec.data
    held_out = open_data(settings.nll_data, data.image_size, data.channels, data.num_classes if data.class_cond else None)
    if settings.nll_examples > len(held_out):
        raise UserError(f"evaluate.nll_examples: {settings.nll_examples}, but {settings.nll_data} has {len(held_out)} examples")
    return held_out


def batches_of_rank(spec: Spec, group: Group) -> range:
    """Numbers of the batches of held-out examples that this rank evaluates."""
    return range(group.rank, -(-spec.evaluate.nll_examples // spec.evaluate.batch_size), group.world_size)


def negative_log_likelihood(spec: Spec, network: UNet, timestep_respacing: str, group: Group,
                            on_step: Callable[[], None]) -> dict:
    """Bits/dim of the first nll_examples held-out examples over the chain of `timestep_respacing`, "" the full one.

    Over a shorter chain it is a bound for that process, whose steps are longer. Returns `summary` and arrays: total and
    prior [N] in the data's order, and the means over examples of vb, mse and xstart_mse [T], column t of step t.
    """
    settings, held_out = spec.evaluate, open_held_out(spec)
    count = settings.nll_examples
    diffusion = build_diffusion(spec, group.device, timestep_respacing)
    # (index, total, prior) of every example: small. The terms per timestep are kept as sums.
    rows: list[Tensor] = [torch.zeros(0, 3, dtype=torch.float64, device=group.device)]
    sums = torch.zeros(3, diffusion.num_timesteps, dtype=torch.float64, device=group.device)
    stopped = False
    try:
        for number in batches_of_rank(spec, group):
            rows_of = slice(number * settings.batch_size, min((number + 1) * settings.batch_size, count))
            x_start = to_x(torch.from_numpy(np.array(held_out.images[rows_of])).to(group.device)).permute(0, 3, 1, 2)
            labels = {"y": torch.from_numpy(held_out.labels[rows_of]).to(group.device)} if spec.data.class_cond else {}
            randn = randn_from(generator_for(group.device, settings.seed, "bits per dim", number), settings.batch_size)
            bound = bits_per_dim(diffusion, network, x_start, randn, clip_denoised=spec.sample.clip_denoised,
                                 model_kwargs=labels, on_step=on_step)
            index = torch.arange(rows_of.start, rows_of.stop, dtype=torch.float64, device=group.device)
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
               "prior": float(prior.mean()), "examples": count, "data": settings.nll_data}
    return {"summary": summary, "total": total, "prior": prior, "vb": vb, "mse": mse, "xstart_mse": xstart_mse}
