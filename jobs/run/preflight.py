"""Check the inputs of a run before anything is written: a missing file must not show after a day of training."""

from collections.abc import Collection
from pathlib import Path

from jobs.data.dataset import ImageData, open_data
from jobs.data.fingerprints import kept_fingerprint
from jobs.data.sources import open_reference, reference_problems
from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.extractor_check import extractor_problem
from jobs.run.given import foreign_given_problems, given_file_problems
from jobs.run.guides import foreign_guide_problems
from jobs.run.records import DataFile
from jobs.run.waiting import missing_runs
from jobs.spec.features import BUILT_IN, CHOICES
from jobs.spec.kinds import Given, draws_samples, given_of, kind_of
from jobs.spec.sections import Spec
from jobs.storage.disk_errors import why_missing
from jobs.storage.files import write_json
from jobs.storage.names import listed
from jobs.storage.typed import read_record


def input_problems(spec: Spec) -> list[str]:
    """One message for each data set, reference or feature extractor that is missing or does not fit the spec."""
    data = spec.data
    held_out = kind_of(spec).held_out(spec)
    problems: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    for path in sorted({data.path, *(other.path for other in held_out)}):
        try:
            opened = open_data(path, data.image_size, data.channels, data.classes)
            names[path] = opened.class_names
            for other in held_out:
                if other.path == path and len(opened) < other.examples:
                    problems[path] = f"{other.examples_key}: {other.examples}, but {path} has {len(opened)} examples"
        except UserError as error:
            problems[path] = str(error)
    if data.classes is not None:
        problems |= _class_problems(spec, names)
    if not draws_samples(spec):
        return list(problems.values())
    problems |= _sample_problems(spec, problems)
    return list(problems.values())


def _sample_problems(spec: Spec, found: Collection[str]) -> dict[str, str]:
    """As `input_problems`, of what only samples need. `found`: paths with problems."""
    data, evaluate, problems = spec.data, spec.evaluate, dict[str, str]()
    if (given := given_of(spec)) and given.path not in found:  # samples may be made of the training data
        problems |= {text: text for text in given_file_problems(spec)}
    if evaluate.metrics and evaluate.reference not in found:
        try:
            reference = open_reference(evaluate.reference, data.image_size, data.channels)
            problems |= {text: text for text in reference_problems(reference, evaluate.metrics, evaluate.features)}
        except UserError as error:
            problems[evaluate.reference] = str(error)
    if evaluate.metrics and evaluate.features not in BUILT_IN:
        if not Path(evaluate.features).is_file():
            problems["features"] = (why_missing(evaluate.features) or f"{evaluate.features}: no such file; "
                                f"evaluate.features is {CHOICES}")
        elif not problems and not found and (problem := extractor_problem(spec)):
            problems["features"] = problem
    return problems


def _class_problems(spec: Spec, names: dict[str, list[str]]) -> dict[str, str]:
    """Compare the class names of training and held-out data: label numbers must have one meaning. Unnamed classes pass."""
    trained = names.get(spec.data.path)
    if trained and len(trained) != spec.data.num_classes:
        return {"classes": f"data.num_classes: {spec.data.num_classes}, but {spec.data.path} has {len(trained)} classes"}
    for path, classes in names.items():
        if trained and classes and classes != trained:
            return {"classes": f"{path}: its classes ({listed(classes)}) are not those of "
                               f"{spec.data.path} ({listed(trained)}), so its labels mean something else"}
    return {}


def check_same_data(run: RunDir, data: ImageData) -> None:
    """Record the data of the run in data.json; if that exists, raise UserError unless `data` are the recorded ones.

    Files that did not change since they were hashed for any run are not hashed again.
    """
    file = run.path / "data.json"
    sha256 = kept_fingerprint(data, run.path.parent.parent / ".cache")
    if not file.exists():
        write_json(file, {"images": len(data), "sha256": sha256})
    elif (recorded := read_record(file, DataFile)).sha256 != sha256:
        raise UserError(f"{run.spec.data.path}: not the data that {run.path} was trained on so far ({len(data)} images now, "
                        f"{recorded.images} then); restore that data, or give the run another name")


def all_input_problems(specs: list[Spec]) -> list[str]:
    """The problems of `input_problems` for all specs, each once."""
    # Runs of a sweep mostly share their inputs.
    distinct = {str((spec.data, spec.evaluate, _given(spec))): spec for spec in specs}
    return list(dict.fromkeys(problem for spec in distinct.values() for problem in input_problems(spec)))


def _given(spec: Spec) -> tuple[Given, int] | None:
    given = given_of(spec)
    return (given, spec.sample.num_samples) if given else None


def foreign_problems(specs: list[Spec]) -> list[str]:
    """Return why runs of other studies do not fit the `specs`, which name them as guides or for their samples."""
    return foreign_guide_problems(specs) + foreign_given_problems(specs)


def check_inputs(specs: list[Spec]) -> None:
    """Check the inputs of all specs. Raises UserError that names each problem once."""
    if problems := all_input_problems(specs) + missing_runs(specs) + foreign_problems(specs):
        raise UserError("\n".join(problems))
