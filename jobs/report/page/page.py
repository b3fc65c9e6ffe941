"""The page of a report: which sections there are, in which order."""

import time
from collections import Counter

from jobs.report.page.blocks import Block, Bullets, Paragraph, Section
from jobs.report.page.chart import styles
from jobs.report.page.cost_section import cost_blocks
from jobs.report.page.curves_sections import bound_blocks, curves_blocks, effects_blocks, training_blocks
from jobs.report.page.families.descriptions import descriptions_blocks
from jobs.report.page.families.section import families_blocks
from jobs.report.page.pictures_section import pictures_blocks
from jobs.report.page.render import render
from jobs.report.page.runs_sections import problems_blocks, quarters_blocks, runs_blocks
from jobs.report.page.samplings_section import samplings_blocks
from jobs.report.page.sources_sections import published_blocks, reproduce_blocks
from jobs.report.study import StudyReport


def study_page(study: StudyReport) -> str:
    """Return the text of report.html. Adds remarks to the study's runs where pictures cannot be drawn."""
    drawn = styles(study.shown)
    others = [Section("families", "The families side by side", families_blocks(study, drawn)),
              Section("models", "Objective and algorithm", descriptions_blocks(study)),
              Section("effects", "What the swept fields do", effects_blocks(study)),
              Section("training", "Training", training_blocks(study, drawn)),
              Section("quarters", "Accuracy by quarter of the timesteps", quarters_blocks(study)),
              Section("likelihood", "Likelihood and schedules", bound_blocks(study, drawn)),
              Section("curves", "Quality over training and compute", curves_blocks(study, drawn)),
              Section("samplings", "Samplings", samplings_blocks(study)),
              Section("pictures", "Pictures", pictures_blocks(study)),
              Section("cost", "Cost", cost_blocks(study)),
              Section("published", "Beside the papers", published_blocks(study)),
              Section("reproduce", "To reproduce", reproduce_blocks(study))]
    sections = [Section("runs", "Runs", runs_blocks(study)),
                Section("problems", "Failures and remarks", problems_blocks(study)),  # after the others, which add remarks
                *others]
    return render(study, _head(study), [section for section in sections if section])


def _head(study: StudyReport) -> list[Block]:
    states = ", ".join(f"{count} {state}" for state, count in Counter(run.state for run in study.runs).items())
    when = time.strftime("%Y-%m-%d %H:%M %Z")
    return [Paragraph(study.question, "question"), Bullets(study.answer), Bullets(study.cautions, "note"),
            Paragraph(f"Runs: {states}. Written {when}.", "note")]
