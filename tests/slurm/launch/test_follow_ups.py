"""Where jobs may not be requeued: follow-up jobs behind each job resume what was saved."""

import time

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(fake_slurm):
    """The fake cluster with a profile `strict`: no requeues, two follow-ups."""
    fake_slurm.profile("strict", **fake_slurm.stand_in, requeue=False, follow_ups=2)
    return fake_slurm


def train_jobs(cluster) -> list[dict]:
    return [job for job in cluster.jobs().values() if "-train-" in job["options"]["job-name"]]


def interrupt(cluster, job: dict, events: int) -> None:
    """The time limit of a job whose stage has begun as the `events`-th one, as SLURM announces it."""
    cluster.until(lambda: len([event for event in cluster.events() if event.startswith("begin run")]) == events, 60)
    cluster("scancel", "--signal=USR2", job["id"])
    cluster.until(lambda: train_jobs(cluster)[events - 1]["state"] not in ("PENDING", "RUNNING"), 60)


def test_a_follow_up_resumes_what_was_saved_and_the_others_end_at_once(cluster):
    act = cluster.act("run", "train", "wait")
    text = cluster.submit("spec.yaml", cluster="strict")
    assert "train     job 2, 1 run, follow-up 1" in text and len(cluster.jobs()) == 3 * 3 + 1
    first, second, third = train_jobs(cluster)
    assert all("no-requeue" in job["options"] and "requeue" not in job["options"] for job in cluster.jobs().values())
    assert second["options"]["dependency"] == f"afterok:{first['id']}"
    interrupt(cluster, first, 1)
    cluster.until(lambda: cluster.states() == {"run": "running"}, 60)
    act.unlink()
    cluster.until_empty()
    assert [job["state"] for job in train_jobs(cluster)] == ["COMPLETED"] * 3
    assert cluster.events().count("begin run train") == 2 and cluster.events().count("begin run sample") == 1
    assert cluster.states() == {"run": "done"} and cluster.events()[-1] == "begin report"


def test_elements_of_an_array_are_followed_one_by_one(cluster):
    acts = [cluster.act(f"seed={seed}", "train", "wait") for seed in (1, 2)]
    cluster.submit("sweep.yaml", cluster="strict")
    for seed in (1, 2):
        cluster.until_event(f"begin seed={seed} train")
    cluster("scancel", "--signal=USR2", "1_0")
    cluster.until(lambda: cluster.events().count("begin seed=1 train") == 2, 60)  # while 1_1 is at work still
    assert cluster.jobs()["1_1"]["state"] == "RUNNING" and cluster.states() == {"seed=1": "running", "seed=2": "running"}
    for act in acts:
        act.unlink()
    cluster.until_empty()
    assert set(cluster.states().values()) == {"done"} and cluster.events().count("begin seed=2 train") == 1


def test_the_last_follow_up_fails_and_says_what_helps(cluster):
    cluster.act("run", "train", "wait")
    cluster.submit("spec.yaml", cluster="strict")
    for number in range(3):
        interrupt(cluster, train_jobs(cluster)[number], number + 1)
    cluster.until(lambda: cluster.events()[-1:] == ["begin report"], 60)
    cluster.until_empty()
    (run,) = cluster.status()
    assert run["state"] == "failed" and run["failure"]["kind"] == "no requeue"
    assert "no follow-up job is left" in run["failure"]["message"]
    assert not [event for event in cluster.events() if event.endswith(" sample")]


def test_a_failure_ends_the_follow_ups(cluster):
    cluster.act("run", "train", "fail on purpose")
    cluster.submit("spec.yaml", cluster="strict")
    cluster.until_empty()
    assert [job["state"] for job in train_jobs(cluster)] == ["FAILED", "CANCELLED", "CANCELLED"]
    assert cluster.states() == {"run": "failed"} and cluster.events().count("begin run train") == 1


@pytest.mark.parametrize("how", ["iddpm", "scancel"])
def test_cancelled_stays_cancelled(cluster, how):
    cluster.act("run", "train", "wait")
    cluster.submit("spec.yaml", cluster="strict")
    cluster.until_event("begin run train")
    if how == "iddpm":
        cluster.iddpm("cancel", "runs/study")
    else:
        cluster("scancel", train_jobs(cluster)[0]["id"])
    cluster.until_empty()
    time.sleep(0.5)
    assert cluster.events().count("begin run train") == 1 and {job["state"] for job in train_jobs(cluster)} == {"CANCELLED"}


def test_submitting_again_goes_on_and_completes_what_is_missing(cluster):
    act = cluster.act("run", "train", "wait")
    cluster.submit("spec.yaml", cluster="strict")
    for number in range(3):
        interrupt(cluster, train_jobs(cluster)[number], number + 1)
    cluster.until_empty()
    act.unlink()
    cluster.submit("spec.yaml", cluster="strict")
    cluster.until_empty()
    assert cluster.states() == {"run": "done"}
