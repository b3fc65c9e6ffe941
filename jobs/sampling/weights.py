"""The network of a run with the weights that a sampling uses."""

from torch import nn

from jobs.errors import StageFailed
from jobs.finite import not_finite
from jobs.kinds.protocol import model_of
from jobs.parallel.group import Group
from jobs.run.checkpoints import average_of, checkpoint_at, load_weights, sha256_of_weights, weights_name
from jobs.run.directory import RunDir
from jobs.sampling.chunks import sampling_settings
from jobs.spec.samplings import Sampling, samplings, with_sampling


def load_sampler(run: RunDir, group: Group, sampling: Sampling | None = None) -> tuple[nn.Module, dict]:
    """Return the network with the weights of `sampling` (None: the main one), in evaluation mode, and the sampling settings."""
    sampling = sampling or samplings(run.spec)[0]
    network = model_of(run.spec).network(run.spec)
    sha256 = load_step(run, network, sampling.step)
    return network.to(group.device).eval(), sampling_settings(with_sampling(run.spec, sampling), sha256)


def load_step(run: RunDir, network: nn.Module, step: int) -> str:
    """Copy the weights of training step `step` that the spec samples from into the network. Return their sha256.

    Raises StageFailed that names the first tensor that is not finite.
    """
    average, checkpoint = average_of(run.spec.sample.ema_rate), checkpoint_at(run, step)
    weights, source = checkpoint.weights(average), checkpoint.path / weights_name(average)
    load_weights(network, weights, source)
    if problem := not_finite(weights):
        raise StageFailed(f"{source}: {problem}", kind="not finite")
    return sha256_of_weights(weights)


def settings_of(run: RunDir, network: nn.Module) -> dict[Sampling, dict]:
    """Return the sampling settings of each sampling of the run.

    Loads the weights of each into `network`. Raises UserError where a checkpoint is missing or does not fit.
    """
    spec = run.spec
    sha256 = {step: load_step(run, network, step) for step in dict.fromkeys(sampling.step for sampling in samplings(spec))}
    return {sampling: sampling_settings(with_sampling(spec, sampling), sha256[sampling.step]) for sampling in samplings(spec)}
