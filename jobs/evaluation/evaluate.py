"""The evaluation stage: the metrics of the samples of every sampling, and the kind's own numbers, such as bits/dim.

The result is evaluation.json. Every finished piece is saved in evaluated.json with all that it depends on: a stage that was
stopped resumes with the next piece, and changed settings compute again only the pieces that depend on them.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jobs.data.dataset import ImageData, open_data
from jobs.data.fingerprints import kept_fingerprint
from jobs.data.sources import Reference, open_reference, reference_problems
from jobs.errors import StageFailed, UserError
from jobs.evaluation.extraction import own_batches
from jobs.evaluation.features import Features, open_features
from jobs.evaluation.metrics.registry import measure, named, parts_needed
from jobs.evaluation.pieces import EvaluationProgress, Pieces
from jobs.evaluation.reconstruction import Reconstructions, reconstructed_images
from jobs.evaluation.reference import reference_identity, reference_statistics
from jobs.kinds.protocol import model_of, reconstructing
from jobs.parallel.group import Group, from_main, on_main
from jobs.parallel.interruption import Interruption, Stopped
from jobs.run.board import Board
from jobs.run.checkpoints import skipped_steps
from jobs.run.directory import RunDir
from jobs.sampling.gather import check_samples
from jobs.sampling.weights import load_sampler, settings_of
from jobs.spec.kinds import OwnNumber, draws_samples, kind_of, number_labels
from jobs.spec.metrics import RECONSTRUCTION_FID, labelled
from jobs.spec.samplings import Sampling, main_sampling, sampling_facts, samplings, weights_of, with_changes, with_sampling
from jobs.spec.sections import Spec
from jobs.storage.cache import cache_folder
from jobs.storage.files import atomic_path, write_json
from jobs.storage.opening import open_hdf5


@dataclass
class Evaluation:
    """One evaluation stage on this rank: the run, the ranks, the progress, and the results so far."""

    run: RunDir
    group: Group
    steps: EvaluationProgress
    pieces: Pieces
    sampled_with: dict[Sampling, dict]
    """The sampling settings of each sampling's samples."""
    metrics: dict[Sampling, dict[str, dict]] = field(default_factory=dict)
    numbers: dict[OwnNumber, dict] = field(default_factory=dict)


def evaluate(run: RunDir, group: Group, interruption: Interruption) -> str:
    """Write evaluation.json. Return "done" or "interrupted". Raises UserError for samples, data or features that do not fit."""
    steps, state = EvaluationProgress(run, group, interruption), "failed"
    try:
        _evaluate(run, group, steps)
        state = "done"
    except Stopped:
        state = "interrupted"
    finally:
        steps.close(state)
    return state


def _evaluate(run: RunDir, group: Group, steps: EvaluationProgress) -> None:
    spec, settings = run.spec, run.spec.evaluate
    steps.prepare("checking the samples" if draws_samples(spec) else "checking the weights")
    sampled_with = on_main(lambda: check_sampled(run))
    numbers: list[OwnNumber] = on_main(lambda: numbers_of(spec))
    count = spec.sample.num_samples if draws_samples(spec) else None
    batches = own_batches(count or 0, settings.batch_size, group)
    measured = samplings(spec) if count and settings.metrics else []
    again = reconstructed_batches(spec, group) if measured else 0
    total = len(measured) * (batches + again) + sum(passes_of_rank(number, group) for number in numbers)
    # A batch of features and a pass of the network take unlike times: the time left is not known before both were seen.
    steps.start(total, certain=not numbers, doing="opening the reference")
    found = Evaluation(run, group, steps, Pieces(run.path / "evaluated.json", group), sampled_with)
    result = {"weights_sha256": sampled_with[main_sampling(spec)]["weights_sha256"], "samples": count,
              "settings": settings.model_dump(mode="json"), "features": None, "reference": None, "metrics": {},
                  "skipped_steps": on_main(lambda: skipped_steps(run))}
    if measured:
        result |= compare(found, measured, batches + again, certain=not numbers)
    if numbers:
        steps.start(total, certain=True, doing="opening the held-out data")
    for number in numbers:
        done = steps.done + passes_of_rank(number, group)
        found.numbers[number] = compute_number(found, number, main=is_main(number, numbers))
        steps.reach(done, certain=True)
    result |= own_numbers(found, numbers)
    headline = result.pop("named", {}) | {name: result[key]["value"] for number in numbers if is_main(number, numbers)
                                          for key, name in named_keys(number).items()}
    result |= {"headline": headline, "curve": [curve_entry(found, sampling) for sampling in samplings(spec)]}
    if group.is_main:
        record_hparams(run, headline)
        write_json(run.evaluation, result)  # last: this file marks a finished stage


def reconstructed_batches(spec: Spec, group: Group) -> int:
    """Return how many batches of reconstructed images fall to this rank for one sampling."""
    if "fid" not in spec.evaluate.metrics or reconstructing(spec) is None:
        return 0
    return own_batches(reconstructed_images(spec, data_of(spec)), spec.evaluate.batch_size, group)


def data_of(spec: Spec) -> ImageData:
    """Open data.path, on which the run was trained."""
    return open_data(spec.data.path, spec.data.image_size, spec.data.channels, spec.data.classes)


def check_sampled(run: RunDir) -> dict[Sampling, dict]:
    """Return what `settings_of` does. Raises UserError where samples are missing, damaged or of other weights."""
    settings = settings_of(run, model_of(run.spec).network(run.spec))
    for sampling in samplings(run.spec):
        check_samples(run, settings[sampling], sampling)
    return settings


# Metrics of samples

def compare(found: Evaluation, measured: list[Sampling], batches: int, certain: bool) -> dict[str, Any]:
    """Measure the samples of each sampling against the reference. Return the entries of evaluation.json about the main one."""
    measure_sampling, features, reference = comparison(found)
    for number, sampling in enumerate(measured, start=1):
        found.metrics[sampling] = measure_sampling(sampling)
        found.steps.reach(number * batches, certain)
    main = found.metrics[measured[0]]
    return {"features": features.summary(), "metrics": main, "named": named(main, features),
            "reference": {"path": reference.path, "images": len(reference.images) if reference.images else None}}


def comparison(found: Evaluation) -> tuple[Callable[[Sampling], dict[str, dict]], Features, Reference]:
    """Return a function that measures the samples of a sampling, the features, and the reference.

    Raises UserError where metrics, features and reference do not fit together.
    """
    run, group, steps = found.run, found.group, found.steps
    spec, settings, data = run.spec, run.spec.evaluate, run.spec.data
    reference = open_reference(settings.reference, data.image_size, data.channels)
    if problems := reference_problems(reference, settings.metrics, settings.features):
        raise UserError("\n".join(problems))
    kept = on_main(lambda: cache_folder(run.path.parent.parent / ".cache", run.path / ".cache"))
    steps.prepare("training the classifier" if settings.features == "classifier" else "opening the features")
    features = open_features(settings.features, data.image_size, data.channels, reference, kept, group)
    features.check(settings.metrics)
    features.check_classes(settings.metrics, data.classes or reference.classes)
    steps.prepare("reading the reference")
    identity = on_main(lambda: reference_identity(reference, kept))

    @cache
    def theirs():
        return reference_statistics(reference, identity, features, parts_needed(settings.metrics, of_reference=True), group,
                                    settings.batch_size, kept, lambda: steps.check("features of the reference"))

    def measure_sampling(sampling: Sampling) -> dict[str, dict]:
        file = run.samples_folder(sampling) / "samples.h5"
        metrics = on_main(lambda: measurable(file, settings.metrics))

        def compute() -> dict[str, dict]:
            of_reference = theirs()
            with open_hdf5(file) as opened:
                labels = opened["labels"][:] if "labels" in opened else None
                return measure(opened["images"], metrics, features, of_reference, group, settings.batch_size, steps,
                               lambda: steps.check("computing the metrics"), labels)
        basis = {"samples": found.sampled_with[sampling], "num_samples": spec.sample.num_samples,
                 "metrics": sorted(metrics), "batch_size": settings.batch_size, "features": features.identity,
                 "reference": identity, "interval": True}  # constant: pieces of earlier versions may have no interval
        of_samples = found.pieces.piece(f"metrics {run.samples_folder(sampling).name}", basis, compute)
        return of_samples | measure_reconstructions(sampling)

    def measure_reconstructions(sampling: Sampling) -> dict[str, dict]:
        module = reconstructing(spec)
        if module is None or "fid" not in settings.metrics:
            return {}
        training_data = data_of(spec)
        images: Any = Reconstructions(spec, training_data, lambda: load_sampler(run, group, sampling)[0], module, group)

        def compute() -> dict[str, dict]:
            found_of = measure(images, ["fid"], features, theirs(), group, settings.batch_size, steps,
                               lambda: steps.check("computing the metrics"))["fid"]
            note = f"{len(images):,} images of {data.path}, encoded and decoded"
            return {RECONSTRUCTION_FID: found_of | {"note": "; ".join(filter(None, [note, found_of["note"]]))}}
        basis = {"network": network_identity(found, sampling), "data": on_main(lambda: kept_fingerprint(training_data)),
                 "images": len(images), "batch_size": settings.batch_size, "features": features.identity, "reference": identity}
        return found.pieces.piece(f"reconstructions {run.samples_folder(sampling).name}", basis, compute)
    return measure_sampling, features, reference


def measurable(samples: Path, metrics: list[str]) -> list[str]:
    """Return those of `metrics` that the file `samples` can have: samples that no class was asked of have no labels."""
    with open_hdf5(samples) as file:
        return metrics if "labels" in file else [metric for metric in metrics if metric not in labelled(metrics)]


def network_identity(found: Evaluation, sampling: Sampling) -> dict[str, Any]:
    """Return what the network of `sampling` is known by: its weights and settings, without how samples are drawn."""
    return {key: value for key, value in found.sampled_with[sampling].items() if key != "sample"}


# Numbers of the kind

def passes_of_rank(number: OwnNumber, group: Group) -> int:
    """Return how often this rank evaluates the network to compute `number`."""
    return len(number.batches(group.rank, group.world_size)) * number.passes


def is_main(number: OwnNumber, numbers: Any) -> bool:
    """Return whether `number` is the first with its key: tables show this one, and its terms are saved."""
    return number == next(other for other in numbers if other.key == number.key)


def numbers_of(spec: Spec) -> list[OwnNumber]:
    """Return the kind's own numbers, each of no more examples than there are in its data set."""
    def there(number: OwnNumber) -> OwnNumber:
        if number.of is None:
            return number
        data = open_data(number.of, spec.data.image_size, spec.data.channels)
        return replace(number, examples=min(number.examples, len(data)))
    return [there(number) for number in kind_of(spec).numbers(spec)]


def named_keys(number: OwnNumber) -> dict[str, str]:
    """Return the name of `number`, and of the numbers beside it, by key in evaluation.json."""
    return {number.key: number.name} | {key: number_labels()[key].label for key in number.beside}


def compute_number(found: Evaluation, number: OwnNumber, main: bool) -> dict[str, Any]:
    """Return the summary of a number. Write the terms of a `main` number to KEY.npz."""
    run, group, spec = found.run, found.group, found.run.spec
    weights = weights_of(spec, Sampling(number.step, number.changes))
    sampling = next(sampling for sampling in found.sampled_with if weights_of(spec, sampling) == weights)
    file = run.path / f"{number.key}.npz"
    model = model_of(spec)

    def compute() -> dict[str, Any]:
        found.steps.prepare(f"loading the weights of step {number.step}")
        network, _ = load_sampler(run, group, sampling)
        summary, terms = model.measure(spec, network, number, group, found.steps)
        if not math.isfinite(summary["value"]):
            raise StageFailed(f"{run.path}: {name} is {summary['value']}, which ranks nothing", kind="not finite")
        if main and group.is_main:
            with atomic_path(file) as temporary:
                np.savez(temporary, **terms)  # type: ignore[arg-type]  # the arrays' names are free
        return summary
    name = f"{number.name} step {number.step}, {', '.join(str(value) or 'full' for _, value in number.changes)}"
    if main and not from_main(file.exists()):
        found.pieces.forget(name)
    basis = {"network": network_identity(found, sampling)} | on_main(lambda: model.basis(spec, number))
    return found.pieces.piece(name, basis, compute)


def own_numbers(found: Evaluation, numbers: Any) -> dict[str, Any]:
    """Return the entries of evaluation.json for the main numbers. Remove the .npz files of numbers no longer asked for."""
    kept: dict[str, Any] = {}
    for number in numbers:
        if is_main(number, numbers):
            summary = found.numbers[number]
            kept |= {number.key: {key: value for key, value in summary.items() if key not in number.beside}}
            kept |= {key: summary[key] for key in number.beside}
    if found.group.is_main:
        for key in {key for key in kind_of(found.run.spec).number_labels if key not in kept}:
            (found.run.path / f"{key}.npz").unlink(missing_ok=True)
    return kept


# Results

def curve_entry(found: Evaluation, sampling: Sampling) -> dict[str, Any]:
    """Return the entry of a sampling in evaluation.json: its settings, and all its numbers by name."""
    spec = found.run.spec
    values = {name: measured["value"] for name, measured in found.metrics.get(sampling, {}).items()}
    for number, summary in found.numbers.items():
        if number.step == sampling.step and with_changes(spec, number.changes) == with_sampling(spec, sampling):
            values[number.name] = summary["value"]
    intervals = {name: measured["interval"] for name, measured in found.metrics.get(sampling, {}).items()
                 if measured.get("interval")}
    return sampling_facts(spec, sampling) | {"samples": spec.sample.num_samples, "metrics": values, "intervals": intervals}


def record_hparams(run: RunDir, headline: Mapping[str, float]) -> None:
    """Write the run's row of TensorBoard's HPARAMS table: what a sweep varies and the usual settings, with the metrics."""
    spec = run.spec
    settings = kind_of(spec).headline_settings(spec) | {"lr": spec.train.lr, "batch_size": spec.train.batch_size,
                                                        "iterations": spec.train.iterations}
    for key, value in run.differs.items():
        settings.setdefault(key.split(".")[-1], value if isinstance(value, (bool, int, float, str)) else str(value))
    metrics = {"metrics/" + re.sub("[^A-Za-z0-9.]+", "_", name).strip("_"): value for name, value in headline.items()}
    board = Board(run.tensorboard, spec.train.iterations)
    board.hparams(settings, metrics, spec.train.iterations)
    board.close()
