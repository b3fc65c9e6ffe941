"""`iddpm status`: the state of each run, from its files, the queue and the accounts."""

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_slurm import NO_ACCOUNTING, SACCT, by_name, make_study, started, states

from jobs.errors import UserError
from jobs.run.failures import Failure, write_failure
from jobs.storage.files import read_json, write_json
from jobs.storage.machine import this_machine
from slurm.launch.records import Submission, record
from slurm.launch.squeue import END_OF_NAME
from slurm.status.find import find_study
from slurm.status.run_state import HUNG_S, STILL_S
from slurm.status.state import study_status
from slurm.status.table import status_lines

N = f"|n{END_OF_NAME}"  # a name, as each line ends
# The ends of real logs, but for the out-of-memory one, which takes cgroups.
LOGS = {
    "no progress": "slurmstepd-n1: error: *** JOB 30 ON n1 CANCELLED AT 2026-11-23T21:56:33 DUE TO TIME LIMIT ***\n"
                   "srun: error: n1: task 0: Killed\nsrun: Force Terminated StepId=30.0\n",
    "killed": "srun: error: n1: task 0: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=24.0\n"
              "slurmstepd-n1: error: *** STEP 24.0 ON n1 CANCELLED AT 2026-11-23T21:55:31 ***\n",
    "out of memory": "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0.\n"
                     "srun: error: n1: task 0: Out Of Memory\n",
    "error": "Traceback (most recent call last):\n  File \"x.py\", line 1\n"
             "[rank0]: ModuleNotFoundError: No module named 'torch'\n",
    None: "slurmstepd-n3: error: *** JOB 28 ON n3 CANCELLED AT 2026-11-23T21:55:31 ***\n"
          "srun: error: n3: task 0: Terminated\n",
}


def test_states_of_what_is_in_the_queue(slurm, tmp_path):
    long_ago = {"heartbeat": time.time() - HUNG_S - 60}
    study = make_study(tmp_path / "s", {"starts": None, "beats": {}, "silent": long_ago, "back": long_ago, "mute": None,
                                        "waits": {}, "held": None, "leaves": {"state": "interrupted"}, "done": None,
                                        "ends": {}}, job="7")
    record(study, Submission("s-train-2", "train", ["waits"], 2.0, "8"))  # cancelled, the first one is still in the queue
    (study / "done" / "evaluation.json").write_text('{"samples": 10, "headline": {"bits/dim": 3.5}}')
    early, late = started(HUNG_S + 100), started(5)
    status = study_status(study, slurm(
        f"7_0|RUNNING|None|n1|0|{late}{N}\n7_1|RUNNING|None|n1|2|{early}{N}\n7_2|RUNNING|None|n1|0|{early}{N}\n"
        f"7_3|RUNNING|None|n1|1|{late}{N}\n7_4|RUNNING|None|n1|0|{early}{N}\n7_5|PENDING|Priority||0|N/A{N}\n"
        f"7_6|PENDING|JobHeldAdmin||0|N/A{N}\n7_7|COMPLETING|None|n1|0|{early}{N}\n7_9|COMPLETING|None|n1|0|{early}{N}\n"))
    assert states(status) == {"starts": "running", "beats": "running", "silent": "hung", "back": "running", "mute": "hung",
                              "waits": "pending", "held": "held", "leaves": "interrupted", "done": "done", "ends": "running"}
    runs = by_name(status)
    assert runs["beats"].restarts == 2 and runs["beats"].eta_s == 3.0 and runs["beats"].job == "7_1"
    assert runs["waits"].reason == "Priority" and runs["waits"].slurm == "PENDING" and runs["waits"].job == "7_5"
    assert runs["done"].metrics == {"bits/dim": 3.5} and runs["done"].samples == 10
    assert [call.split()[0] for call in slurm.calls()] == ["squeue"]  # nobody's end is in question


def test_why_jobs_ended_from_one_look_at_the_accounts(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {"state": "interrupted"}, "b": {}, "c": {"state": "interrupted"}}, job="23")
    record(study, Submission("x", "train", ["d"], 2.0, "24"))
    record(study, Submission("y", "train", ["e"], 2.0, "26"))
    record(study, Submission("z", "train", ["f"], 2.0, "28"))
    record(study, Submission("before z", "train", ["f"], 1.5, "8"))
    names = {run: {} for run in "abcdef"}
    for run in "def":
        (study / run).mkdir()
    (study / "study.json").write_text(json.dumps({"runs": names}))
    write_failure(study / "a", Failure("train", "diverged", "too high", "", 3, "n1", 0, 0.0))
    status = study_status(study, slurm(sacct=SACCT))
    runs = by_name(status)
    assert states(status) == {"a": "failed", "b": "failed", "c": "interrupted", "d": "failed", "e": "failed", "f": "stopped"}
    kinds = {name: run.failure.kind for name, run in runs.items() if run.failure}
    assert kinds == {"a": "diverged", "b": "no progress", "d": "killed", "e": "node or network"}
    assert "TIMEOUT after 00:01:05 on n1" in runs["b"].failure.message and runs["f"].slurm == "CANCELLED"
    asked = [call for call in slurm.calls() if call.startswith("sacct")]
    assert len(asked) == 1 and "--jobs=23,24,26,28 " in asked[0]


@pytest.mark.parametrize("kind", LOGS)
def test_without_accounts_the_end_of_the_log_tells(slurm, tmp_path, kind):
    study = make_study(tmp_path / "s", {"a": {}, "b": {}}, job="23")
    (study / "logs" / "s-train-1").mkdir(parents=True)
    earlier = "Detected 1 oom-kill event(s)\nsubmitit INFO - Starting with JobEnvironment(job_id=23_0)\n"
    (study / "logs" / "s-train-1" / "23_0_0_log.out").write_text(earlier + "step 1\n" * 900 + LOGS[kind])
    runs = by_name(study_status(study, slurm(sacct=NO_ACCOUNTING)))
    assert (runs["a"].state, runs["a"].failure and runs["a"].failure.kind) == ("failed" if kind else "stopped", kind)
    assert runs["b"].state == "stopped" and runs["b"].failure is None


def test_a_log_says_more_than_an_exit_code(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {}, "b": {}}, job="8")
    (study / "logs" / "s-train-1").mkdir(parents=True)
    (study / "logs" / "s-train-1" / "8_1_0_log.out").write_text("Starting with JobEnvironment\n" + LOGS["error"])
    run = by_name(study_status(study, slurm(sacct=SACCT)))["b"]
    assert run.failure.message == "ModuleNotFoundError: No module named 'torch'" and run.failure.kind == "error"


def test_where_the_queue_does_not_answer_nobody_is_called_dead(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {}, "b": {"heartbeat": 5.0}, "c": None, "d": {"state": "failed"}}, job="7")
    asked = slurm()
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact >&2; exit 1\n")
    status = study_status(study, asked)
    assert states(status) == {"a": "running", "b": "unknown", "c": "unknown", "d": "failed"}
    assert "Unable to contact" in status.notes[0]


def test_studies_of_this_machine_ask_nobody(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"works": {}, "between": {"state": "done", "followed": True}, "dead": {"heartbeat": 5.0},
                                        "new": None, "stopped": {"state": "interrupted"},
                                        "only train": {"state": "done", "followed": False}})
    assert states(study_status(study, slurm())) == {"works": "running", "between": "running", "dead": "stopped", "new": "new",
                                                    "stopped": "interrupted", "only train": "stopped"}
    assert slurm.calls() == []


def test_a_process_of_this_machine_that_died_is_known_at_once(slurm, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    study = make_study(tmp_path / "s", {
        "dead": {"machine": this_machine(), "pid": dead.pid}, "lives": {"machine": this_machine(), "pid": os.getpid()},
        "elsewhere": {"machine": "another", "pid": dead.pid}})
    assert states(study_status(study, slurm())) == {"dead": "stopped", "lives": "running", "elsewhere": "running"}


def test_what_a_stage_prepares_is_shown_and_is_no_silence(slurm, tmp_path):
    long_ago = time.time() - STILL_S - 60
    study = make_study(tmp_path / "s", {"reads": {"doing": "reading the data", "done": None, "total": None, "rate": None,
                                                  "advanced": long_ago}, "still": {"advanced": long_ago}, "steps": {}}, job="7")
    for file in study.glob("reads/progress.json"):
        write_json(file, {key: value for key, value in read_json(file).items() if key not in ("done", "total")})
    queue = "".join(f"7_{index}|RUNNING|None|n1|0|{started(HUNG_S + 100)}{N}\n" for index in range(3))
    status = study_status(study, slurm(queue))
    assert states(status) == {"reads": "running", "still": "hung", "steps": "running"}
    assert (by_name(status)["reads"].doing, by_name(status)["steps"].doing) == ("reading the data", "")
    text = "\n".join(status_lines(status, None, 10))
    assert "reading the data" in text and "None" not in text and "no step, for 1:01:" in text


@pytest.mark.parametrize(("left_s", "shown"), ((7.0, 7.0), (None, None)))
def test_the_time_left_is_what_the_stage_says(slurm, tmp_path, left_s, shown):
    study = make_study(tmp_path / "s", {"a": {"left_s": left_s}})
    assert study_status(study, slurm()).runs[0].eta_s == shown


def test_a_stage_that_ended_without_its_last_report_is_done(slurm, tmp_path, make_run):
    run = make_run()
    write_json(run.checkpoints / "step-00000012" / "manifest.json", {"step": 12, "bytes": {}})
    study = run.path.parent
    write_json(run.progress, {"stage": "train", "state": "running", "done": 11, "total": 12, "unit": "steps", "rate": 2.0,
                              "loss": 0.5, "heartbeat": time.time() - HUNG_S - 1})
    assert (found := study_status(study, slurm()).runs[0]).stage == "sample" and found.state == "stopped"


def test_samples_are_counted_without_opening_a_chunk(slurm, tmp_path, make_run):
    run = make_run()  # 10 samples, 4 a chunk
    (run.path / "progress.json").write_text(json.dumps({"stage": "sample", "state": "interrupted", "done": 1, "total": 2,
                                                        "unit": "steps", "rate": None, "loss": None, "heartbeat": 1.0}))
    counted = []
    for number in range(3):
        run.samples.mkdir(exist_ok=True)
        (run.samples / f"chunk-{number:05}.h5").touch()
        (run.samples / f"partial-{number:05}.h5").touch()
        counted.append(study_status(run.path.parent, slurm()).runs[0].samples)
    assert counted == [4, 8, 10]


def test_a_later_evaluation_that_failed_is_not_hidden_by_the_first(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {}, "b": {}})
    for run in ("a", "b"):
        write_json(study / run / "evaluation.json", {"headline": {"fid": 3.0}, "samples": 4})
    failure = Failure("evaluate", "bad input", "no such reference", "", None, "n1", 0, time.time())
    write_failure(study / "a", replace(failure, time=time.time() + 5))
    write_failure(study / "b", replace(failure, time=time.time() - 500))  # mended by the evaluation that came after
    found = by_name(study_status(study, slurm("")))
    assert (found["a"].state, found["a"].failure.message, found["a"].metrics) == ("failed", "no such reference", {"fid": 3.0})
    assert (found["b"].state, found["b"].failure) == ("done", None)


def test_which_study_is_meant(tmp_path):
    with pytest.raises(UserError, match="no study here"):
        find_study(None, tmp_path / "runs")
    first = make_study(tmp_path / "runs" / "first", {"a": {}})
    assert find_study(None, tmp_path / "runs") == first
    second = make_study(tmp_path / "runs" / "second", {"a": {}})
    os.utime(first, (1, 1))
    os.utime(second, (1, 1))
    for study, changed in ((first, 5), (second, 9)):
        for entry in study.iterdir():
            os.utime(entry, (changed, changed))
    assert find_study(None, tmp_path / "runs") == second
    write_json(first / "a" / "progress.json", {})  # changes the run's folder, as each heartbeat does
    assert find_study(None, tmp_path / "runs") == first
    assert find_study(Path("second"), tmp_path / "runs") == second and find_study(second, Path("elsewhere")) == second
    with pytest.raises(UserError, match="third.*not a study"):
        find_study(Path("third"), tmp_path / "runs")
