"""What sites demand or forbid, on a real SLURM: options of profiles, no requeues, few jobs in the queue, no nodes by now."""

import json
import time
from pathlib import Path

import pytest
from real_slurm import ONE

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm, sites"), pytest.mark.timeout(400)]
# One rank each, long enough to be interrupted in training; what is evaluated does not matter here.
LONG = ["train.iterations=200", "evaluate.nll_examples=0", "train.save_interval=5"]


def profile(folder: Path, name: str, **settings) -> None:
    file = folder / "configs" / "clusters" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings))


def test_a_follow_up_resumes_training_to_the_same_samples_where_requeues_are_forbidden(cluster, tmp_path, undisturbed):
    profile(tmp_path, "strict", requeue=False, follow_ups=1, comment="two words, #3", nice=5, mail_type="NONE", exclude="n3",
            exclusive="user", sbatch={"cpu-freq": "high"})
    cluster.spec("spec.yaml", resources=ONE)
    cluster.iddpm("submit", "spec.yaml", *LONG, "--cluster", "strict")
    run = tmp_path / "runs" / "study" / "run"
    first = min((line.split()[0] for line in cluster.queue() if "study-train" in line), key=int)  # the follow-up has the next id
    shown = cluster("scontrol", "show", "job", first)
    for words in ("Requeue=0", "Comment=two words, #3", "Nice=5", "ExcNodeList=n3", "OverSubscribe=USER"):
        assert words in shown
    cluster.until((run / "checkpoints" / "step-00000040").exists)
    cluster("scancel", "--signal=USR2", first)
    cluster.until_sampled()
    states = cluster("sacct", "-n", "-X", "-o", "JobName%40,State", "-S", "now-1hours")
    assert [line.split()[1] for line in states.splitlines() if "study-train" in line][-2:] == ["COMPLETED"] * 2
    assert cluster.samples(run) == undisturbed(LONG, ranks=1)


def test_a_study_goes_in_waves_where_the_queue_has_little_room(cluster, tmp_path):
    profile(tmp_path, "small", max_queued=5)
    cluster.spec("sweep.yaml", resources=ONE, sweep={"grid": {"train.seed": [1, 2]}})
    text = cluster.iddpm("submit", "sweep.yaml", "evaluate.nll_examples=0", "--cluster", "small")
    assert "1 run waits for the next wave" in text and len(cluster.queue()) == 4
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, len(cluster.queue()))
        return not cluster.queue() and not (tmp_path / "runs" / "study" / "waiting.json").exists()
    cluster.until(done, 300)
    assert {run["state"] for run in cluster.status()} == {"done"} and most <= 5


def test_jobs_are_submitted_while_all_nodes_are_drained_and_start_when_they_are_back(cluster):
    cluster("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=maintenance")
    try:
        cluster.spec("spec.yaml", resources=ONE)
        text = cluster.iddpm("submit", "spec.yaml")
        assert "note: resources.train: such a job has to wait: 3 of the 3 nodes" in text and len(cluster.queue()) == 4
        refused = cluster.iddpm("submit", "spec.yaml", "name=other", "resources.train.nodes=4", "train.batch_size=8", status=2)
        assert "resources.train: the cluster refuses such a job" in refused
    finally:
        cluster("scontrol", "update", "NodeName=ALL", "State=RESUME")
    cluster.until(lambda: any(" RUNNING " in line for line in cluster.queue()))
    cluster.iddpm("cancel", "runs/study")
    cluster.until(lambda: not cluster.queue())
    time.sleep(1)
