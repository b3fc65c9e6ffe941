"""A trained classifier as a guide of another run's sampling. Importing this file loads no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.errors import UserError
from jobs.kinds.noisy_classifier.sections import ClassifierSpec
from jobs.run.directory import RunDir

if TYPE_CHECKING:
    import torch

    from diffusion.networks.half_unet import HalfUNet


@dataclass(frozen=True)
class ClassifierFacts:
    """What the run that is guided must agree with."""

    classes: int
    diffusion_steps: int
    noise_schedule: str
    rescale_timesteps: bool
    image_size: int
    channels: int


@dataclass(frozen=True, eq=False)
class LoadedClassifier:
    network: "HalfUNet"
    """network(x [N, C, S, S], time float [N]) -> logits [N, classes]: on the device, in evaluation mode, its weights without
    gradients."""
    sha256: str
    """Of the weights."""
    facts: ClassifierFacts


def classifier_facts(run: RunDir) -> ClassifierFacts:
    """Return the facts of a classifier's run, trained or not. Raises UserError where the run is of another kind."""
    spec = run.spec
    if not isinstance(spec, ClassifierSpec):
        raise UserError(f"{run.path}: a run of kind {spec.kind}, not of kind noisy_classifier")
    process = spec.diffusion
    return ClassifierFacts(spec.data.num_classes or 0, process.diffusion_steps, process.noise_schedule, process.rescale_timesteps,
                           spec.data.image_size, spec.data.channels)


def load_classifier(run: RunDir, device: "torch.device") -> LoadedClassifier:
    """Return the classifier of `run` with its final weights, averaged as its section `sample` says.

    Raises UserError where the run is of another kind, its training is not finished, or its checkpoint is damaged, and StageFailed
    where its weights are not finite.
    """
    from jobs.errors import StageFailed
    from jobs.finite import not_finite
    from jobs.kinds.noisy_classifier.build import build_network
    from jobs.run.checkpoints import final_checkpoint, load_weights, sha256_of_weights
    from jobs.run.snapshots import sampled_weights

    facts, spec = classifier_facts(run), run.spec
    assert isinstance(spec, ClassifierSpec)
    weights, source = sampled_weights(run, final_checkpoint(run), spec.sample)
    if problem := not_finite(weights):
        raise StageFailed(f"{source}: {problem}", kind="not finite")
    network = build_network(spec)
    load_weights(network, weights, source)
    return LoadedClassifier(network.to(device).eval().requires_grad_(False), sha256_of_weights(weights), facts)
