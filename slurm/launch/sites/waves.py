"""Waves: where a cluster takes only so many jobs of a user at once, a study is submitted part by part.

STUDY/waiting.json names the runs that wait. The last job of a wave, which writes the report, submits the next one
(slurm.launch.sites.next_wave).
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from jobs.quantities import plural
from jobs.run.directory import RunDir
from jobs.run.records import WaitingFile
from jobs.run.study.study_file import left_of
from jobs.run.waiting import named_run, references_of
from jobs.storage.files import remove_file, write_json
from jobs.storage.typed import read_if_whole
from slurm.launch.records import Submission


def first_wave(jobs: Mapping[RunDir, int], named: Callable[[RunDir], Collection[RunDir]], room: int) -> list[RunDir]:
    """The runs to submit first: as many as `room` jobs allow, a run not before those of `jobs` that its spec names.

    `jobs`: how many jobs each run needs. `named`: the runs that the spec of a run names.
    """
    chosen: dict[RunDir, None] = {}
    before = -1
    while len(chosen) > before:
        before = len(chosen)
        for run, count in jobs.items():
            if run not in chosen and count <= room and all(other in chosen or other not in jobs for other in named(run)):
                chosen[run] = None
                room -= count
    return list(chosen)


def named_by(run: RunDir) -> list[RunDir]:
    """The runs of this study that the spec of `run` names, and the one whose training it shares."""
    return [named_run(run, each) for each in references_of(run) if each.in_study]


def in_words(count: int) -> str:
    """3 runs wait for the next wave."""
    return f"{plural(count, 'run')} {'waits' if count == 1 else 'wait'} for the next wave"


def set_waiting(study: Path, names: Iterable[str]) -> None:
    """Record the runs that wait for a later wave."""
    names, file = list(names), study / "waiting.json"
    if names:
        write_json(file, {"runs": names, "time": time.time()})
    else:
        remove_file(file)


def waiting_runs(study: Path, submissions: Sequence[Submission], remarks: list[str]) -> list[str]:
    """The runs that wait for a later wave. A run that was submitted since they were recorded waits no more.

    None where the record is damaged, with a line added to `remarks`: submitting again finds all runs that have no job.
    """
    record = read_if_whole(study / "waiting.json", WaitingFile, remarks)
    if record is None:
        return []
    gone = {run for each in submissions if each.time > record.time and each.job_id is not None for run in each.runs}
    gone |= set(left_of(study))
    return [name for name in record.runs if name not in gone and (study / name / "spec.yaml").is_file()]
