"""The kind `upsampler`: its half that needs torch (see jobs.kinds.protocol)."""

from jobs.kinds.diffusion.likelihood import basis
from jobs.kinds.upsampler.build import build_network as network
from jobs.kinds.upsampler.generation import generate_of
from jobs.kinds.upsampler.likelihood import measure
from jobs.kinds.upsampler.trainable import UpsamplerTrainable as trainable

__all__ = ["basis", "generate_of", "measure", "network", "trainable"]
