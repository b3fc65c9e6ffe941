"""The kind `vae`: its half that needs torch (see jobs.kinds.protocol)."""

from jobs.kinds.vae.build import build_network as network
from jobs.kinds.vae.generation import generate, reconstruct
from jobs.kinds.vae.likelihood import basis, measure
from jobs.kinds.vae.trainable import VaeTrainable as trainable

__all__ = ["basis", "generate", "measure", "network", "reconstruct", "trainable"]
