"""What a run will read, looked at before anything is written: a missing file must not show after a day of training."""

from pathlib import Path

from jobs.data.dataset import ImageData, fingerprint, open_data
from jobs.data.sources import open_reference, reference_problems
from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.spec.features import BUILT_IN, CHOICES
from jobs.spec.sections import Spec
from jobs.storage.files import read_json, write_json


def input_problems(spec: Spec) -> list[str]:
    """One message for each input of the run that is missing or does not fit: data sets and the feature extractor."""
    data, evaluate = spec.data, spec.evaluate
    classes = data.num_classes if data.class_cond else None
    inputs = {(data.path, classes)}
    if evaluate.nll_examples:
        inputs.add((evaluate.nll_data, classes))
    problems, names = {}, {}
    for path, num_classes in sorted(inputs, key=str):
        try:
            opened = open_data(path, data.image_size, data.channels, num_classes)
            names[path] = opened.class_names
            if path == evaluate.nll_data and len(opened) < evaluate.nll_examples:
                problems[path] = f"evaluate.nll_examples: {evaluate.nll_examples}, but {path} has {len(opened)} examples"
        except UserError as error:
            problems[path] = str(error)
    if classes is not None:
        problems |= _class_problems(spec, names)
    if evaluate.metrics and evaluate.reference not in problems:
        try:
            reference = open_reference(evaluate.reference, data.image_size, data.channels)
            problems |= {text: text for text in reference_problems(reference, evaluate.metrics, evaluate.features)}
        except UserError as error:
            problems[evaluate.reference] = str(error)
    if evaluate.metrics and evaluate.features not in BUILT_IN and not Path(evaluate.features).is_file():
        problems["features"] = f"{evaluate.features}: no such file; evaluate.features is {CHOICES}"
    return list(problems.values())


def _class_problems(spec: Spec, names: dict[str, list[str]]) -> dict[str, str]:
    """Label numbers mean the same thing in both data sets only where their class names agree. Unnamed classes pass."""
    trained, held_out = names.get(spec.data.path), names.get(spec.evaluate.nll_data or "")
    if trained and len(trained) != spec.data.num_classes:
        return {"classes": f"data.num_classes: {spec.data.num_classes}, but {spec.data.path} has {len(trained)} classes"}
    if trained and held_out and spec.evaluate.nll_examples and trained != held_out:
        return {"classes": f"{spec.evaluate.nll_data}: its classes ({', '.join(held_out[:5])}, ...) are not those of "
                           f"{spec.data.path} ({', '.join(trained[:5])}, ...), so its labels mean something else"}
    return {}


def check_same_data(run: RunDir, data: ImageData) -> None:
    """The first time, record which data the run is trained on in data.json; later, raise UserError for other data."""
    file = run.path / "data.json"
    if not file.exists():
        write_json(file, {"images": len(data), "sha256": fingerprint(data)})
    elif (recorded := read_json(file))["sha256"] != fingerprint(data):
        raise UserError(f"{run.spec.data.path}: not the data that {run.path} was trained on so far ({len(data)} images now, "
                        f"{recorded['images']} then); bring that back, or give the run another name")


def check_inputs(specs: list[Spec]) -> None:
    """Raises UserError with the problems of all specs, each named once."""
    distinct = {str((spec.data, spec.evaluate)): spec for spec in specs}  # a sweep's runs mostly read the same
    problems = list(dict.fromkeys(problem for spec in distinct.values() for problem in input_problems(spec)))
    if problems:
        raise UserError("\n".join(problems))
