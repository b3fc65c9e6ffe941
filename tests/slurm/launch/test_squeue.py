"""What squeue and sacct say, and lists of job ids."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_slurm import SACCT, SQUEUE, make_study

from slurm.launch import squeue as queue
from slurm.launch.squeue import (
    END_OF_NAME,
    compact,
    elements,
    ended_jobs,
    left_out,
    live_jobs,
    sbatch_environment,
    slurm_environment,
)
from slurm.status.state import study_status


def test_the_queue_as_squeue_tells_it(slurm):
    slurm(SQUEUE)
    jobs = live_jobs()
    assert list(jobs) == ["1_1", "3_0", "2", "23_0", "27"]
    assert jobs["1_1"].name == "a-very-long-job-name-that-is-longer-than-twenty-four-characters"
    assert (jobs["2"].state, jobs["2"].reason, jobs["23_0"].node) == ("PENDING", "JobHeldUser", "n[1-2]")
    assert (jobs["27"].restarts, jobs["27"].started, jobs["2"].restarts) == (1, None, 0)
    assert jobs["23_0"].started == time.mktime((2026, 11, 23, 21, 55, 28, 0, 0, -1))


@pytest.mark.parametrize("name", [
    "a|b", "train|lr=1e-4|x|y|z|u|v", "two\nlines", "x\n7|RUNNING|None|n1|0|N/A|mine", "", "\x1b[31m", "|"])
def test_no_name_of_another_job_disturbs_the_queue(slurm, name):
    slurm(SQUEUE + f"40|RUNNING|None|n1|0|2026-11-23T21:55:28|{name}{END_OF_NAME}\n")
    jobs = live_jobs()
    assert list(jobs) == ["1_1", "3_0", "2", "23_0", "27", "40"]
    assert (jobs["40"].state, jobs["40"].node, jobs["40"].name) == ("RUNNING", "n1", name)


def test_bytes_that_are_no_text_and_times_of_another_form_do_not_disturb_either(slurm, tmp_path):
    slurm()
    line = b"40|RUNNING|None|n1|0|1795652935|\xff\xfe\x00" + END_OF_NAME.encode() + b"\n"
    (tmp_path / "answer").write_bytes(line)
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\ncat {tmp_path / 'answer'}\n")
    assert live_jobs()["40"].state == "RUNNING"


def test_slurms_programs_get_no_variable_that_steers_them(slurm, tmp_path, monkeypatch):
    steering = {"SQUEUE_PARTITION": "urgent", "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "JobID", "SLURM_TIME_FORMAT": "%s",
                "SLURM_JOB_ID": "3", "SLURM_MEM_PER_CPU": "500", "SBATCH_EXPORT": "NONE",
                "SCANCEL_STATE": "PENDING", "SLURM_CLUSTERS": "a,b"}
    for key, value in {**steering, "SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "proj", "MINE": "1"}.items():
        monkeypatch.setenv(key, value)
    slurm()
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\nenv > {tmp_path / 'seen'}\n")
    live_jobs()
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines())
    assert not seen.keys() & steering.keys() and seen["SLURM_CONF"] == "/etc/slurm.conf" and seen["MINE"] == "1"
    assert "SBATCH_ACCOUNT" not in seen
    monkeypatch.setenv("SLURM_CLUSTERS", "one")
    assert slurm_environment()["SLURM_CLUSTERS"] == "one"


def test_sbatch_gets_the_users_defaults_where_the_script_is_silent(monkeypatch):
    for key in [key for key in os.environ if key.startswith("SBATCH_")]:
        monkeypatch.delenv(key)
    for key, value in {"SBATCH_ACCOUNT": "proj", "SBATCH_PARTITION": "mine", "SBATCH_TIMELIMIT": "5"}.items():
        monkeypatch.setenv(key, value)
    script = "#!/bin/bash\n#SBATCH --partition=main\n#SBATCH --time=20\n"
    before = dict(os.environ)
    with sbatch_environment(script):
        assert {key: value for key, value in os.environ.items() if key.startswith("SBATCH_")} == {"SBATCH_ACCOUNT": "proj"}
    assert dict(os.environ) == before
    assert left_out([script]).startswith("SBATCH_PARTITION, SBATCH_TIMELIMIT of your environment") and not left_out([])


def test_the_accounts_as_sacct_tells_them(slurm):
    slurm(sacct=SACCT)
    jobs = ended_jobs({"1", "8"})
    assert [jobs[f"1_{index}"].state for index in range(4)] == ["CANCELLED"] * 4 and "1_4" not in jobs
    assert jobs["8_1"].exit_code == "1:0" and not jobs["8_1"].was_killed and jobs["24"].was_killed
    assert jobs["1_2"].node == "" and jobs["26"].node == "n3" and "--jobs=1,8" in slurm.calls()[0]


@given(st.sets(st.integers(0, 500), min_size=1), st.integers(1, 99), st.booleans())
def test_elements_that_slurm_lists_together_are_each_found(indices, at_once, limited):
    ordered, terms = sorted(indices), []
    while ordered:  # the longest first stretch, as SLURM writes it
        length = next((n for n in range(1, len(ordered)) if ordered[n] != ordered[0] + n), len(ordered))
        terms.append(str(ordered[0]) if length == 1 else f"{ordered[0]}-{ordered[length - 1]}")
        ordered = ordered[length:]
    text = f"12_[{','.join(terms)}{f'%{at_once}' if limited else ''}]"
    assert list(elements(text)) == [f"12_{index}" for index in sorted(indices)]


def test_elements_of_what_is_none_or_has_steps():
    assert list(elements("12")) == ["12"] and list(elements("12_3")) == ["12_3"]
    assert list(elements("12_[0,4-9:2%2]")) == ["12_0", "12_4", "12_6", "12_8"]


@given(jobs=st.sets(st.tuples(st.integers(1, 3), st.integers(0, 20))), alone=st.sets(st.integers(4, 9)))
def test_ids_that_were_put_together_come_apart_again(jobs, alone):
    ids = {f"{base}_{element}" for base, element in jobs} | {str(base) for base in alone}
    together = compact(ids)
    assert {id for words in together for id in elements(words)} == ids
    assert len(together) == len({base for base, _ in jobs}) + len(alone)


def test_neighbours_become_ranges():
    assert compact(["12_3", "12_0", "7", "12_1", "12_2", "12_5"]) == ["12_[0-3,5]", "7"]


def test_squeue_is_asked_again_only_when_its_answer_is_old(slurm, tmp_path, monkeypatch):
    study = make_study(tmp_path / "s", {"a": {}}, job="7")
    asked = slurm()
    for _ in range(3):
        study_status(study, asked)
    assert [call.split()[0] for call in slurm.calls()] == ["squeue", "sacct"]
    monkeypatch.setattr(queue, "QUEUE_S", 0)
    study_status(study, asked)
    assert [call.split()[0] for call in slurm.calls()] == ["squeue", "sacct", "squeue"]
