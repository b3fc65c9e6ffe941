"""`iddpm status`: states from files, queue and accounts. The answers of squeue and sacct were recorded from SLURM 22.05.8."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import UserError
from jobs.run.failures import Failure, write_failure
from jobs.storage.files import write_json
from slurm.launch import squeue as queue
from slurm.launch.records import Submission, record
from slurm.launch.squeue import Slurm, compact, elements, ended_jobs, live_jobs
from slurm.status.state import HUNG_S, RunStatus, StudyStatus, find_study, study_status
from slurm.status.table import SPARED, print_status, status_lines

# squeue --me --noheader --array --Format=...; 23 is running, 27 came back from a lost node.
SQUEUE = """\
1_1|a-very-long-job-name-that-is-longer-than-twenty-four-characters|PENDING|JobArrayTaskLimit||0|N/A
3_0|wrap|PENDING|Dependency||0|N/A
2|held|PENDING|JobHeldUser||0|N/A
23_0|rec-timeout|RUNNING|None|n[1-2]|0|2026-11-23T21:55:28
27|rec-requeue|PENDING|BeginTime||1|2026-11-23T21:57:58
"""
# sacct --allocations --noheader --parsable2; 24 was killed by SIGKILL, 28 by scancel.
SACCT = """\
1_0|CANCELLED by 0|0:0|00:00:30|n1
1_[1-3%1]|CANCELLED by 0|0:0|00:00:00|None assigned
8_0|COMPLETED|0:0|00:00:26|n[1-2]
8_1|FAILED|1:0|00:00:23|n[1-2]
9_1|CANCELLED|0:0|00:00:00|None assigned
23_1|TIMEOUT|0:0|00:01:05|n1
24|FAILED|9:0|00:00:00|n1
26|NODE_FAIL|1:0|00:00:29|n3
28|CANCELLED by 0|0:0|00:00:03|n3
"""
NO_ACCOUNTING = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
# The ends of real logs, but for the out-of-memory one, which takes cgroups.
LOGS = {
    "no progress": "slurmstepd-n1: error: *** JOB 30 ON n1 CANCELLED AT 2026-11-23T21:56:33 DUE TO TIME LIMIT ***\n"
                   "srun: error: n1: task 0: Killed\nsrun: Force Terminated StepId=30.0\n",
    "killed": "srun: error: n1: task 0: Killed\nsrun: launch/slurm: _step_signal: Terminating StepId=24.0\n"
              "slurmstepd-n1: error: *** STEP 24.0 ON n1 CANCELLED AT 2026-11-23T21:55:31 ***\n",
    "out of memory": "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=12.0.\n"
                     "srun: error: n1: task 0: Out Of Memory\n",
    "error": "Traceback (most recent call last):\n  File \"x.py\", line 1\n"
             "[rank0]: ModuleNotFoundError: No module named 'torch'\n",
    None: "slurmstepd-n3: error: *** JOB 28 ON n3 CANCELLED AT 2026-11-23T21:55:31 ***\n"
          "srun: error: n3: task 0: Terminated\n",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """slurm(squeue=..., sacct=...): these answers come from the PATH; slurm.calls() lists what was asked."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    calls.touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answer(squeue: str = "", sacct: str = "") -> Slurm:
        for name, text in {"squeue": squeue, "sacct": sacct}.items():
            script = f"cat <<'END'\n{text}END\n" if text != NO_ACCOUNTING else text
            (folder / name).write_text(f"#!/bin/sh\necho {name} $* >> {calls}\n{script}\n")
            (folder / name).chmod(0o755)
        return Slurm()
    answer.calls = lambda: calls.read_text().splitlines()
    return answer


def make_study(folder: Path, runs: dict[str, dict | None], job: str | None = None, stage: str = "train") -> Path:
    """A study's directory: `runs` with what is special in their progress.json (None: there is none), submitted as `job`."""
    folder.mkdir(parents=True)
    write_json(folder / "study.json", {"name": folder.name, "source": "s", "runs": {run: {} for run in runs}})
    for run, progress in runs.items():
        (folder / run).mkdir()
        if progress is not None:
            ours = {"stage": "train", "state": "running", "done": 3, "total": 9, "unit": "steps", "rate": 2.0, "loss": 0.5,
                    "heartbeat": time.time(), "host": "n1", "pid": 1}
            (folder / run / "progress.json").write_text(json.dumps(ours | progress))
    if job:
        record(folder, Submission(f"{folder.name}-{stage}-1", stage, list(runs), 1.0, job))
    return folder


def started(seconds_ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - seconds_ago))


def states(status: StudyStatus) -> dict[str, str]:
    return {run.run: run.state for run in status.runs}


def by_name(status: StudyStatus) -> dict[str, RunStatus]:
    return {run.run: run for run in status.runs}


def test_the_queue_as_squeue_tells_it(slurm):
    slurm(SQUEUE)
    jobs = live_jobs()
    assert list(jobs) == ["1_1", "3_0", "2", "23_0", "27"]
    assert jobs["1_1"].name == "a-very-long-job-name-that-is-longer-than-twenty-four-characters"
    assert (jobs["2"].state, jobs["2"].reason, jobs["23_0"].node) == ("PENDING", "JobHeldUser", "n[1-2]")
    assert (jobs["27"].restarts, jobs["27"].started, jobs["2"].restarts) == (1, None, 0)
    assert jobs["23_0"].started == time.mktime((2026, 11, 23, 21, 55, 28, 0, 0, -1))


def test_the_accounts_as_sacct_tells_them(slurm):
    slurm(sacct=SACCT)
    jobs = ended_jobs({"1", "8"})
    assert [jobs[f"1_{index}"].state for index in range(4)] == ["CANCELLED"] * 4 and "1_4" not in jobs
    assert jobs["8_1"].exit_code == "1:0" and not jobs["8_1"].was_killed and jobs["24"].was_killed
    assert jobs["1_2"].node == "" and jobs["26"].node == "n3" and "--jobs=1,8" in slurm.calls()[0]


@given(st.sets(st.integers(0, 500), min_size=1), st.integers(1, 99), st.booleans())
def test_elements_that_slurm_lists_together_are_each_found(indices, at_once, limited):
    ordered, terms = sorted(indices), []
    while ordered:  # the longest first stretch, as SLURM writes it
        length = next((n for n in range(1, len(ordered)) if ordered[n] != ordered[0] + n), len(ordered))
        terms.append(str(ordered[0]) if length == 1 else f"{ordered[0]}-{ordered[length - 1]}")
        ordered = ordered[length:]
    text = f"12_[{','.join(terms)}{f'%{at_once}' if limited else ''}]"
    assert list(elements(text)) == [f"12_{index}" for index in sorted(indices)]


def test_elements_of_what_is_none_or_has_steps():
    assert list(elements("12")) == ["12"] and list(elements("12_3")) == ["12_3"]
    assert list(elements("12_[0,4-9:2%2]")) == ["12_0", "12_4", "12_6", "12_8"]


def test_states_of_what_is_in_the_queue(slurm, tmp_path):
    long_ago = {"heartbeat": time.time() - HUNG_S - 60}
    study = make_study(tmp_path / "s", {"starts": None, "beats": {}, "silent": long_ago, "back": long_ago, "mute": None,
                                        "waits": {}, "held": None, "leaves": {"state": "interrupted"}, "done": None,
                                        "ends": {}}, job="7")
    record(study, Submission("s-train-2", "train", ["waits"], 2.0, "8"))  # cancelled, the first one is still in the queue
    (study / "done" / "evaluation.json").write_text('{"samples": 10, "headline": {"bits/dim": 3.5}}')
    early, late = started(HUNG_S + 100), started(5)
    status = study_status(study, slurm(
        f"7_0|n|RUNNING|None|n1|0|{late}\n7_1|n|RUNNING|None|n1|2|{early}\n7_2|n|RUNNING|None|n1|0|{early}\n"
        f"7_3|n|RUNNING|None|n1|1|{late}\n7_4|n|RUNNING|None|n1|0|{early}\n7_5|n|PENDING|Priority||0|N/A\n"
        f"7_6|n|PENDING|JobHeldAdmin||0|N/A\n7_7|n|COMPLETING|None|n1|0|{early}\n7_9|n|COMPLETING|None|n1|0|{early}\n"))
    assert states(status) == {"starts": "running", "beats": "running", "silent": "hung", "back": "running", "mute": "hung",
                              "waits": "pending", "held": "held", "leaves": "interrupted", "done": "done", "ends": "running"}
    runs = by_name(status)
    assert runs["beats"].restarts == 2 and runs["beats"].eta_s == 3.0 and runs["beats"].job == "7_1"
    assert runs["waits"].reason == "Priority" and runs["waits"].slurm == "PENDING" and runs["waits"].job == "7_5"
    assert runs["done"].metrics == {"bits/dim": 3.5} and runs["done"].samples == 10
    assert [call.split()[0] for call in slurm.calls()] == ["squeue"]  # nobody's end is in question


def test_why_jobs_ended_from_one_look_at_the_accounts(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {"state": "interrupted"}, "b": {}, "c": {"state": "interrupted"}}, job="23")
    record(study, Submission("x", "train", ["d"], 2.0, "24"))
    record(study, Submission("y", "train", ["e"], 2.0, "26"))
    record(study, Submission("z", "train", ["f"], 2.0, "28"))
    record(study, Submission("before z", "train", ["f"], 1.5, "8"))
    names = {run: {} for run in "abcdef"}
    for run in "def":
        (study / run).mkdir()
    (study / "study.json").write_text(json.dumps({"runs": names}))
    write_failure(study / "a", Failure("train", "diverged", "too high", "", 3, "n1", 0, 0.0))
    status = study_status(study, slurm(sacct=SACCT))
    runs = by_name(status)
    assert states(status) == {"a": "failed", "b": "failed", "c": "interrupted", "d": "failed", "e": "failed", "f": "stopped"}
    kinds = {name: run.failure.kind for name, run in runs.items() if run.failure}
    assert kinds == {"a": "diverged", "b": "no progress", "d": "killed", "e": "node or network"}
    assert "TIMEOUT after 00:01:05 on n1" in runs["b"].failure.message and runs["f"].slurm == "CANCELLED"
    asked = [call for call in slurm.calls() if call.startswith("sacct")]
    assert len(asked) == 1 and "--jobs=23,24,26,28 " in asked[0]


@pytest.mark.parametrize("kind", LOGS)
def test_without_accounts_the_end_of_the_log_tells(slurm, tmp_path, kind):
    study = make_study(tmp_path / "s", {"a": {}, "b": {}}, job="23")
    (study / "logs" / "s-train-1").mkdir(parents=True)
    earlier = "Detected 1 oom-kill event(s)\nsubmitit INFO - Starting with JobEnvironment(job_id=23_0)\n"
    (study / "logs" / "s-train-1" / "23_0_0_log.out").write_text(earlier + "step 1\n" * 900 + LOGS[kind])
    runs = by_name(study_status(study, slurm(sacct=NO_ACCOUNTING)))
    assert (runs["a"].state, runs["a"].failure and runs["a"].failure.kind) == ("failed" if kind else "stopped", kind)
    assert runs["b"].state == "stopped" and runs["b"].failure is None


def test_a_log_says_more_than_an_exit_code(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {}, "b": {}}, job="8")
    (study / "logs" / "s-train-1").mkdir(parents=True)
    (study / "logs" / "s-train-1" / "8_1_0_log.out").write_text("Starting with JobEnvironment\n" + LOGS["error"])
    run = by_name(study_status(study, slurm(sacct=SACCT)))["b"]
    assert run.failure.message == "ModuleNotFoundError: No module named 'torch'" and run.failure.kind == "error"


def test_where_the_queue_does_not_answer_nobody_is_called_dead(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {}, "b": {"heartbeat": 5.0}, "c": None, "d": {"state": "failed"}}, job="7")
    asked = slurm()
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho slurm_load_jobs error: Unable to contact >&2; exit 1\n")
    status = study_status(study, asked)
    assert states(status) == {"a": "running", "b": "unknown", "c": "unknown", "d": "failed"}
    assert "Unable to contact" in status.notes[0]


def test_studies_of_this_machine_ask_nobody(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"works": {}, "between": {"state": "done"}, "dead": {"heartbeat": 5.0}, "new": None,
                                        "stopped": {"state": "interrupted"}})
    assert states(study_status(study, slurm())) == {"works": "running", "between": "running", "dead": "stopped", "new": "new",
                                                    "stopped": "interrupted"}
    assert slurm.calls() == []


def test_samples_are_counted_without_opening_a_chunk(slurm, tmp_path, make_run):
    run = make_run()  # 10 samples, 4 a chunk
    (run.path / "progress.json").write_text(json.dumps({"stage": "sample", "state": "interrupted", "done": 1, "total": 2,
                                                        "unit": "steps", "rate": None, "loss": None, "heartbeat": 1.0}))
    counted = []
    for number in range(3):
        run.samples.mkdir(exist_ok=True)
        (run.samples / f"chunk-{number:05}.h5").touch()
        (run.samples / f"partial-{number:05}.h5").touch()
        counted.append(study_status(run.path.parent, slurm()).runs[0].samples)
    assert counted == [4, 8, 10]


def test_squeue_is_asked_again_only_when_its_answer_is_old(slurm, tmp_path, monkeypatch):
    study = make_study(tmp_path / "s", {"a": {}}, job="7")
    asked = slurm()
    for _ in range(3):
        study_status(study, asked)
    assert [call.split()[0] for call in slurm.calls()] == ["squeue", "sacct"]
    monkeypatch.setattr(queue, "QUEUE_S", 0)
    study_status(study, asked)
    assert [call.split()[0] for call in slurm.calls()] == ["squeue", "sacct", "squeue"]


def test_which_study_is_meant(tmp_path):
    with pytest.raises(UserError, match="no study here"):
        find_study(None, tmp_path / "runs")
    first = make_study(tmp_path / "runs" / "first", {"a": {}})
    assert find_study(None, tmp_path / "runs") == first
    second = make_study(tmp_path / "runs" / "second", {"a": {}})
    os.utime(first, (1, 1))
    os.utime(second, (1, 1))
    for study, changed in ((first, 5), (second, 9)):
        for entry in study.iterdir():
            os.utime(entry, (changed, changed))
    assert find_study(None, tmp_path / "runs") == second
    write_json(first / "a" / "progress.json", {})  # changes the run's folder, as each heartbeat does
    assert find_study(None, tmp_path / "runs") == first
    assert find_study(Path("second"), tmp_path / "runs") == second and find_study(second, Path("elsewhere")) == second
    with pytest.raises(UserError, match="third.*not a study"):
        find_study(Path("third"), tmp_path / "runs")


def run_status(name: str, state: str, **known) -> RunStatus:
    facts = dict(stage="train", job="1", slurm="", reason="", node="n1", restarts=1, done=5, total=9, unit="steps", rate=0.5,
                 loss=0.1, eta_s=8.0, heartbeat_s=1.0, samples=4, metrics={}, failure=None, of_plan=1.2)
    return RunStatus(name, state, **facts | known)


def test_progress_is_compared_with_the_plan(tmp_path):
    study = make_study(tmp_path / "s", {"a": {}, "b": {}, "done": {"state": "done"}, "c": None})
    assert {run.of_plan for run in study_status(study, Slurm()).runs} == {None}
    paces = {"a": {"train": 0.4, "sample": 0.1}, "b": {"sample": 0.1}, "done": {"train": 0.4}, "c": {"train": 0.4}}
    write_json(study / "plan.json", {"bench": "bench-x.json", "seconds_per_step": paces})
    status = study_status(study, Slurm())
    assert {run.run: run.of_plan for run in status.runs} == {"a": 1.25, "b": None, "done": None, "c": None}  # 2 steps a second
    head, _, first, *_ = status_lines(status, None, 9)[2:]
    assert "rate  of plan" in click.unstyle(head) and " 2.0/s     1.2x  " in click.unstyle(first)


def test_metrics_for_which_there_is_no_room_are_named(tmp_path):
    runs = [run_status("a", "done", metrics={"fid (inception)": 3.2, "bits/dim": 3.5})]
    text = " ".join("\n".join(status_lines(StudyStatus(tmp_path, runs, None, []), 24, 9)).split())
    assert "fid (inception)" in text.split("no room here for ")[1] and "3.2" not in text
    assert "no room" not in "\n".join(status_lines(StudyStatus(tmp_path, runs, None, []), 200, 9))


def memory(run: int) -> Failure:
    return Failure("train", "out of memory", f"CUDA out of memory. Tried to allocate {run} MiB", "", 3, "n1", 0, 0.0)


def test_a_large_study_shows_those_that_need_attention_and_says_the_same_once(tmp_path):
    runs = [run_status(f"r{number}", "done") for number in range(980)]
    runs += [run_status(f"f{number}", "failed", failure=memory(number)) for number in range(15)]
    runs += [run_status("h", "hung", heartbeat_s=600.0)] + [run_status(f"p{number}", "pending") for number in range(4)]
    lines = [click.unstyle(line) for line in status_lines(StudyStatus(tmp_path, runs, None, []), 120, 18)]
    table = lines[4:22]
    assert [row.split()[1] for row in table] == ["hung"] + ["failed"] * 15 + ["pending"] * 2
    assert lines[22] == "... and 982 more (--all, --json)"
    text = "\n".join(lines)
    assert text.count("Tried to allocate") == 1 and "15 failed in train (out of memory): f0, f1, f2 and 12 more" in text
    assert "next: lower train.microbatch" in text and "no sign of life for 10:00" in text
    assert lines[-1] == ("1,000 runs: 1 hung, 15 failed, 4 pending, 980 done")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_name_is_cut(tmp_path, width):
    names = ["noise_schedule=cosine,loss=hybrid,lr=0.0001,num_channels=128", "lr=1"]
    runs = [run_status(names[0], "running", metrics={"fid (pixels)": 3.25, "bits/dim": 3.5}),
            run_status(names[1], "failed", failure=memory(5))]
    held = {"time": 0.0, "kind": "bad input", "message": "no such file " * 9, "runs": ["a", "b", "c"], "jobs": ["12"]}
    lines = [click.unstyle(line) for line in status_lines(StudyStatus(Path("runs/s"), runs, held, ["note: x"]), width, 9)]
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    head = next(line for line in lines if line.startswith("run "))
    left_out = [name for name in SPARED if name not in head]
    assert left_out == list(SPARED[:len(left_out)]) and (width < 200 or not left_out)
    first = lines.index(head) + 2
    folded = "".join(line.strip() for line in lines[first + 1:first + 3] if line.startswith("  "))
    assert lines[first].split()[0] + folded == names[0]


def test_a_study_on_hold_says_why_and_how_to_go_on(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {}})
    (study / "held.json").write_text(json.dumps({"time": time.time(), "kind": "bad input", "message": "data/x.h5: missing",
                                                 "runs": ["a", "b", "c", "d"], "jobs": ["12"]}))
    text = "\n".join(status_lines(study_status(study, slurm()), None, 9))
    assert "4 runs failed alike (bad input): a, b, c and 1 more" in text and "data/x.h5: missing" in text
    assert f"iddpm requeue {study}" in text


def test_json_is_strict_and_keeps_its_names(slurm, tmp_path, capsys):
    study = make_study(tmp_path / "s", {"a": {"loss": float("nan")}, "b": {"state": "failed"}})
    write_failure(study / "b", memory(7))
    slurm()
    print_status(study, Path("runs"), as_json=True, watch=False, everything=False)
    answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [run["run"] for run in answer] == ["a", "b"] and answer[0]["loss"] is None
    assert {"run", "state", "stage", "job", "reason", "node", "done", "total", "unit", "rate", "loss", "eta_s", "heartbeat_s",
            "metrics", "samples", "restarts", "failure"} <= answer[0].keys()
    assert answer[1]["failure"]["kind"] == "out of memory" and "resources.train.mem_gb" in answer[1]["failure"]["next"]


def test_watching_needs_a_terminal(tmp_path):
    study = make_study(tmp_path / "s", {"a": {}})
    with pytest.raises(UserError, match="terminal"):
        print_status(study, Path("runs"), as_json=False, watch=True, everything=False)


def watch(study: Path, interrupt: bool) -> tuple[int, str]:
    """`status --watch` on a terminal of its own, with Ctrl-C once it shows the study: exit status and what was to be seen."""
    code = ("from pathlib import Path; from slurm.status.table import print_status\n"
            f"print_status(Path({str(study)!r}), Path('runs'), False, True, False)")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    while True:
        try:
            text += os.read(ours, 1000)
        except OSError:  # the terminal is gone with its process
            break
        if interrupt and b"1 run:" in text:
            process.send_signal(signal.SIGINT)
            interrupt = False
    os.close(ours)
    return process.wait(timeout=20), text.decode()


def test_watching_ends_with_the_study_or_with_ctrl_c(tmp_path):
    done = make_study(tmp_path / "done", {"a": {}})
    (done / "a" / "evaluation.json").write_text('{"samples": 10, "headline": {"bits/dim": 3.5}}')
    status, text = watch(done, interrupt=False)
    assert status == 0 and "1 done" in text
    status, text = watch(make_study(tmp_path / "s", {"a": {}}), interrupt=True)
    assert status == 0 and "1 running" in text and "Traceback" not in text


@given(jobs=st.sets(st.tuples(st.integers(1, 3), st.integers(0, 20))), alone=st.sets(st.integers(4, 9)))
def test_ids_that_were_put_together_come_apart_again(jobs, alone):
    ids = {f"{base}_{element}" for base, element in jobs} | {str(base) for base in alone}
    together = compact(ids)
    assert {id for words in together for id in elements(words)} == ids
    assert len(together) == len({base for base, _ in jobs}) + len(alone)


def test_neighbours_become_ranges():
    assert compact(["12_3", "12_0", "7", "12_1", "12_2", "12_5"]) == ["12_[0-3,5]", "7"]


def test_a_later_evaluation_that_failed_is_not_hidden_by_the_first(slurm, tmp_path):
    study = make_study(tmp_path / "s", {"a": {}, "b": {}})
    for run in ("a", "b"):
        write_json(study / run / "evaluation.json", {"headline": {"fid": 3.0}, "samples": 4})
    failure = Failure("evaluate", "bad input", "no such reference", "", None, "n1", 0, time.time())
    write_failure(study / "a", replace(failure, time=time.time() + 5))
    write_failure(study / "b", replace(failure, time=time.time() - 500))  # mended by the evaluation that came after
    found = by_name(study_status(study, slurm("")))
    assert (found["a"].state, found["a"].failure.message, found["a"].metrics) == ("failed", "no such reference", {"fid": 3.0})
    assert (found["b"].state, found["b"].failure) == ("done", None)
