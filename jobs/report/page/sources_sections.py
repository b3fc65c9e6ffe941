"""The sections on where numbers come from: published figures beside ours, and how to repeat the study."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from jobs.kinds.diffusion.kind import BITS
from jobs.quantities import figure
from jobs.report.diffusion_facts import setting_of
from jobs.report.evaluation import Metric
from jobs.report.page.blocks import Block, Bullets, Cell, Code, Details, Paragraph, Row, Table
from jobs.report.published import Published, published_for
from jobs.report.run import RunReport
from jobs.report.study import StudyReport
from jobs.report.verdicts.points import Point, single
from jobs.run.records import ProvenanceFile


def published_blocks(study: StudyReport) -> list[Block]:
    if study.main is None:
        return []
    spec = study.main.known_spec
    name, published = published_for(spec)
    if not published:
        return []
    ours = [point for point in _of_all(study) if point.runs[0].spec and point.metrics]
    rows = [*map(_published_row, published), *map(_our_row, ours)]
    setting = setting_of(spec)
    same = [index for index, row in enumerate(published) if row.has_setting(setting, spec.train.iterations)]
    same_text = f" The setting of {study.main.name} is that of row {same[0] + 1}." if same else ""
    return [Paragraph(f"The figures that were published for {name}, and then ours (shaded). The papers compute FID with "
                      f"Inception features against the whole training set, and NLL in bits/dim.{same_text}"),
            Table(["", "iterations", "T", "schedule", "loss", "NLL", "FID", "source"], rows,
                  marked=range(len(published), len(rows)))]


def _published_row(row: Published) -> Row:
    return ["published", f"{row.iterations:,}", f"{row.diffusion_steps:,}", row.noise_schedule, row.loss,
            figure(row.bits_per_dim), figure(row.fid), Cell(row.source, row.note, wide=True)]


def _of_all(study: StudyReport) -> list[Point]:
    """The settings of the sweep, and the runs that left it."""
    return [*study.points, *(single(run) for run in study.runs if run.left)]


def _our_row(point: Point) -> Row:
    run = point.runs[0]
    setting, bits = setting_of(run.spec), point.metrics.get(BITS)
    fid = next((metric for metric in point.metrics.values() if metric.key == "fid"), None)
    chain = [f"{setting.diffusion_steps:,}", setting.noise_schedule, setting.loss] if setting else ["–"] * 3
    return [f"ours: {point.name}", f"{run.known_spec.train.iterations:,}", *chain, _ours(bits, point), _ours(fid, point),
            Cell("this study", f"{run.samples or 0:,} samples", wide=True)]


def _ours(metric: Metric | None, point: Point) -> Cell:
    if metric is None:
        return Cell("–")
    incomparable = f"{metric.name}: not comparable" if metric.comparable is False else ""
    return Cell(metric.text, "; ".join(filter(None, [metric.spread if point.repeated else "", incomparable])))


def reproduce_blocks(study: StudyReport) -> list[Block]:
    origins = [run.provenance for run in study.runs if run.provenance]
    commands = dict.fromkeys(shlex.join([Path(origin.command[0]).name, *origin.command[1:]])
                             for origin in origins if origin.command)
    facts = dict.fromkeys([*map(_commit, origins), *(text for origin in origins for text in _packages(origin)),
                           *(f"Python {origin.python} on {origin.system}" for origin in origins)])
    return [Code("\n".join([*commands, f"iddpm report {study.folder}"])), Bullets(list(facts)),
            *([_spec_of(study.main)] if study.main else [])]


def _commit(origin: ProvenanceFile) -> str:
    changed = ", with uncommitted changes (dirty_patch in provenance.json)" if origin.dirty_patch else ""
    return f"Commit: {origin.commit or 'not a git checkout'}{changed}"


def _packages(origin: ProvenanceFile) -> Iterator[str]:
    if origin.packages:
        yield f"Packages: {', '.join(f'{name} {version}' for name, version in origin.packages.items())}"


def _spec_of(run: RunReport) -> Details:
    file = run.run.spec_file
    return Details(f"Resolved spec of {run.name}", run.read(file, lambda: file.read_text(encoding="utf-8"), ""))
