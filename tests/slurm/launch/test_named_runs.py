"""Jobs of runs whose specs name other runs: on the fake SLURM, with jobs that compute nothing."""

import json
from pathlib import Path

import linear_kind
import pytest
from real_slurm import ONE
from stand_in_job import leave_results

from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import KINDS
from jobs.spec.reading.file import load

STUDY = {"name": "study", "kind": "linear", "data": {"path": "digits", "image_size": 8, "channels": 1},
         "train": {"iterations": 12, "batch_size": 12}, "sample": {"num_samples": 10}, "resources": ONE}
PUPILS = {"list": [{"name": "last", "linear.teacher": "second"}, {"name": "first", "linear.teacher": "teacher"},
                   {"name": "second", "linear.teacher": "teacher", "train.seed": 1}, {"name": "teacher"}]}


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    monkeypatch.setitem(KINDS, *linear_kind.ADD)


@pytest.fixture
def write(fake_slurm):
    """write("a.yaml", sweep=...): a spec of the second kind, with these sections in place of STUDY's."""
    def write(file: str, **sections) -> None:
        Path(file).write_text(json.dumps(STUDY | sections))
    write("pupils.yaml", sweep=PUPILS)
    write("teachers.yaml", name="teachers", sweep={"list": [{"name": "a"}, {"name": "b", "train.seed": 1}]})
    write("pupil.yaml", name="others", linear={"teacher": "runs/teachers/b"})
    return write


def dependencies(cluster) -> dict[str, str]:
    """What each array waits for, by its stage and first run; of the jobs in the queue."""
    jobs = cluster.jobs()
    submissions = [json.loads(file.read_text()) for file in Path("runs").glob("*/submissions/*.json")]
    first = {each["job_id"]: jobs.get(each["job_id"]) or jobs[f"{each['job_id']}_0"] for each in submissions}
    return {" ".join((each["stage"], *each["runs"])): first[each["job_id"]]["options"].get("dependency", "")
            for each in submissions if first[each["job_id"]]["state"] == "PENDING"}


@pytest.mark.slow
def test_pupils_wait_for_the_last_follow_up_of_their_teachers(fake_slurm, write):
    fake_slurm.profile("strict", **fake_slurm.stand_in, requeue=False, follow_ups=2)
    waiting = fake_slurm.act("b", "train", "wait")
    fake_slurm.submit("teachers.yaml", cluster="strict")
    fake_slurm.until_event("begin b train")
    fake_slurm.submit("pupil.yaml", cluster="strict")
    # Training of two runs is 1_0 and 1_1, its follow-ups are 3 and 5.
    assert dependencies(fake_slurm)["train run"].endswith("afterok:5_1")
    waiting.unlink()
    fake_slurm.until_empty()


@pytest.mark.slow
def test_pupils_are_trained_after_their_teachers_and_status_says_so(fake_slurm, write):
    assert "# " in fake_slurm.submit("pupils.yaml", "--dry-run") and not Path("runs").exists()
    waiting = fake_slurm.act("teacher", "train", "wait")
    text = fake_slurm.submit("pupils.yaml")
    assert [line.split()[0] for line in text.splitlines() if " job " in line] == [
        *["train"] * 3, *["sample"] * 3, *["evaluate"] * 3, "report"]
    fake_slurm.until_event("begin teacher train")
    found = dependencies(fake_slurm)
    assert (found["train first second"], found["train last"]) == ("afterok:1", "afterok:2_1")
    assert found["sample first second"].startswith("aftercorr:2")
    runs = {run["run"]: run for run in fake_slurm.status()}
    assert runs["first"]["waits_for"] == [{"run": "teacher", "stage": "train", "key": "linear.teacher"}]
    assert runs["teacher"]["waits_for"] == [] and runs["first"]["state"] == "pending"
    shown = fake_slurm.iddpm("status", "runs/study")
    assert shown.count("waits for teacher (train)") == 2 and "waits for second (train)" in shown and "Dependency)" in shown
    waiting.unlink()
    fake_slurm.until_empty()
    events = fake_slurm.events()
    for before, after in (("teacher", "first"), ("teacher", "second"), ("second", "last")):
        assert events.index(f"end {before} train") < events.index(f"begin {after} train")
    assert set(fake_slurm.states().values()) == {"done"} and events[-1] == "begin report"


@pytest.mark.slow
def test_after_a_teacher_failed_its_pupils_are_cancelled_and_requeue_brings_all_back(fake_slurm, write):
    failing = fake_slurm.act("teacher", "train", "fail no such thing")
    fake_slurm.submit("pupils.yaml", "--max-parallel", 1)
    fake_slurm.until_empty()
    assert fake_slurm.states() == {"last": "stopped", "first": "stopped", "second": "stopped", "teacher": "failed"}
    assert fake_slurm.iddpm("status", "runs/study").count("; waits for teacher (train)") == 2
    assert fake_slurm.events() == ["begin teacher train", "end teacher train", "begin report"]
    refused = fake_slurm.iddpm("requeue", "runs/study/first", status=2)
    assert "linear.teacher: teacher has not done its stage train" in refused and not fake_slurm.queue()
    failing.unlink()
    fake_slurm.iddpm("requeue", "runs/study")
    fake_slurm.until_empty()
    assert set(fake_slurm.states().values()) == {"done"}


@pytest.mark.slow
def test_a_run_of_another_study_must_be_done_or_in_the_queue(fake_slurm, write):
    assert "linear.teacher: runs/teachers/b: there is no such run" in fake_slurm.submit("pupil.yaml", status=2)
    teacher = freeze(load("teachers.yaml", ()), Path("runs"))[1]
    refused = fake_slurm.submit("pupil.yaml", status=2)
    assert "linear.teacher: runs/teachers/b has not done its stage train" in refused and "iddpm requeue" in refused
    assert fake_slurm.jobs() == {} and not Path("runs/others").exists()
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    fake_slurm.submit("teachers.yaml")
    planned = fake_slurm.submit("pupil.yaml", "--dry-run")
    assert "#SBATCH --dependency=afterok:1_1\n" in planned and "after 1_1 in the queue succeeded" in planned
    fake_slurm.submit("pupil.yaml")
    assert dependencies(fake_slurm)["train run"] == "afterok:1_1"
    assert "waits for runs/teachers/b (train)" in fake_slurm.iddpm("status", "runs/others")
    fake_slurm.iddpm("cancel", "runs/others")
    leave_results(teacher, "train")
    assert "afterok:1_1" not in fake_slurm.submit("pupil.yaml", "--dry-run")


@pytest.mark.slow
def test_a_submission_that_broke_off_is_completed_with_what_its_runs_wait_for(fake_slurm, write, monkeypatch):
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    fake_slurm.submit("pupils.yaml")
    for file in Path("runs/study/submissions").glob("*.json"):
        submission = json.loads(file.read_text())
        if "train" not in file.name or submission["runs"] == ["last"]:
            fake_slurm("scancel", submission["job_id"])
            file.unlink()
    fake_slurm.submit("pupils.yaml")
    found = dependencies(fake_slurm)
    assert found["train last"] == "afterok:2_1" and found["sample first second"] == "aftercorr:2"


def test_a_run_may_name_one_of_its_own_study_by_its_folder(fake_slurm, write):
    write("path.yaml", sweep={"list": [{"name": "pupil", "linear.teacher": "runs/study/teacher"}, {"name": "teacher"}]})
    write("teacher.yaml", sweep={"list": [{"name": "teacher"}]})
    (teacher,) = freeze(load("teacher.yaml", ()), Path("runs"))
    assert teacher == RunDir(Path("runs/study/teacher"))
    assert "--dependency=afterok:<1>\n" in fake_slurm.submit("path.yaml", "--dry-run").replace("'", "").replace('"', "")
