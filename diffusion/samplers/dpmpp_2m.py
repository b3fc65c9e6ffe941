"""The solver DPM-Solver++(2M) of Lu et al. 2022."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.coefficients import Coefficients
from diffusion.samplers.chain import Randn, State, Step, walk
from diffusion.samplers.denoiser import At, Denoiser, columns
from diffusion.samplers.ode import first_order, log_snr_steps


def dpmpp_2m(denoise: Denoiser, state: State, randn: Randn, *, first_step: int | None = None,
             cuda_graph: bool = False) -> Iterator[Step]:
    """Solve the probability-flow ODE with two predicted images a step: this step's and that of the step before.

    Lu et al. 2022 (DPM-Solver++), algorithm 2. The first step is of first order, for lack of a step before, and so is the last
    one, to the image without noise. `randn` is never called. Other arguments: see `chain.SamplerFunction`.
    """
    coefficients = columns(denoise.diffusion.device, *two_images(denoise.diffusion.coefficients))

    def advance(state: State, noise: Tensor, at: At) -> tuple[State, Tensor]:
        pred_xstart = denoise.guided(state["x"], at)
        from_x, from_xstart, from_before = coefficients(at.number)
        x = torch.mul(state["x"], from_x).addcmul_(pred_xstart, from_xstart).addcmul_(state["before"], from_before)
        return {"x": x, "before": pred_xstart}, pred_xstart

    return walk(denoise, advance, {"before": torch.zeros_like(state["x"]), **state}, None, first_step, cuda_graph)


def two_images(c: Coefficients) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients of x_t, of pred_xstart and of the step before's pred_xstart in the x that a step leads to, float64 [K] each.

    Lu et al. 2022, algorithm 2: a step of first order with pred_xstart + (pred_xstart - before) * h / (2 * h_before).
    """
    h, share = log_snr_steps(c), np.zeros(len(c.betas))
    share[1:-1] = h[1:-1] / (2 * h[2:])
    from_x, from_xstart = first_order(c)
    return from_x, from_xstart * (1 + share), -from_xstart * share
