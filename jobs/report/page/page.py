"""The page: which sections a report has, and what stands in them."""

import shlex
import time
from collections import Counter
from html import escape
from pathlib import Path

from jobs.data.dataset import ImageData
from jobs.quantities import amount, figure
from jobs.report.answer import LISTED, best_runs, label, ranked
from jobs.report.cost import stage_flops
from jobs.report.page.complexity import cost_section
from jobs.report.page.figures import bound_panel, curve_panels, effect_panels, quartile_panels, schedule_panels, training_panels
from jobs.report.page.html import Cell, bullets, code, details, heading, legend, page, panels, paragraph, pictures, section, table
from jobs.report.page.pictures import (
    denoising_picture,
    neighbours_picture,
    noising_picture,
    samples_picture,
    training_data,
    usual_distance,
)
from jobs.report.published import published_for
from jobs.report.run import BITS, RunReport, lower_is_better
from jobs.report.study import StudyReport
from jobs.run.progress import duration
from jobs.spec.stages import STAGES


def study_page(study: StudyReport) -> str:
    """The whole report.html."""
    sections = {"runs": ("Runs", runs_section(study)), "effects": ("What the swept fields do", effects_section(study)),
                "training": ("Training", training_section(study)), 
                "likelihood": ("Likelihood and schedules", bound_section(study)),
                "curves": ("Quality over steps and compute", curves_section(study)),
                "pictures": ("Pictures", pictures_section(study)),
                "cost": ("Cost", cost_section(study)), "published": ("Beside the papers", published_section(study)),
                "reproduce": ("To reproduce", reproduce_section(study))}
    # Last, because drawing finds broken files too.
    sections = {"runs": sections.pop("runs"), "problems": ("Failures and remarks", problems_section(study)), **sections}
    there = {anchor: title for anchor, (title, parts) in sections.items() if any(parts)}
    links = " ".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in there.items())
    body = "\n".join(section(anchor, title, *parts) for anchor, (title, parts) in sections.items())
    return page(f"{study.name}: report", f"{head(study)}\n<nav>{links}</nav>\n{body}")


def head(study: StudyReport) -> str:
    states = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in study.runs).items())
    when = time.strftime("%Y-%m-%d %H:%M %Z")
    return "\n".join(["<header>", f"<h1>{escape(study.name)}</h1>", paragraph(study.question, "question"),
                      bullets(study.answer), bullets(study.cautions, "note"),
                      paragraph(f"Runs: {states}. Written {when}.", "note"), "</header>"])


def runs_section(study: StudyReport) -> list[str]:
    best = {name: ranked(study.runs, name)[0] for name in study.metrics}
    marked = {name: best_runs(study.runs, name) for name in study.metrics}
    heads = ["run", "state", *(Cell(key.rpartition(".")[2], key.rpartition(".")[0]) for key in study.fields),
             *(Cell(name, _how_to_read(name, best[name])) for name in study.metrics),
             *(Cell(stage, "wall time") for stage in STAGES), Cell("process", "hours"), Cell("FLOP", "all stages, counted")]
    rows = []
    for run in study.runs:
        row = [Cell(run.name), Cell(run.state, run.failure.kind if run.failure and run.state == "failed" else "")]
        row += [_swept(run, key) for key in study.fields]
        row += [_metric(run, name, run in marked[name]) for name in study.metrics]
        times = study.times[run.name]
        row += [Cell(("" if times[stage].recorded else "≈ ") + duration(times[stage].seconds), times[stage].device,
                     times[stage].seconds) if stage in times else Cell("") for stage in STAGES]
        hours = sum(times[stage].process_hours for stage in times)
        flops = sum(stage_flops(run).values()) if run.spec else None
        rows.append([*row, Cell(f"{hours:.3g}", value=hours) if times else Cell(""),
                     Cell(amount(flops).strip(), value=float(flops)) if flops else Cell("")])
    notes = [f"{name}: {metric.basis}{f'; below it the {metric.spread_is}' if metric.spread else ''}." for name in study.metrics
             if (metric := best[name].metrics[name]).basis]
    guessed = any(not one.recorded for times in study.times.values() for one in times.values())
    return [table(heads, rows, sortable=True), bullets(notes, "note"),
            paragraph("Comparable, or not: with published figures. Wall times are those of stages.jsonl, over all attempts; "
                      "process hours count every process, which is GPU hours where each has a GPU."
                      + (" ≈: told from the logged speed, without saving and starting." if guessed else ""), "note")]


def _how_to_read(name: str, best: RunReport) -> str:
    """For a column's head; the spaces inside each phrase do not break."""
    direction = "lower is better" if lower_is_better(name) else "higher is better"
    comparable = {True: "comparable", False: "not comparable", None: "on the same data" if name == BITS else ""}
    return ", ".join(words.replace(" ", "\u00a0") for words in (direction, comparable[best.metrics[name].comparable]) if words)


def _swept(run: RunReport, key: str) -> Cell:
    value = run.differs.get(key)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(label(value), value=float(value))
    return Cell(label(value) if key in run.differs else "")


def _metric(run: RunReport, name: str, best: bool) -> Cell:
    if name not in run.metrics:
        return Cell("")
    metric = run.metrics[name]
    return Cell(figure(metric.value), metric.spread, metric.value, best)


def problems_section(study: StudyReport) -> list[str]:
    alike: dict[str, list[RunReport]] = {}
    for run in study.runs:
        if run.failure and run.state == "failed":
            alike.setdefault(run.failure.signature, []).append(run)
    failed = [[_names_of(runs), runs[0].failure.stage, runs[0].failure.kind, Cell(runs[0].failure.message, wide=True),
               Cell(runs[0].failure.next_step(runs[0].run.path), wide=True)] for runs in alike.values()]
    remarks = [f"{run.name}: {remark}" for run in study.runs for remark in dict.fromkeys(run.remarks)]
    return [table(["run", "stage", "kind", "message", "what to do"], failed), bullets(remarks)]


def _names_of(runs: list[RunReport]) -> Cell:
    """One name, or how many there are and the first of them."""
    names = ", ".join(run.name for run in runs[:LISTED]) + (", ..." if len(runs) > LISTED else "")
    return Cell(f"{len(runs)} runs", names) if len(runs) > 1 else Cell(names)


def effects_section(study: StudyReport) -> list[str]:
    drawn = effect_panels(study.effects)
    many = any(len(effect.groups) > 1 for effect in study.effects)
    ties = {True: "all equal", False: "several equal"}
    rows = [[effect.field, effect.metric,
             Cell(", ".join(f"{value} {figure(mean)}" for value, mean in effect.means.items()), wide=True),
             effect.best or ties[effect.all_equal], f"{effect.wins} of {len(effect.groups)}", effect.verdict]
            for effect in study.effects]
    explained = ("Means are over groups of runs that differ in this field alone and have all finished. Verdicts go by 95 % "
                 "intervals, of bits/dim over the same examples by that of the differences; what another training seed would "
                 "change is not in them.") if rows else ""
    marks = "Thick with diamonds: the mean. Thin: each group of runs that differ in this field alone." if many else ""
    return [table(["field", "metric", "means by value", "best on average", Cell("best in", "matched groups"), "verdict"], rows),
            paragraph(explained, "note"), panels(drawn, marks)]


def training_section(study: StudyReport) -> list[str]:
    together, quartiles = training_panels(study.logs, study.drawn), quartile_panels(study.logs)
    if not together:
        return []
    some = f"Shown are {len(study.shown)} runs, the best among them; the tables have all {len(study.runs)}."
    return [paragraph(some) if len(study.shown) < len(study.runs) else "",
            legend({name: study.drawn[name] for name in study.logs}), panels(together),
            heading("Loss by quarter of the chain") if quartiles else "",
            panels(quartiles, "The quarter that t fell into, the first being the least noisy. Points are means over neighbours "
                              "where the log is long. Losses of different objectives are on different scales.")]


def bound_section(study: StudyReport) -> list[str]:
    drawn = [bound_panel(study.bounds, study.drawn)] if study.bounds else []
    return [legend({name: study.drawn[name] for name in study.bounds}), panels(drawn + schedule_panels(study.shown))] \
        if drawn or study.shown else []


def curves_section(study: StudyReport) -> list[str]:
    drawn = curve_panels(study.shown, study.drawn)
    return [legend({run.name: study.drawn[run.name] for run in study.shown if run.curve}),
            panels(drawn, "Hollow markers: DDIM. Filled: ancestral sampling.")] if drawn else []


def pictures_section(study: StudyReport) -> list[str]:
    runs = study.shown
    opened = {run.spec.data.path: training_data(run) for run in {run.spec.data.path: run for run in runs}.values()}
    data: dict[str, ImageData | None] = {run.name: opened[run.spec.data.path] for run in runs}
    samples = [samples_picture(run, _names(data[run.name])) for run in runs]
    denoising = [denoising_picture(run, study.logs.get(run.name)) for run in runs]
    kinds = {(run.spec.data.path, run.spec.diffusion.noise_schedule, run.spec.diffusion.diffusion_steps): run for run in runs}
    noising = [noising_picture(run.spec, data[run.name].images) for run in kinds.values() if data[run.name]]
    near = [neighbours_picture(run, data[run.name]) if data[run.name] else None for run in runs]
    parts = [
        ("Samples", samples, "The same place has the same noise at the start in every run with the same sample.seed, "
                             "sample.batch_size and image size."),
        ("From data to noise", noising, "The forward process of the first training image, with the same noise each time."),
        ("From noise to a sample", denoising, "Quick samples (at most 50 steps of DDIM) that the last save of training drew."),
        ("Nearest training images", near, "Above the first samples, below the training images nearest to them in pixel space "
                                          "(root mean square over pixels). " + _yardstick(runs, data, near))]
    return [text for title, shown, note in parts if any(shown)
            for text in (heading(title), pictures(shown), paragraph(note, "note"))]


def _names(data: ImageData | None) -> list[str]:
    return data.class_names if data else []


def _yardstick(runs: list[RunReport], data: dict[str, ImageData | None], near: list) -> str:
    run = next((run for run, picture in zip(runs, near) if picture), None)
    return usual_distance(run, data[run.name]) if run else ""


def published_section(study: StudyReport) -> list[str]:
    if study.main is None:
        return []
    name, published = published_for(study.main.spec)
    if not published:
        return []
    same = [place for place, row in enumerate(published) if row.same_setting(study.main.spec)]
    rows = [["published", f"{row.iterations:,}", f"{row.diffusion_steps:,}", row.noise_schedule, row.loss,
             figure(row.bits_per_dim), figure(row.fid), Cell(row.source, row.note, wide=True)] for row in published]
    for run in study.runs:
        if run.spec and run.metrics:
            fid = next((metric for metric in run.metrics.values() if metric.key == "fid"), None)
            rows.append([f"ours: {run.name}", f"{run.spec.train.iterations:,}", f"{run.spec.diffusion.diffusion_steps:,}",
                         run.spec.diffusion.noise_schedule, run.spec.diffusion.loss,
                         figure(run.metrics[BITS].value if BITS in run.metrics else None),
                         Cell(figure(fid.value), "" if fid.comparable else f"{fid.name}: not comparable") if fid else "–",
                         Cell("this study", f"{run.samples or 0:,} samples", wide=True)])
    marked = range(len(published), len(rows))
    same_text = f" The setting of {study.main.name} is that of row {same[0] + 1}." if same else ""
    return [paragraph(f"What was published for {name}, and then ours (shaded). The papers compute FID with Inception features "
                      f"against the whole training set, and NLL in bits/dim.{same_text}"),
            table(["", "iterations", "T", "schedule", "loss", "NLL", "FID", "source"], rows, marked=marked)]


def reproduce_section(study: StudyReport) -> list[str]:
    origins = [run.provenance for run in study.runs if run.provenance]
    commands = dict.fromkeys(shlex.join([Path(str(command[0])).name, *map(str, command[1:])]) for origin in origins
                             if (command := origin.get("command")) and isinstance(command, list))
    changed = ", with uncommitted changes (dirty_patch in provenance.json)"
    commits = dict.fromkeys(f"{origin.get('commit') or 'not a git checkout'}{changed if origin.get('dirty_patch') else ''}"
                            for origin in origins)
    packages = dict.fromkeys(", ".join(f"{name} {version}" for name, version in origin["packages"].items())
                             for origin in origins if isinstance(origin.get("packages"), dict))
    systems = dict.fromkeys(f"Python {origin.get('python')} on {origin.get('system')}" for origin in origins)
    facts = [*(f"Commit: {commit}" for commit in commits), *(f"Packages: {names}" for names in packages), *systems]
    spec = study.main.read(study.main.run.spec_file, lambda: study.main.run.spec_file.read_text(encoding="utf-8"), "") \
        if study.main else ""
    return [code("\n".join([*commands, f"iddpm report {study.folder}"])), bullets(facts),
            details(f"Resolved spec of {study.main.name}", spec) if study.main else ""]
