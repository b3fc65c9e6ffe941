"""The networks of a run with the weights that a sampling uses: its own network, and the one that guides it."""

from dataclasses import dataclass

from torch import nn

from jobs.errors import StageFailed
from jobs.finite import not_finite
from jobs.kinds.protocol import model_of
from jobs.parallel.group import Group
from jobs.run.checkpoints import checkpoint_at, load_weights, sha256_of_weights
from jobs.run.directory import RunDir
from jobs.run.given import given_facts
from jobs.run.guides import guide_run
from jobs.run.snapshots import sampled_weights
from jobs.sampling.chunks import sampling_settings
from jobs.spec.kinds import Guide, kind_of
from jobs.spec.samplings import Sampling, main_sampling, samplings, weights_of, with_sampling


def load_sampler(run: RunDir, group: Group, sampling: Sampling | None = None) -> tuple[nn.Module, dict]:
    """Return the network with the weights of `sampling` (None: the main one), in evaluation mode, and the sampling settings."""
    sampling = sampling or main_sampling(run.spec)
    network = model_of(run.spec).network(run.spec)
    sha256 = load_sampled(run, network, sampling)
    guide = guide_of(run, sampling)
    settings = sampling_settings(with_sampling(run.spec, sampling), sha256, load_guide(run, guide).facts if guide else None,
                                 given_facts(run))
    return network.to(group.device).eval(), settings


def load_sampled(run: RunDir, network: nn.Module, sampling: Sampling, key: str = "sample.at") -> str:
    """Copy the weights that `sampling` samples from into the network. Return their sha256.

    `key`: the setting that names the step. Raises StageFailed that names the first tensor that is not finite.
    """
    weights, source = sampled_weights(run, checkpoint_at(run, sampling.step, key), with_sampling(run.spec, sampling).sample)
    load_weights(network, weights, source)
    if problem := not_finite(weights):
        raise StageFailed(f"{source}: {problem}", kind="not finite")
    return sha256_of_weights(weights)


@dataclass(frozen=True)
class LoadedGuide:
    """A guide in evaluation mode, on the CPU."""

    network: nn.Module
    facts: dict
    """What samples depend on: the sha256 of its weights, the number of classes that its run knows, and the settings of its
    network, which may read these weights in another way."""


def guide_of(run: RunDir, sampling: Sampling) -> Guide | None:
    """Return what guides `sampling`; None: nothing beside its own network."""
    spec = with_sampling(run.spec, sampling)
    return kind_of(spec).guide(spec)


def load_guide(run: RunDir, guide: Guide) -> LoadedGuide:
    """Return the guide of a sampling of `run`.

    Raises UserError where its checkpoint is missing or damaged, StageFailed where its weights are not finite.
    """
    other = guide_run(run, guide)
    network = model_of(other.spec).network(other.spec)
    sampling = Sampling(guide.step or other.spec.train.iterations, guide.changes)
    sha256 = load_sampled(other, network, sampling, key="guidance.at")
    facts = {"weights_sha256": sha256, "classes": other.spec.data.classes, **kind_of(other.spec).identity(other.spec)}
    return LoadedGuide(network.eval(), facts)


def settings_of(run: RunDir, network: nn.Module) -> dict[Sampling, dict]:
    """Return the sampling settings of each sampling of the run; where its kind draws no samples, of its final weights.

    Loads the weights of each into `network`. Raises UserError where a checkpoint is missing or does not fit.
    """
    spec, sha256, guides, found = run.spec, dict[tuple, str](), dict[Guide, dict](), {}
    given = given_facts(run)
    for sampling in samplings(spec) or [main_sampling(spec)]:
        weights, guide = weights_of(spec, sampling), guide_of(run, sampling)
        if weights not in sha256:
            sha256[weights] = load_sampled(run, network, sampling)
        if guide and guide not in guides:
            guides[guide] = load_guide(run, guide).facts
        found[sampling] = sampling_settings(with_sampling(spec, sampling), sha256[weights], guides[guide] if guide else None,
                                            given)
    return found
