"""The samplers by name. No torch is loaded before a sampler is asked for: a login node reads this table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from diffusion.lookup import look_up


@dataclass(frozen=True)
class Sampler:
    """Facts about a sampler. Its function has the sampler's name and the signature `chain.SamplerFunction`."""

    module: str
    """The module that holds the function."""
    has_likelihood: bool
    """The chain is that of p, so bits/dim of the variational bound describe its samples."""
    settings: tuple[str, ...] = ()
    """Keyword arguments that this sampler takes besides those of all samplers."""
    evaluated: Callable[[int], Sequence[int]] = lambda steps: range(steps - 1, -1, -1)
    """evaluated(K): the numbers of the steps at whose times a chain of K steps evaluates the network, in order."""
    unfit: Callable[[np.ndarray], str | None] = lambda lambdas: None
    """unfit(log(alpha / sigma) at each step of a chain, [K], falling): why the sampler draws garbage over it, if it does."""

    def evaluations(self, steps: int) -> int:
        """How often a chain of so many steps evaluates the network."""
        return len(self.evaluated(steps))


def _overshoots(lambdas: np.ndarray) -> str | None:
    """Heun's first step weighs the image of its second evaluation by alpha' (s - s') / 2 s', where s = sigma / alpha (Karras et
    al. 2022, algorithm 1). Above 1, small errors of that image are all that is left of the picture."""
    s, after = np.exp(-lambdas[-1]), np.exp(-lambdas[-2:][0])
    if (s - after) / (2 * after * np.sqrt(1 + after ** 2)) <= 1:
        return None
    return (f"heun draws garbage over this chain, whose first step begins where log(alpha / sigma) is {lambdas[-1]:.1f} and ends "
            f"where it is {lambdas[-2]:.1f}; use a chain such as logsnr20, or another sampler")


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Sampler("diffusion.samplers.ancestral", has_likelihood=True),
    "ddim": Sampler("diffusion.samplers.ddim", has_likelihood=False, settings=("eta",)),
    "dpmpp_2m": Sampler("diffusion.samplers.dpmpp_2m", has_likelihood=False),
    "unipc": Sampler("diffusion.samplers.unipc", has_likelihood=False),
    "heun": Sampler("diffusion.samplers.heun", has_likelihood=False,  # each step but the last one looks ahead to the next
                    evaluated=lambda steps: [number for step in range(steps - 1, -1, -1) for number in (step, step - 1)][:-1],
                    unfit=_overshoots),
}
"""By the name that a spec's `sample.sampler` takes."""


def sampler_function(name: str) -> Callable:
    """The function of the sampler `name`, a `chain.SamplerFunction`. Raises ValueError for a name that is not in SAMPLERS."""
    return getattr(import_module(look_up(SAMPLERS, name, "sampler").module), name)
