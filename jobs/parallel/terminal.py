"""Output that may end before the work does: a terminal that is closed, a pipe whose reader has gone."""

import errno
import os
import sys
from typing import Any

GONE = (errno.EIO, errno.EPIPE, errno.EBADF)


class LastingOutput:
    """A text stream like `stream`; when nobody can read it any more, it says nothing and raises nothing."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self._try(self._stream.writelines, lines)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except OSError as error:
            if error.errno not in GONE:
                raise
            # What is in the stream's buffer goes there, too; else Python would complain about it when it exits.
            silence(self._stream)


def silence(stream: Any) -> None:
    """Let the file of `stream` be /dev/null from now on."""
    try:
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
    except (OSError, ValueError):  # not a file
        return
    os.dup2(nowhere, number)
    os.close(nowhere)


def outlive_output() -> None:
    """Go on working when the terminal is closed, or `head` at the other end of a pipe has read enough."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, LastingOutput):
            setattr(sys, name, LastingOutput(stream))
