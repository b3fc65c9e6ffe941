"""The progress of an evaluation, which all ranks stop together, and its finished pieces."""

from collections.abc import Callable
from pathlib import Path

from jobs.errors import UserError
from jobs.parallel.agreement import TELL_EVERY, asked_to_stop
from jobs.parallel.group import Group, on_main
from jobs.parallel.interruption import Interruption, Stopped
from jobs.parallel.life import step_done
from jobs.run.directory import RunDir
from jobs.run.progress import Progress
from jobs.storage.files import read_json, write_json

VERSION = 1
"""Of the code that computes pieces. Raise this number to compute every saved piece again."""


class EvaluationProgress:
    """The progress of this rank, in batches of images and evaluations of the network. Raises Stopped if all ranks must stop."""

    def __init__(self, run: RunDir, group: Group, interruption: Interruption):
        self.group, self.interruption, self.done, self.total = group, interruption, 0, 0
        self.progress = Progress(run.progress if group.is_main else None, "evaluate")

    def prepare(self, doing: str) -> None:
        """Say what this rank does besides counted steps."""
        self.progress.prepare(doing)

    def start(self, total: int, certain: bool, doing: str) -> None:
        """There are `total` steps, or the steps that follow are of another kind. See `Progress.start`."""
        self.total = max(total, 1)
        self.progress.start(self.total, self.done, certain, doing)

    def __call__(self) -> None:
        """Count one step."""
        self.done += 1
        step_done()
        self.progress.update(self.done)
        if self.interruption.requested or self.done % TELL_EVERY == 0:
            self._raise_if_asked_to_stop()

    def check(self, doing: str) -> None:
        """Look for a request to stop, without counting a step. `doing`: the work at hand."""
        step_done()
        self.progress.prepare(doing)
        self._raise_if_asked_to_stop()

    def _raise_if_asked_to_stop(self) -> None:
        if asked_to_stop(self.group, self.interruption):
            raise Stopped

    def reach(self, done: int, certain: bool) -> None:
        """Count work up to `done` as finished, where its result was saved earlier. The rate does not count it."""
        if done > self.done:
            self.done = done
            self.progress.start(self.total, done, certain, "next piece")

    def close(self, state: str) -> None:
        """Write the final state: "done", "interrupted" or "failed"."""
        self.progress.close(self.total if state == "done" else min(self.done, self.total), state)


class Pieces:
    """evaluated.json: results by name, each with the identity of what it was computed from. Equal on every rank."""

    def __init__(self, file: Path, group: Group):
        self.file, self.is_main = file, group.is_main
        self.pieces = on_main(self._read)

    def _read(self) -> dict:
        try:
            pieces = read_json(self.file)
        except (OSError, UserError):  # without the file all pieces are computed again
            return {}
        return pieces if isinstance(pieces, dict) else {}

    def piece(self, name: str, identity: dict, compute: Callable[[], dict]) -> dict:
        """Return the saved result with this `name` and `identity`; without one, compute and save it. All ranks call `compute`."""
        identity = identity | {"version": VERSION}
        known = self.pieces.get(name)
        if known is None or known["identity"] != identity:
            self.pieces[name] = {"identity": identity, "result": compute()}
            if self.is_main:
                write_json(self.file, self.pieces)
        return self.pieces[name]["result"]

    def forget(self, name: str) -> None:
        """Remove the piece `name`, so that it is computed again."""
        self.pieces.pop(name, None)
