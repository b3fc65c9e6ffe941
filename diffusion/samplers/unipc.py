"""The solver UniPC of Zhao et al. 2023, of order 2, for predicted images and with B(h) = exp(h) - 1 (bh2)."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusion.coefficients import Coefficients
from diffusion.samplers.chain import Randn, State, Step, walk
from diffusion.samplers.denoiser import At, Denoiser, columns
from diffusion.samplers.dpmpp_2m import two_images
from diffusion.samplers.ode import first_order, log_snr_steps


def unipc(denoise: Denoiser, state: State, randn: Randn, *, first_step: int | None = None,
          cuda_graph: bool = False) -> Iterator[Step]:
    """Solve the probability-flow ODE; each step corrects the step before by the image predicted at its end.

    Zhao et al. 2023, UniP-2 and UniC-2. A step's evaluation of the network serves the correction of the step before and the step
    itself. The first and the last step are of first order, and the last one is not corrected. `randn` is never called.
    Other arguments: see `chain.SamplerFunction`.
    """
    c, device = denoise.diffusion.coefficients, denoise.diffusion.device
    prediction, correction = columns(device, *two_images(c)), columns(device, *corrector(c))

    def advance(state: State, noise: Tensor, at: At) -> tuple[State, Tensor]:
        pred_xstart = denoise.guided(state["x"], at)
        from_left, from_here, from_before, from_earlier = correction(at.number)
        corrected = torch.mul(state["corrected"], from_left).addcmul_(pred_xstart, from_here)
        corrected.addcmul_(state["before"], from_before).addcmul_(state["earlier"], from_earlier)
        from_x, from_xstart, from_before = prediction(at.number)
        x = torch.mul(corrected, from_x).addcmul_(pred_xstart, from_xstart).addcmul_(state["before"], from_before)
        return {"x": x, "corrected": corrected, "before": pred_xstart, "earlier": state["before"].clone()}, pred_xstart

    # `corrected`: the x that the step before left from; `before`, `earlier`: the images predicted one and two steps before.
    none = torch.zeros_like(state["x"])
    beginning = {"corrected": state["x"], "before": none, "earlier": none}
    return walk(denoise, advance, {**beginning, **state}, None, first_step, cuda_graph)


def corrector(c: Coefficients) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients of the corrected x_t at each step, float64 [K] each.

    Of the x that the step before left from, of pred_xstart here, and of the images predicted one and two steps before here. The
    first step has nothing to correct: x_t is what the chain begins with. The weights rho of the two differences between images
    solve R(h) rho = b(h) (Zhao et al. 2023); for one difference the weight is 1/2.
    """
    steps = len(c.betas)
    from_left, from_here, from_before, from_earlier = np.zeros((4, steps))
    from_left[-1] = 1
    left, images = (column[1:] for column in first_order(c))  # entry n: of step n + 1, which led to x_t at step n
    h = log_snr_steps(c)[1:]
    here, earlier = np.full(steps - 1, 0.5), np.zeros(steps - 1)
    if steps > 2:
        ratio = -h[1:] / h[:-1]  # how far in lambda, in units of h, the step two before here is from the step before
        hh = -h[:-1]
        h_1 = np.expm1(hh) / hh - 1
        b_1, b_2 = h_1 / np.expm1(hh), 2 * (h_1 / hh - 0.5) / np.expm1(hh)
        rho = (b_1 - b_2) / (1 - ratio)
        here[:-1], earlier[:-1] = b_1 - rho, rho / ratio
    from_left[:-1], from_here[:-1] = left, images * here
    from_before[:-1], from_earlier[:-1] = images * (1 - here - earlier), images * earlier
    return from_left, from_here, from_before, from_earlier
