"""`iddpm status`: print the states that slurm.status.state found, as a table, as JSON, or as a display that updates itself.

The table is made by hand, not by rich: rich takes 5.6 s for ten thousand runs (this file 0.15 s), and the rules for narrow
terminals (which columns to leave out, how to break long names) would have to be written here anyway.
"""

import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from jobs.errors import UserError
from jobs.quantities import plural
from jobs.run.progress import duration
from jobs.terminal import printable, trusted
from slurm.launch.squeue import HELD_REASONS, Slurm
from slurm.status.find import find_study
from slurm.status.run_state import RunStatus
from slurm.status.state import StudyStatus, study_status

MAX_ROWS = 100
NAMED = 3  # runs that a line names
MAX_GROUPS = 10  # kinds of failure
WATCH_S = 3
# In the order in which they need the user's attention.
STATES = ("hung", "failed", "held", "stopped", "unknown", "interrupted", "running", "pending", "new", "left", "done")
STYLES: dict[str, dict[str, Any]] = {
    "hung": {"fg": "red", "bold": True}, "failed": {"fg": "red", "bold": True}, "held": {"fg": "yellow", "bold": True},
    "stopped": {"fg": "red"}, "unknown": {"fg": "yellow"}, "interrupted": {"fg": "yellow"}, "running": {"fg": "cyan"},
    "done": {"fg": "green"}}
NUMBERS = ("done", "rate", "of plan", "loss", "left", "updated", "restarts", "samples", "skipped")  # aligned to the right
# Columns that a narrow terminal leaves out, in this order; after them the metrics, from the last to the first.
SPARED = ("job", "restarts", "skipped", "samples", "node", "loss", "of plan", "rate", "updated", "left", "stage")
REASON_SIZE, SMALLEST_REASON = 30, 13  # characters of the column `why` while there are columns to leave out, and after that
# SLURM's reasons that a user would not understand.
REASONS = {"BeginTime": "requeued, starts within 2 min", **dict.fromkeys(HELD_REASONS, "on hold")}
ADVICE = {"failed": "`iddpm logs {run}` shows why",
          "hung": "`iddpm logs {run}` may show why; `iddpm cancel {run}`, then submit again to resume from the last save",
          "stopped": "neither done nor in the queue: submit (or run) again to resume from the last save",
          "interrupted": "everything is saved: submit (or run) again to resume"}


def print_status(study: Path | None, runs_folder: Path, as_json: bool, watch: bool, everything: bool) -> None:
    """Print the status of `study`; for None, of the study in `runs_folder` that changed last. `everything`: all rows.

    Raises UserError if there is no such study, or if `watch` is used without a terminal.
    """
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
        # One line a run: the indented form takes seconds for ten thousand runs.
        print("[" + ",\n ".join(json.dumps(_plain(status, run)) for run in status.runs) + "]")
        return
    # A pipe has no width, and its reader wants all rows and columns.
    terminal = sys.stdout.isatty()
    lines = status_lines(status, shutil.get_terminal_size().columns if terminal else None,
                         MAX_ROWS if terminal and not everything else len(status.runs))
    click.echo("\n".join(lines), trusted(sys.stdout), color=False if os.environ.get("NO_COLOR") else None)


def _plain(status: StudyStatus, run: RunStatus) -> dict:
    """`run` for JSON, which has no NaN: a loss or metric that is not finite becomes null."""
    failure = run.failure and {"stage": run.failure.stage, "kind": run.failure.kind, "message": run.failure.message,
                               "next": run.failure.next_step(status.path / run.run)}
    waits = [{"run": each.run, "stage": each.needs, "key": each.key} for each in run.waits_for]
    return {**vars(run), "failure": failure, "waits_for": waits, "loss": _finite(run.loss),
            "metrics": {name: _finite(value) for name, value in run.metrics.items()}}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _watch(study: Path) -> None:
    """Show the status and update it, until all runs are done or the user presses Ctrl-C."""
    from rich.console import Console  # rich takes 0.1 s to load
    from rich.live import Live
    from rich.text import Text

    slurm, console = Slurm(), Console(file=trusted(sys.stdout), highlight=False)
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                began = time.monotonic()
                status = study_status(study, slurm)
                below = min(len(details(status, console.width)), console.height // 2)
                other = below + len(status.notes) + len(_banner(status, console.width)) + 8
                lines = status_lines(status, console.width, max(console.height - other, 5), below)
                live.update(Text.from_ansi("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)
                if all(run.state in ("done", "left") for run in status.runs):
                    return
                time.sleep(max(WATCH_S, 5 * (time.monotonic() - began)))  # large studies: read at most a sixth of the time
    except KeyboardInterrupt:
        pass


def status_lines(status: StudyStatus, width: int | None, max_rows: int, max_details: int | None = None) -> list[str]:
    """The whole output, in lines of at most `width` characters (None: no limit) beside color codes.

    Has at most `max_rows` runs, and at most `max_details` lines of `details` (None: all). Control characters of names and
    messages are written out.
    """
    status = _written_out(status)
    counts = {state: sum(run.state == state for run in status.runs) for state in STATES}
    shown, more = status.runs, len(status.runs) - max_rows
    if more > 0:
        shown = sorted(status.runs, key=lambda run: STATES.index(run.state))[:max_rows]
    lines = [str(status.path), *_banner(status, width), "", *table(shown, width)]
    if more > 0:
        lines.append(f"... and {more:,} more (--all, --json)")
    summary = ", ".join(f"{count:,} {state}" for state, count in counts.items() if count)
    return lines + ["", *details(status, width)[:max_details], *_wrapped([*status.notes, *_remarks(status)], width),
                    f"{plural(len(status.runs), 'run')}: {summary}"]


def _written_out(value: Any) -> Any:
    """`value` with all its texts `printable`: a status, and what it consists of."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Path):
        return Path(printable(str(value)))
    if isinstance(value, (list, tuple)):
        return type(value)(map(_written_out, value))
    if isinstance(value, dict):
        return {_written_out(key): _written_out(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{key: _written_out(item) for key, item in vars(value).items()})
    return value


def table(runs: Sequence[RunStatus], width: int | None) -> list[str]:
    """A head, a rule, and a row for each run. Leaves out empty columns and, on a narrow terminal, columns in SPARED."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    rows = [_cells(run) | {name: _formatted(run.metrics.get(name), "{:.4g}") for name in metrics} for run in runs]
    columns = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}
    if width and rows:
        widths = _fitted(widths, width, metrics)

    def line(cells: dict[str, str], state: str = "") -> str:
        padded = {name: cells[name].rjust(size) if name in (*NUMBERS, *metrics) else cells[name].ljust(size)
                  for name, size in widths.items()}
        return "  ".join((padded | {"state": _styled(state, padded["state"])}).values()).rstrip()

    lines = [click.style(line({name: name for name in widths}), bold=True),
             "─" * (sum(widths.values()) + 2 * len(widths) - 2)]
    for row, run in zip(rows, runs, strict=True):
        names = textwrap.wrap(row["run"], widths["run"], subsequent_indent="  ", break_on_hyphens=False)
        reasons = textwrap.wrap(row["why"], widths.get("why", 1), break_on_hyphens=False)
        lines.append(line(row | {"run": names[0], "why": reasons[0] if reasons else ""}, run.state))
        lines += [line(dict.fromkeys(widths, "") | {"run": name, "why": why})
                  for name, why in zip_longest(names[1:], reasons[1:], fillvalue="")]
    hidden = [name for name in metrics if name in columns and name not in widths]
    if not hidden:
        return lines
    return lines + _wrapped([f"no room here for {', '.join(hidden)}: use a wider terminal, --json or a pipe"], width)


def _fitted(widths: dict[str, int], width: int, metrics: Sequence[str]) -> dict[str, int]:
    """The columns that fit into `width`, with their widths. Long names of runs and long reasons continue on the next line."""
    wanted, widths = widths, widths | {"run": min(widths["run"], width // 2)}
    if "why" in widths:
        widths["why"] = min(widths["why"], REASON_SIZE)
    for name in (*SPARED, *reversed(metrics)):
        if sum(widths.values()) + 2 * len(widths) > width:
            widths.pop(name, None)
    for name, least in (("run", widths["run"]), ("why", SMALLEST_REASON)):
        if name in widths:
            free = width - sum(widths.values()) - 2 * len(widths)
            widths[name] = min(wanted[name], max(least, widths[name] + free))
    return widths


def _cells(run: RunStatus) -> dict[str, str]:
    return {"run": run.run, "state": run.state, "stage": run.stage or "", "why": _why(run),
            "done": f"{run.done or 0:,}/{run.total:,}" if run.total else "", "rate": _rate(run.rate),
            "of plan": _formatted(run.of_plan, "{:.2g}x"), "loss": _formatted(run.loss, "{:.4f}"),
            "left": "" if run.eta_s is None else duration(run.eta_s),
            "updated": "" if run.heartbeat_s is None else f"{duration(run.heartbeat_s)} ago", "job": run.job or "",
            "node": run.node, "restarts": str(run.restarts or ""), "samples": f"{run.samples:,}" if run.samples else "",
            "skipped": f"{run.skipped:,}" if run.skipped else ""}


def _why(run: RunStatus) -> str:
    """Why the run does not run: its failure, SLURM's reason, or the runs that it waits for. What a running stage prepares."""
    if run.failure or run.state in ("running", "hung", "done"):
        return run.failure.kind if run.failure else run.doing
    named = [f"{each.run} ({each.needs})" for each in run.waits_for]
    # SLURM's reasons Dependency and DependencyNeverSatisfied say less than the names.
    reason = "" if named and run.reason.startswith("Dependency") else REASONS.get(run.reason, run.reason)
    state = "" if run.slurm in ("PENDING", "") or run.slurm in reason else run.slurm
    words = " ".join(filter(None, (state, reason)))
    return "; ".join(filter(None, (words, f"waits for {_names(named)}" if named else "")))


def _formatted(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _rate(rate: float | None) -> str:
    return "" if not rate else f"{rate:,.1f}/s" if rate >= 1 else f"{60 * rate:,.1f}/min"


def _styled(state: str, text: str) -> str:
    return click.style(text, **STYLES[state]) if state in STYLES else text


def details(status: StudyStatus, width: int | None) -> list[str]:
    """Lines below the table: each kind of failure once, with its runs, the message and the next step."""
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
    """The lines for `runs`, which all failed for the same reason or have the same state."""
    state, failure, path = runs[0].state, runs[0].failure, study / runs[0].run
    where = f" in {failure.stage} ({failure.kind})" if failure else ""
    title, *rest = _wrapped([f"{len(runs):,} {state}{where}: {_names([run.run for run in runs])}"], width)
    yield _styled(state, title)
    yield from rest
    if failure:
        message, advice = failure.message.removeprefix(f"{path.resolve()}: "), failure.next_step(path)
    else:
        silent = max((run.heartbeat_s for run in runs if run.heartbeat_s is not None), default=None)
        message = f"no sign of life, or no step, for {duration(silent)}" if state == "hung" and silent else ""
        advice = ADVICE[state].format(run=path)
    yield from _wrapped([message] if message else [], width, "    ")
    yield from _wrapped([f"next: {advice}"], width, "    ")


def _banner(status: StudyStatus, width: int | None) -> list[str]:
    """Why the study is on hold, if it is."""
    if status.held is None:
        return []
    held = status.held
    text = (f"ON HOLD since {time.strftime('%Y-%m-%d %H:%M', time.localtime(held.time))}: {len(held.runs):,} runs failed "
            f"alike ({held.kind}): {_names(held.runs)}")
    advice = f"The other runs wait. Remove the cause, then `iddpm requeue {status.path}` releases them"
    return [_styled("held", line) for line in _wrapped([text], width)] + _wrapped([held.message, advice], width, "    ")


def _remarks(status: StudyStatus) -> list[str]:
    """The files of runs that cannot be read."""
    remarks = list(dict.fromkeys(remark for run in status.runs for remark in run.remarks))
    more = len(remarks) - MAX_GROUPS
    return remarks[:MAX_GROUPS] + ([f"... and {more:,} more files that cannot be read (--json)"] if more > 0 else [])


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def _wrapped(texts: Iterable[str], width: int | None, indent: str = "") -> list[str]:
    """Break each text at blanks into lines of at most `width`; a path or command longer than that stays in one piece."""
    return [line for text in texts for line in (
        textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False,
                      break_on_hyphens=False) if width else [indent + text])]
