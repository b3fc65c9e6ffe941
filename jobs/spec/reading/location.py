"""Complaints with the file and line that they are about."""

from jobs.spec.keys import dotted
from jobs.spec.reading.sweep import Complaint, SweepPoint
from jobs.spec.reading.yaml_nodes import MAX_SHOWN, Entry
from jobs.spec.reading.yaml_tree import KeyPath, is_written, location_of
from jobs.storage.names import shortened


def with_location(tree: Entry, point: SweepPoint | None, complaint: Complaint) -> str:
    """Return `file:line: key: what is wrong`. A value that `point` sets is located in the sweep."""
    path, message = complaint
    key = dotted(tuple(part if isinstance(part, int) else shortened(part, MAX_SHOWN) for part in path))
    return f"{location_of(tree, _place(tree, point, path))}: {key}: {message}"


def _place(tree: Entry, point: SweepPoint | None, path: KeyPath) -> KeyPath:
    """Return where the value at `path` of the point's spec is written: in the sweep or outside."""
    for key, choice in (point.choices if point else {}).items():
        names = tuple(key.split("."))
        swept = choice.path + path[len(names):]
        if path[:len(names)] == names and (is_written(tree, swept) or not is_written(tree, path)):
            return swept
        if names[:len(path)] == path and not is_written(tree, path):  # a section that only the sweep has
            return choice.path
    return path
