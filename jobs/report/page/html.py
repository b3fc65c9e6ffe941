"""Building blocks of the report's page. Whatever text comes in is escaped; SVG comes from report_figures alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from jobs.report.page.figures import Style, swatch
from jobs.report.page.pictures import Picture
from jobs.report.page.style import CSS, SCRIPT


@dataclass(frozen=True)
class Cell:
    text: str
    small: str = ""
    """A second line."""
    value: float | None = None
    """What to sort by; makes it a number."""
    best: bool = False
    wide: bool = False


def page(title: str, body: str) -> str:
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
            f'<link rel="icon" href="data:,">\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n'
            f"<script>{SCRIPT}</script>\n</body>\n</html>\n")


def section(anchor: str, title: str, *parts: str) -> str:
    """Empty where all `parts` are."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n{content}\n</section>' if content else ""


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def bullets(texts: Sequence[str], kind: str = "") -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>' if texts else ""


def table(heads: Sequence[str | Cell], rows: Sequence[Sequence[str | Cell]], sortable: bool = False,
          marked: Sequence[int] = ()) -> str:
    """The first cell of a row is its heading; a column of numbers is set flush right. `marked`: rows that stand out."""
    if not rows:
        return ""
    cells = [[_cell(cell) for cell in row] for row in rows]
    numeric = [any(row[column].value is not None for row in cells) for column in range(len(heads))]
    top = "".join(f'<th scope="col"{_class(number=number)}>{_text(_cell(head))}</th>' for head, number in zip(heads, numeric))
    lines = ["".join(_one(cell, column, numeric[column]) for column, cell in enumerate(row)) for row in cells]
    body = "".join(f"<tr{_class(ours=index in marked)}>{line}</tr>\n" for index, line in enumerate(lines))
    return (f'<div class="scroll" tabindex="0"><table{_class(sortable=sortable)}>\n<thead><tr>{top}</tr></thead>\n'
            f"<tbody>\n{body}</tbody>\n</table></div>")


def _cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def _one(cell: Cell, column: int, number: bool) -> str:
    if column == 0:
        return f'<th scope="row" data-v="{escape(cell.text)}">{_text(cell)}</th>'
    value = cell.text if cell.value is None and not number else "" if cell.value is None else repr(cell.value)
    return f'<td{_class(number=number, best=cell.best, wide=cell.wide)} data-v="{escape(value)}">{_text(cell)}</td>'


def _text(cell: Cell) -> str:
    return breakable(cell.text) + (f"<small>{breakable(cell.small)}</small>" if cell.small else "")


def breakable(text: str) -> str:
    """Escaped; a long name may go on in the next line after its commas and equals signs."""
    return re.sub("([,=])(?! |[0-9]{3}(?![0-9]))", r"\1<wbr>", escape(text))


def _class(**kinds: bool) -> str:
    names = " ".join(name for name, given in kinds.items() if given)
    return f' class="{names}"' if names else ""


def panels(svgs: Sequence[str], caption: str = "") -> str:
    return f'<div class="panels">\n{chr(10).join(svgs)}\n</div>{paragraph(caption, "note")}' if svgs else ""


def legend(drawn: dict[str, Style]) -> str:
    items = "".join(f"<li>{swatch(style)}{breakable(name)}</li>" for name, style in drawn.items())
    return f'<ul class="legend">{items}</ul>' if drawn else ""


def pictures(shown: Sequence[Picture | None]) -> str:
    figures = "\n".join(
        f'<figure style="width:{picture.width}px"><img{_class(pixels=not picture.smooth)} src="{picture.uri}" '
        f'width="{picture.width}" alt="{escape(picture.caption)}">'
        f"<figcaption>{breakable(picture.caption)}</figcaption></figure>"
        for picture in shown if picture)
    return f'<div class="pictures">\n{figures}\n</div>' if figures else ""


def details(summary: str, text: str) -> str:
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>" if text else ""


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>" if text else ""
