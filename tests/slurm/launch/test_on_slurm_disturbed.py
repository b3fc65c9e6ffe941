"""What disturbs jobs on a real SLURM, and that the samples are those of an undisturbed run, byte for byte, after each."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from real_slurm import ONE

from slurm.testbed import daemons

# One after another, beside the tests of the other file: those wait for SLURM more than they compute.
pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm, disturbed"), pytest.mark.timeout(400)]
# Long enough to be disturbed in training and in sampling; what is evaluated does not matter here.
LONG = ["train.iterations=200", "diffusion.diffusion_steps=500", "evaluate.nll_examples=0", "train.keep_interval=40",
        "train.save_interval=5"]  # frequent checkpoints and pictures: training takes a while on any machine
# SLURM may announce a time limit of one minute as soon as the job starts, or half a minute later. A checkpoint and pictures every
# few steps make training slow enough on any machine, and change no weights.
LONGER = ["train.iterations=600", "evaluate.nll_examples=0"]
SLOW = "train.save_interval=5"


def progress(run: Path) -> dict:
    return json.loads((run / "progress.json").read_text())


def until_trained(cluster, run: Path, step: int) -> None:
    cluster.until((run / "checkpoints" / f"step-{step:08}").exists)


def until_sampling(cluster, run: Path) -> dict[str, int]:
    """Wait for a finished chunk; the inodes of those there are."""
    def sampling() -> bool:
        cluster.release_requeued()
        return any((run / "samples").glob("chunk-*.h5"))
    cluster.until(sampling)
    return {file.name: file.stat().st_ino for file in (run / "samples").glob("chunk-*.h5")}


def crash(cluster, node: str) -> None:
    """Let the node die, wait until SLURM knows or the job that ran on it is back in the queue, and bring it back."""
    daemons.fail(cluster.testbed.home, node)
    cluster.until(lambda: any("BeginTime" in line for line in cluster.queue())
                  or "down" in cluster("sinfo", "-h", "-n", node, "-o", "%T"))
    daemons.heal(cluster.testbed.home, node)
    time.sleep(6)  # SLURM still ends the old attempt on the node that is back; a job without a person here waits two minutes


def test_preemption_saves_once_requeues_once_and_changes_nothing(cluster, tmp_path, undisturbed):
    cluster.iddpm("submit", "spec.yaml", *LONG)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(cluster, run, 40)
    training = next(line.split()[0] for line in cluster.queue() if "study-train" in line)
    cluster("sbatch", "--partition=urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
    cluster.until(lambda: "Restarts=1" in cluster("scontrol", "show", "job", training))
    assert progress(run)["state"] == "interrupted"
    saved = max(int(folder.name[5:]) for folder in (run / "checkpoints").glob("step-*"))
    assert saved == progress(run)["done"] and 40 <= saved < 200
    cluster.until_empty()
    assert "Restarts=1" in cluster("scontrol", "show", "job", training)
    assert cluster.samples(run) == undisturbed(LONG)


def test_preemption_before_python_listens_costs_nothing_but_the_start(cluster, tmp_path, undisturbed):
    slow = tmp_path / "slow-python"  # the first time only, as from a network file system
    slow.write_text(f"#!/bin/sh\n[ -e {tmp_path}/begun ] || {{ touch {tmp_path}/begun; sleep 45; }}\n"
                    f"exec {sys.executable} \"$@\"\n")
    slow.chmod(0o755)
    (tmp_path / "configs" / "clusters").mkdir(parents=True)
    (tmp_path / "configs" / "clusters" / "slow.yaml").write_text(f"python: {slow}\n")
    cluster.spec("spec.yaml", resources=ONE)
    cluster.iddpm("submit", "spec.yaml", "--cluster", "slow", "evaluate.nll_examples=0")
    cluster.until((tmp_path / "begun").exists)
    training = next(line.split()[0] for line in cluster.queue() if "study-train" in line)
    cluster("sbatch", "--partition=urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    cluster.until(lambda: "Restarts=1" in cluster("scontrol", "show", "job", training))
    cluster.until_sampled()
    assert cluster.samples(tmp_path / "runs" / "study" / "run") == undisturbed(["evaluate.nll_examples=0"], ranks=1)


def test_a_time_limit_of_one_minute_requeues_until_the_work_is_done_and_changes_nothing(cluster, tmp_path, undisturbed):
    (tmp_path / "configs" / "clusters").mkdir(parents=True)
    (tmp_path / "configs" / "clusters" / "short.yaml").write_text("signal_lead_s: 50\n")
    cluster.iddpm("submit", "spec.yaml", *LONGER, SLOW, "resources.train.time=1", "--cluster", "short")
    run = tmp_path / "runs" / "study" / "run"
    training = next(line.split()[0] for line in cluster.queue() if "study-train" in line)
    cluster.until(lambda: "Restarts=1" in cluster("scontrol", "show", "job", training))
    assert 0 < progress(run)["done"] < 600
    cluster.until_sampled()
    assert "TIMEOUT" not in cluster("sacct", "-n", "-X", "-D", "-j", training, "-o", "State")
    assert cluster.samples(run) == undisturbed([*LONGER, "train.save_interval=600"])


def test_a_node_that_dies_in_training_and_one_in_sampling_change_nothing(cluster, tmp_path, undisturbed):
    cluster.iddpm("submit", "spec.yaml", *LONG)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(cluster, run, 40)
    crash(cluster, "n2")
    finished = until_sampling(cluster, run)
    crash(cluster, "n1")
    cluster.until_sampled()
    assert {name: (run / "samples" / name).stat().st_ino for name in finished} == finished
    assert cluster.samples(run) == undisturbed(LONG)


def test_a_job_that_slurm_does_not_requeue_says_why_and_goes_on_when_submitted_again(cluster, tmp_path, undisturbed):
    cluster.spec("spec.yaml", resources=ONE)
    cluster.iddpm("submit", "spec.yaml", *LONG)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(cluster, run, 40)
    training = next(line.split()[0] for line in cluster.queue() if "study-train" in line)
    cluster("scontrol", "update", f"JobId={training}", "Requeue=0")
    cluster.iddpm("requeue", "runs/study/run")
    cluster.until(lambda: cluster.queue() == [])
    failure = cluster.status()[0]["failure"]
    assert failure["kind"] == "no requeue" and "equested operation is presently disabled" in failure["message"]
    assert "submit again" in cluster.iddpm("status", "runs/study")
    cluster.iddpm("submit", "spec.yaml", *LONG)
    cluster.until_sampled()
    assert cluster.samples(run) == undisturbed(LONG, ranks=1)


@pytest.mark.parametrize("by_hand", [False, True])
def test_jobs_that_are_cancelled_while_they_start_or_go_back_into_the_queue_stay_cancelled(cluster, tmp_path, by_hand):
    cluster.spec("spec.yaml", resources=ONE)
    for seconds in (0.0, 0.7, 1.4, 2.1):
        cluster.iddpm("submit", "spec.yaml", "train.iterations=20000")
        training = next(line.split()[0] for line in cluster.queue() if "study-train" in line)
        cluster.until(lambda: f"{training} RUNNING" in "\n".join(cluster.queue()))  # noqa: B023
        time.sleep(seconds)
        cluster.iddpm("requeue", "runs/study")
        if by_hand:
            cluster("scancel", "--user", "root")
        else:
            assert "4 jobs cancelled" in cluster.iddpm("cancel", "runs/study")
        cluster.until(lambda: cluster.queue() == [], 60)
        time.sleep(1)
        assert "CANCELLED" in cluster("scontrol", "show", "job", training) and cluster.queue() == []


def test_cancelled_jobs_have_saved_stay_cancelled_and_go_on_when_submitted_again(cluster, tmp_path, undisturbed):
    cluster.iddpm("submit", "spec.yaml", *LONG)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(cluster, run, 40)
    assert "4 jobs cancelled" in cluster.iddpm("cancel", "runs/study")
    cluster.until(lambda: cluster.queue() == [])
    assert progress(run)["state"] == "interrupted" and progress(run)["done"] >= 40
    assert "1 interrupted" in cluster.iddpm("status", "runs/study")
    cluster.iddpm("submit", "spec.yaml", *LONG)
    cluster.until_sampled()
    assert cluster.samples(run) == undisturbed(LONG)


@pytest.mark.parametrize("profile", [[], ["container.yaml"]], ids=["on the host", "where Python has no SLURM"])
def test_requeue_of_a_running_job_saves_and_goes_on(cluster, tmp_path, undisturbed, profile):
    chosen = [word for file in profile for word in ("--cluster", cluster.testbed.home / file)]
    cluster.iddpm("submit", "spec.yaml", *LONG, *chosen)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(cluster, run, 40)
    assert "1 asked to save" in cluster.iddpm("requeue", "runs/study/run")
    cluster.until(lambda: any("BeginTime" in line for line in cluster.queue()))
    assert 40 <= progress(run)["done"] < 200
    cluster.until_sampled()
    assert cluster.samples(run) == undisturbed(LONG)


def test_a_slurmctld_that_dies_and_comes_back_changes_nothing(cluster, tmp_path, undisturbed):
    cluster.spec("spec.yaml", resources=ONE)
    cluster.iddpm("submit", "spec.yaml", *LONG)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(cluster, run, 40)
    bed = cluster.testbed
    os.kill(int((bed.home / "run" / "slurmctld.pid").read_text()), 9)
    until_trained(cluster, run, 80)  # the job does not need it
    assert "does not answer" in cluster.iddpm("status", "runs/study")
    daemons.up(bed.home, bed.nodes, bed.cpus, bed.gpus, bed.accounting)
    cluster.until_sampled()
    assert cluster.samples(run) == undisturbed(LONG, ranks=1)


def test_without_accounting_everything_works_as_well(tmp_path, tmp_path_factory, person, undisturbed):
    home = tmp_path_factory.mktemp("unaccounted")
    cluster = person(daemons.up(home, nodes=2, cpus=4, gpus=0, accounting=False), tmp_path)
    try:
        cluster.spec("sweep.yaml", sweep={"grid": {"train.lr": [1e-3, 1e30]}}, resources=ONE)
        cluster.iddpm("submit", "sweep.yaml", *LONG)
        run = tmp_path / "runs" / "study" / "lr=0.001"
        until_sampling(cluster, run)
        sampling = (line.split()[0] for line in cluster.queue() if "study-sample" in line and "RUNNING" in line)
        cluster("scontrol", "requeue", next(sampling))
        cluster.until_empty()
        assert {status["run"]: status["state"] for status in cluster.status()} == {"lr=0.001": "done", "lr=1e+30": "failed"}
        assert cluster.samples(run) == undisturbed(LONG, ranks=1)
    finally:
        daemons.down(home)
