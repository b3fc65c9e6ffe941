"""Turn the blocks of a page into HTML by the templates beside this file. Whatever text comes in is escaped, but for charts."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from jobs.report.page.blocks import Block, Section
from jobs.report.page.chart import swatch
from jobs.report.study import StudyReport
from jobs.terminal import steered


def render(study: StudyReport, head: Sequence[Block], sections: Sequence[Section]) -> str:
    """Return one HTML page that needs no other file."""
    return _templates().get_template("page.html").render(study=study, head=head, sections=sections, css=_text("report.css"),
                                                         script=_text("report.js"))


@cache
def _templates() -> Environment:
    templates = Environment(loader=PackageLoader("jobs.report.page"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                            undefined=StrictUndefined, finalize=_written_out)
    templates.filters |= {"breakable": breakable, "swatch": swatch}
    templates.globals["classes"] = classes
    return templates


def _written_out(value: Any) -> Any:
    """A text of the page without control characters; our own markup as it is."""
    return steered(value) if type(value) is str else value


def _text(name: str) -> Markup:
    return Markup(files("jobs.report.page").joinpath(name).read_text(encoding="utf-8"))


def breakable(text: str) -> Markup:
    """Escape `text`, and let a long name go on in the next line after its commas and equals signs."""
    text = steered(text)
    return Markup(re.sub("([,=])(?! |[0-9]{3}(?![0-9]))", r"\1<wbr>", str(escape(text))))


def classes(**given: bool) -> Markup:
    """Return the attribute class="..." with the names that are true, or nothing."""
    names = " ".join(name for name, is_given in given.items() if is_given)
    return Markup(f' class="{names}"' if names else "")
