"""The samplers by name. No torch is loaded before a sampler is asked for: a login node reads this table."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

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
    evaluations: Callable[[int], int] = lambda steps: steps
    """evaluations(K): how often a chain of K steps evaluates the network."""


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Sampler("diffusion.samplers.ancestral", has_likelihood=True),
    "ddim": Sampler("diffusion.samplers.ddim", has_likelihood=False, settings=("eta",)),
}
"""By the name that a spec's `sample.sampler` takes."""


def sampler_function(name: str) -> Callable:
    """The function of the sampler `name`, a `chain.SamplerFunction`. Raises ValueError for a name that is not in SAMPLERS."""
    return getattr(import_module(look_up(SAMPLERS, name, "sampler").module), name)
