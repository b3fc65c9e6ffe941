"""Submission to a real SLURM on this machine: order, failures, preemption, lost nodes; and the same samples after each."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from slurm import testbed
from slurm.queue import Job
from slurm.submissions import Submission, recorded, record

# One at a time: each cluster wants the machine for itself.
pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(400)]
IDDPM = Path(sys.executable).parent / "iddpm"
SPEC = {
    "name": "study",
    "data": {"path": "digits", "image_size": 8, "channels": 1, "class_cond": True, "num_classes": 10},
    "model": {"num_channels": 8, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [4], "num_heads": 2},
    "diffusion": {"diffusion_steps": 40},
    "train": {"iterations": 40, "batch_size": 8, "lr": 1e-3, "ema_rate": [0.9], "log_interval": 10, "save_interval": 20},
    "sample": {"num_samples": 10, "batch_size": 3, "ema_rate": 0.9},
    "evaluate": {"nll_data": "digits-test", "nll_examples": 4, "batch_size": 2},
    "resources": {"train": {"nodes": 2, "tasks_per_node": 1, "time": "0:20:00"},
                  "sample": {"nodes": 2, "tasks_per_node": 1, "time": "0:20:00"}, "evaluate": {"time": "0:20:00"}},
}
SWEEP = {"sweep": {"grid": {"diffusion.noise_schedule": ["linear", "cosine"]}}}
# Long enough to be disturbed in training and in sampling.
LONG = ["train.iterations=200", "train.save_interval=40", "diffusion.diffusion_steps=500", "evaluate.nll_examples=0"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    home = tmp_path_factory.mktemp("cluster")
    yield testbed.up(home, nodes=3, cpus=4, gpus=2)
    testbed.down(home)


@pytest.fixture
def iddpm(cluster, tmp_path):
    """iddpm("submit", ...) -> what it printed. The queue is empty afterwards."""
    (tmp_path / "spec.yaml").write_text(json.dumps(SPEC))
    (tmp_path / "sweep.yaml").write_text(json.dumps(SPEC | SWEEP))

    def call(*arguments, status=0) -> str:
        done = subprocess.run([IDDPM, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, timeout=280,
                              env=os.environ | {"SLURM_CONF": str(cluster.conf)})
        assert done.returncode == status and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stdout + done.stderr
    yield call
    slurm(cluster, "scancel", "--user", "root")
    until(lambda: not slurm(cluster, "squeue", "-h"))


def slurm(cluster, *command) -> str:
    done = subprocess.run(command, env=os.environ | {"SLURM_CONF": str(cluster.conf)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.2)
    return value


def queue(cluster) -> list[str]:
    return slurm(cluster, "squeue", "-h", "-r", "-o", "%i %T %r %j").splitlines()


def until_empty(cluster) -> None:
    """Wait for the queue to drain. SLURM holds a requeued job for two minutes; nobody here has them."""
    def drained() -> bool:
        for line in queue(cluster):
            if "BeginTime" in line:
                slurm(cluster, "scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")
        return not queue(cluster)
    until(drained)


def lost(cluster, node: str) -> bool:
    """Whether SLURM knows of the dead node, or the job that ran on it is back in the queue."""
    return any("BeginTime" in line for line in queue(cluster)) or "down" in slurm(cluster, "sinfo", "-h", "-n", node, "-o", "%T")


def until_trained(run: Path, step: int) -> None:
    until(lambda: (run / "checkpoints" / f"step-{step:08}").exists())


def progress(run: Path) -> dict:
    return json.loads((run / "progress.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> np.ndarray:
    """The samples of LONG's run on this machine, without SLURM and without trouble."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "spec.yaml").write_text(json.dumps(SPEC))
    here = [f"resources.{stage}.{field}" for stage in ("train", "sample") for field in ("nodes=1", "tasks_per_node=2")]
    subprocess.run([IDDPM, "run", "spec.yaml", *LONG, *here], cwd=folder, check=True, timeout=280)
    return samples(folder / "runs" / "study" / "run")


def samples(run: Path) -> np.ndarray:
    with h5py.File(run / "samples" / "samples.h5") as file:
        assert file["images"].shape == (10, 8, 8, 1)
        return file["images"][:]


def test_a_sweep_over_two_nodes_runs_in_order_and_is_not_submitted_twice(cluster, iddpm, tmp_path):
    assert "#SBATCH --array=0-1%2" in iddpm("submit", "sweep.yaml", "--dry-run") and not (tmp_path / "runs").exists()
    submitted = iddpm("submit", "sweep.yaml")
    assert submitted.count(" job ") == 3 and "2 runs" in submitted
    assert "2 in the queue already" in iddpm("submit", "sweep.yaml") and len(queue(cluster)) == 6
    assert json.loads(iddpm("status", "runs/study", "--json"))[0]["state"] in ("pending", "running")
    until_empty(cluster)
    states = json.loads(iddpm("status", "runs/study", "--json"))
    assert [status["run"] for status in states] == ["noise_schedule=linear", "noise_schedule=cosine"]
    assert all(status["state"] == "done" and status["metrics"]["fid (pixels)"] > 0 for status in states)
    for run in (tmp_path / "runs" / "study").glob("noise_schedule=*"):
        times = [(run / name).stat().st_mtime for name in
                 ("checkpoints/step-00000040", "samples/samples.h5", "evaluation.json")]
        assert times == sorted(times)
    assert "2 done" in iddpm("submit", "sweep.yaml") and queue(cluster) == []
    accounted = slurm(cluster, "sacct", "-X", "-n", "-o", "State", "-S", "now-1hours").split()
    assert accounted.count("COMPLETED") >= 6


def test_one_run_fails_its_dependants_are_cancelled_the_others_done_and_submit_goes_on(cluster, iddpm, tmp_path):
    spec = SPEC | {"sweep": {"grid": {"train.lr": [1e-3, 1e30]}}}
    spec["train"] = SPEC["train"] | {"iterations": 70}
    (tmp_path / "sweep.yaml").write_text(json.dumps(spec))
    iddpm("submit", "sweep.yaml")
    until_empty(cluster)
    states = {status["run"]: status["state"] for status in json.loads(iddpm("status", "runs/study", "--json"))}
    assert states == {"lr=0.001": "done", "lr=1e+30": "failed"}
    again = iddpm("submit", "sweep.yaml")
    assert again.count("1 run\n") == 3  # train, sample and evaluate of the one that failed


def test_preemption_saves_once_requeues_once_and_changes_nothing(cluster, iddpm, tmp_path, undisturbed):
    iddpm("submit", "spec.yaml", *LONG)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(run, 40)
    training = next(line.split()[0] for line in queue(cluster) if "study-train" in line)
    slurm(cluster, "sbatch", "--partition=urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
    until(lambda: "Restarts=1" in slurm(cluster, "scontrol", "show", "job", training))
    assert progress(run)["state"] == "interrupted"
    saved = max(int(folder.name[5:]) for folder in (run / "checkpoints").glob("step-*"))
    assert saved == progress(run)["done"] and 40 <= saved < 200
    until_empty(cluster)
    assert "Restarts=1" in slurm(cluster, "scontrol", "show", "job", training)
    assert np.array_equal(samples(run), undisturbed)


def test_a_node_that_dies_in_training_and_one_in_sampling_change_nothing(cluster, iddpm, tmp_path, undisturbed):
    iddpm("submit", "spec.yaml", *LONG)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(run, 40)
    testbed.fail(cluster.home, "n2")
    until(lambda: lost(cluster, "n2"))
    testbed.heal(cluster.home, "n2")

    def sampling() -> bool:
        for line in queue(cluster):
            if "BeginTime" in line:
                slurm(cluster, "scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")
        return (run / "samples").exists() and any((run / "samples").glob("chunk-*.h5"))
    until(sampling)
    finished = {file.name: file.stat().st_ino for file in (run / "samples").glob("chunk-*.h5")}
    testbed.fail(cluster.home, "n1")
    until(lambda: lost(cluster, "n1"))
    testbed.heal(cluster.home, "n1")
    until_empty(cluster)
    assert {name: (run / "samples" / name).stat().st_ino for name in finished} == finished
    assert np.array_equal(samples(run), undisturbed)


def test_cancelled_jobs_have_saved_stay_cancelled_and_go_on_when_submitted_again(cluster, iddpm, tmp_path, undisturbed):
    iddpm("submit", "spec.yaml", *LONG)
    run = tmp_path / "runs" / "study" / "run"
    until_trained(run, 40)
    assert "3 jobs cancelled" in iddpm("cancel", "runs/study")
    until(lambda: queue(cluster) == [])
    assert progress(run)["state"] == "interrupted" and progress(run)["done"] >= 40
    assert "1 interrupted" in iddpm("status", "runs/study")
    iddpm("submit", "spec.yaml", *LONG)
    until_empty(cluster)
    assert np.array_equal(samples(run), undisturbed)


def test_an_array_whose_bookkeeping_was_lost_is_found_by_its_name(tmp_path):
    record(tmp_path, Submission("study-train-1234", "train", ["a", "b"], time=1.0))
    record(tmp_path, Submission("study-train-5678", "train", ["c"], time=2.0))
    live = {"77_1": Job("77_1", "study-train-1234", "PENDING", "Priority", "")}
    first, second = recorded(tmp_path, live)
    assert first.job_id == "77" and first.element(1) == "77_1" and second.job_id is None
    assert recorded(tmp_path, {})[0].job_id == "77"  # and is written down


def test_what_the_cluster_would_refuse_is_refused_before_anything_is_written(iddpm, tmp_path):
    text = iddpm("submit", "spec.yaml", "resources.train.nodes=9", "train.batch_size=9", status=2)
    assert "resources.train" in text and not (tmp_path / "runs").exists()
    assert "no file" in iddpm("submit", "spec.yaml", "--cluster", "nowhere", status=2)


@pytest.mark.parametrize("line", ["partition: \"main\\ntouch x\"", "partition: \"a' #\"", "qos: $(touch x)", "account: a b"])
def test_profiles_cannot_smuggle_commands_into_the_script(iddpm, tmp_path, line):
    (tmp_path / "configs" / "clusters").mkdir(parents=True)
    (tmp_path / "configs" / "clusters" / "evil.yaml").write_text(line + "\n")
    assert line.split(":")[0] in iddpm("submit", "spec.yaml", "--cluster", "evil", status=2)
    assert not (tmp_path / "x").exists()
