"""What batch.sh does around srun, with programs of SLURM that only note how they were called."""

import json
import os
import subprocess

import pytest
from paths import ROOT

SCRIPT = ROOT / "slurm" / "launch" / "in_job" / "batch.sh"


@pytest.fixture
def batch(tmp_path):
    """batch(lines, ...): run the lines of a batch script; its exit status and the calls of SLURM's programs."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    (tmp_path / "logs").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / ".refused.json").write_text(json.dumps({"message": "not requeued (SCONTROL_SAID)"}))

    def run_script(*lines: str, state: str = "RUNNING", refusal: str = "", **environment: str):
        answers = {"scontrol": f"printf '%s' '{refusal}' >&2\nexit {1 if refusal else 0}\n", "squeue": f"echo {state}\n",
                   "scancel": "",
                   # Time passes quickly: 1 s is 10 ms.
                   "sleep": 'exec /bin/sleep "$(awk "BEGIN {print $1 / 100}")"\n'}
        for name, answer in answers.items():
            (programs / name).write_text(f"#!/bin/sh\necho {name} \"$@\" >> {calls}\n{answer}")
            (programs / name).chmod(0o755)
        calls.write_text("")
        script = "\n".join([f". {SCRIPT}", f"iddpm_begin {tmp_path / 'logs'}", *lines, "iddpm_end $?"])
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        clean |= {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "31"}
        done = subprocess.run(["bash", "-c", script], env=clean | environment, timeout=60, capture_output=True, text=True)
        return done.returncode, [call for call in calls.read_text().splitlines() if not call.startswith("sleep")]
    run_script.run = run
    return run_script


def ask(run, *words: str) -> str:
    return f"printf '%s\\n' {' '.join(repr(str(word)) for word in (*words, run))} > \"$IDDPM_REQUEST\""


@pytest.mark.parametrize("status", [0, 1, 137])
def test_without_a_request_the_jobs_status_is_sruns(batch, status):
    assert batch(f"(exit {status})") == (status, [])


def test_a_request_puts_the_very_element_of_an_array_back_into_the_queue(batch):
    status, calls = batch(ask(batch.run, "requeue"), SLURM_ARRAY_JOB_ID="31", SLURM_ARRAY_TASK_ID="4")
    assert status == 1 and calls == ["squeue --noheader --jobs=31_4 --format=%T", "scontrol requeue 31_4"]


def test_a_task_that_usr2_ended_before_it_could_listen_starts_again(batch, tmp_path):
    again = ["squeue --noheader --jobs=31 --format=%T", "scontrol requeue 31"]
    assert batch("(exit 140)") == (1, again)
    status, calls = batch("(exit 140)", refusal="no")
    assert status == 140 and calls == [*again, again[1], again[1]] and not (batch.run / "failure.json").exists()
    assert batch("(exit 143)") == (143, [])  # SLURM has decided how a job that got SIGTERM ended
    # Where SLURM may not requeue, the follow-up job behind this one starts when this one ends with success.
    assert batch("(exit 140)", IDDPM_FOLLOW_UPS="2") == (0, [])
    assert batch("(exit 140)", IDDPM_FOLLOW_UPS="0") == (140, [])
    (tmp_path / "logs" / "cancelled").write_text("31\n")
    assert "scontrol requeue 31" not in batch("(exit 140)")[1]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED"])
def test_a_job_that_was_cancelled_a_moment_ago_is_not_requeued(batch, state):
    assert "scontrol requeue 31" not in batch(ask(batch.run, "requeue"), state=state)[1]


@pytest.mark.parametrize("lines", [[], ["(exit 1)"]])
def test_a_job_that_iddpm_cancel_has_named_ends_before_it_begins(batch, tmp_path, lines):
    (tmp_path / "logs" / "cancelled").write_text("30\n31\n")
    status, calls = batch(*lines)
    assert status == 1 and calls == ["scancel 31"]
    (tmp_path / "logs" / "cancelled").write_text("310\n1\n")
    assert batch()[1] == []


def test_a_refusal_is_written_with_slurms_reason_and_nothing_of_it_is_run(batch, tmp_path):
    reason = 'Requested operation is presently disabled & /"$(touch x)`\x1b[31m for job 31'
    status, calls = batch(ask(batch.run, "requeue"), refusal=reason)
    assert status == 1 and calls.count("scontrol requeue 31") == 3
    message = json.loads((batch.run / "failure.json").read_text())["message"]
    assert message.startswith("not requeued (Requested operation is presently disabled ") and "\x1b" not in message
    assert not (tmp_path / "x").exists()


def test_a_node_that_died_does_not_keep_the_job_from_its_requeue_while_srun_waits(batch, tmp_path):
    srun = (f"for i in $(seq 100); do grep -q requeue {tmp_path}/calls && touch {tmp_path}/early && break; /bin/sleep 0.05; "
            "done; (exit 1)")
    status, calls = batch(ask(batch.run, "requeue-now"), srun, SLURM_JOB_NUM_NODES="2")
    assert status == 1 and calls.count("scontrol requeue 31") == 1 and (tmp_path / "early").exists()


def test_pending_jobs_are_held_and_the_study_says_so_after_it_worked(batch, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    lines = ["echo '{}' > \"$IDDPM_REQUEST.held\"", f"printf '%s\\n' hold {study} '12 14' '15' > \"$IDDPM_REQUEST\"; (exit 1)"]
    status, calls = batch(*lines, state="JobHeldUser")
    assert status == 1 and (study / "held.json").exists()
    assert calls == ["scontrol hold 12", "scontrol hold 14", "squeue --noheader --jobs=12,14 --states=PENDING --format=%r",
                     "scontrol update JobId=15 Dependency="]
    (study / "held.json").unlink()
    batch(*lines, state="Priority", refusal="Access/permission denied")
    assert not (study / "held.json").exists()


def test_variables_that_would_steer_slurm_or_python_are_gone(batch, tmp_path):
    batch(f"env > {tmp_path / 'seen'}", SQUEUE_FORMAT="%i", SLURM_TIME_FORMAT="%s", PYTHONSAFEPATH="1", SCANCEL_STATE="PENDING")
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines() if "=" in line)
    assert not {"SQUEUE_FORMAT", "SLURM_TIME_FORMAT", "PYTHONSAFEPATH", "SCANCEL_STATE"} & seen.keys()
    assert seen["IDDPM_REQUEST"] == f"{tmp_path / 'logs'}/request-31-0" and seen["SUBMITIT_PREEMPT_SIGNAL"] == "URG"
