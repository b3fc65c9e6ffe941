"""The kind `diffusion`: its half that needs torch (see jobs.kinds.protocol)."""

from jobs.kinds.diffusion.build import build_network as network
from jobs.kinds.diffusion.generation import generate
from jobs.kinds.diffusion.likelihood import basis, measure
from jobs.kinds.diffusion.trainable import DiffusionTrainable as trainable

__all__ = ["basis", "generate", "measure", "network", "trainable"]
