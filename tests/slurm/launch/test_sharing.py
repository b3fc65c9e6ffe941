"""Jobs of runs that share one training: on the fake SLURM, with jobs that compute nothing."""

import json
from pathlib import Path

import pytest

from jobs.run.directory import RunDir

GRID = {"sample.sampler": ["ancestral", "ddim"]}
TRAINS, SHARES = "sampler=ancestral", "sampler=ddim"


@pytest.fixture
def cluster(fake_slurm):
    fake_slurm.spec("two.yaml", sweep={"grid": GRID})
    fake_slurm.spec("trains.yaml", sweep={"grid": {"sample.sampler": ["ancestral"]}})
    fake_slurm.spec("shares.yaml", sweep={"grid": {"sample.sampler": ["ddim"]}})
    fake_slurm.spec("six.yaml", sweep={"grid": {"train.seed": [1, 2, 3]} | GRID})
    return fake_slurm


def submitted() -> list[tuple[str, list[str]]]:
    """Stage and runs of each array, in the order of submission."""
    found = [json.loads(file.read_text()) for file in Path("runs/study/submissions").glob("*.json")]
    return [(each["stage"], each["runs"]) for each in sorted(found, key=lambda each: each["time"])]


def trained(cluster) -> list[str]:
    return [event.split()[1] for event in cluster.events() if event.startswith("begin") and event.endswith(" train")]


@pytest.mark.slow
def test_one_training_serves_both_and_status_says_so(cluster):
    planned = cluster.submit("two.yaml", "--dry-run")
    assert planned.count("# 1. train") == 1 and "# 1. train: 1 runs" in planned and not Path("runs").exists()
    waiting = cluster.act(TRAINS, "train", "wait")
    cluster.submit("two.yaml")
    assert [(stage, runs) for stage, runs in submitted() if stage != "report"] == [
        ("train", [TRAINS]), ("sample", [TRAINS]), ("sample", [SHARES]), ("evaluate", [TRAINS]), ("evaluate", [SHARES])]
    cluster.until_event(f"begin {TRAINS} train")
    runs = {run["run"]: run for run in cluster.status()}
    assert runs[SHARES]["shares"] == TRAINS and runs[TRAINS]["shares"] is None
    assert (runs[SHARES]["state"], runs[SHARES]["stage"]) == ("pending", "sample")
    assert runs[SHARES]["waits_for"] == [{"run": TRAINS, "stage": "train", "key": "training"}]
    shown = cluster.iddpm("status", "runs/study")
    assert f"one training: that of {TRAINS}, shared by {SHARES}" in shown and f"waits for {TRAINS} (train)" in shown
    waiting.unlink()
    cluster.until_empty()
    assert set(cluster.states().values()) == {"done"} and trained(cluster) == [TRAINS]
    assert "nothing to submit" in cluster.submit("two.yaml")


@pytest.mark.slow
def test_every_training_is_submitted_once_in_arrays_of_equal_order(cluster):
    cluster.submit("six.yaml")
    arrays = [(stage, len(runs)) for stage, runs in submitted()]
    assert arrays == [("train", 3), ("sample", 3), ("sample", 3), ("evaluate", 3), ("evaluate", 3), ("report", 0)]
    cluster.until_empty()
    assert set(cluster.states().values()) == {"done"} and len(trained(cluster)) == 3
    events = cluster.events()
    for seed in (1, 2, 3):
        trains, shares = f"seed={seed},sampler=ancestral", f"seed={seed},sampler=ddim"
        assert events.index(f"end {trains} train") < events.index(f"begin {shares} sample")


@pytest.mark.slow
def test_after_the_training_failed_requeue_of_a_run_that_shares_brings_it_back(cluster):
    failing = cluster.act(TRAINS, "train", "fail no such thing")
    cluster.submit("two.yaml")
    cluster.until_empty()
    assert cluster.states() == {TRAINS: "failed", SHARES: "stopped"}
    failing.unlink()
    cluster.iddpm("requeue", f"runs/study/{SHARES}")
    cluster.until_empty()
    assert cluster.states()[SHARES] == "done" and RunDir(Path("runs/study") / TRAINS).is_done("train")
    cluster.iddpm("requeue", "runs/study")
    cluster.until_empty()
    assert set(cluster.states().values()) == {"done"} and trained(cluster) == [TRAINS, TRAINS]


@pytest.mark.slow
def test_a_point_joins_while_the_training_is_in_the_queue_and_after_its_trainer_left(cluster):
    waiting = cluster.act(TRAINS, "train", "wait")
    cluster.submit("trains.yaml")
    cluster.until_event(f"begin {TRAINS} train")
    cluster.submit("shares.yaml")
    assert [(stage, runs) for stage, runs in submitted() if runs == [SHARES]] == [("sample", [SHARES]), ("evaluate", [SHARES])]
    waiting.unlink()
    cluster.until_empty()
    assert cluster.states()[SHARES] == "done" and trained(cluster) == [TRAINS]


@pytest.mark.slow
def test_a_trainer_that_left_before_it_was_trained_is_trained_for_the_others(cluster):
    failing = cluster.act(TRAINS, "train", "fail no such thing")
    cluster.submit("two.yaml")
    cluster.until_empty()
    failing.unlink()
    cluster.submit("shares.yaml")
    cluster.until_empty()
    assert cluster.states()[SHARES] == "done"
    assert not Path("runs/study", TRAINS, "evaluation.json").exists()
    kept = cluster.iddpm("rm", "runs/study", "--left", "--yes")
    assert f"{TRAINS}: stays, since its training is shared by {SHARES}" in kept and "no run left the sweep" in kept


@pytest.mark.slow
def test_a_trainer_that_left_is_trained_and_nothing_more_by_requeue_and_by_a_second_submission(cluster):
    failing = cluster.act(TRAINS, "train", "fail no such thing")
    cluster.submit("two.yaml")
    cluster.until_empty()
    cluster.submit("shares.yaml")
    cluster.until_empty()
    failing.unlink()
    waiting = cluster.act(TRAINS, "train", "wait")
    before = len(submitted())
    cluster.iddpm("requeue", "runs/study")
    cluster.until_event(f"begin {TRAINS} train")
    assert "nothing to submit" in cluster.submit("shares.yaml")
    assert [each for each in submitted()[before:] if each[1]] == [
        ("train", [TRAINS]), ("sample", [SHARES]), ("evaluate", [SHARES])]
    waiting.unlink()
    cluster.until_empty()
    cluster.iddpm("requeue", "runs/study")
    assert cluster.states() == {TRAINS: "left", SHARES: "done"} and not cluster.queue()


@pytest.mark.slow
def test_waves_keep_a_run_that_shares_behind_its_trainer(cluster):
    cluster.configure(MaxSubmitJobs=5)
    cluster.profile("small", **cluster.stand_in, max_queued=5)
    act = cluster.act(TRAINS, "train", "wait")
    text = cluster.submit("two.yaml", cluster="small")
    assert "1 run waits for the next wave" in text and len(cluster.jobs()) == 4
    act.unlink()
    cluster.until(lambda: set(cluster.states().values()) == {"done"}, 240)
    assert trained(cluster) == [TRAINS]


@pytest.mark.slow
def test_where_jobs_are_not_requeued_a_run_that_shares_waits_for_the_last_follow_up(cluster):
    cluster.profile("strict", **cluster.stand_in, requeue=False, follow_ups=2)
    planned = cluster.submit("two.yaml", "--dry-run", cluster="strict").splitlines()
    assert [line.split()[2] for line in planned if line.startswith("#   ")][:5] == ["train"] * 3 + ["sample"] * 2
    shares = next(index for index, line in enumerate(planned) if line.endswith(f"sample: 1 runs: {SHARES}"))
    assert "afterok:<3>" in next(line for line in planned[shares:] if "--dependency" in line)
