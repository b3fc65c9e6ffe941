"""The table of families as plain values: for report.json, report.csv, and in Markdown for a README."""

from collections.abc import Iterator, Sequence

from jobs.quantities import amount, figure
from jobs.report.families.members import Member
from jobs.report.families.sentences import bound_of, fid_text, seconds_text
from jobs.report.families.table import Line, lines_of
from jobs.report.samplings.ways import FID
from jobs.run.progress import duration

NONE = "–"
HEADS = ("family", "FID ↓", "recall ↑", "precision ↑", "label seen ↑", "bits/dim ≤", "evaluations", "a sample takes",
         "parameters", "training", "training FLOP")
SHARES = ("recall", "precision", "label_accuracy")


def as_records(members: Sequence[Member]) -> list[dict]:
    """Return the table as plain values, for report.json."""
    return [{"name": line.member.name, "title": line.member.title, "fid": line.fid,
             "half_interval": line.way.error(FID) if line.way else None,
             **{key: line.way.value(key) if line.way else None for key in ("recall", "precision", "label_accuracy")},
             "evaluations": line.way.evaluations if line.way else None, "sampling": line.way.described if line.way else None,
             "forward_flops": line.forward_flops, "sample_flops": line.sample_flops, "sample_seconds": line.sample_seconds,
             "parameters": line.parameters, "trained_parameters": line.trained_parameters, "step_flops": line.step_flops,
             "step_seconds": line.step_seconds, "training_flops": line.training_flops, "training_seconds": line.training_seconds}
            for line in lines_of(members)]


def numbers(members: Sequence[Member]) -> Iterator[tuple]:
    """Yield rows of report.csv."""
    for record in as_records(members):
        yield from ((record["name"], "family", key, "", value) for key, value in record.items()
                    if isinstance(value, (int, float)) and value is not None)


def markdown_rows(members: Sequence[Member]) -> list[list[str]]:
    """Return the cells of a table, its head first. A dash: no such number, or not measured."""
    return [list(HEADS), *map(_cells, lines_of(members))] if members else []


def _cells(line: Line) -> list[str]:
    way, bound = line.way, bound_of(line.member)
    shares = [figure(way.value(key) if way else None) for key in SHARES]
    return [line.member.name, fid_text(way) if way else NONE, *shares, bound.text if bound else NONE,
            f"{way.evaluations:,}" if way else NONE, seconds_text(line.sample_seconds) if line.sample_seconds else NONE,
            f"{line.parameters:,}", duration(line.training_seconds) if line.training_seconds else NONE,
            amount(line.training_flops).strip() if line.training_flops else NONE]
