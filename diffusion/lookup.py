"""Tables by name: samplers, losses, noise schedules and the like are entries of a dictionary that a spec names."""

from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def look_up(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The entry called `name`. Raises ValueError with the names that the table has; `kind` says what they are names of."""
    if name not in table:
        *others, last = table
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(others)} and {last}")
    return table[name]
