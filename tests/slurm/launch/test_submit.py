"""What `iddpm submit` submits, and in which order the jobs run: on the fake SLURM, with jobs that compute nothing."""

import json
from pathlib import Path

import pytest
from stand_in_job import leave_results

from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load
from jobs.spec.stages import STAGES
from slurm.launch import submit
from slurm.launch.limits import check_cluster
from slurm.launch.records import Submission, changing_jobs, record, recorded
from slurm.launch.squeue import Job


def submitted(text: str) -> list[str]:
    """The stages of a submission, an array each."""
    return [line.split()[0] for line in text.splitlines() if " job " in line and not line.startswith("note")]


def begun(cluster) -> list[tuple[str, ...]]:
    """(run, stage) in the order in which the jobs began; ("report",)."""
    return [tuple(event.split()[1:]) for event in cluster.events() if event.startswith("begin")]


def test_a_sweep_runs_in_order_ends_with_a_report_and_is_not_submitted_twice(fake_slurm):
    planned = fake_slurm.submit("sweep.yaml", "--dry-run")
    assert "#SBATCH --array=0-1%2" in planned and "element i after i of 1" in planned and not Path("runs").exists()
    waiting = fake_slurm.act("seed=1", "train", "wait")
    text = fake_slurm.submit("sweep.yaml")
    assert submitted(text) == ["train", "sample", "evaluate", "report"] and text.count("2 runs") == 4 and "CPU-hours" in text
    assert "2 in the queue already" in fake_slurm.submit("sweep.yaml") and len(fake_slurm.jobs()) == 7
    fake_slurm.until_event("begin seed=2 evaluate")  # its chain does not wait for the other run's
    assert fake_slurm.states()["seed=1"] == "running" and fake_slurm.queue()["3_0"] == "Dependency"
    assert "train of seed=1, from step 10" in fake_slurm.iddpm("logs", "runs/study/seed=1")
    waiting.unlink()
    fake_slurm.until_empty()
    order = begun(fake_slurm)
    for run in ("seed=1", "seed=2"):
        assert [names[1] for names in order if names[0] == run] == ["train", "sample", "evaluate"]
    assert order[-1] == ("report",) and len(order) == 7
    assert fake_slurm.states() == {"seed=1": "done", "seed=2": "done"}
    assert "2 done" in fake_slurm.submit("sweep.yaml") and len(fake_slurm.jobs()) == 7
    for job in ("1", "7"):
        assert "COMPLETED" in fake_slurm("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=State")


@pytest.mark.slow
def test_of_a_run_that_fails_the_later_stages_are_cancelled_and_submit_goes_on_with_it(fake_slurm):
    failing = fake_slurm.act("seed=1", "train", "fail no such thing")
    fake_slurm.submit("sweep.yaml")
    fake_slurm.until_empty()
    assert fake_slurm.states() == {"seed=1": "failed", "seed=2": "done"} and begun(fake_slurm)[-1] == ("report",)
    assert {job: fake_slurm.jobs()[job]["state"] for job in ("1_0", "3_0", "5_0")} == {
        "1_0": "FAILED", "3_0": "CANCELLED", "5_0": "CANCELLED"}
    assert "no such thing" in fake_slurm.iddpm("status", "runs/study")
    failing.unlink()
    again = fake_slurm.submit("sweep.yaml")
    assert submitted(again) == ["train", "sample", "evaluate", "report"] and again.count("1 run\n") == 3 and "1 done" in again


@pytest.mark.slow
def test_max_parallel_holds_for_the_whole_study(fake_slurm):
    two = {stage: {"nodes": 2 if stage == "train" else 1, "tasks_per_node": 1, "time": "0:20:00"}
           for stage in ("train", "sample", "evaluate")}
    fake_slurm.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2, 3]}}, resources=two)
    refused = fake_slurm.submit("sweep.yaml", "--max-parallel", 1, status=2)
    assert "one run needs 2 processes in resources.train" in refused and not Path("runs").exists()
    fake_slurm.submit("sweep.yaml", "--max-parallel", 3)
    fake_slurm.until_empty()
    width, most, trained = 0, 0, 0
    for event in fake_slurm.events()[:-1]:  # the last one is the report's
        what, _, stage = event.split()
        width += (2 if stage == "train" else 1) * (1 if what == "begin" else -1)
        most = max(most, width)
        trained += event.endswith("train") and what == "end"
        assert stage == "train" or trained == 3  # the stages take turns
    assert 2 <= most <= 3 and set(fake_slurm.states().values()) == {"done"}


def test_a_submission_that_broke_off_is_completed_behind_the_array_in_the_queue(fake_slurm):
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    fake_slurm.submit("sweep.yaml")
    ours = {json.loads(file.read_text())["stage"]: file for file in Path("runs/study/submissions").glob("*.json")}
    fake_slurm("scancel", *(json.loads(ours[stage].read_text())["job_id"] for stage in ("sample", "evaluate", "report")))
    for stage in ("sample", "evaluate", "report"):
        ours[stage].unlink()
    # The id of the training was not written down either: it is found by its name.
    training = json.loads(ours["train"].read_text())
    ours["train"].write_text(json.dumps(training | {"job_id": None}))
    again = fake_slurm.submit("sweep.yaml")
    assert submitted(again) == ["sample", "evaluate", "report"] and again.count("2 runs\n") == 2
    assert json.loads(ours["train"].read_text())["job_id"] == training["job_id"] == "1"
    waits = {job["options"]["dependency"] for job in fake_slurm.jobs().values() if job["state"] == "PENDING"
             if "dependency" in job["options"]}
    assert waits == {"aftercorr:1", "aftercorr:8", "afterany:1:10"}


def break_off_after(stage: str) -> None:
    """Make the records those of a submission that ended after the array of `stage`."""
    for file in Path("runs/study/submissions").glob("*.json"):
        if json.loads(file.read_text())["stage"] != stage:
            file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("failed", [False, True])
def test_no_run_is_planned_twice_behind_a_broken_off_submission_some_of_whose_elements_have_ended(fake_slurm, failed):
    fake_slurm.act("seed=1", "train", "wait")
    if failed:
        fake_slurm.act("seed=2", "train", "fail no such thing")
    fake_slurm.submit("sweep.yaml")
    ended = "FAILED" if failed else "COMPLETED"
    fake_slurm.until(lambda: fake_slurm.jobs()["1_1"]["state"] == ended and fake_slurm.jobs()["1_0"]["state"] == "RUNNING")
    fake_slurm("scancel", "3", "5", "7")
    break_off_after("train")
    text = fake_slurm.submit("sweep.yaml")
    new = [json.loads(file.read_text()) for file in Path("runs/study/submissions").glob("*.json")]
    planned = [(run, each["stage"]) for each in new if each["job_id"] != "1" for run in each["runs"]]
    assert len(planned) == len(set(planned)), planned
    assert set(planned) == {(run, stage) for run in ("seed=1", "seed=2") for stage in ("sample", "evaluate")} | (
        {("seed=2", "train")} if failed else set()), text


def test_of_two_submissions_at_the_same_moment_one_wins_and_the_other_says_so(fake_slurm, monkeypatch):
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    with changing_jobs(Path("runs/study").absolute()):
        assert "another process is submitting" in fake_slurm.submit("sweep.yaml", status=2)
    assert fake_slurm.jobs() == {}

    def other_was_faster(*arguments):
        monkeypatch.setattr(submit, "check_cluster", check_cluster)
        fake_slurm.submit("sweep.yaml")
        return check_cluster(*arguments)
    monkeypatch.setattr(submit, "check_cluster", other_was_faster)
    assert "has just submitted jobs of this study" in fake_slurm.submit("sweep.yaml", status=2)
    assert len(fake_slurm.jobs()) == 7 and "2 in the queue already" in fake_slurm.submit("sweep.yaml")


def test_half_of_a_sweep_done_elsewhere_the_rest_and_a_new_run_are_submitted(fake_slurm):
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    for run in freeze(load("sweep.yaml", ()), Path("runs")):
        for stage in STAGES if run.path.name == "seed=1" else ("train",):
            leave_results(run, stage)
    fake_slurm.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2, 3]}})
    text = fake_slurm.submit("sweep.yaml")
    assert "1 done" in text and submitted(text) == ["train", "sample", "sample", "evaluate", "evaluate", "report"]
    fake_slurm.iddpm("cancel", "runs/study")
    # Another metric for runs that are done: the evaluation alone. Another learning rate is another run.
    planned = fake_slurm.submit("sweep.yaml", "evaluate.metrics=[fid,kid]", "--dry-run")
    assert "evaluate: 1 runs: seed=1\n" in planned and "sample: 1 runs: seed=2\n" in planned
    assert "exists with another spec" in fake_slurm.submit("sweep.yaml", "train.lr=2e-3", "--dry-run", status=2)


def test_a_sweep_larger_than_the_clusters_arrays_becomes_several(fake_slurm):
    fake_slurm.configure(MaxArraySize=2)
    fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    fake_slurm.spec("sweep.yaml", sweep={"grid": {"train.seed": [1, 2, 3]}})
    assert submitted(fake_slurm.submit("sweep.yaml")) == ["train"] * 2 + ["sample"] * 2 + ["evaluate"] * 2 + ["report"]
    fake_slurm.configure(MaxJobCount=9)
    assert "10 jobs, and the cluster holds at most 9" in fake_slurm.submit("sweep.yaml", "--runs", "other", status=2)


@pytest.mark.slow
def test_jobs_run_the_code_that_was_submitted_from_the_folder_of_the_submission(fake_slurm):
    fake_slurm.submit("spec.yaml", "--runs", "my runs, [new]")
    fake_slurm.until_empty()
    study = Path("my runs, [new]/study").absolute()
    code = {json.loads(file.read_text())["code"] for file in (study / "submissions").glob("*.json")}
    assert len(code) == 1
    kept = study / "code" / code.pop()
    assert (fake_slurm.home / "code.txt").read_text() == f"{kept}/slurm/launch/in_job/job_entry.py"
    assert "commit" in json.loads((kept / "provenance.json").read_text())
    assert fake_slurm.states(str(study)) == {"run": "done"}


def test_an_array_whose_bookkeeping_was_lost_is_found_by_its_name(tmp_path):
    record(tmp_path, Submission("study-train-1234", "train", ["a", "b"], time=1.0))
    record(tmp_path, Submission("study-train-5678", "train", ["c"], time=2.0))
    live = {"77_1": Job("77_1", "study-train-1234", "PENDING", "Priority", "")}
    first, second = recorded(tmp_path, live)
    assert first.job_id == "77" and first.element(1) == "77_1" and second.job_id is None
    assert recorded(tmp_path, {})[0].job_id == "77"  # and is written down


@pytest.mark.parametrize("settings, named", [
    (["resources.train.nodes=9", "train.batch_size=9"], ["resources.train: the cluster refuses", "node configuration"]),
    (["resources.train.time=1"], ["resources.train.time", "signal_lead_s"]),  # the default lead is two minutes
    (["sample.num_samples=100_000_000_000", "sample.batch_size=1_000_000"], ["are free there"])])
def test_jobs_that_the_cluster_would_refuse_are_refused_before_anything_is_written(fake_slurm, settings, named):
    text = fake_slurm.submit("spec.yaml", *settings, status=2)
    assert all(words in text for words in named) and not Path("runs").exists() and fake_slurm.jobs() == {}


@pytest.mark.parametrize("drained, told", [(True, "3 of the 3 nodes that could run it are down, drained or reserved"),
                                           (False, "busy, or their partition is closed")])
def test_jobs_that_only_have_to_wait_are_told_and_submitted(fake_slurm, drained, told):
    fake_slurm.configure(**{"Drained": 1} if drained else {})
    if not drained:
        fake_slurm("scontrol", "update", "PartitionName=main", "State=DOWN")
    text = fake_slurm.submit("spec.yaml")
    assert "note: resources.train: such a job has to wait: " in text and told in text and len(fake_slurm.jobs()) == 4
    fake_slurm.configure()


def test_a_job_that_is_longer_than_its_partition_allows_is_told(fake_slurm):
    fake_slurm.configure(MaxTime="15:00")
    text = fake_slurm.submit("spec.yaml", "resources.train.time=10", "resources.report.time=1", "--dry-run")
    assert "note: resources.sample.time: 0:20:00 is longer than the partition's limit, 0:15:00" in text
    assert "resources.train.time:" not in text and "#SBATCH --time=1\n" in text


@pytest.mark.parametrize("asked", ["nodes=4", "tasks_per_node=5", "mem_gb=20", "gpus_per_node=3"])
def test_jobs_that_no_node_can_run_are_refused_while_all_are_drained(fake_slurm, asked):
    fake_slurm.configure(Drained=1)
    text = fake_slurm.submit("spec.yaml", f"resources.train.{asked}", "train.batch_size=120", status=2)
    assert "resources.train: the cluster refuses such a job" in text and not Path("runs").exists()


@pytest.mark.parametrize("name", ["a'; touch x #", "100%j", "a\ntouch x", "a$(touch x)", "a\\"])
def test_folders_with_names_that_a_script_would_take_apart_are_refused(fake_slurm, name):
    assert "--runs" in fake_slurm.submit("spec.yaml", "--runs", name, status=2)
    assert not Path("x").exists() and fake_slurm.jobs() == {}
