"""Heun's method, the solver of Karras et al. 2022 (EDM) without its noise."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.coefficients import Coefficients
from diffusion.samplers.chain import Randn, State, Step, walk
from diffusion.samplers.denoiser import At, Denoiser, columns
from diffusion.samplers.ode import first_order


def heun(denoise: Denoiser, state: State, randn: Randn, *, first_step: int | None = None,
         cuda_graph: bool = False) -> Iterator[Step]:
    """Solve the probability-flow ODE with two evaluations of the network a step: here and where a step of first order ends.

    Karras et al. 2022, algorithm 1. The last step is of first order, with one evaluation. `randn` is never called. Other
    arguments: see `chain.SamplerFunction`.
    """
    c, device = denoise.diffusion.coefficients, denoise.diffusion.device
    euler, both = columns(device, *first_order(c)), columns(device, *two_slopes(c))

    def advance(state: State, noise: Tensor, at: At) -> tuple[State, Tensor]:
        x = state["x"]
        pred_xstart = denoise.guided(x, at)
        from_x, from_xstart = euler(at.number)
        ahead = torch.mul(x, from_x).addcmul_(pred_xstart, from_xstart)
        if not at.step:
            return {"x": ahead}, pred_xstart
        there = denoise.guided(ahead, at.next())
        from_x, from_xstart, from_there = both(at.number)
        return {"x": torch.mul(x, from_x).addcmul_(pred_xstart, from_xstart).addcmul_(there, from_there)}, pred_xstart

    def phase(step: int) -> tuple:
        return denoise.phase(step), denoise.phase(step - 1) if step else None

    return walk(denoise, advance, {"x": state["x"]}, None, first_step, cuda_graph, phase)


def two_slopes(c: Coefficients) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients of x_t, of pred_xstart and of the image predicted at the next step, float64 [K] each; those of step 0 are 0.

    In z = x / alpha and s = sigma / alpha a slope is (z - pred_xstart) / s, and z moves by the change of s times the mean of two
    slopes. Multiplied out in float64: in float32 a step from a noise level of 1e5 would lose all digits of the image.
    """
    now, after = c.alphas_cumprod[1:], c.alphas_cumprod_prev[1:]
    ratio = np.sqrt((1 - after) / after / ((1 - now) / now))  # s at the next step, as a part of s here
    alpha = np.sqrt(after)
    slopes = np.sqrt((1 - after) / (1 - now)), alpha * (1 - ratio) * (1 - 1 / (2 * ratio)), alpha * (1 - ratio) / (2 * ratio)
    from_x, from_xstart, from_there = (np.append(0.0, column) for column in slopes)
    return from_x, from_xstart, from_there
