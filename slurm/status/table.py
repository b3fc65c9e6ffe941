"""`iddpm status`: what slurm.status.state found, as a table for people, JSON for scripts, or live."""

import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from jobs.errors import UserError
from jobs.run.progress import duration
from slurm.launch.squeue import Slurm
from slurm.status.state import RunStatus, StudyStatus, find_study, study_status

MAX_ROWS = 100
NAMED = 3
MAX_GROUPS = 10
WATCH_S = 3
# Those that need somebody first.
STATES = ("hung", "failed", "held", "stopped", "unknown", "interrupted", "running", "pending", "new", "done")
STYLES: dict[str, dict[str, Any]] = {
          "hung": {"fg": "red", "bold": True}, "failed": {"fg": "red", "bold": True}, "held": {"fg": "yellow", "bold": True},
          "stopped": {"fg": "red"}, "unknown": {"fg": "yellow"}, "interrupted": {"fg": "yellow"}, "running": {"fg": "cyan"},
          "done": {"fg": "green"}}
NUMBERS = ("done", "rate", "of plan", "loss", "left", "heard of", "restarts", "samples")
# What a narrow terminal goes without, first to last; then the last of the metrics.
SPARED = ("job", "restarts", "samples", "node", "loss", "of plan", "rate", "heard of", "left", "stage")
# What SLURM says, where its word does not tell.
WORDS = {"BeginTime": "requeued, starts within 2 min", "JobHeldUser": "on hold", "JobHeldAdmin": "on hold"}
ADVICE = {"failed": "`iddpm logs {run}` tells why",
          "hung": "`iddpm logs {run}` may tell why; `iddpm cancel {run}` and submit again: it goes on from what was saved",
          "stopped": "neither done nor in the queue: submit (or run) again, it goes on from what was saved",
          "interrupted": "all is saved: submit (or run) again, it goes on from there"}


def print_status(study: Path | None, runs_folder: Path, as_json: bool, watch: bool, everything: bool) -> None:
    """Raises UserError where there is no such study, or where `watch` has no terminal to show."""
    study = find_study(study, runs_folder)
    if watch:
        if as_json or not sys.stdout.isatty():
            raise UserError("--watch: only on a terminal, and not as JSON")
        _watch(study)
        return
    status = study_status(study, Slurm())
    if as_json:
        for note in status.notes:
            print(note, file=sys.stderr)
        # One run a line: the indented form takes seconds for ten thousand.
        print("[" + ",\n ".join(json.dumps(_plain(status, run)) for run in status.runs) + "]")
        return
    # A pipe has no width, and whoever reads it wants all.
    terminal = sys.stdout.isatty()
    lines = status_lines(status, shutil.get_terminal_size().columns if terminal else None,
                         MAX_ROWS if terminal and not everything else len(status.runs))
    click.echo("\n".join(lines), color=False if os.environ.get("NO_COLOR") else None)


def _plain(status: StudyStatus, run: RunStatus) -> dict:
    """JSON has no NaN: a loss that is not finite becomes null."""
    failure = run.failure and {"stage": run.failure.stage, "kind": run.failure.kind, "message": run.failure.message,
                               "next": run.failure.next_step(status.path / run.run)}
    return {**vars(run), "failure": failure, "loss": _finite(run.loss),
            "metrics": {name: _finite(value) for name, value in run.metrics.items()}}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _watch(study: Path) -> None:
    """Until everything is done or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    slurm, console = Slurm(), Console(highlight=False)
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                status = study_status(study, slurm)
                told = min(len(details(status, console.width)), console.height // 2)
                rest = told + len(status.notes) + len(_banner(status, console.width)) + 8
                lines = status_lines(status, console.width, max(console.height - rest, 5), told)
                text = Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop")
                live.update(text, refresh=True)
                if all(run.state == "done" for run in status.runs):
                    return
                time.sleep(max(WATCH_S, 5 * (time.monotonic() - began)))  # a large study is not read without a pause
    except KeyboardInterrupt:
        pass


def status_lines(status: StudyStatus, width: int | None, max_rows: int, max_details: int | None = None) -> list[str]:
    """The whole answer in lines of at most `width` characters (None: as wide as need be).

    No more than `max_rows` runs are in it, and `max_details` lines of `details` (None: all).
    """
    counts = {state: sum(run.state == state for run in status.runs) for state in STATES}
    shown, more = status.runs, len(status.runs) - max_rows
    if more > 0:
        shown = sorted(status.runs, key=lambda run: STATES.index(run.state))[:max_rows]
    lines = [str(status.path), *_banner(status, width), "", *table(shown, width)]
    if more > 0:
        lines.append(f"... and {more:,} more (--all, --json)")
    told = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    return lines + ["", *details(status, width)[:max_details], *_wrapped(status.notes, width),
                    f"{len(status.runs):,} run{'' if len(status.runs) == 1 else 's'}: {told}"]


def table(runs: Sequence[RunStatus], width: int | None) -> list[str]:
    """A head, a rule, a line for each run. Columns without content are left out, on a narrow terminal also SPARED ones."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    rows = [_cells(run) | {name: _form(run.metrics.get(name), "{:.4g}") for name in metrics} for run in runs]
    columns = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}
    if width and rows:  # a name longer than half a line goes on in the next
        name_size, widths["run"] = widths["run"], min(widths["run"], width // 2)
        for name in (*SPARED, *reversed(metrics)):
            if sum(widths.values()) + 2 * len(widths) > width:
                widths.pop(name, None)
        widths["run"] = min(name_size, widths["run"] + max(0, width - sum(widths.values()) - 2 * len(widths)))

    def line(cells: dict[str, str], state: str = "") -> str:
        padded = {name: cells[name].rjust(size) if name in (*NUMBERS, *metrics) else cells[name].ljust(size)
                  for name, size in widths.items()}
        return "  ".join((padded | {"state": _styled(state, padded["state"])}).values()).rstrip()

    lines = [click.style(line({name: name for name in widths}), bold=True),
             "─" * (sum(widths.values()) + 2 * len(widths) - 2)]
    for row, run in zip(rows, runs, strict=True):
        first, *rest = textwrap.wrap(row["run"], widths["run"], break_on_hyphens=False)
        lines += [line(row | {"run": first}, run.state), *(f"  {piece}" for piece in rest)]
    hidden = [name for name in metrics if name in columns and name not in widths]
    if not hidden:
        return lines
    return lines + _wrapped([f"no room here for {', '.join(hidden)}: a wider terminal, --json or a pipe has them"], width)


def _cells(run: RunStatus) -> dict[str, str]:
    failure = run.failure.kind if run.failure else ""
    reason = WORDS.get(run.reason, run.reason)
    waits = reason if run.slurm in ("PENDING", "") or run.slurm in reason else " ".join(filter(None, (run.slurm, reason)))
    why = failure or (waits if run.state not in ("running", "hung", "done") else "")
    return {"run": run.run, "state": run.state, "stage": run.stage or "", "why": why,
            "done": "" if run.done is None else f"{run.done:,}/{run.total:,}", "rate": _rate(run.rate),
            "of plan": _form(run.of_plan, "{:.2g}x"), "loss": _form(run.loss, "{:.4f}"),
            "left": "" if run.eta_s is None else duration(run.eta_s),
            "heard of": "" if run.heartbeat_s is None else f"{duration(run.heartbeat_s)} ago", "job": run.job or "",
            "node": run.node, "restarts": str(run.restarts or ""), "samples": f"{run.samples:,}" if run.samples else ""}


def _form(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _rate(rate: float | None) -> str:
    return "" if not rate else f"{rate:,.1f}/s" if rate >= 1 else f"{60 * rate:,.1f}/min"


def _styled(state: str, text: str) -> str:
    return click.style(text, **STYLES[state]) if state in STYLES else text


def details(status: StudyStatus, width: int | None) -> list[str]:
    """Below the table: what went wrong, the same once for all runs it befell, and what to do next."""
    groups: dict[str, list[RunStatus]] = {}
    for run in status.runs:
        if run.failure or run.state in ADVICE:
            groups.setdefault(run.failure.signature if run.failure else run.state, []).append(run)
    lines: list[str] = []
    ordered = sorted(groups.values(), key=lambda runs: (STATES.index(runs[0].state), -len(runs)))
    for runs in ordered[:MAX_GROUPS]:
        lines += [*_group(status.path, runs, width), ""]
    if len(ordered) > MAX_GROUPS:
        lines += [f"... and {len(ordered) - MAX_GROUPS:,} more kinds of failure (--json)", ""]
    return lines


def _group(study: Path, runs: Sequence[RunStatus], width: int | None) -> Iterator[str]:
    state, failure, path = runs[0].state, runs[0].failure, study / runs[0].run
    what = f" in {failure.stage} ({failure.kind})" if failure else ""
    title, *rest = _wrapped([f"{len(runs):,} {state}{what}: {_names([run.run for run in runs])}"], width)
    yield _styled(state, title)
    yield from rest
    if failure:
        message, advice = failure.message.removeprefix(f"{path.resolve()}: "), failure.next_step(path)
    else:
        silent = max((run.heartbeat_s for run in runs if run.heartbeat_s is not None), default=None)
        message = f"no sign of life for {duration(silent)}" if state == "hung" and silent else ""
        advice = ADVICE[state].format(run=path)
    yield from _wrapped([message] if message else [], width, "    ")
    yield from _wrapped([f"next: {advice}"], width, "    ")


def _banner(status: StudyStatus, width: int | None) -> list[str]:
    if status.held is None:
        return []
    held = status.held
    text = (f"ON HOLD since {time.strftime('%Y-%m-%d %H:%M', time.localtime(held['time']))}: {len(held['runs']):,} runs failed "
            f"alike ({held['kind']}): {_names(held['runs'])}")
    return [_styled("held", line) for line in _wrapped([text], width)] + _wrapped(
        [held["message"], f"The others wait. When that is mended: `iddpm requeue {status.path}` releases them"], width, "    ")


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _wrapped(texts: Iterable[str], width: int | None, indent: str = "") -> list[str]:
    """`texts`, each broken at blanks into lines of at most `width`; paths and commands stay in one piece."""
    return [line for text in texts for line in (
        textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False,
                      break_on_hyphens=False) if width else [indent + text])]
