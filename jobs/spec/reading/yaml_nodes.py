"""YAML text as a tree of values, each with its file and line, in bounded time and memory.

Plain words mean what they mean in YAML 1.2: 1e-4 is a number; 24:00:00, 2021-02-18, yes and off are text.
"""

import math
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from jobs.errors import UserError
from jobs.storage.names import shortened

# What a file may hold at most: far more than a person writes, and read within a second or two.
MAX_BYTES = 1_000_000
MAX_VALUES = 200_000  # counted again at every alias
MAX_DEPTH = 50
MAX_INT = 2 ** 63 - 1
MAX_COMPLAINTS = 50
MAX_PATH = 200  # characters of a path in a message
MAX_SHOWN = 80  # of a key


@dataclass(frozen=True)
class Entry:
    """One value of a YAML file, with its place."""

    value: Any
    """A scalar, a list of entries, or a mapping of text to entries."""
    location: str
    """Where the value is set, such as `configs/cifar10.yaml:12`."""
    written: str = ""
    """A scalar without quotes as it is written: 007 for the number 7."""


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
    ("found another document", "a second document ('---'); a file is one document", False),
    ("that cannot start any token", "text that starts with this character must be in quotes", False),
)


def _compose(text: str, location: Callable[[int], str]) -> yaml.Node | None:
    """Return the node tree of one YAML document, None where it is empty. `location` turns a line number into a place.

    Raises UserError where the text is not YAML.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{location(1)}: longer than {MAX_BYTES:,} characters")
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
    except (ValueError, OverflowError) as error:  # PyYAML leaves the error of chr() as it is
        raise UserError(f"{location(1)}: not valid YAML: a \\U escape that is no character") from error


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
        if len(self.open) >= MAX_DEPTH:
            raise UserError(f"{self._location(node)}: nested too deeply")
        self.open.append(node)
        value = self._value(node)
        self.open.pop()
        return Entry(value, location, node.value if isinstance(node, yaml.ScalarNode) and node.style is None else "")

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
            if _is_usable(value):
                return value
            self.complaints.append(f"{self._location(node)}: {shortened(node.value, 40)} cannot be used as {tag}")
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
                self.complaints.append(f"{location}: {shortened(key, MAX_SHOWN)}: given twice; first at {own[key].location}")
            else:
                own[key] = self.entry(value_node, location)
        return merged | own


def _count(node: yaml.Node, location: Callable[[int], str], counts: dict[int, int]) -> int:
    """Return how many values `node` holds, each alias counted in full. `counts`: of the nodes that were counted before, by id.

    Raises UserError where there are more than MAX_VALUES: a few hundred bytes of aliases can stand for more than memory holds.
    """
    if id(node) not in counts:
        counts[id(node)] = 0  # an alias inside its own anchor
        inside = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else \
            node.value if isinstance(node, yaml.SequenceNode) else []
        counts[id(node)] = 1 + sum(_count(each, location, counts) for each in inside)
        if counts[id(node)] > MAX_VALUES:
            where = location(node.start_mark.line + 1)
            raise UserError(f"{where}: more than {MAX_VALUES:,} values, each alias (*) counted in full")
    return counts[id(node)]


def _is_usable(value: Any) -> bool:
    """Return whether a scalar is within the range of 64 bits, or is text that a file could hold."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return not re.search("[\ud800-\udfff]", value)  # halves of a character, from an escape such as \ud800
    return not isinstance(value, int) or -MAX_INT <= value <= MAX_INT


def parse(text: str, location: Callable[[int], str]) -> Entry | None:
    """Return the entries of one YAML document, None where it is empty. Raises UserError with all mistakes."""
    builder = _Builder(location)
    try:
        node = _compose(text, location)
        if node is not None:
            _count(node, location, {})
        entry = None if node is None else builder.entry(node)
    except RecursionError:
        raise UserError(f"{location(1)}: nested too deeply") from None
    if builder.complaints:
        refuse(builder.complaints)
    return entry


def read_text(path: Path) -> str:
    """Return the UTF-8 text of a file.

    Raises UserError where the file cannot be read, is not UTF-8, or is larger than a file of YAML can be. A device or a named
    pipe, which may never end, is not opened.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path}: not a file{' but a folder' if path.is_dir() else ''}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except ValueError as error:  # a NUL in the path, or half a character
        raise UserError(f"{shortened(str(path), MAX_PATH)}: no file can have this name") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text") from error


def is_a_file(path: Path) -> bool:
    """Return whether there is a file at `path`; a path that no file can have, such as one of 400 letters, has none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def refuse(lines: list[str]) -> NoReturn:
    """Raise UserError with the first of these lines."""
    more = [f"... and {len(lines) - MAX_COMPLAINTS} more"] if len(lines) > MAX_COMPLAINTS else []
    raise UserError("\n".join(lines[:MAX_COMPLAINTS] + more))
