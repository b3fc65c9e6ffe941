"""Show how far a stage is: in progress.json for `status`, as a bar on a terminal, or as lines in a log."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jobs.errors import UserError
from jobs.run.pace import Pace
from jobs.storage.files import json_text, read_json, write_text
from jobs.storage.machine import this_machine
from jobs.terminal import printable, trusted

HEARTBEAT_S, LINE_S = 1.0, 15.0
NOTE = "note: "
ATTEMPT = "IDDPM_ATTEMPT"  # environment variable: this start of a stage, by which its progress.json is told from an older one
FOLLOWED = "IDDPM_FOLLOWED"
"""Environment variable: not empty where the launcher will start the next stage of the run at once."""


def note(text: str) -> None:
    """Print a note for the user about a stage that continues. Launchers find notes in the log by their first word."""
    print(NOTE + text, flush=True)


def duration(seconds: float) -> str:
    """Format a time: 1:02:03, or 2:03 under an hour."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Bar:
    """Shows one long piece of work: a bar with rate and time left on a terminal, else a line every LINE_S seconds."""

    def __init__(self, label: str, total: int, unit: str):
        self.label, self.total, self.unit = label, total, unit
        self.bar, self.last_line = None, time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn
            self.bar = Progress(TextColumn("{task.description:<9}"), BarColumn(), TextColumn("{task.fields[count]}"),
                                TextColumn("{task.fields[note]}", markup=False), console=Console(file=trusted(sys.stderr)),
                                transient=True)
            self.task = self.bar.add_task(label, total=total or None, note="", count="")
            self.bar.start()

    def show(self, done: int, rate: float | None, note: str = "", certain: bool = True) -> None:
        """Show that `done` of `total` units are done. `rate` is in units per second, None while unknown.

        `certain`: the units to come take as long as these. A `total` of 0 is not known yet.
        """
        text = note
        if rate:
            left = f", {duration((self.total - done) / rate)} left" if certain and self.total else ""
            text = f"{rate:,.1f} {self.unit}/s{left}{', ' + note if note else ''}"
        count = f"{done}/{self.total}" if self.total else ""
        if self.bar:
            self.bar.update(self.task, completed=done, total=self.total or None, count=count, note=printable(text))
        elif time.monotonic() - self.last_line >= LINE_S:
            self.last_line = time.monotonic()
            print(" ".join(filter(None, (self.label, count and f"{count} {self.unit}", text))), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


class Progress:
    """Reports the progress of a stage. Calls are cheap; a thread writes the file every HEARTBEAT_S, whatever the stage does.

    A stage begins by preparing: `doing` says what it does. `start` says how much work there is.
    """

    def __init__(self, path: Path | None, stage: str, total: int | None = None, unit: str = "steps", start: int = 0):
        """`path`: progress.json; None, on all ranks but the main one, reports nothing. Raises UserError where `path` cannot
        be written."""
        self.path, self.stage, self.unit = path, stage, unit
        self.doing, self.certain = "starting", True
        self.loss: float | None = None
        self.done: int | None = None
        self.total: int | None = None
        self.pace, self.advanced, self.began = Pace(), time.time(), time.monotonic()
        self.count: Callable[[], int] | None = None
        self.ended, self.lock, self.complained = threading.Event(), threading.RLock(), False
        if path is None:
            return
        self.bar = Bar(stage, 0, unit)
        if total is not None:
            self.start(total, start)
        self._beat()
        self.thread = threading.Thread(target=self._beats, name="progress", daemon=True)
        self.thread.start()

    def prepare(self, doing: str) -> None:
        """Say what the stage is doing before its first unit of work or between two, until the next `update`: "reading the
        data". This time does not count as work."""
        with self.lock:
            if doing != self.doing:
                self.doing, self.began = doing, time.monotonic()
            self.advanced = time.time()
            self.pace.pause()

    def start(self, total: int, done: int = 0, certain: bool = True, doing: str = "first step") -> None:
        """`done` of `total` units are done, and work begins. The clock of the rate starts with the first `update` after this.

        `certain`: the units to come take as long as those of now, so that the time left follows from the rate. `doing`: what
        the stage does until the first unit is done, such as compiling.
        """
        with self.lock:
            self.total, self.done, self.certain = total, done, certain
            self.pace.restart()
            self.prepare(doing)

    def follow(self, count: Callable[[], int]) -> None:
        """Ask `count` for the units done, as long as the stage lives: other ranks may do them."""
        self.count = count

    def update(self, done: int) -> None:
        """`done` units are done."""
        with self.lock:
            self.pace.resume()
            self.pace.add(done)
            self.done, self.doing, self.advanced = done, "", time.time()

    def close(self, done: int | None, state: str) -> None:
        """Write the last report: `done` units, None for all that were counted. `state` is done, interrupted or failed.

        Raises nothing: a disk that refuses the report only gives a note.
        """
        if self.path is None:
            return
        self.ended.set()
        self.thread.join()
        self.bar.close()
        if done is None:
            self._ask_count()
        self.done, self.doing = self.done if done is None else done, ""
        try:
            self._write(state, rate=None)
        except (OSError, UserError) as error:  # what the stage did is there; and this may be the end of a stage that failed
            note(str(error))

    def _beats(self) -> None:
        while not self.ended.wait(HEARTBEAT_S):
            try:
                self._beat()
            except (OSError, UserError) as error:  # a report is not worth the stage
                if not self.complained:
                    note(f"{error}; the stage continues, `iddpm status` cannot see how far")
                self.complained = True

    def _beat(self) -> None:
        self._ask_count()
        with self.lock:
            rate = self.pace.rate()
            self._write("running", rate)
            doing = f"{self.doing} ({duration(time.monotonic() - self.began)})" if self.doing else ""
            loss = f"loss {self.loss:.4f}" if self.loss is not None else ""
            self.bar.total = self.total or 0
            self.bar.show(self.done or 0, rate, doing or loss, self.certain)

    def _ask_count(self) -> None:
        """As `update`, with what all ranks have done; a count that stands still says nothing about what this rank does."""
        try:
            done = self.done if self.count is None else self.count()
        except RuntimeError:  # the store is gone: the ranks will hear of it themselves
            self.count = None
            return
        with self.lock:
            if done is not None and done != self.done:
                self.update(done)

    def _write(self, state: str, rate: float | None) -> None:
        assert self.path is not None
        _report(self.path, self.stage, state, self.done, self.total, self.unit, self.doing, rate, self._left_s(rate), self.loss,
                self.advanced)

    def _left_s(self, rate: float | None) -> float | None:
        """Seconds left at `rate`; None while that is not known."""
        if not rate or not self.certain or self.total is None or self.done is None:
            return None
        return (self.total - self.done) / rate


def announce(path: Path, stage: str) -> None:
    """Report that `stage` is about to start: its processes load for a while before they report themselves."""
    _report(path, stage, "running", doing="starting")


def end(path: Path) -> None:
    """Report that the stage has failed if its last report says that it runs: its launcher knows that all processes ended."""
    try:
        report = read_json(path)
        if report["state"] == "running":
            write_text(path, json_text(report | {"state": "failed", "doing": "", "rate": None, "left_s": None}))
    except (OSError, UserError, LookupError, TypeError):  # nobody reads a damaged report as one of a stage that runs
        pass


def set_back(path: Path, stage: str, done: int, total: int, unit: str) -> None:
    """Report that `stage` has work again: it counts as interrupted after `done` of `total`."""
    _report(path, stage, "interrupted", done, total, unit)


def _report(path: Path, stage: str, state: str, done: int | None = None, total: int | None = None, unit: str = "steps",
            doing: str = "", rate: float | None = None, left_s: float | None = None, loss: float | None = None,
            advanced: float | None = None) -> None:
    """Write progress.json. `done` and `total` are left out while they are not known. `advanced`: when the last unit was done."""
    known = {name: value for name, value in (("done", done), ("total", total)) if value is not None}
    report = {"stage": stage, "state": state, "doing": doing, **known, "unit": unit, "rate": rate, "left_s": left_s,
              "loss": loss, "heartbeat": time.time(), "advanced": advanced or time.time(), "host": socket.gethostname(),
              "pid": os.getpid(), "machine": this_machine(),
              "attempt": os.environ.get(ATTEMPT, ""), "followed": bool(os.environ.get(FOLLOWED))}
    write_text(path, json_text(report), durable=state != "running")  # the next heartbeat comes within a second
