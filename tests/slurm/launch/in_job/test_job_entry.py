"""What becomes of a job on the cluster, as far as it can be seen without one (test_on_slurm*.py have the rest)."""

import os
import subprocess
import sys

import pytest
from paths import ROOT

from jobs.errors import StageFailed
from jobs.run.failures import read_failure
from jobs.run.progress import Progress
from slurm.launch.in_job.job_entry import ask_for_requeue
from slurm.launch.in_job.requests import ask_nothing, ask_requeue, ask_wait

ENDING = """
import os, signal
from jobs.parallel.interruption import Interruption
from slurm.launch.in_job import job_entry as task

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
def job(monkeypatch, tmp_path):
    for key, value in {"SLURM_JOB_ID": "31", "SLURM_PROCID": "0", "IDDPM_REQUEST": str(tmp_path / "request")}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", "/nowhere")  # as in a container, where SLURM's programs are not


@pytest.fixture
def attempt(job, make_run, tmp_path, monkeypatch):
    """attempt(number, left): an attempt of the job that asks for its requeue; whether the batch script is asked."""
    run = make_run()

    def ask(number: int, left: int | None, *, stage: str = "train", **how) -> bool:
        (tmp_path / "request").unlink(missing_ok=True)
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(number))
        monkeypatch.setenv("IDDPM_ATTEMPT", f"{os.environ['SLURM_JOB_ID']}-{number}")
        if left is not None:  # each attempt counts its steps from 0, as sampling does
            Progress(run.progress, stage, left + 500, "steps").close(500, "interrupted")
        ask_for_requeue(stage, run.path, **how)
        return (tmp_path / "request").exists() and (tmp_path / "request").read_text() in (
            f"requeue\n{run.path}\n", f"requeue-now\n{run.path}\n")
    ask.run = run
    return ask


def test_attempts_that_do_the_same_number_of_steps_each_are_requeued(attempt):
    assert all(attempt(number, left) for number, left in enumerate((3500, 3000, 2500)))


def test_requeues_end_where_an_attempt_left_as_much_as_the_one_before(attempt):
    assert attempt(0, 60)
    with pytest.raises(StageFailed, match="got no further than 500") as raised:
        attempt(1, 60)
    assert raised.value.kind == "no progress"
    failure = read_failure(attempt.run.path)
    assert (failure.kind, failure.stage, failure.done) == ("no progress", "train", 500)
    assert "resources.train.time" in failure.next_step(attempt.run.path)


@pytest.mark.parametrize("left, how", [(None, {}), (None, {"node_lost": True}), (60, {"node_lost": True})])
def test_a_node_that_dies_early_is_no_lack_of_progress_unless_it_happens_again_and_again(attempt, left, how):
    assert attempt(0, 60)
    assert all(attempt(number, left, **how) for number in (1, 2, 3))
    with pytest.raises(StageFailed, match="got no further"):
        attempt(4, left, **how)


def test_another_job_and_another_stage_start_anew(attempt, monkeypatch):
    assert attempt(0, 60) and attempt(1, 60, stage="sample")
    monkeypatch.setenv("SLURM_JOB_ID", "32")  # submitted again after SLURM refused: with more time, perhaps
    assert attempt(0, 60)


def test_one_attempt_is_counted_once_though_several_ranks_ask(attempt):
    assert attempt(1, 60)
    before = (attempt.run.path / "requeues.json").read_bytes()
    attempt(1, 60)
    assert (attempt.run.path / "requeues.json").read_bytes() == before


@pytest.mark.parametrize("text", ["[]", "{", '{"train": {"done": 40, "attempt": ["31", "0"]}}', '{"train": 3}'])
def test_a_record_of_requeues_that_is_anything_at_all_keeps_no_job_from_its_requeue(attempt, text):
    (attempt.run.path / "requeues.json").write_text(text)
    assert attempt(0, 60)


def test_the_first_request_counts_and_a_failure_withdraws_it(job, tmp_path):
    ask_wait()
    ask_requeue(tmp_path, "train", 3)
    assert (tmp_path / "request").read_text() == "wait\n"
    ask_nothing()
    assert (tmp_path / "request").read_text() == "\n"


def test_a_warning_that_comes_when_all_is_done_does_not_fail_the_job(job):
    assert subprocess.run([sys.executable, "-c", ENDING], cwd=ROOT, timeout=60).returncode == 0
