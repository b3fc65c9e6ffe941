"""The section on models: what each family of the study minimises, how it trains and samples, and how its cost grows."""

import re

from jobs.report.families.described import Family, families_of
from jobs.report.page.blocks import Block, Formula, Heading, NumberedLists, Paragraph
from jobs.report.study import StudyReport

SHOWN, NAMED = 8, 6  # families, and runs of each in its heading


def descriptions_blocks(study: StudyReport) -> list[Block]:
    families = families_of(run for run in study.runs if not run.left)
    more = len(families) - SHOWN
    return [*(block for family in families[:SHOWN] for block in _family(family, len(families) > 1)),
            Paragraph(f"... and {more} more; report.json has all." if more > 0 else "", "note")]


def _family(family: Family, several: bool) -> list[Block]:
    said, names = family.description, [run.name for run in family.runs]
    named = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    grows = [f"Training: {said.training_cost}", *([f"Sampling: {said.sampling_cost}"] if said.sampling_cost else [])]
    return [Heading(f"{said.title}: {named}" if several else said.title),
            Formula(_lines(said.objective)), Paragraph(f"Source: {said.source}.", "note"),
            NumberedLists({"Training": said.training, **({"Sampling": said.sampling} if said.sampling else {})}),
            *map(Paragraph, grows)]


def _lines(formula: str) -> list[str]:
    """Break a formula at the semicolons outside brackets."""
    lines, depth = [""], 0
    for part in re.split("(; |[()])", formula):
        depth += (part == "(") - (part == ")")
        if part == "; " and not depth:
            lines.append("")
        else:
            lines[-1] += part
    return lines
