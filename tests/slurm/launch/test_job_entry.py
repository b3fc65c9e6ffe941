"""What becomes of a job on the cluster, as far as it can be seen without one (tests/test_slurm*.py have the rest)."""

import json
import subprocess
import sys

import pytest
from paths import ROOT

from jobs.errors import StageFailed
from jobs.run.failures import read_failure
from jobs.run.progress import Progress
from slurm.launch.job_entry import ask_for_requeue, job_id

ENDING = """
import os, signal
from jobs.parallel.interruption import Interruption
from slurm.launch import job_entry as task

class AtTheVeryEnd:  # when Python has taken its handlers away
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGUSR2):
        kill(pid, number)

def stage(*arguments, **names):
    Interruption()
    return {"state": "done", "message": "", "signal": ""}

last, task.run_stage = AtTheVeryEnd(), stage
task.run_in_slurm("train", "run", ".")
"""


@pytest.fixture
def job(monkeypatch):
    for key, value in {"SLURM_JOB_ID": "31", "SLURM_ARRAY_JOB_ID": "30", "SLURM_ARRAY_TASK_ID": "1", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", "/nowhere")


def test_requeues_end_where_an_attempt_got_no_further_than_the_one_before(job, make_run):
    run = make_run()
    Progress(run.progress, "train", 100, "steps").close(40, "interrupted")
    (run.path / "requeues.json").write_text(json.dumps({"train": {"done": 40, "attempt": ["31", "0"]}}))
    with pytest.raises(StageFailed, match="got no further than 40") as raised:
        ask_for_requeue("train", run.path, attempt="1")
    assert raised.value.kind == "no progress"
    failure = read_failure(run.path)
    assert (failure.kind, failure.stage, failure.done) == ("no progress", "train", 40)
    assert "resources.train.time" in failure.next_step(run.path)


def test_one_attempt_is_requeued_by_one_rank_and_another_stage_starts_anew(job, make_run):
    run = make_run()
    Progress(run.progress, "train", 100, "steps").close(40, "interrupted")
    record = run.path / "requeues.json"
    record.write_text(json.dumps({"train": {"done": 40, "attempt": ["31", "1"]}}))
    ask_for_requeue("train", run.path, attempt="1")  # another rank was quicker: no scontrol is asked for
    with pytest.raises(FileNotFoundError, match="scontrol"):
        ask_for_requeue("sample", run.path, attempt="0")
    assert json.loads(record.read_text())["sample"] == {"done": 40, "attempt": ["31", "0"]}
    assert job_id() == "30_1"


def test_a_warning_that_comes_when_all_is_done_does_not_fail_the_job(job):
    assert subprocess.run([sys.executable, "-c", ENDING], cwd=ROOT, timeout=60).returncode == 0
