"""Show how far a stage is: in progress.json for `status`, as a bar on a terminal, or as lines in a log."""

import os
import socket
import sys
import time
from pathlib import Path

from jobs.storage.files import write_json

HEARTBEAT_S, LINE_S = 1.0, 15.0
NOTE = "note: "
ATTEMPT = "IDDPM_ATTEMPT"  # environment variable: this start of a stage, by which its progress.json is told from an older one


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
            self.bar = Progress(TextColumn("{task.description:<9}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                                TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(label, total=total, note="")
            self.bar.start()

    def show(self, done: int, rate: float | None, note: str = "") -> None:
        """Show that `done` of `total` units are done; `rate` is in units per second, None while unknown."""
        text = note
        if rate:
            text = f"{rate:,.1f} {self.unit}/s, {duration((self.total - done) / rate)} left{', ' + note if note else ''}"
        if self.bar:
            self.bar.update(self.task, completed=done, total=self.total, note=text)
        elif time.monotonic() - self.last_line >= LINE_S:
            self.last_line = time.monotonic()
            print(f"{self.label} {done}/{self.total} {self.unit} {text}".rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


class Progress:
    """Reports the progress of the main rank. Calls are cheap: the file is replaced at most every HEARTBEAT_S seconds."""

    def __init__(self, path: Path, stage: str, total: int, unit: str, start: int = 0):
        self.path, self.stage, self.total, self.unit = path, stage, total, unit
        self.began, self.start, self.last_beat = time.monotonic(), start, 0.0
        self.bar = Bar(stage, total, unit)
        self.loss: float | None = None
        self.update(start)

    def update(self, done: int) -> None:
        now = time.monotonic()
        if now - self.last_beat < HEARTBEAT_S and done < self.total:
            return
        self.last_beat = now
        rate = (done - self.start) / (now - self.began) if done > self.start else None
        self._write(done, rate, "running")
        self.bar.show(done, rate, f"loss {self.loss:.4f}" if self.loss is not None else "")

    def close(self, done: int, state: str) -> None:
        """Write the last report. `state` is done, interrupted or failed."""
        self.bar.close()
        self._write(done, None, state)

    def _write(self, done: int, rate: float | None, state: str) -> None:
        write_json(self.path, {"stage": self.stage, "state": state, "done": done, "total": self.total, "unit": self.unit,
                               "rate": rate, "loss": self.loss, "heartbeat": time.time(), "host": socket.gethostname(),
                               "pid": os.getpid(), "attempt": os.environ.get(ATTEMPT, "")})


def set_back(path: Path, stage: str, done: int, total: int, unit: str) -> None:
    """Report that `stage` has work again: it counts as interrupted after `done` of `total`."""
    write_json(path, {"stage": stage, "state": "interrupted", "done": done, "total": total, "unit": unit, "rate": None,
                      "loss": None, "heartbeat": time.time(), "host": socket.gethostname(), "pid": os.getpid()})
