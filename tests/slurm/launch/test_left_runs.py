"""Points that left the sweep, and runs that changed: what submit, requeue and rm do about them on the fake SLURM."""

import json
from pathlib import Path

import pytest


def seeds(cluster, *values: int, **sections) -> None:
    cluster.spec("sweep.yaml", sweep={"grid": {"train.seed": list(values)}}, **sections)


@pytest.mark.slow
def test_a_run_that_left_the_sweep_is_named_at_submit_and_keeps_requeue_from_no_other(fake_slurm):
    seeds(fake_slurm, 1, 2, 3)
    for seed in (1, 2, 3):
        fake_slurm.act(f"seed={seed}", "train", "fail no such thing")
    fake_slurm.submit("sweep.yaml", "--max-parallel", 3)
    fake_slurm.until_event("end seed=3 train")
    fake_slurm.iddpm("cancel", "runs/study")
    fake_slurm.until_empty()
    seeds(fake_slurm, 2, 3)
    note = "1 run of runs/study left the sweep, since sweep.yaml has no such point any more"
    assert f"# note: {note}" in fake_slurm.submit("sweep.yaml", "--dry-run")
    assert fake_slurm.states()["seed=1"] == "failed"  # a dry run writes nothing
    assert f"note: {note}" in fake_slurm.submit("sweep.yaml")
    fake_slurm.until_empty()
    assert fake_slurm.states() == {"seed=1": "left", "seed=2": "failed", "seed=3": "failed"}
    assert fake_slurm.events().count("begin seed=1 train") == 1

    Path("runs/study/seed=1/spec.yaml").write_text("not: [a spec")
    Path("runs/study/seed=2/spec.yaml").unlink()  # nor does a broken run keep requeue from the others
    Path("acts/seed=3.train").unlink()
    text = fake_slurm.iddpm("requeue", "runs/study")
    assert "seed=2: not a run's directory" in text and "`iddpm rm " in text and "seed=1" not in text
    fake_slurm.until_event("end seed=3 train")
    assert fake_slurm.events().count("begin seed=1 train") == 1
    assert "neither a study's nor a run's directory" in fake_slurm.iddpm("requeue", "runs/study/seed=2", status=2)


@pytest.mark.slow
def test_runs_with_jobs_in_the_queue_are_not_removed_and_cancel_is_named(fake_slurm):
    waiting = fake_slurm.act("seed=1", "train", "wait")
    fake_slurm.submit("sweep.yaml")
    fake_slurm.until_event("begin seed=1 train")
    text = fake_slurm.iddpm("rm", "runs/study", "seed=1", "-y", status=2)
    assert "jobs in the queue for seed=1; `iddpm cancel runs/study/seed=1` first" in text
    assert "`iddpm cancel runs/study` first" in fake_slurm.iddpm("rm", "runs/study", "-y", status=2)
    assert Path("runs/study/seed=1/spec.yaml").exists()
    waiting.unlink()
    fake_slurm.iddpm("cancel", "runs/study")
    fake_slurm.until_empty()
    fake_slurm.iddpm("rm", "runs/study", "seed=1", "-y")
    assert list(json.loads(Path("runs/study/study.json").read_text())["runs"]) == ["seed=2"]
    assert set(fake_slurm.states()) == {"seed=2"}
    fake_slurm.submit("sweep.yaml")  # and the point comes back as a new run
    fake_slurm.until_empty()
    assert fake_slurm.states() == {"seed=1": "done", "seed=2": "done"}
    fake_slurm.iddpm("rm", "runs/study", "-y")
    assert not Path("runs/study").exists()


@pytest.mark.slow
def test_submit_of_more_samples_sends_sampling_and_evaluation_again_but_not_training(fake_slurm):
    fake_slurm.submit("spec.yaml", "sample.num_samples=6")
    fake_slurm.until_empty()
    run, samples = Path("runs/study/run"), Path("runs/study/run/samples/samples.h5")
    assert fake_slurm.states() == {"run": "done"} and samples.exists()
    assert "# 1. sample" in fake_slurm.submit("spec.yaml", "sample.num_samples=9", "--dry-run")
    assert fake_slurm.states() == {"run": "done"} and samples.exists()

    waiting = fake_slurm.act("run", "sample", "wait")
    text = fake_slurm.submit("spec.yaml", "sample.num_samples=9")
    assert [line.split()[0] for line in text.splitlines() if " job " in line] == ["sample", "evaluate", "report"]
    fake_slurm.until_event("begin run sample")
    assert not samples.exists()
    longer = ("spec.yaml", "sample.num_samples=9", "train.iterations=100_000")
    refused = fake_slurm.submit(*longer, status=2)
    assert "jobs in the queue, which rely on the old number of steps or samples; `iddpm cancel runs/study/run` first" in refused
    waiting.unlink()
    fake_slurm.until_empty()
    assert json.loads((run / "evaluation.json").read_text())["samples"] == 9
    last = next(run.glob("checkpoints/step-*")).name
    text = fake_slurm.submit(*longer)
    assert [line.split()[0] for line in text.splitlines() if " job " in line] == ["train", "sample", "evaluate", "report"]
    assert (run / "samples" / f"{last},ancestral,full" / "samples.h5").exists()
    fake_slurm.until_empty()
    assert fake_slurm.states() == {"run": "done"}
    assert [point["step"] for point in json.loads((run / "evaluation.json").read_text())["curve"]] == [100_000, int(last[5:])]
