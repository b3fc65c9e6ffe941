"""The network of a run with the weights that a sampling uses."""

from torch import nn

from jobs.errors import StageFailed
from jobs.finite import not_finite
from jobs.kinds.protocol import model_of
from jobs.parallel.group import Group
from jobs.run.checkpoints import checkpoint_at, load_weights, sha256_of_weights
from jobs.run.directory import RunDir
from jobs.run.snapshots import sampled_weights
from jobs.sampling.chunks import sampling_settings
from jobs.spec.samplings import Sampling, main_sampling, samplings, weights_of, with_sampling


def load_sampler(run: RunDir, group: Group, sampling: Sampling | None = None) -> tuple[nn.Module, dict]:
    """Return the network with the weights of `sampling` (None: the main one), in evaluation mode, and the sampling settings."""
    sampling = sampling or main_sampling(run.spec)
    network = model_of(run.spec).network(run.spec)
    sha256 = load_sampled(run, network, sampling)
    return network.to(group.device).eval(), sampling_settings(with_sampling(run.spec, sampling), sha256)


def load_sampled(run: RunDir, network: nn.Module, sampling: Sampling) -> str:
    """Copy the weights that `sampling` samples from into the network. Return their sha256.

    Raises StageFailed that names the first tensor that is not finite.
    """
    weights, source = sampled_weights(run, checkpoint_at(run, sampling.step), with_sampling(run.spec, sampling).sample)
    load_weights(network, weights, source)
    if problem := not_finite(weights):
        raise StageFailed(f"{source}: {problem}", kind="not finite")
    return sha256_of_weights(weights)


def settings_of(run: RunDir, network: nn.Module) -> dict[Sampling, dict]:
    """Return the sampling settings of each sampling of the run; where its kind draws no samples, of its final weights.

    Loads the weights of each into `network`. Raises UserError where a checkpoint is missing or does not fit.
    """
    spec, sha256, found = run.spec, dict[tuple, str](), {}
    for sampling in samplings(spec) or [main_sampling(spec)]:
        weights = weights_of(spec, sampling)
        if weights not in sha256:
            sha256[weights] = load_sampled(run, network, sampling)
        found[sampling] = sampling_settings(with_sampling(spec, sampling), sha256[weights])
    return found
