"""`iddpm cancel`: on the fake SLURM, with stand-in jobs."""

import json
import time
from pathlib import Path

import pytest

from slurm.launch.records import mark_cancelled, recorded


@pytest.mark.slow
def test_a_cancelled_study_has_saved_stays_cancelled_and_goes_on_when_submitted_again(fake_slurm):
    waiting = fake_slurm.act("run", "train", "wait")
    fake_slurm.submit("spec.yaml")
    fake_slurm.until_event("begin run train")
    assert "4 jobs cancelled" in fake_slurm.iddpm("cancel", "runs/study")
    fake_slurm.until_empty()
    assert json.loads(Path("runs/study/run/progress.json").read_text())["state"] == "interrupted"
    assert fake_slurm.states() == {"run": "interrupted"} and "1 interrupted" in fake_slurm.iddpm("status", "runs/study")
    assert {job["state"] for job in fake_slurm.jobs().values()} == {"CANCELLED"} and "begin report" not in fake_slurm.events()
    waiting.unlink()
    fake_slurm.submit("spec.yaml")
    fake_slurm.until_event("begin run sample")
    assert "train of run, from step 20" in fake_slurm.iddpm("logs", "runs/study/run", "--stage", "train")


def test_a_cancelled_run_leaves_the_others_and_the_report_alone(fake_slurm):
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    fake_slurm.submit("sweep.yaml")
    assert "3 jobs cancelled" in fake_slurm.iddpm("cancel", "runs/study/seed=1")
    assert sorted(fake_slurm.queue()) == ["1_1", "3_1", "5_1", "7"]
    assert fake_slurm.states() == {"seed=1": "stopped", "seed=2": "pending"}


def test_a_cancelled_study_is_no_longer_on_hold_and_other_folders_are_refused(fake_slurm):
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    fake_slurm.submit("sweep.yaml")
    fake_slurm("scontrol", "hold", "1_[0-1]")
    Path("runs/study/held.json").write_text('{"time": 0, "kind": "error", "message": "m", "runs": ["a"], "jobs": ["1"]}')
    assert "7 jobs cancelled" in fake_slurm.iddpm("cancel", "runs/study")
    assert fake_slurm.queue() == {} and not Path("runs/study/held.json").exists()
    assert "0 jobs cancelled" in fake_slurm.iddpm("cancel", "runs/study")
    assert "neither a study's nor a run's directory" in fake_slurm.iddpm("cancel", "runs", status=2)


@pytest.mark.slow
def test_a_job_that_is_cancelled_while_it_goes_back_into_the_queue_stays_cancelled(fake_slurm):
    fake_slurm.act("run", "train", "wait")
    for _ in range(3):
        fake_slurm.submit("spec.yaml")
        fake_slurm.until(lambda: "RUNNING" in fake_slurm.queue().values())
        fake_slurm.iddpm("requeue", "runs/study")
        assert "4 jobs cancelled" in fake_slurm.iddpm("cancel", "runs/study")
        fake_slurm.until_empty()
    assert {job["state"] for job in fake_slurm.jobs().values()} == {"CANCELLED"}


@pytest.mark.slow
def test_a_cancelled_job_neither_asks_for_its_requeue_nor_starts_again(fake_slurm):
    fake_slurm.act("run", "train", "wait")
    fake_slurm.submit("spec.yaml")
    fake_slurm.until_event("begin run train")
    mark_cancelled(Path("runs/study"), recorded(Path("runs/study"), {}), {"1"})  # `iddpm cancel`, just before its scancel
    fake_slurm.iddpm("requeue", "runs/study/run")
    fake_slurm.until_event("end run train")
    time.sleep(1)
    assert fake_slurm.jobs()["1"]["restarts"] == 0
    fake_slurm("scontrol", "requeue", "1")  # as if SLURM had heard the job just before
    fake_slurm.until_empty()
    assert fake_slurm.jobs()["1"]["state"] == "CANCELLED" and fake_slurm.events().count("begin run train") == 1


def test_a_damaged_record_keeps_no_job_from_being_cancelled(fake_slurm):
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    fake_slurm.submit("sweep.yaml")
    damaged = next(Path("runs/study/submissions").glob("*-sample-*.json"))
    damaged.write_text("[]")
    Path("runs/study/held.json").mkdir()
    text = fake_slurm.iddpm("cancel", "runs/study", status=2)
    assert f"{damaged.name}: not as iddpm writes this file" in text and "7 jobs cancelled" in text and fake_slurm.queue() == {}
    assert "held.json: a folder, where a file is expected" in text
    refused = fake_slurm.iddpm("requeue", "runs/study", status=2)  # which jobs there are is not known
    assert f"{damaged.name}: not as iddpm writes this file" in refused and f"squeue --me --name={damaged.stem}" in refused
