"""Resolved specs as files, and the differences between two specs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from jobs.errors import UserError
from jobs.spec.keys import in_order, keys_of, value_at
from jobs.spec.reading.complaints import validate
from jobs.spec.reading.location import with_location
from jobs.spec.reading.yaml_nodes import read_text, refuse
from jobs.spec.reading.yaml_text import yaml_text
from jobs.spec.reading.yaml_tree import plain, read_tree
from jobs.spec.sections import Spec

END = "...\n"  # YAML's end of a document: a file without this line was cut off


def dump(spec: Spec) -> str:
    """Return `spec` as YAML text in the schema's order; `load_frozen` gives back an equal spec."""
    return "\n".join(_dump_lines(spec, "")) + "\n" + END


def _dump_lines(section: BaseModel, indent: str) -> Iterator[str]:
    for name in in_order(type(section)):
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _dump_lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {yaml_text(value)}"


def load_frozen(path: str | Path) -> Spec:
    """Return the spec in a file that `dump` wrote. Raises UserError where the file is damaged or does not fit the schema."""
    path = Path(path)
    return parse_frozen(read_text(path), str(path))


def parse_frozen(text: str, source: str) -> Spec:
    """Return the spec in `text`, which `dump` wrote. `source` names the file in messages. Raises UserError as `load_frozen`."""
    tree = read_tree(text, source)
    if not text.endswith("\n" + END):
        raise UserError(f"{source}: damaged: the end is missing")
    spec, wrong = validate(plain(tree), resolved=True)
    if wrong or not isinstance(spec, Spec):
        refuse([with_location(tree, None, complaint) for complaint in wrong])
    return spec


def difference(old: Spec, new: Spec, ignore: Sequence[str] = ()) -> list[str]:
    """Return the fields that differ, such as `train.lr: 0.0001 -> 0.0002`, except for those at or below the keys `ignore`."""
    if old == new:  # the usual case in large sweeps
        return []
    keys = dict.fromkeys([*keys_of(type(old)), *keys_of(type(new))])
    seen = [key for key in keys if not any(f"{key}.".startswith(f"{prefix}.") for prefix in ignore)]
    return [f"{key}: {yaml_text(value_at(old, key))} -> {yaml_text(value_at(new, key))}"
            for key in seen if value_at(old, key) != value_at(new, key)]
