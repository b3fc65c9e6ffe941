"""The blocks that a section of the page is made of. templates/blocks.html has a macro for each, which turns it into HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from jobs.report.page.chart import Style
from jobs.report.page.pictures import Picture


@dataclass(frozen=True)
class Heading:
    text: str
    macro = "heading"


@dataclass(frozen=True)
class Paragraph:
    text: str
    kind: str = ""
    """A class of report.css."""
    macro = "paragraph"

    def __bool__(self) -> bool:
        return bool(self.text)


@dataclass(frozen=True)
class Bullets:
    texts: Sequence[str]
    kind: str = ""
    macro = "bullets"

    def __bool__(self) -> bool:
        return bool(self.texts)


@dataclass(frozen=True)
class Formula:
    lines: Sequence[str]
    macro = "formula"


@dataclass(frozen=True)
class NumberedLists:
    """Lists side by side, by title."""

    lists: Mapping[str, Sequence[str]]
    macro = "numbered_lists"

    def __bool__(self) -> bool:
        return any(self.lists.values())


@dataclass(frozen=True)
class Cell:
    text: str
    small: str = ""
    """A second line."""
    value: float | None = None
    """The number to sort by, for a cell that has one."""
    best: bool = False
    wide: bool = False


Row = Sequence[str | Cell]


class Table:
    """The first cell of a row is its heading. A column that has a number in any row is set flush right."""

    macro = "table"

    def __init__(self, heads: Row, rows: Sequence[Row], sortable: bool = False,
                 marked: Sequence[int] = ()):
        """`marked`: indices of the rows that stand out."""
        self.heads = [_cell(head) for head in heads]
        self.rows = [[_cell(cell) for cell in row] for row in rows]
        self.sortable, self.marked = sortable, marked

    def __bool__(self) -> bool:
        return bool(self.rows)

    @cached_property
    def numeric(self) -> list[bool]:
        """By column."""
        return [any(row[column].value is not None for row in self.rows) for column in range(len(self.heads))]

    def sort_key(self, cell: Cell, column: int) -> str:
        """Return the text that report.js sorts by, empty for a missing number."""
        if cell.value is not None and column:
            return repr(cell.value)
        return "" if self.numeric[column] and column else cell.text


def _cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


@dataclass(frozen=True)
class Panels:
    """Charts side by side."""

    svgs: Sequence[Markup]
    caption: str = ""
    macro = "panels"

    def __bool__(self) -> bool:
        return bool(self.svgs)


@dataclass(frozen=True)
class Legend:
    drawn: dict[str, Style]
    """How each run's curves are drawn, by name."""
    macro = "legend"

    def __bool__(self) -> bool:
        return bool(self.drawn)


@dataclass(frozen=True)
class Pictures:
    shown: Sequence[Picture]
    macro = "pictures"

    def __bool__(self) -> bool:
        return bool(self.shown)


@dataclass(frozen=True)
class Details:
    """A text that opens by a click on its summary."""

    summary: str
    text: str
    macro = "details"

    def __bool__(self) -> bool:
        return bool(self.text)


@dataclass(frozen=True)
class Code:
    text: str
    macro = "code"


Block = Heading | Paragraph | Bullets | Formula | NumberedLists | Table | Panels | Legend | Pictures | Details | Code


@dataclass(frozen=True)
class Section:
    anchor: str
    """Its id on the page."""
    title: str
    blocks: Sequence[Block]

    def __bool__(self) -> bool:
        return any(self.blocks)
