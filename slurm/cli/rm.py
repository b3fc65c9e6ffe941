"""`iddpm rm`: remove runs from a study, or the whole study, after a question."""

import shutil
import sys
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path

import click

from jobs.errors import UserError
from jobs.quantities import plural, size
from jobs.run.study.removal import (
    Doomed,
    chosen_runs,
    collect,
    doomed,
    kept_files,
    lines_of,
    named_elsewhere,
    refuse_busy,
    refuse_shared,
    remove_runs,
    remove_study,
    runs_of,
)
from jobs.run.study.sharing import needed_by
from jobs.run.study.study_file import left_of, names_of
from slurm.launch.records import changing_jobs, jobs_by_run, reports
from slurm.launch.squeue import live_jobs
from slurm.status.find import find_study

SHOWN = 20  # runs that the question names
DECLINED = 1  # exit status


def remove(path: Path, wanted: Sequence[str], runs_folder: Path, left: bool, yes: bool) -> int:
    """Remove the runs `wanted`, those that `left` the sweep, or the whole study. Returns the exit status: 0, or 1 after a no.

    `path`: a study, or one run of a study. Raises UserError for runs that are not there, at work, or named by other runs, and
    where there is no terminal to ask on; nothing is removed then.
    """
    study, wanted = _study_and_runs(path, wanted, runs_folder)
    collect(study)
    if wanted and left:
        raise UserError("--left chooses the runs that left the sweep; do not name runs as well")
    if study.is_symlink() and not wanted and not left:
        return _remove_link(study, yes)
    names = _left(study) if left else chosen_runs(study, wanted) if wanted else runs_of(study)
    if left and not names:
        print(f"{study}: no run left the sweep")
        return 0
    refuse(study, names)
    if not _agreed(_question(study, [doomed(study, name) for name in names]), yes):
        return DECLINED
    with changing_jobs(study) if (study / "submissions").is_dir() else nullcontext():
        refuse(study, names)  # again: a job may have been submitted while the user thought
        remove_runs(study, names)
    print(f"{plural(len(names), 'run')} removed")
    if not runs_of(study):
        kept = remove_study(study)
        print(f"{study}: kept, with files that iddpm did not write: {', '.join(kept)}" if kept else f"{study}: removed")
    return 0


def _left(study: Path) -> list[str]:
    """Return the runs that left the sweep, without those whose training others share; name these."""
    names = left_of(study)
    kept = needed_by(study, set(names))
    for name, others in kept.items():
        print(f"{study / name}: stays, since its training is shared by {names_of(others)}")
    return [name for name in names if name not in kept]


def _study_and_runs(path: Path, wanted: Sequence[str], runs_folder: Path) -> tuple[Path, list[str]]:
    """Return the study, and the runs to remove; none for all."""
    if not wanted and not (path / "study.json").is_file() and (path.parent / "study.json").is_file() and (
            path.name in runs_of(path.parent)):
        return path.parent, [path.name]
    return find_study(path, runs_folder), list(wanted)


def refuse(study: Path, names: Collection[str]) -> None:
    """Raise UserError where runs are at work, have jobs in the queue, or are named by other runs."""
    if (study / "submissions").is_dir():
        if shutil.which("sbatch"):
            live = live_jobs()
            queued = {run for run, _ in jobs_by_run(study, live)} & set(names)
            if queued:
                one = f"{study / min(queued)}" if len(queued) == 1 else str(study)
                raise UserError(f"{study}: jobs in the queue for {_some(sorted(queued))}; `iddpm cancel {one}` first")
            if {*runs_of(study)} <= {*names} and (waiting := reports(study, live)):
                raise UserError(f"{study}: the report's job {waiting[0].id} is in the queue; `iddpm cancel {study}` first")
        else:
            print("note: no SLURM here, so jobs of this study that wait in a queue are not known", file=sys.stderr)
    refuse_shared(study, names)
    refuse_busy(study, names)
    if named := named_elsewhere(study, names):
        raise UserError("\n".join(f"{study / name}: run {other} names this run; remove that one first, or both together"
                                  for name, other in named.items()))


def _question(study: Path, runs: Sequence[Doomed]) -> str:
    """Return what would be removed, for a person to read."""
    lines = [f"{study}: to be removed for good:", *list(lines_of(runs))[:SHOWN]]
    if len(runs) > SHOWN:
        lines.append(f"  ... and {len(runs) - SHOWN:,} more")
    lines.append(f"{plural(len(runs), 'run')}, {size(sum(run.bytes for run in runs))}")
    if {*runs_of(study)} <= {run.path.name for run in runs}:
        kept = kept_files(study)
        lines.append(f"no run is left then: the study's own files go, too{f', but not {_some(kept)}' if kept else ''}")
    return "\n".join(lines)


def _remove_link(study: Path, yes: bool) -> int:
    """Remove a study's folder that is a link: the link alone."""
    refuse(study, runs_of(study))
    if not _agreed(f"{study}: a link to {study.readlink()}; only the link is removed, and all its runs stay there", yes):
        return DECLINED
    study.unlink()
    print(f"{study}: link removed")
    return 0


def _agreed(question: str, yes: bool) -> bool:
    """Print `question`; return whether the user agrees. Raises UserError where there is nobody to ask."""
    print(question, flush=True)
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError("iddpm rm asks first, and there is no terminal to ask on; --yes removes without asking")
    agreed = click.confirm("remove?", default=False)
    if not agreed:
        print("nothing removed")
    return agreed


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
