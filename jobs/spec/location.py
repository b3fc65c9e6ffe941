"""Complaints with the file and line that they are about."""

from typing import NoReturn

from jobs.errors import UserError
from jobs.spec.sweep import Complaint, SweepPoint
from jobs.spec.yaml_tree import Entry, location_of

MAX_COMPLAINTS = 50


def with_location(tree: Entry, point: SweepPoint | None, complaint: Complaint) -> str:
    """Return `file:line: key: what is wrong`. A value that `point` sets is located in the sweep."""
    path, message = complaint
    found = path
    for key, choice in (point.choices if point else {}).items():
        names = tuple(key.split("."))
        if path[:len(names)] == names:
            found = choice.path + path[len(names):]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return f"{location_of(tree, found)}: {key}: {message}"


def refuse(lines: list[str]) -> NoReturn:
    """Raise UserError with the first of these lines."""
    more = [f"... and {len(lines) - MAX_COMPLAINTS} more"] if len(lines) > MAX_COMPLAINTS else []
    raise UserError("\n".join(lines[:MAX_COMPLAINTS] + more))
