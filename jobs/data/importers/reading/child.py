"""Read records in a child process: a library in C that reads a damaged file may end its process, and that must not be ours.

The child writes lines of JSON to its standard output. Each says what follows; the bytes of an image follow its line.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.data.importers.encoded import Record
from jobs.errors import UserError
from jobs.own_python import python_command
from jobs.storage.names import shortened

LONGEST_CLASS = 1000  # characters of the name of a class
_MOST_LINE = 64 << 20  # bytes; class names are in one line
_ENDS_S = 10  # seconds in which a child ends that has nothing more to say


@dataclass(frozen=True)
class Opened:
    """A file that the child reads now."""

    path: str


class ChildReader:
    """Runs `function(arguments)` of the module `module` in a child process, and gives what it yields.

    The function yields a dictionary of facts first; then records, and Opened where a new file begins. Use as a context
    manager: the child ends with the block. `where` begins messages until a file is open.
    """

    def __init__(self, module: str, function: str, arguments: dict[str, Any], where: str):
        self._where, self._count = where, 0
        code = f"from {__name__} import serve; from {module} import {function}; serve({function}, sys.argv[1])"
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(python_command(code, json.dumps(arguments)), stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=self._errors)
        assert self._process.stdout
        self._stream = self._process.stdout
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> "ChildReader":
        try:
            self.facts = self._next()["facts"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._stream.close()
        self._errors.close()

    def records(self) -> Iterator[Record]:
        """The records, to the last one. Raises UserError if the child fails, or if a file is damaged."""
        while "end" not in (line := self._next()):
            if "opened" in line:
                self._where, self._count = line["opened"], 0
                continue
            size = line["size"]
            content = self._stream.read(size)
            if len(content) != size:
                raise self._failure()
            self._count += 1
            yield Record(line["name"], content, line["label"], line["problem"])

    def _next(self) -> dict[str, Any]:
        line = self._stream.readline(_MOST_LINE)
        try:
            found = json.loads(line)
        except ValueError:
            raise self._failure() from None
        if "error" in found:
            raise UserError(found["error"])
        if "failed" in found:
            raise UserError(f"{self._where}: {found['failed']}")
        return found

    def _failure(self) -> UserError:
        """Why the child ended before it was done."""
        try:
            status = self._process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:  # its own doing: it said something else than a line
            return UserError(f"{self._where}: cannot be read (the process that reads it was not understood)")
        after = f" after {self._count:,} images" if self._count else ""
        if status < 0:
            return UserError(f"{self._where}: damaged; reading ended with {signal.Signals(-status).name}{after}")
        self._errors.seek(0)
        last = (self._errors.read().decode(errors="replace").strip().splitlines() or [f"status {status}"])[-1]
        return UserError(f"{self._where}: cannot be read ({shortened(last)}){after}")


def serve(function: Callable[[dict[str, Any]], Iterator[Any]], arguments: str) -> None:
    """In the child: write what `function` yields."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends the child
    stream = sys.stdout.buffer

    def write(line: dict[str, Any], content: bytes = b"") -> None:
        text = json.dumps(line).encode() + b"\n"
        if len(text) >= _MOST_LINE:
            raise OverflowError
        stream.write(text)
        stream.write(content)

    try:
        for found in function(json.loads(arguments)):
            if isinstance(found, Record):
                content = found.content if isinstance(found.content, bytes) and not found.problem else b""
                problem, label = found.problem, found.label
                if isinstance(label, str) and len(label) > LONGEST_CLASS:
                    problem, label, content = f"a class whose name has {len(label):,} characters", None, b""
                write({"name": found.name, "label": label, "problem": problem, "size": len(content)}, content)
            else:
                write({"opened": found.path} if isinstance(found, Opened) else {"facts": found})
        write({"end": True})
    except UserError as error:
        write({"error": str(error)})
    except OverflowError:
        write({"failed": f"names of more than {_MOST_LINE >> 20} MiB"})
    except BrokenPipeError:
        return
    stream.flush()
