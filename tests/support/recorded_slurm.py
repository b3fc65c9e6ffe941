"""Studies as their files lie on the disk, and a squeue and a sacct that give recorded answers.

The fake SLURM (fake_slurm.py) runs jobs; these answer for states that no test can wait for: time limits, lost nodes, crashes.
"""

import json
import os
import time
from pathlib import Path

import pytest

from jobs.storage.files import write_json
from slurm.launch.records import Submission, record
from slurm.launch.squeue import END_OF_NAME, Slurm
from slurm.status.run_state import RunStatus
from slurm.status.state import StudyStatus

# Both answers were recorded from SLURM 22.05.8.
# squeue --me --noheader --array --Format=...; 23 is running, 27 came back from a lost node.
SQUEUE = f"""\
1_1|PENDING|JobArrayTaskLimit||0|N/A|a-very-long-job-name-that-is-longer-than-twenty-four-characters{END_OF_NAME}
3_0|PENDING|Dependency||0|N/A|wrap{END_OF_NAME}
2|PENDING|JobHeldUser||0|N/A|held{END_OF_NAME}
23_0|RUNNING|None|n[1-2]|0|2026-11-23T21:55:28|rec-timeout{END_OF_NAME}
27|PENDING|BeginTime||1|2026-11-23T21:57:58|rec-requeue{END_OF_NAME}
"""
# sacct --allocations --noheader --parsable2; 24 was killed by SIGKILL, 28 by scancel.
SACCT = """\
1_0|CANCELLED by 0|0:0|00:00:30|n1
1_[1-3%1]|CANCELLED by 0|0:0|00:00:00|None assigned
8_0|COMPLETED|0:0|00:00:26|n[1-2]
8_1|FAILED|1:0|00:00:23|n[1-2]
9_1|CANCELLED|0:0|00:00:00|None assigned
23_1|TIMEOUT|0:0|00:01:05|n1
24|FAILED|9:0|00:00:00|n1
26|NODE_FAIL|1:0|00:00:29|n3
28|CANCELLED by 0|0:0|00:00:03|n3
"""
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """slurm(squeue=..., sacct=...): these answers come from the PATH; slurm.calls() lists what was asked."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    calls.touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answer(squeue: str = "", sacct: str = "") -> Slurm:
        for name, text in {"squeue": squeue, "sacct": sacct}.items():
            script = f"cat <<'END'\n{text}END\n" if text != NO_ACCOUNTING else text
            (folder / name).write_text(f"#!/bin/sh\necho {name} $* >> {calls}\n{script}\n")
            (folder / name).chmod(0o755)
        return Slurm()
    answer.calls = lambda: calls.read_text().splitlines()
    return answer


def make_study(folder: Path, runs: dict[str, dict | None], job: str | None = None, stage: str = "train") -> Path:
    """A study's directory: `runs` with what is special in their progress.json (None: there is none), submitted as `job`."""
    folder.mkdir(parents=True)
    write_json(folder / "study.json", {"name": folder.name, "source": "s", "runs": {run: {} for run in runs}})
    for run, progress in runs.items():
        (folder / run).mkdir()
        if progress is not None:
            ours = {"stage": "train", "state": "running", "done": 3, "total": 9, "unit": "steps", "rate": 2.0, "loss": 0.5,
                    "heartbeat": time.time(), "host": "n1", "pid": 1}
            (folder / run / "progress.json").write_text(json.dumps(ours | progress))
    if job:
        record(folder, Submission(f"{folder.name}-{stage}-1", stage, list(runs), 1.0, job))
    return folder


def started(seconds_ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - seconds_ago))


def states(status: StudyStatus) -> dict[str, str]:
    return {run.run: run.state for run in status.runs}


def by_name(status: StudyStatus) -> dict[str, RunStatus]:
    return {run.run: run for run in status.runs}
