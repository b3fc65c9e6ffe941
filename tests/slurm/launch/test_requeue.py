"""`iddpm requeue`, jobs that save and go back into the queue, and a sweep on hold: on the fake SLURM, with stand-in jobs."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_running_job_saves_goes_back_into_the_queue_and_goes_on(fake_slurm):
    waiting = fake_slurm.act("run", "train", "wait")
    fake_slurm.submit("spec.yaml")
    fake_slurm.until_event("begin run train")
    assert "0 jobs released, 1 " in fake_slurm.iddpm("requeue", "runs/study/run")
    fake_slurm.until_event("end run train")
    assert json.loads(Path("runs/study/run/progress.json").read_text())["state"] == "interrupted"
    waiting.unlink()
    fake_slurm.until_event("begin run sample")
    assert fake_slurm.jobs()["1"]["restarts"] == 1 and fake_slurm.jobs()["1"]["state"] == "COMPLETED"
    assert fake_slurm.events()[:4] == ["begin run train", "end run train"] * 2
    assert "train of run, from step 20" in fake_slurm.iddpm("logs", "runs/study/run", "--stage", "train")  # in the same log


@pytest.mark.slow
def test_all_ranks_are_told_to_save_and_the_job_is_requeued_once(fake_slurm):
    fake_slurm.act("run", "train", "wait")
    fake_slurm.submit("spec.yaml", "resources.train.nodes=2")
    fake_slurm.until_event("begin run train")
    fake_slurm.iddpm("requeue", "runs/study")
    fake_slurm.until(lambda: fake_slurm.events().count("begin run train") == 2)
    assert fake_slurm.jobs()["1"]["restarts"] == 1 and fake_slurm.states() == {"run": "running"}
    assert json.loads(Path("runs/study/run/requeues.json").read_text())["train"]["left"] == 999_990


@pytest.mark.slow
def test_a_failed_run_is_submitted_again_with_the_same_profile(fake_slurm):
    fake_slurm.act("run", "sample", "fail no such thing")
    fake_slurm.submit("spec.yaml", "--max-parallel", 1)
    fake_slurm.until_empty()
    assert fake_slurm.states() == {"run": "failed"}
    text = fake_slurm.iddpm("requeue", "runs/study")
    assert [line.split()[0] for line in text.splitlines() if " job " in line] == ["sample", "evaluate", "report"]
    submissions = [json.loads(file.read_text()) for file in Path("runs/study/submissions").glob("*.json")]
    assert len(submissions) == 7 and {(each["cluster"], each["max_parallel"]) for each in submissions} == {("stand-in", 1)}


@pytest.mark.slow
def test_a_sweep_that_fails_alike_is_held_and_requeue_brings_it_home(fake_slurm):
    fake_slurm.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2, 3, 4, 5]}})
    acts = [fake_slurm.act(f"seed={seed}", "train", "fail no such thing") for seed in range(1, 6)]
    fake_slurm.submit("sweep.yaml", "--max-parallel", 1)  # the third is over before a fourth begins
    fake_slurm.until_event("begin report")
    assert sorted(fake_slurm.states().values()) == ["failed", "failed", "failed", "held", "held"]
    assert fake_slurm.queue()["1_3"] == fake_slurm.queue()["1_4"] == "JobHeldUser"
    shown = " ".join(fake_slurm.iddpm("status", "runs/study").split())
    assert "no such thing" in shown and "iddpm requeue" in shown
    again = fake_slurm.submit("sweep.yaml", "--max-parallel", 1)
    assert "this study is on hold" in again and again.count("3 runs\n") == 3
    for act in acts:
        act.unlink()
    assert "2 jobs released" in fake_slurm.iddpm("requeue", "runs/study") and not Path("runs/study/held.json").exists()
    fake_slurm.until(lambda: fake_slurm.events().count("end seed=3 train") == 2)
    trained = [event for event in fake_slurm.events() if event.startswith("end") and event.endswith("train")]
    assert trained[3:] == [f"end seed={seed} train" for seed in (4, 5, 1, 2, 3)]  # the array in the queue first


@pytest.mark.slow
def test_where_slurm_refuses_the_requeue_the_run_says_so_and_is_submitted_again(fake_slurm):
    fake_slurm.configure(JobRequeue=0)
    waiting = fake_slurm.act("run", "train", "wait")
    fake_slurm.submit("spec.yaml")
    fake_slurm.until_event("begin run train")
    fake_slurm.iddpm("requeue", "runs/study/run")
    fake_slurm.until_empty()
    failure = fake_slurm.status()[0]["failure"]
    assert failure["kind"] == "no requeue" and "presently disabled for job" in failure["message"]
    assert "submit again" in fake_slurm.iddpm("status", "runs/study") and fake_slurm.states() == {"run": "failed"}
    waiting.unlink()
    fake_slurm.submit("spec.yaml")
    fake_slurm.until_event("begin run sample")
    assert "train of run, from step 20" in fake_slurm.iddpm("logs", "runs/study/run", "--stage", "train")
