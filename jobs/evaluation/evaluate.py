"""The evaluation stage: metrics of the samples at every sampling, bits/dim of held-out examples; into evaluation.json.

What is evaluated once is kept in evaluated.json, piece by piece with what it depends on: a stage that was stopped goes on
with the next piece, and one with changed settings does only what they change.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from jobs.data.dataset import fingerprint
from jobs.data.sources import open_reference, reference_problems
from jobs.errors import UserError
from jobs.evaluation.extraction import own_batches
from jobs.evaluation.features import open_features
from jobs.evaluation.likelihood import batches_of_rank, negative_log_likelihood, open_held_out
from jobs.evaluation.metrics.registry import measure, named, parts_needed
from jobs.evaluation.reference import reference_identity, reference_statistics
from jobs.kinds.diffusion import build_network
from jobs.parallel.agreement import TELL_EVERY, asked_to_stop
from jobs.parallel.group import Group, from_main, on_main
from jobs.parallel.interruption import Interruption, Stopped
from jobs.run.board import Board
from jobs.run.directory import RunDir
from jobs.run.progress import Progress
from jobs.sampling.chunks import sampling_settings
from jobs.sampling.gather import check_samples
from jobs.sampling.loop import load_sampler, load_step
from jobs.spec.samplings import Sampling, chain_length, likelihoods, samplings, with_sampling
from jobs.spec.sections import Spec
from jobs.storage.files import atomic_path, read_json, write_json

BITS = "bits/dim"
_VERSION = 1  # of all that a piece of evaluated.json depends on besides what it names


class Steps:
    """How far this rank is, in batches of images and steps of chains; raises Stopped where all are to leave."""

    def __init__(self, run: RunDir, group: Group, interruption: Interruption, total: int):
        self.group, self.interruption, self.done = group, interruption, 0
        self.progress = Progress(run.progress, "evaluate", max(total, 1), "steps") if group.is_main else None

    def __call__(self) -> None:
        self.done += 1
        if self.progress:
            self.progress.update(self.done)
        if self.interruption.requested or self.done % TELL_EVERY == 0:
            self.check()

    def check(self) -> None:
        """Not a step of its own: for work whose length nobody counted."""
        if self.progress:
            self.progress.update(self.done)  # a sign of life
        if asked_to_stop(self.group, self.interruption):
            raise Stopped

    def reach(self, done: int) -> None:
        """What was known already counts as done."""
        self.done = max(self.done, done)

    def close(self, state: str) -> None:
        if self.progress:
            self.progress.close(self.progress.total if state == "done" else min(self.done, self.progress.total), state)


class Evaluated:
    """evaluated.json: results by name, each with the identity of what it was computed from. The same on every rank."""

    def __init__(self, file: Path, group: Group):
        self.file, self.is_main = file, group.is_main
        self.pieces = on_main(self._read)

    def _read(self) -> dict:
        try:
            pieces = read_json(self.file)
        except (OSError, UserError):  # it only spares work
            return {}
        return pieces if isinstance(pieces, dict) else {}

    def piece(self, name: str, identity: dict, compute: Callable[[], dict]) -> dict:
        """The result known under `name` and `identity`, or else that of `compute`, which all ranks call."""
        identity = identity | {"version": _VERSION}
        known = self.pieces.get(name)
        if known is None or known["identity"] != identity:
            self.pieces[name] = {"identity": identity, "result": compute()}
            if self.is_main:
                write_json(self.file, self.pieces)
        return self.pieces[name]["result"]


def evaluate(run: RunDir, group: Group, interruption: Interruption) -> str:
    """Write evaluation.json: "done" or "interrupted". Raises UserError for samples, data or features that do not fit."""
    spec, settings = run.spec, run.spec.evaluate
    sampled_with = on_main(lambda: check_sampled(run))
    chains = likelihoods(spec)
    batches = own_batches(spec.sample.num_samples, settings.batch_size, group)
    lengths = {chain: len(batches_of_rank(spec, group)) * chain_length(spec, chain[1]) for chain in chains}
    plan = samplings(spec) if settings.metrics else []
    steps = Steps(run, group, interruption, len(plan) * batches + sum(lengths.values()))
    evaluated = Evaluated(run.path / "evaluated.json", group)
    main, state = samplings(spec)[0], "failed"
    result: dict = {"weights_sha256": sampled_with[main]["weights_sha256"], "samples": spec.sample.num_samples,
                    "settings": settings.model_dump(mode="json"), "features": None, "reference": None, "metrics": {}}
    try:
        measured, names = {}, {}
        if plan:
            measure_sampling, features, reference = comparison(run, group, steps, sampled_with, evaluated)
            result |= {"features": features.summary(),
                       "reference": {"path": reference.path, "images": len(reference.images) if reference.images else None}}
            for number, sampling in enumerate(plan, start=1):
                measured[sampling] = measure_sampling(sampling)
                steps.reach(number * batches)
            result["metrics"] = measured[main]
            names = named(measured[main], features)
        bounds = {}
        for chain in chains:
            done = steps.done + lengths[chain]
            bounds[chain] = bound(run, group, evaluated, steps, chain, sampled_with)
            steps.reach(done)
        if chains:
            result["bits_per_dim"] = bounds[main.step, ""]
            names[BITS] = bounds[main.step, ""]["value"]
        result |= {"headline": names, "curve": [curve_entry(spec, sampling, measured, bounds) for sampling in samplings(spec)]}
        if group.is_main:
            if not chains:
                (run.path / "bits_per_dim.npz").unlink(missing_ok=True)  # of other settings
            record_hparams(run, result)
            write_json(run.evaluation, result)  # last: where it is, all is there
        state = "done"
    except Stopped:
        state = "interrupted"
    finally:
        steps.close(state)
    return state


def check_sampled(run: RunDir) -> dict[Sampling, dict]:
    """What the samples of each sampling were made with. Raises UserError where some are missing, damaged or of other weights."""
    network, spec = build_network(run.spec), run.spec
    sha256 = {step: load_step(run, network, step) for step in {sampling.step for sampling in samplings(spec)}}
    settings = {sampling: sampling_settings(with_sampling(spec, sampling), sha256[sampling.step]) for sampling in samplings(spec)}
    for sampling in settings:
        check_samples(run, settings[sampling], sampling)
    return settings


def comparison(run: RunDir, group: Group, steps: Steps, sampled_with: dict[Sampling, dict], evaluated: Evaluated):
    """(a function that gives the metrics of a sampling, the features, the reference), after checking that they go together."""
    spec, settings, data = run.spec, run.spec.evaluate, run.spec.data
    reference = open_reference(settings.reference, data.image_size, data.channels)
    if problems := reference_problems(reference, settings.metrics, settings.features):
        raise UserError("\n".join(problems))
    kept = run.path.parent.parent / ".cache"
    features = open_features(settings.features, data.image_size, data.channels, reference, kept, group)
    features.check(settings.metrics)
    identity = on_main(lambda: reference_identity(reference))

    @cache
    def theirs():
        return reference_statistics(reference, identity, features, parts_needed(settings.metrics, of_reference=True), group,
                                    settings.batch_size, kept, steps.check)

    def measure_sampling(sampling: Sampling) -> dict[str, dict]:
        def compute() -> dict[str, dict]:
            of_reference = theirs()
            with h5py.File(run.samples_folder(sampling) / "samples.h5", "r") as file:
                return measure(file["images"], settings.metrics, features, of_reference, group, settings.batch_size, steps,
                               steps.check, interval=sampling == samplings(spec)[0])
        basis = {"samples": sampled_with[sampling], "num_samples": spec.sample.num_samples, "metrics": sorted(settings.metrics),
                 "batch_size": settings.batch_size, "features": features.identity, "reference": identity,
                 "interval": sampling == samplings(spec)[0]}
        return evaluated.piece(f"metrics {run.samples_folder(sampling).name}", basis, compute)
    return measure_sampling, features, reference


def bound(run: RunDir, group: Group, evaluated: Evaluated, steps: Steps, chain: tuple[int, str],
          sampled_with: dict[Sampling, dict]) -> dict:
    """The summary of bits/dim over a chain of `likelihoods`; of the full one with bits_per_dim.npz."""
    spec, settings = run.spec, run.spec.evaluate
    step, timestep_respacing = chain
    sampling = next(sampling for sampling in sampled_with if sampling.step == step)
    file = run.path / "bits_per_dim.npz" if chain == likelihoods(spec)[0] else None

    def compute() -> dict:
        network, _ = load_sampler(run, group, sampling)
        terms = negative_log_likelihood(spec, network, timestep_respacing, group, steps)
        summary = terms.pop("summary")
        if file and group.is_main:
            with atomic_path(file) as temporary:
                np.savez(temporary, **terms)
        return summary
    name = f"{BITS} step {step}, {timestep_respacing or 'full'}"
    if file and not from_main(file.exists()):
        evaluated.pieces.pop(name, None)
    network_of = {key: value for key, value in sampled_with[sampling].items() if key != "sample"}
    basis = {"network": network_of, "clip_denoised": spec.sample.clip_denoised, "timestep_respacing": timestep_respacing,
             "examples": settings.nll_examples, "data": on_main(lambda: fingerprint(open_held_out(spec))),
             "batch_size": settings.batch_size, "seed": settings.seed}
    return evaluated.piece(name, basis, compute)


def curve_entry(spec: Spec, sampling: Sampling, measured: dict[Sampling, dict], bounds: dict[tuple[int, str], dict]) -> dict:
    values = {name: found["value"] for name, found in measured.get(sampling, {}).items()}
    if sampling.sampler == "ancestral" and (sampling.step, sampling.timestep_respacing) in bounds:
        values[BITS] = bounds[sampling.step, sampling.timestep_respacing]["value"]
    return {"step": sampling.step, "sampler": sampling.sampler, "timestep_respacing": sampling.timestep_respacing,
            "sampling_steps": chain_length(spec, sampling.timestep_respacing), "samples": spec.sample.num_samples,
            "metrics": values}


def record_hparams(run: RunDir, result: dict) -> None:
    """The run's row in TensorBoard's HPARAMS table: what a sweep varies and the usual suspects, with the metrics."""
    spec = run.spec
    settings = {"noise_schedule": spec.diffusion.noise_schedule, "loss": spec.diffusion.loss, "lr": spec.train.lr,
                "diffusion_steps": spec.diffusion.diffusion_steps, "batch_size": spec.train.batch_size,
                "num_channels": spec.model.num_channels, "dropout": spec.model.dropout, "iterations": spec.train.iterations}
    for key, value in run.differs.items():
        settings.setdefault(key.split(".")[-1], value if isinstance(value, (bool, int, float, str)) else str(value))
    metrics = {"metrics/" + re.sub("[^A-Za-z0-9.]+", "_", name).strip("_"): value
               for name, value in result["headline"].items()}
    board = Board(run.tensorboard, spec.train.iterations)
    board.hparams(settings, metrics, spec.train.iterations)
    board.close()
