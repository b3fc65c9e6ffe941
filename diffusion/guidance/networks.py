"""Guidance: chains that follow a class, or the difference to a weaker network, more closely than their network alone.

`ClassifierFree` and `Autoguidance` are networks made of networks, and `Classifier` is a guide of `samplers.denoiser.Denoiser`, so
every sampler takes them. `strength` [K] says how much guidance each step of the chain has (`intervals.strength`): at steps of
strength 0 no more is evaluated than without guidance.
Sources: Dhariwal & Nichol 2021 (classifier guidance), Ho & Salimans 2022 (classifier-free guidance), Karras et al. 2024
(autoguidance, arXiv 2406.02507).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from diffusion.gaussian import Network
from diffusion.samplers.denoiser import AtStep, Phased, along, columns


class ClassifierFree:
    """A network that follows its classes y more closely: it is compared with itself without a class.

    network     a conditional network
    null_label  the label that stands for no class
    strength    [K]: scale - 1, where output = without + scale (with - without) (Ho & Salimans 2022, eq. 6, whose w is strength)
    Only the image channels are guided; those of the variance are the conditional ones.
    """

    def __init__(self, network: Network, null_label: int, strength: np.ndarray):
        self.network, self.null_label, self.strength = network, null_label, strength

    def along(self, times: Tensor, y: Tensor, **beside: Tensor) -> Phased:
        """The network at the step `number` of the chain with `times` [K], for examples of the classes y int64 [N].

        `beside` [N, ...]: what the network takes with and without a class.
        """
        alone = _at_step(self.network, times, {"y": y, **beside})
        both = _at_step(self.network, times, {"y": torch.cat([y, torch.full_like(y, self.null_label)]),
                                              **{name: torch.cat([value, value]) for name, value in beside.items()}})

        def with_and_without(x: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
            conditional, unconditional = both(torch.cat([x, x]), number).chunk(2)
            return conditional, unconditional
        return _guided(alone, with_and_without, self.strength, times.device)


class Autoguidance:
    """A network that goes away from what a weaker network of the same task predicts (Karras et al. 2024, eq. 3).

    strength    [K]: scale - 1, where output = weak + scale (network - weak)
    Only the image channels are guided; those of the variance are the network's own. The weak one may have none, or other ones.
    """

    def __init__(self, network: Network, weak: Network, strength: np.ndarray):
        self.network, self.weak, self.strength = network, weak, strength

    def along(self, times: Tensor, **model_kwargs: Tensor) -> Phased:
        """The network at the step `number` of the chain with `times` [K]."""
        alone, weak = (_at_step(network, times, model_kwargs) for network in (self.network, self.weak))
        return _guided(alone, lambda x, number: (alone(x, number), weak(x, number)), self.strength, times.device)


def _guided(alone: AtStep, both: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], strength: np.ndarray,
            device: torch.device) -> Phased:
    """`alone` at steps of strength 0, and at others its output led away from the second of `both` outputs."""
    at = columns(device, strength)

    def guided(x: Tensor, number: Tensor) -> Tensor:
        good, bad = (output.float() for output in both(x, number))
        images = x.shape[1]
        moved = torch.addcmul(good[:, :images], good[:, :images] - bad[:, :images], at(number)[0])
        return torch.cat([moved, good[:, images:]], dim=1)
    return Phased([alone, guided], (strength != 0).astype(int).tolist())


class Classifier:
    """The gradient of log p(y | x_t) by a classifier of noisy images: a guide for `samplers.denoiser.Denoiser`.

    network     network(x_t, time) -> logits [N, classes]
    labels      y int64 [N], on the network's device
    strength    [K]: the scale s of Dhariwal & Nichol 2021, algorithms 1 and 2
    """

    def __init__(self, network: Network, labels: Tensor, strength: np.ndarray):
        self.network, self.labels, self.strength = network, labels, strength

    def along(self, times: Tensor) -> Phased:
        """s times the gradient [N, C, H, W], float32, at the step `number` of the chain with `times` [K]; None where s is 0."""
        logits, scale = _at_step(self.network, times, {}), columns(times.device, self.strength)

        def gradient(x: Tensor, number: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                log_p = torch.log_softmax(logits(x, number).float(), dim=1).gather(1, self.labels[:, None])
                # Examples do not meet in the network, so the gradient of the sum holds that of each.
                (found,) = torch.autograd.grad(log_p.sum(), x)
            return found.float() * scale(number)[0]
        return Phased([lambda x, number: None, gradient], (self.strength != 0).astype(int).tolist())


def _at_step(network: Network, times: Tensor, model_kwargs: dict[str, Tensor]) -> AtStep:
    """`network` at a step; guidance does not guide what has phases of its own."""
    (at_step,) = along(network, times, model_kwargs).at_steps
    return at_step
