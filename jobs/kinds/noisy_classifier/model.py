"""The kind `noisy_classifier`: its half that needs torch (see jobs.kinds.protocol)."""

from jobs.kinds.noisy_classifier.accuracy import basis, measure
from jobs.kinds.noisy_classifier.build import build_network as network
from jobs.kinds.noisy_classifier.trainable import ClassifierTrainable as trainable

__all__ = ["basis", "measure", "network", "trainable"]
