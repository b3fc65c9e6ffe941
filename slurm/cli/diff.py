"""`iddpm diff`: print the differences between two runs: spec, code, packages, data, results."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from jobs.run.directory import RunDir
from jobs.spec.keys import keys_of, value_at
from jobs.spec.stages import STAGES
from jobs.storage.files import read_json, sha256_of_json
from slurm.cli.console import console
from slurm.launch.records import recorded

Row = tuple[str, Any, Any]


def print_diff(a: Path, b: Path) -> None:
    """Print the differences and, side by side, the results. Raises UserError if `a` or `b` is not a run's directory."""
    runs = RunDir(a), RunDir(b)
    differing = list(differences(*runs))
    results = list(side_by_side(outcome(runs[0].path), outcome(runs[1].path)))
    screen = console()
    if differing:
        screen.print(_table(("differs", *_titles(a, b)), differing))
    else:
        print("Nothing differs: the same spec, code, packages and data.")
    if results:
        screen.print(_table(("result", *_titles(a, b)), results))
    else:
        print("Neither has been evaluated.")


def differences(a: RunDir, b: RunDir) -> Iterator[Row]:
    """Yield (name, value in a, value in b) for the spec by dotted key, code, packages and data. Raises UserError for no run."""
    specs = a.spec, b.spec
    for key in dict.fromkeys([*keys_of(type(a.spec)), *keys_of(type(b.spec))]):
        ours, theirs = (value_at(spec, key) for spec in specs)
        if ours != theirs:
            yield key, ours, theirs
    for facts in (_code, _packages, _data):
        ours, theirs = facts(a.path), facts(b.path)
        yield from (row for row in side_by_side(ours, theirs) if row[1] != row[2])


def side_by_side(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Row]:
    """Yield (name, value in a, value in b) for all names of both; None for a missing value."""
    for name in dict.fromkeys([*a, *b]):
        yield name, a.get(name), b.get(name)


def outcome(run: Path) -> dict[str, Any]:
    """The headline metrics, and the checksum of the sampled weights. Empty before evaluation."""
    evaluation = _read(run / "evaluation.json")
    return dict(evaluation["headline"]) | {"weights": evaluation["weights_sha256"][:12]} if evaluation else {}


def _code(run: Path) -> dict[str, Any]:
    """The commit that created the run, and for each stage the snapshot of the code that its last job ran."""
    origin = _read(run / "provenance.json")
    patch = origin.get("dirty_patch")
    facts = {"code: commit": (origin.get("commit") or "")[:12] or None,
             "code: uncommitted": f"changes {sha256_of_json(patch)[:12]}" if patch else None}
    for submission in recorded(run.parent, {}):  # oldest first, so the last job overwrites the others
        if run.name in submission.runs and submission.job_id:
            facts[f"code: {submission.stage}"] = submission.code
    return {"code: commit": None, "code: uncommitted": None, **{f"code: {stage}": None for stage in STAGES}} | facts


def _packages(run: Path) -> dict[str, Any]:
    origin = _read(run / "provenance.json")
    return {f"package: {name}": version for name, version in
            {"python": origin.get("python"), **origin.get("packages", {})}.items()}


def _data(run: Path) -> dict[str, Any]:
    """The data set that the run was trained on. None before training."""
    data = _read(run / "data.json")
    return {"data: images": data.get("images"), "data: sha256": data.get("sha256", "")[:12] or None}


def _read(file: Path) -> dict:
    try:
        return read_json(file)
    except FileNotFoundError:
        return {}


def _titles(a: Path, b: Path) -> tuple[str, str]:
    """The names of the runs; if both have the same name, their paths as the user typed them."""
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def _table(titles: tuple[str, str, str], rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in titles:
        table.add_column(title, overflow="fold")
    for name, ours, theirs in rows:
        table.add_row(name, _text(ours), _text(theirs))
    return table


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)
