"""What a run will read, looked at before anything is written: a missing file must not show after a day of training."""

from pathlib import Path

from jobs.data import open_data
from jobs.errors import UserError
from jobs.spec import Spec


def input_problems(spec: Spec) -> list[str]:
    """One message for each input of the run that is missing or does not fit: data sets and the feature extractor."""
    data, evaluate = spec.data, spec.evaluate
    classes = data.num_classes if data.class_cond else None
    inputs = {(data.path, classes)}
    if evaluate.metrics:
        inputs.add((evaluate.reference, None))
    if evaluate.nll_examples:
        inputs.add((evaluate.nll_data, classes))
    problems = {}
    for path, num_classes in sorted(inputs, key=str):
        try:
            opened = open_data(path, data.image_size, data.channels, num_classes)
            if path == evaluate.nll_data and len(opened) < evaluate.nll_examples:
                problems[path] = f"evaluate.nll_examples: {evaluate.nll_examples}, but {path} has {len(opened)} examples"
        except UserError as error:
            problems[path] = str(error)
    if evaluate.metrics and evaluate.features != "pixels" and not Path(evaluate.features).is_file():
        problems["features"] = f"{evaluate.features}: no such file; evaluate.features is `pixels` or a TorchScript file"
    return list(problems.values())


def check_inputs(specs: list[Spec]) -> None:
    """Raises UserError with the problems of all specs, each named once."""
    distinct = {str((spec.data, spec.evaluate)): spec for spec in specs}  # a sweep's runs mostly read the same
    problems = list(dict.fromkeys(problem for spec in distinct.values() for problem in input_problems(spec)))
    if problems:
        raise UserError("\n".join(problems))
