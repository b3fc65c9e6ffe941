"""When a sweep that fails alike is held. (That SLURM then holds it: test_on_slurm.py.)"""

import json
import time

import pytest

from jobs.run.failures import Failure, write_failure
from slurm.launch.in_job.hold import hold_if_alike
from slurm.launch.records import Submission, record


@pytest.fixture
def study(tmp_path, monkeypatch):
    names = [f"seed={seed}" for seed in range(8)]
    (tmp_path / "study.json").write_text(json.dumps({"runs": {name: {"differs": {}} for name in names}}))
    for name in names:
        (tmp_path / name).mkdir()
    for number, stage in enumerate(("train", "sample", "report"), start=12):
        record(tmp_path, Submission(f"s-{stage}", stage, [] if stage == "report" else names, float(number), str(number)))
    record(tmp_path, Submission("s-lost", "train", names, 20.0))
    monkeypatch.setenv("IDDPM_REQUEST", str(tmp_path / "request-31-0"))
    return tmp_path


def fail(study, seed: int, kind="error", message="ValueError: shape 12", done=5):
    failure = Failure("train", kind, message, f'File "/x/jobs/train.py", line 7, in step\n{message}', done, "n1", 0, time.time())
    write_failure(study / f"seed={seed}", failure)
    hold_if_alike(study / f"seed={seed}")


def at(study, seed: int, stage: str, done: int) -> None:
    (study / f"seed={seed}" / "progress.json").write_text(json.dumps({"stage": stage, "state": "running", "done": done}))


def held(study) -> bool:
    """Whether the batch script is asked to hold the study: training and no later stage, and to let the report start."""
    request = study / "request-31-0"
    if request.exists():
        assert request.read_text().splitlines() == ["hold", str(study), "12", "14"]
    return request.exists()


def test_the_third_run_that_fails_of_the_same_holds_the_rest(study):
    fail(study, 0, message="ValueError: shape 12 of /a/b")
    fail(study, 1, message="ValueError: shape 13 of /a/c")  # numbers and paths do not make a difference
    fail(study, 2, message="KeyError: 'other'")
    assert not held(study)
    fail(study, 3)
    assert not held(study)
    fail(study, 4, message="ValueError: shape 99 of /d")
    assert held(study)
    record = json.loads((study / "request-31-0.held").read_text())
    assert record["runs"] == ["seed=0", "seed=1", "seed=4"] and record["jobs"] == ["12"]


def test_as_many_runs_that_got_further_speak_for_the_rest(study):
    for seed, (stage, done) in {5: ("train", 6), 6: ("sample", 0), 7: ("train", 100)}.items():
        at(study, seed, stage, done)
    for seed in (0, 1, 2):
        fail(study, seed)
    assert not held(study)
    fail(study, 3)
    assert held(study)  # four against three


def test_runs_that_got_less_far_do_not_count_for_it(study):
    for seed in (5, 6, 7):
        at(study, seed, "train", 5)
    for seed in (0, 1, 2):
        fail(study, seed)
    assert held(study)


@pytest.mark.parametrize("kind", ["diverged", "node or network", "no progress", "no requeue"])
def test_what_lies_in_a_run_itself_holds_nobody(study, kind):
    for seed in range(5):
        fail(study, seed, kind=kind)
    assert not held(study)
