"""Submission to a real SLURM on this machine: what is submitted, and in which order it runs.

What needs no real SLURM is tested on the fake one: test_submit.py, test_requeue.py, test_cancel.py.
"""

import json
import shutil
import subprocess
import sys

import pytest
from paths import ROOT
from real_slurm import ONE

# One after another: what is in the queue is counted.
pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(400)]


def states(cluster) -> dict[str, str]:
    return {status["run"]: status["state"] for status in cluster.status()}


def test_a_sweep_over_two_nodes_runs_in_order_ends_with_a_report_and_is_not_submitted_twice(cluster, tmp_path,
                                                                                                     undisturbed):
    sweep = {"grid": {"diffusion.noise_schedule": ["linear", "cosine"]}}
    resources = {"train": {"nodes": 2, "tasks_per_node": 2}, "sample": {"nodes": 2, "tasks_per_node": 1}}
    cluster.spec("sweep.yaml", sweep=sweep, resources=resources)
    planned = cluster.iddpm("submit", "sweep.yaml", "--dry-run")
    assert "#SBATCH --array=0-1%2" in planned and "element i after i of 1" in planned and not (tmp_path / "runs").exists()
    submitted = cluster.iddpm("submit", "sweep.yaml")
    assert submitted.count(" job ") == 4 and "2 runs" in submitted and "CPU-hours" in submitted and "on disk" in submitted
    assert "2 in the queue already" in cluster.iddpm("submit", "sweep.yaml") and len(cluster.queue()) == 7
    assert states(cluster)["noise_schedule=linear"] in ("pending", "running")
    cluster.until_empty()
    assert list(states(cluster)) == ["noise_schedule=linear", "noise_schedule=cosine"]
    assert all(status["state"] == "done" and status["metrics"]["fid (pixels)"] > 0 for status in cluster.status())
    study = tmp_path / "runs" / "study"
    for run in study.glob("noise_schedule=*"):
        times = [file.stat().st_mtime for file in
                 (run / "checkpoints/step-00000040", run / "samples/samples.h5", run / "evaluation.json", study / "report.html")]
        assert times == sorted(times)
    assert cluster.samples(study / "noise_schedule=cosine") == undisturbed([], ranks=4)
    assert "2 done" in cluster.iddpm("submit", "sweep.yaml") and cluster.queue() == []
    accounted = cluster("sacct", "-X", "-n", "-o", "State", "-S", "now-1hours").split()
    assert accounted.count("COMPLETED") >= 7


def test_one_run_fails_its_dependants_are_cancelled_the_others_done_the_report_says_so_and_submit_goes_on(
        cluster, tmp_path, undisturbed):
    cluster.spec("sweep.yaml", sweep={"grid": {"train.lr": [1e-3, 1e30]}})
    cluster.iddpm("submit", "sweep.yaml", "train.iterations=70")
    cluster.until_empty()
    assert states(cluster) == {"lr=0.001": "done", "lr=1e+30": "failed"}
    assert "diverged" in cluster.iddpm("status", "runs/study")
    assert cluster.samples(tmp_path / "runs" / "study" / "lr=0.001") == undisturbed(["train.iterations=70"])
    reported = json.loads((tmp_path / "runs" / "study" / "report.json").read_text())
    assert "not finite" in json.dumps(reported) and "lr=1e+30" in json.dumps(reported)
    again = cluster.iddpm("submit", "sweep.yaml", "train.iterations=70")
    assert again.count("1 run\n") == 3  # train, sample and evaluate of the one that failed
    cluster.iddpm("cancel", "runs/study")
    cluster.until_empty()


def test_max_parallel_holds_for_the_whole_study(cluster, tmp_path):
    cluster.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2, 3]}},
                 resources=ONE | {"train": {"nodes": 2, "tasks_per_node": 1, "time": "0:20:00"}})
    assert "one run needs 2 processes" in cluster.iddpm("submit", "sweep.yaml", "--max-parallel", 1, status=2)
    cluster.iddpm("submit", "sweep.yaml", "--max-parallel", 3, "evaluate.nll_examples=0")
    most = 0

    def drained() -> bool:
        nonlocal most
        running = cluster("squeue", "-h", "-r", "-t", "RUNNING,COMPLETING", "-o", "%D %j").splitlines()
        most = max(most, sum(int(line.split()[0]) for line in running if "report" not in line))
        return not cluster.queue()
    cluster.until(drained)
    assert 2 <= most <= 3
    assert set(states(cluster).values()) == {"done"}


def test_a_submission_that_broke_off_is_completed_behind_what_is_in_the_queue(cluster, tmp_path):
    cluster.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2]}}, resources=ONE)
    cluster("scontrol", "update", "PartitionName=main", "State=DOWN")
    cluster.iddpm("submit", "sweep.yaml")
    study = tmp_path / "runs" / "study"
    ours = {json.loads(file.read_text())["stage"]: file for file in (study / "submissions").glob("*.json")}
    cluster("scancel", *(json.loads(ours[stage].read_text())["job_id"] for stage in ("sample", "evaluate", "report")))
    for stage in ("sample", "evaluate", "report"):
        ours[stage].unlink()
    # The id of the training was not written down either: it is found by its name.
    training = json.loads(ours["train"].read_text())
    ours["train"].write_text(json.dumps(training | {"job_id": None}))
    again = cluster.iddpm("submit", "sweep.yaml")
    assert "train " not in again and again.count("2 runs\n") == 2 and "report" in again
    assert json.loads(ours["train"].read_text())["job_id"] == training["job_id"]
    cluster("scontrol", "update", "PartitionName=main", "State=UP")
    cluster.until_empty()
    assert set(states(cluster).values()) == {"done"}


def test_half_of_a_sweep_done_elsewhere_the_rest_and_a_new_point_are_submitted(cluster, tmp_path, undisturbed):
    cluster.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2]}}, resources=ONE)
    cluster.iddpm("run", "sweep.yaml", "--only", "train")
    cluster.iddpm("sample", "runs/study/seed=1")
    cluster.iddpm("evaluate", "runs/study/seed=1")
    cluster.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2, 3]}}, resources=ONE)
    submitted = cluster.iddpm("submit", "sweep.yaml")
    assert "1 done" in submitted
    assert [line.split()[0] for line in submitted.splitlines() if " job " in line] == [
        "train", "sample", "sample", "evaluate", "evaluate", "report"]
    cluster.until_empty()
    assert states(cluster) == {"seed=1": "done", "seed=2": "done", "seed=3": "done"}
    assert cluster.samples(tmp_path / "runs" / "study" / "seed=2") == undisturbed(["train.seed=2"], ranks=1)
    # Another metric for what is done: the evaluation alone. Another learning rate is another run.
    planned = cluster.iddpm("submit", "sweep.yaml", "evaluate.metrics=[fid,kid]", "--dry-run")
    assert "evaluate: 3 runs" in planned and "sample:" not in planned
    assert "exists with another spec" in cluster.iddpm("submit", "sweep.yaml", "train.lr=2e-3", "--dry-run", status=2)


def test_queued_jobs_run_the_code_that_was_submitted(cluster, tmp_path, undisturbed):
    copy = tmp_path / "checkout"
    for package in ("diffusion", "jobs", "slurm"):
        shutil.copytree(ROOT / package, copy / package)
    cluster.spec("spec.yaml", resources=ONE)
    cluster("scontrol", "update", "PartitionName=main", "State=DOWN")
    subprocess.run([sys.executable, "-m", "slurm.cli.main", "submit", tmp_path / "spec.yaml", "--runs", tmp_path / "runs"],
                   cwd=copy, env=cluster.environment, check=True, timeout=120)
    for module in copy.rglob("*.py"):
        module.write_text("raise SystemExit('edited while the jobs were waiting')\n")
    cluster("scontrol", "update", "PartitionName=main", "State=UP")
    cluster.until_empty()
    assert set(states(cluster).values()) == {"done"}
    study = tmp_path / "runs" / "study"
    assert cluster.samples(study / "run") == undisturbed([], ranks=1)
    codes = {json.loads(file.read_text())["code"] for file in (study / "submissions").glob("*.json")}
    kept = study / "code" / codes.pop()
    assert not codes
    assert (kept / "jobs" / "training" / "loop.py").read_text() == (ROOT / "jobs" / "training" / "loop.py").read_text()
    assert "commit" in json.loads((kept / "provenance.json").read_text())


def test_a_sweep_that_fails_alike_is_held_and_requeue_brings_it_home(cluster, tmp_path):
    cluster.iddpm("data", "digits", "digits.h5")
    cluster.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2, 3, 4, 5]}}, resources=ONE)
    cluster("scontrol", "update", "PartitionName=main", "State=DOWN")
    settings = ["data.path=digits.h5", "evaluate.nll_examples=0"]
    cluster.iddpm("submit", "sweep.yaml", *settings, "--max-parallel", 1)  # the third is over before a fourth begins
    (tmp_path / "digits.h5").rename(tmp_path / "moved.h5")
    cluster("scontrol", "update", "PartitionName=main", "State=UP")
    held = tmp_path / "runs" / "study" / "held.json"
    cluster.until(held.exists)
    cluster.until((tmp_path / "runs" / "study" / "report.html").exists)
    assert sorted(states(cluster).values()) == ["failed", "failed", "failed", "held", "held"]
    assert len(json.loads(held.read_text())["runs"]) == 3
    shown = cluster.iddpm("status", "runs/study")
    assert "digits.h5" in shown and "iddpm requeue" in shown
    (tmp_path / "moved.h5").rename(tmp_path / "digits.h5")
    cluster.iddpm("requeue", "runs/study")
    cluster.until_empty()
    assert set(states(cluster).values()) == {"done"} and not held.exists()


def test_what_the_cluster_would_refuse_is_refused_before_anything_is_written(cluster, tmp_path):
    text = cluster.iddpm("submit", "spec.yaml", "resources.train.nodes=9", "train.batch_size=9", status=2)
    assert "resources.train" in text and not (tmp_path / "runs").exists()


def test_odd_but_harmless_names_of_folders_and_swept_values_work(cluster, tmp_path):
    cluster.iddpm("data", "digits", "it's; touch x & #1.h5")
    cluster.spec("sweep.yaml", sweep={"grid": {"data.path": ["digits", "it's; touch x & #1.h5"]}}, resources=ONE)
    cluster.iddpm("submit", "sweep.yaml", "--runs", "my runs, [new]", "evaluate.nll_examples=0")
    cluster.until_empty()
    shown = cluster.status("my runs, [new]/study")
    assert [status["state"] for status in shown] == ["done", "done"] and not (tmp_path / "x").exists()


def test_a_range_of_nodes_takes_what_is_granted_and_ranks_that_are_not_needed_do_no_harm(cluster, tmp_path, undisturbed):
    cluster.spec("spec.yaml", resources=ONE | {"train": {"nodes": "1-3", "tasks_per_node": 1, "time": "0:20:00"},
                                               "sample": {"nodes": "1-2", "tasks_per_node": 1, "time": "0:20:00"}})
    cluster.iddpm("submit", "spec.yaml", "train.batch_size=8")
    cluster.until_sampled()
    run = tmp_path / "runs" / "study" / "run"
    attempts = [json.loads(line) for line in (run / "stages.jsonl").read_text().splitlines()]
    assert [(each["stage"], each["world_size"]) for each in attempts] == [("train", 2), ("sample", 2)]
    logs = "".join(log.read_text() for log in (run.parent / "logs").glob("*train*/*_log.out"))
    assert "3 ranks were granted, and training takes 2 of them" in logs and "rank 2 is not needed" in logs
    assert cluster.samples(run) == undisturbed(["train.batch_size=8"])
