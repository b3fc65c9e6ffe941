"""YAML files as trees of values, each with its file and line; other files and the command line extend a tree.

Plain words mean what they mean in YAML 1.2: 1e-4 is a number; 24:00:00, 2021-02-18, yes and off are text.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.errors import UserError

KeyPath = tuple[str | int, ...]
COMMAND_LINE = "command line: "


@dataclass(frozen=True)
class Entry:
    """One value of a YAML file, with its place."""

    value: Any
    """A scalar, a list of entries, or a mapping of text to entries."""
    location: str
    """Where the value is set, such as `configs/cifar10.yaml:12`."""


# Reading YAML

class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}


_DIGITS = "[0-9]+(?:_[0-9]+)*"
for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", f"[-+]?{_DIGITS}", list("-+0123456789")),
    ("float", rf"[-+]?(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("merge", "<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)

_CONVERT: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None, "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int, "float": float, "str": str}

# A part of the parser's message, our words for the mistake, and whether its place is where the broken value begins.
_PARSER_WORDS = (
    (r"'\t'", "a tab; YAML indents with spaces", False),
    ("mapping values are not allowed", "a ':' too many, or wrong indentation; text with ': ' needs quotes", False),
    ("could not find expected ':'", "a key without ':'", True),
    ("found unexpected end of stream", "a quote that is never closed", True),
    ("expected ',' or", "a bracket that is not closed, or a comma is missing", True),
    ("expected <block end>", "does not fit the lines above: look at indentation, brackets and quotes", False),
    ("found another document", "a second document ('---'); a spec is one document", False),
    ("that cannot start any token", "text that starts with this character must be in quotes", False),
)


def _compose(text: str, location: Callable[[int], str]) -> yaml.Node | None:
    """Return the node tree of one YAML document, None where it is empty. `location` turns a line number into a place.

    Raises UserError where the text is not YAML.
    """
    try:
        return yaml.compose(text, _Loader)
    except yaml.reader.ReaderError as error:
        where = location(text.count("\n", 0, error.position) + 1)
        raise UserError(f"{where}: not valid YAML: the character {chr(error.character)!r} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        problem, mark = error.problem or error.context or "cannot be read", error.problem_mark
        for theirs, ours, at_start in _PARSER_WORDS:
            if theirs in problem:
                problem, mark = ours, at_start and error.context_mark or mark
                break
        raise UserError(f"{location(mark.line + 1 if mark else 1)}: not valid YAML: {problem}") from error


class _Builder:
    """Turns YAML nodes into entries, and collects mistakes in `complaints`."""

    def __init__(self, location: Callable[[int], str]):
        self.location = location
        self.complaints: list[str] = []
        self.open: list[yaml.Node] = []
        """The nodes around the one that is being read: an alias to one of them would never end."""

    def entry(self, node: yaml.Node, location: str | None = None) -> Entry:
        location = location or self._location(node)
        if node in self.open:
            self.complaints.append(f"{self._location(node)}: an alias (*) inside its own anchor (&)")
            return Entry(None, location)
        self.open.append(node)
        value = self._value(node)
        self.open.pop()
        return Entry(value, location)

    def _location(self, node: yaml.Node) -> str:
        return self.location(node.start_mark.line + 1)

    def _value(self, node: yaml.Node) -> Any:
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self.entry(item) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and tag in _CONVERT:
            try:
                value = _CONVERT[tag](node.value)
            except (ValueError, KeyError):
                value = math.nan
            if not isinstance(value, float) or math.isfinite(value):
                return value
            self.complaints.append(f"{self._location(node)}: {node.value[:40]} cannot be used as {tag}")
        else:
            self.complaints.append(f"{self._location(node)}: the tag {node.tag} is not allowed; write plain values")
        return None

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Entry]:
        merged: dict[str, Entry] = {}
        own: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in map(self.entry, sources):
                    if isinstance(source.value, dict):
                        merged = source.value | merged
                    else:
                        self.complaints.append(f"{self._location(key_node)}: << must be followed by a mapping")
                continue
            location = self._location(key_node)
            key = self.entry(key_node).value
            if not isinstance(key, str):
                self.complaints.append(f"{location}: keys must be text; put this one in quotes")
            elif key in own:
                self.complaints.append(f"{location}: {key}: given twice; first at {own[key].location}")
            else:
                own[key] = self.entry(value_node, location)
        return merged | own


def _parse(text: str, location: Callable[[int], str]) -> Entry | None:
    """Return the entries of one YAML document, None where it is empty. Raises UserError with all mistakes."""
    builder = _Builder(location)
    try:
        node = _compose(text, location)
        entry = None if node is None else builder.entry(node)
    except RecursionError:
        raise UserError(f"{location(1)}: nested too deeply") from None
    if builder.complaints:
        raise UserError("\n".join(builder.complaints))
    return entry


# Files that extend others, and settings from the command line

def read_text(path: Path) -> str:
    """Return the UTF-8 text of a file. Raises UserError where the file cannot be read, or is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_tree(text: str, source: str) -> Entry:
    """Return the mapping in the YAML `text` of the file `source`. Raises UserError with file and line."""
    entry = _parse(text, lambda line: f"{source}:{line}")
    if entry is None or not isinstance(entry.value, dict):
        raise UserError(f"{source}: must be a mapping, with sections such as data: and train:")
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
    base = path.parent / extends.value
    if not base.is_file():
        raise UserError(f"{extends.location}: extends: there is no file {base}")
    chain += (path,)
    if base.resolve() in [file.resolve() for file in chain]:
        raise UserError(f"{extends.location}: extends: goes in a circle: {' -> '.join(map(str, chain + (base,)))}")
    under = read_file(base, chain)
    if "sweep" in entry.value:
        under.value.pop("sweep", None)
        if entry.value["sweep"].value is None:
            entry.value.pop("sweep")
    return _merge(under, entry)


def _merge(under: Entry, over: Entry) -> Entry:
    """Return `over` merged over `under`: mappings key by key; any other value replaces the one below."""
    if not isinstance(under.value, dict) or not isinstance(over.value, dict):
        return over
    both = {key: _merge(entry, over.value[key]) if key in over.value else entry for key, entry in under.value.items()}
    return Entry(both | {key: entry for key, entry in over.value.items() if key not in both}, over.location)


def override(entry: Entry, overrides: Sequence[str]) -> Entry:
    """Return `entry` with each setting "dotted.key=value" of `overrides`. Raises UserError for a setting of another form."""
    seen: set[str] = set()
    for setting in overrides:
        location = COMMAND_LINE + setting
        key, equals, text = setting.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            raise UserError(f"{location}: write key=value, such as train.lr=3e-4")
        if path[0] in ("extends", "sweep"):
            raise UserError(f"{location}: {path[0]} can only be set in a file")
        if key in seen:
            raise UserError(f"{location}: {key} is set twice on the command line")
        seen.add(key)
        # The shell removes the quotes of key="", so an empty value means empty text; null must be written out.
        value = _parse(text, _always(location)) if text.strip() else Entry("", location)
        entry = _set(entry, path, value or Entry(None, location))
    return entry


def _always(location: str) -> Callable[[int], str]:
    """Return a function that gives this place for every line."""
    return lambda line: location


def _set(entry: Entry, path: Sequence[str], value: Entry) -> Entry:
    if not path:
        return _merge(entry, value)
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
