"""Where a cluster takes only so many jobs of a user: a study goes in waves, and the report's job submits the next one."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.run.directory import RunDir
from slurm.launch.sites.waves import first_wave


@given(counts=st.lists(st.integers(1, 5), max_size=12), room=st.integers(0, 20), data=st.data())
def test_a_wave_fits_and_has_no_run_before_those_that_its_spec_names(counts, room, data):
    runs = [RunDir(Path(f"r{number}")) for number in range(len(counts))]
    jobs = dict(zip(runs, counts, strict=True))
    names = {run: data.draw(st.lists(st.sampled_from(runs[:place]), max_size=2)) if place else []
             for place, run in enumerate(runs)}
    left = room
    wave = first_wave(jobs, names.__getitem__, room)
    for place, run in enumerate(wave):
        left -= jobs[run]
        assert set(names[run]) <= set(wave[:place])
    assert left >= 0 and len(set(wave)) == len(wave)
    assert not [run for run in runs if run not in wave and jobs[run] <= left and set(names[run]) <= set(wave)]


@pytest.fixture
def cluster(fake_slurm):
    """The fake cluster that takes six jobs of a user, and a sweep of four runs of three jobs."""
    fake_slurm.configure(MaxSubmitJobs=6)
    fake_slurm.profile("small", **fake_slurm.stand_in, max_queued=6)
    fake_slurm.spec("four.yaml", sweep={"grid": {"train.seed": [1, 2, 3, 4]}})
    return fake_slurm


def waiting() -> list[str]:
    file = Path("runs/study/waiting.json")
    return json.loads(file.read_text())["runs"] if file.exists() else []


def until_done(cluster) -> None:
    cluster.until(lambda: not waiting() and not cluster.queue(), 240)


@pytest.mark.slow
def test_a_study_goes_in_waves_to_its_end(cluster):
    act = cluster.act("seed=1", "train", "wait")
    text = cluster.submit("four.yaml", cluster="small")
    assert "3 runs wait for the next wave" in text and len(cluster.jobs()) == 4
    shown = cluster.status()
    assert [(run["state"], run["reason"]) for run in shown[1:]] == [("pending", "next wave")] * 3
    text = cluster.iddpm("status", "runs/study")
    assert "3 runs wait for the next wave (max_queued of the" in text and ": which the job of the report submits" in text
    act.unlink()
    until_done(cluster)
    assert set(cluster.states().values()) == {"done"}
    assert [cluster.events().count(f"begin seed={seed} train") for seed in (1, 2, 3, 4)] == [1] * 4
    assert cluster.events()[-1] == "begin report" and "wait for" not in cluster.iddpm("status", "runs/study")


@pytest.mark.slow
def test_submitting_again_meanwhile_submits_nothing_twice(cluster):
    act = cluster.act("seed=1", "train", "wait")
    cluster.submit("four.yaml", cluster="small")
    cluster.submit("four.yaml", cluster="small")
    cluster.iddpm("requeue", "runs/study")
    assert len(cluster.jobs()) == 4 and len(waiting()) == 3
    act.unlink()
    until_done(cluster)
    trained = [job for job in cluster.jobs().values() if "-train-" in job["options"]["job-name"]]
    assert len(trained) == 4 and set(cluster.states().values()) == {"done"}


@pytest.mark.slow
def test_a_restarted_report_submits_no_run_twice(cluster):
    act = cluster.act("seed=2", "train", "wait")
    cluster.submit("four.yaml", cluster="small")
    cluster.until_event("begin seed=2 train")
    record = Path("runs/study/waiting.json")
    record.write_text(json.dumps({"runs": ["seed=2", "seed=3", "seed=4"], "time": 0.0}))  # as if killed before it was written
    assert [run["reason"] for run in cluster.status()][2:] == ["next wave"] * 2
    act.unlink()
    until_done(cluster)
    assert [cluster.events().count(f"begin seed={seed} train") for seed in (1, 2, 3, 4)] == [1] * 4


@pytest.mark.slow
def test_cancelled_waves_stay_cancelled(cluster):
    cluster.act("seed=1", "train", "wait")
    cluster.submit("four.yaml", cluster="small")
    cluster.until_event("begin seed=1 train")
    cluster.iddpm("cancel", "runs/study")
    cluster.until_empty()
    assert not waiting() and len(cluster.jobs()) == 4
    assert set(cluster.states().values()) == {"interrupted", "new"}


@pytest.mark.slow
def test_a_failed_run_does_not_keep_the_others_from_their_wave(cluster):
    cluster.act("seed=2", "train", "fail on purpose")
    cluster.submit("four.yaml", cluster="small")
    until_done(cluster)
    assert list(cluster.states().values()) == ["done", "failed", "done", "done"]
    assert cluster.events().count("begin seed=2 train") == 1


def test_too_little_room_is_told_before_anything_is_written(cluster):
    cluster.profile("tiny", **cluster.stand_in, max_queued=4)
    assert "too few for waves: one run needs 3, beside the report" in cluster.submit("four.yaml", cluster="tiny", status=2)
    assert not Path("runs").exists()


def test_a_site_that_takes_no_more_jobs_is_told_with_the_way_out(cluster):
    text = cluster.submit("four.yaml", status=1)
    assert "job submit limit" in text and "`max_queued: N` in the cluster profile makes the study go in waves" in text
