"""YAML files as trees: a file extends another, and the command line sets values."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.errors import UserError
from jobs.spec.keys import of_another_kind
from jobs.spec.reading.yaml_nodes import MAX_PATH, Entry, is_a_file, parse, read_text
from jobs.storage.names import shortened
from jobs.storage.paths import expanded

KeyPath = tuple[str | int, ...]
COMMAND_LINE = "command line: "
MAX_EXTENDS = 20
MAX_KEYS = 20  # in a dotted key; the schema is far less deep


def read_tree(text: str, source: str, such_as: str = "with sections such as data: and train:") -> Entry:
    """Return the mapping in the YAML `text` of the file `source`. Raises UserError with file and line.

    `such_as`: what the mapping holds, for the message where there is none.
    """
    entry = parse(text, lambda line: f"{source}:{line}")
    if entry is None or not isinstance(entry.value, dict):
        raise UserError(f"{source}: must be a mapping, {such_as}")
    return entry


def read_file(path: Path, chain: tuple[Path, ...] = ()) -> Entry:
    """Return the mapping in `path`, merged over the files that it extends. `chain`: the files that extend this one.

    A `sweep` is not merged: it replaces that of the file below as a whole, because half of another file's sweep is nobody's
    intention; null drops it. Raises UserError with file and line where a file cannot be read, parsed or found.
    """
    entry = read_tree(read_text(path), str(path))
    entry = Entry(dict(entry.value), str(path))
    extends = entry.value.pop("extends", None)
    if extends is None:
        return entry
    if not isinstance(extends.value, str) or not extends.value:
        raise UserError(f"{extends.location}: extends: must be the path of one YAML file")
    try:
        base = path.parent / expanded(extends.value)
    except UserError as error:
        raise UserError(f"{extends.location}: extends: {error}") from error
    if not is_a_file(base):
        raise UserError(f"{extends.location}: extends: there is no file {shortened(str(base), MAX_PATH)}")
    chain += (path,)
    if len(chain) > MAX_EXTENDS:
        raise UserError(f"{extends.location}: extends: more than {MAX_EXTENDS} files extend each other")
    if base.resolve() in [file.resolve() for file in chain]:
        raise UserError(f"{extends.location}: extends: goes in a circle: {' -> '.join(map(str, chain + (base,)))}")
    under = read_file(base, chain)
    if "sweep" in entry.value:
        under.value.pop("sweep", None)
        if entry.value["sweep"].value is None:
            entry.value.pop("sweep")
    return _merge(under, entry)


def _merge(under: Entry, over: Entry) -> Entry:
    """Return `over` merged over `under`: mappings key by key; any other value replaces the one below.

    A mapping inside that names another `kind`, such as sample.guidance, replaces the one below as a whole.
    """
    if not isinstance(under.value, dict) or not isinstance(over.value, dict):
        return over
    both = {key: _merged_inside(entry, over.value[key]) if key in over.value else entry for key, entry in under.value.items()}
    return Entry(both | {key: entry for key, entry in over.value.items() if key not in both}, over.location)


def _merged_inside(under: Entry, over: Entry) -> Entry:
    return over if of_another_kind(_kind_alone(under), _kind_alone(over)) else _merge(under, over)


def _kind_alone(entry: Entry) -> Any:
    inside = entry.value
    return {"kind": inside["kind"].value} if isinstance(inside, dict) and "kind" in inside else None


def override(entry: Entry, overrides: Sequence[str]) -> Entry:
    """Return `entry` with each setting "dotted.key=value" of `overrides`. Raises UserError for a setting of another form."""
    seen: set[str] = set()
    for setting in overrides:
        location = COMMAND_LINE + shortened(setting, MAX_PATH)
        key, equals, text = setting.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path) or len(path) > MAX_KEYS:
            raise UserError(f"{location}: write key=value, such as train.lr=3e-4")
        if path[0] in ("extends", "sweep"):
            raise UserError(f"{location}: {path[0]} can only be set in a file")
        if key in seen:
            raise UserError(f"{location}: {key} is set twice on the command line")
        seen.add(key)
        # The shell removes the quotes of key="", so an empty value means empty text; null must be written out.
        value = parse(text, _always(location)) if text.strip() else Entry("", location)
        entry = _set(entry, path, value or Entry(None, location))
    return entry


def _always(location: str) -> Callable[[int], str]:
    """Return a function that gives this place for every line."""
    return lambda line: location


def _set(entry: Entry, path: Sequence[str], value: Entry) -> Entry:
    if not path:
        return _merged_inside(entry, value)
    inside = entry.value if isinstance(entry.value, dict) else {}
    below = inside.get(path[0], Entry(None, value.location))
    return Entry(inside | {path[0]: _set(below, path[1:], value)}, entry.location)


def plain(entry: Entry) -> Any:
    """Return the values without their places: nested dicts, lists and scalars."""
    if isinstance(entry.value, dict):
        return {key: plain(inner) for key, inner in entry.value.items()}
    if isinstance(entry.value, list):
        return [plain(inner) for inner in entry.value]
    return entry.value


def location_of(entry: Entry, path: KeyPath) -> str:
    """Return the place of `path`; where `path` is not written, the place of the nearest value around it."""
    return _follow(entry, path)[0].location


def is_written(entry: Entry, path: KeyPath) -> bool:
    """Return whether there is a value at `path`."""
    return _follow(entry, path)[1] == len(path)


def _follow(entry: Entry, path: KeyPath) -> tuple[Entry, int]:
    """Return the entry where `path` ends or is no longer written, and how many keys lead there."""
    for depth, key in enumerate(path):
        if isinstance(entry.value, dict) and key in entry.value:
            entry = entry.value[key]
        elif isinstance(entry.value, list) and isinstance(key, int) and key < len(entry.value):
            entry = entry.value[key]
        else:
            return entry, depth
    return entry, len(path)
