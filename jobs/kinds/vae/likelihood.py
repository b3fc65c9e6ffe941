"""The ELBO of held-out examples in bits/dim, every example once: an upper bound of their negative log-likelihood."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.baselines.elbo import ACTIVE, elbo_parts, log_likelihood, prior_kl, reparameterised
from diffusion.networks.vae import VAE
from jobs.data.fingerprints import kept_fingerprint
from jobs.data.pictures import to_x
from jobs.errors import StageFailed
from jobs.kinds.diffusion.build import conditions
from jobs.kinds.diffusion.likelihood import open_held_out
from jobs.kinds.vae.sections import VaeSpec
from jobs.parallel.group import Group, any_rank, gather_rows
from jobs.parallel.interruption import Stopped
from jobs.randomness import generator_for, randn_from
from jobs.spec.kinds import OwnNumber


def basis(spec: VaeSpec, number: OwnNumber) -> dict[str, Any]:
    """Return what the ELBO depends on besides the network."""
    return {"examples": number.examples, "data": kept_fingerprint(open_held_out(spec.evaluate, spec.data)),
            "batch_size": number.batch_size, "seed": spec.evaluate.seed}


def measure(spec: VaeSpec, network: VAE, number: OwnNumber, group: Group,
            on_pass: Callable[[], None]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compute the negative ELBO of the first `number.examples` held-out examples, at one z of each posterior.

    Returns a summary and arrays: total, reconstruction and kl [N] in bits/dim, in the data's order, and latent_kl [L], the
    mean KL of each latent in nats. `on_pass` is called after the encoder and after the decoder. Raises Stopped on all ranks where
    it does on one, StageFailed that names examples of which a part is not finite.
    """
    held_out, count = open_held_out(spec.evaluate, spec.data), number.examples
    latents = math.prod(network.latent_shape)
    # (index, reconstruction, KL, KL of each latent) of every example.
    rows: list[Tensor] = [torch.zeros(0, 3 + latents, dtype=torch.float64, device=group.device)]
    stopped = False
    try:
        with torch.no_grad():
            for batch in number.batches(group.rank, group.world_size):
                part = slice(batch * number.batch_size, min((batch + 1) * number.batch_size, count))
                x = to_x(torch.from_numpy(np.array(held_out.images[part])).to(group.device)).permute(0, 3, 1, 2)
                labels = held_out.labels[part] if held_out.labels is not None and spec.data.class_cond else None
                given = conditions(labels, group.device)
                randn = randn_from(generator_for(group.device, spec.evaluate.seed, "elbo", batch), number.batch_size)
                mean, log_variance = network.encoder(x, **given)
                on_pass()
                decoded = network.decoder(reparameterised(mean, log_variance, randn(mean)), **given)
                on_pass()
                kl_each = prior_kl(mean, log_variance).double()
                parts = elbo_parts(log_likelihood(spec.vae.decoder, x, *decoded).double(), kl_each)
                if not all(each.isfinite().all() for each in parts):
                    raise StageFailed(f"the ELBO of examples {part.start} to {part.stop - 1} is not finite: the network gave NaN "
                                      "or infinity", kind="not finite")
                index = torch.arange(part.start, part.stop, dtype=torch.float64, device=group.device)
                rows.append(torch.cat([torch.stack([index, *parts], dim=1), kl_each.flatten(1)], dim=1))
    except Stopped:
        stopped = True
    if any_rank(stopped):
        raise Stopped
    gathered = gather_rows(torch.cat(rows))
    values = gathered[gathered[:, 0].argsort()].cpu().numpy()
    return _summary(spec, values[:, 1], values[:, 2], values[:, 3:].mean(axis=0))


def _summary(spec: VaeSpec, reconstruction: np.ndarray, kl: np.ndarray,
             latent_kl: np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    total, count = reconstruction + kl, len(kl)
    error = float(total.std(ddof=1)) / math.sqrt(count) if count > 1 else None
    summary = {"value": float(total.mean()), "standard_error": error, "reconstruction": float(reconstruction.mean()),
               "kl": float(kl.mean()), "active_latents": int((latent_kl > ACTIVE).sum()), "latents": len(latent_kl),
               "examples": count, "data": spec.evaluate.nll_data}
    return summary, {"total": total, "reconstruction": reconstruction, "kl": kl, "latent_kl": latent_kl}
