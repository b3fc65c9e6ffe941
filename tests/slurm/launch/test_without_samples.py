"""A study of several kinds on a (fake) SLURM: a run of a kind that draws no samples has no job of the stage sample."""

import json
from pathlib import Path

import pytest
from real_slurm import ONE
from small_classifier import MIXED
from small_runs import SMALL_SPEC
from stand_in_job import leave_results

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from slurm.launch.records import Submission, changing_jobs, record


@pytest.fixture
def mixed(fake_slurm):
    """The cluster, with mixed.yaml: a classifier and a conditional diffusion model in one study."""
    model = SMALL_SPEC["model"] | {"num_head_channels": 4}
    Path("mixed.yaml").write_text(json.dumps(SMALL_SPEC | {"name": "study", "model": model, "sweep": MIXED, "resources": ONE}))
    return fake_slurm


def arrays() -> dict[str, list[str]]:
    """The stages that were submitted, by the runs of their arrays, in order."""
    found = [json.loads(file.read_text()) for file in Path("runs/study/submissions").glob("*.json")]
    by_runs: dict[str, list[str]] = {}
    for each in sorted(found, key=lambda each: int(each["job_id"])):
        by_runs.setdefault(",".join(each["runs"]), []).append(each["stage"])
    return by_runs


def test_no_sampling_of_a_classifier_is_submitted(mixed):
    planned = mixed.submit("mixed.yaml", "--dry-run")
    assert planned.count("sample: 1 runs: conditional") == 1 and "sample: 1 runs: classifier" not in planned
    waiting = mixed.act("classifier", "train", "wait")
    mixed.submit("mixed.yaml")
    assert arrays() == {"classifier": ["train", "evaluate"], "conditional": ["train", "sample", "evaluate"], "": ["report"]}
    mixed.until_event("begin conditional evaluate")  # which does not wait for the classifier
    assert mixed.states()["classifier"] == "running"
    waiting.unlink()
    mixed.until_empty()
    assert mixed.states() == {"classifier": "done", "conditional": "done"}
    events = mixed.events()
    assert [event for event in events if event.endswith(("classifier train", "classifier sample", "classifier evaluate"))] == [
        "begin classifier train", "end classifier train", "begin classifier evaluate", "end classifier evaluate"]
    assert "2 done" in mixed.submit("mixed.yaml")


def test_requeue_and_an_interrupted_submission_ask_for_no_samples(mixed):
    runs = {run.path.name: run for run in freeze(load("mixed.yaml"), Path("runs"))}
    study = Path("runs/study")
    waiting = mixed.act("classifier", "train", "wait")
    mixed.submit("mixed.yaml")
    mixed.until_event("begin classifier train")
    with changing_jobs(study):  # as if sbatch had not been called for what stands behind
        for file in study.glob("submissions/*.json"):
            each = json.loads(file.read_text())
            if each["runs"] == ["classifier"] and each["stage"] != "train":
                mixed("scancel", each["job_id"])
                file.unlink()
    text = mixed.submit("mixed.yaml")
    assert [line.split()[0] for line in text.splitlines() if " job " in line and "evaluate" in line] == ["evaluate"]
    assert arrays()["classifier"] == ["train", "evaluate"]
    waiting.unlink()
    mixed.until_empty()
    (study / "classifier" / "evaluation.json").unlink(missing_ok=True)
    text = mixed.iddpm("requeue", "runs/study/classifier")
    assert "evaluate" in text and "sample" not in text
    mixed.until_empty()
    assert runs["classifier"].is_done("evaluate")


def test_status_goes_from_training_to_evaluation(mixed):
    run, _ = freeze(load("mixed.yaml"), Path("runs"))
    assert run.is_done("sample") and not run.is_done("train") and not run.is_done("evaluate")
    (status, _) = mixed.status()
    assert (status["state"], status["stage"]) == ("new", "train")
    leave_results(run, "train")
    (status, _) = mixed.status()
    assert (status["stage"], status["samples"]) == ("evaluate", None)
    record(Path("runs/study"), Submission("s", "evaluate", ["classifier"], 0.0, "9"))
    leave_results(run, "evaluate")
    (status, _) = mixed.status()
    assert (status["state"], status["stage"]) == ("done", None)


def test_a_stage_that_a_run_does_not_have_is_refused_by_name(mixed):
    run, conditional = freeze(load("mixed.yaml"), Path("runs"))
    for command in ("sample", "gather"):
        text = mixed.iddpm(command, "runs/study/classifier", status=2)
        assert "a run of kind noisy_classifier has no stage sample; its stages are train and evaluate" in text
    assert not (run.path / "failure.json").exists()
    assert RunDir(conditional.path).has_stage("sample") and not RunDir(run.path).has_stage("sample")
    with pytest.raises(UserError, match="has no stage sample"):
        RunDir(run.path).check_has("sample")
