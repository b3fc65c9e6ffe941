"""What reaches the terminal: every character that could steer it is written out, and one that it cannot show is replaced.

Names, files and failures hold any character. Escape sequences in them would move the cursor, change a title or hide text.
"""

import codecs
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Control characters (C0 but for tab and newline, DEL, C1), line separators, marks that turn the direction of text, and halves of
# characters, which Python makes of bytes that are not UTF-8.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = {"─": "-", "━": "-", "–": "-", "—": "-", "…": "...", "×": "x", "≈": "~", "±": "+-", "²": "2", "→": "->", "∞": "inf",
          "“": '"', "”": '"', "≤": "<=", "·": ".", "ᾱ": "alpha"}
_ERRORS = "iddpm-plain"  # a name for codecs


def printable(text: str) -> str:
    """`text` on one line, with every control character written out: \\x1b, \\n."""
    return steered(text).replace("\n", "\\n").replace("\t", "\\t")


def steered(text: str) -> str:
    """`text` with its lines, and every other control character written out."""
    return _STEERS.sub(_written_out, text)


def _written_out(found: re.Match) -> str:
    code = ord(found[0])
    if 0xdc80 <= code <= 0xdcff:  # one byte of a name that is not UTF-8
        code -= 0xdc00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start:error.end]
    return "".join(_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in wrong), error.end


class GuardedStream:
    """A text stream whose writer cannot send control characters. `trusted` is the stream itself, for our own colours and bars."""

    def __init__(self, stream: TextIO):
        self.trusted = stream

    def write(self, text: str) -> int:
        self.trusted.write(steered(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trusted, name)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Guard standard output and standard error in the block, and let them replace what their encoding does not have."""
    codecs.register_error(_ERRORS, _replace)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_guarded, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _guarded(stream: Any) -> Any:
    if stream is None or isinstance(stream, GuardedStream):
        return stream
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=_ERRORS)
    return GuardedStream(stream)


def trusted(stream: TextIO) -> TextIO:
    """The stream behind a guard: what is written there must be our own text, or `printable`."""
    return stream.trusted if isinstance(stream, GuardedStream) else stream
