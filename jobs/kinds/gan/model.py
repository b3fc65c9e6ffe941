"""The kind `gan`: its half that needs torch (see jobs.kinds.protocol). It has no number of its own."""

from jobs.kinds.gan.generation import build_generator as network
from jobs.kinds.gan.generation import generate
from jobs.kinds.gan.trainable import GanTrainable as trainable

__all__ = ["generate", "network", "trainable"]
