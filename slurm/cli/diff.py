"""`iddpm diff`: print the differences between two runs: spec, code, packages, data, results."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.records import DataFile, EvaluationFile, ProvenanceFile
from jobs.spec.keys import keys_of, value_at
from jobs.spec.sampling_names import in_words
from jobs.spec.sections import Spec
from jobs.spec.stages import STAGES
from jobs.storage.files import sha256_of_json
from jobs.storage.typed import read_if_whole
from jobs.terminal import printable
from slurm.cli.console import console
from slurm.launch.records import recorded

Row = tuple[str, Any, Any]


def print_diff(a: Path, b: Path) -> None:
    """Print the differences and, side by side, the results. Names files that cannot be read, and leaves out what they hold.

    Raises UserError if `a` or `b` is not a run's directory.
    """
    remarks: list[str] = []
    runs = RunDir(a), RunDir(b)
    differing = list(differences(*runs, remarks))
    results = list(side_by_side(outcome(runs[0].path, remarks), outcome(runs[1].path, remarks)))
    screen = console()
    if differing:
        screen.print(_table(("differs", *_titles(a, b)), differing))
    else:
        print("Nothing differs: the same spec, code, packages and data." if not remarks else "Nothing else differs.")
    if results:
        screen.print(_table(("result", *_titles(a, b)), results))
    else:
        print("Neither has been evaluated.")
    for remark in dict.fromkeys(remarks):
        print(printable(remark))


def differences(a: RunDir, b: RunDir, remarks: list[str] | None = None) -> Iterator[Row]:
    """Yield (name, value in a, value in b) for the spec by dotted key, code, packages and data.

    Files that cannot be read add to `remarks`, and their part is left out. Raises UserError if a run does not exist.
    """
    remarks = [] if remarks is None else remarks
    one, other = _spec(a, remarks), _spec(b, remarks)
    if one and other:
        for key in dict.fromkeys([*keys_of(type(one)), *keys_of(type(other))]):
            ours, theirs = value_at(one, key), value_at(other, key)
            if ours != theirs:
                yield key, ours, theirs
    for facts in (_code, _packages, _data, _start):
        before = len(remarks)
        ours, theirs = facts(a.path, remarks), facts(b.path, remarks)
        # A fact of a damaged file is not known, which is no difference.
        yield from (row for row in side_by_side(ours, theirs) if row[1] != row[2] and not (len(remarks) > before and None in row))


def side_by_side(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Row]:
    """Yield (name, value in a, value in b) for all names of both; None for a missing value."""
    for name in dict.fromkeys([*a, *b]):
        yield name, a.get(name), b.get(name)


def outcome(run: Path, remarks: list[str]) -> dict[str, Any]:
    """The headline metrics, the checksum of the sampled weights, and FID of other samplings. Empty before evaluation."""
    evaluation = read_if_whole(run / "evaluation.json", EvaluationFile, remarks)
    if evaluation is None:
        return {}
    return dict(evaluation.headline) | {"weights": (evaluation.weights_sha256 or "")[:12] or None} | dict(_others(evaluation))


def _others(evaluation: EvaluationFile) -> Iterator[tuple[str, Any]]:
    """Yield the FID of each sampling but the main one, named by what differs."""
    for entry in evaluation.curve:
        differs, metrics = entry.get("differs"), entry.get("metrics")
        if differs and isinstance(differs, dict) and isinstance(metrics, dict) and "fid" in metrics:
            yield f"fid: {in_words(differs)}", metrics["fid"]


def _spec(run: RunDir, remarks: list[str]) -> Spec | None:
    try:
        return run.spec
    except UserError as error:
        if not os.path.lexists(run.spec_file):
            raise
        remarks.append(str(error))
        return None


def _code(run: Path, remarks: list[str]) -> dict[str, Any]:
    """The commit that created the run, and for each stage the snapshot of the code that its last job ran."""
    origin = read_if_whole(run / "provenance.json", ProvenanceFile, remarks) or ProvenanceFile()
    patch = origin.dirty_patch
    facts: dict[str, Any] = {"code: commit": (origin.commit or "")[:12] or None,
                             "code: uncommitted": f"changes {sha256_of_json(patch)[:12]}" if patch else None}
    for submission in recorded(run.parent, {}, remarks):  # oldest first, so the last job overwrites the others
        if run.name in submission.runs and submission.job_id:
            facts[f"code: {submission.stage}"] = submission.code
    return {"code: commit": None, "code: uncommitted": None, **{f"code: {stage}": None for stage in STAGES}} | facts


def _packages(run: Path, remarks: list[str]) -> dict[str, Any]:
    origin = read_if_whole(run / "provenance.json", ProvenanceFile, remarks) or ProvenanceFile()
    return {f"package: {name}": version for name, version in {"python": origin.python, **origin.packages}.items()}


def _data(run: Path, remarks: list[str]) -> dict[str, Any]:
    """The data set that the run was trained on. None before training."""
    data = read_if_whole(RunDir(run).trainer.path / "data.json", DataFile, remarks)
    return {"data: images": data.images if data else None, "data: sha256": data.sha256[:12] if data else None}


def _start(run: Path, remarks: list[str]) -> dict[str, Any]:
    """The weights that training started from. None for random ones."""
    origin = read_if_whole(RunDir(run).trainer.path / "provenance.json", ProvenanceFile, remarks) or ProvenanceFile()
    sha256 = origin.init_from.get("sha256")
    return {"start weights: sha256": str(sha256)[:12] if sha256 else None}


def _titles(a: Path, b: Path) -> tuple[str, str]:
    """The names of the runs; if both have the same name, their paths as the user typed them."""
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def _table(titles: tuple[str, str, str], rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(printable(title), overflow="fold")
    for name, ours, theirs in rows:
        table.add_row(printable(name), _text(ours), _text(theirs))
    return table


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else printable(str(value))
