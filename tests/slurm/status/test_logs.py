"""`iddpm logs`: which file is meant, and following it from stage to stage; `iddpm tensorboard`."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest
from real_slurm import until

from jobs.errors import UserError
from slurm.cli.tensorboard import show_board, ssh_hint
from slurm.launch.records import Submission, record
from slurm.launch.squeue import END_OF_NAME
from slurm.status import logs
from slurm.status.logs import end_of_log, print_log


@pytest.fixture
def study(tmp_path):
    """Two runs, a and b, submitted as an array; b once more alone. No log yet."""
    for run in "ab":
        (tmp_path / "s" / run).mkdir(parents=True)
        (tmp_path / "s" / run / "spec.yaml").touch()
    (tmp_path / "s" / "study.json").write_text(json.dumps({"runs": {"a": {}, "b": {}}}))
    record(tmp_path / "s", Submission("s-train-1", "train", ["a", "b"], 1.0, "12"))
    record(tmp_path / "s", Submission("s-sample-1", "sample", ["a", "b"], 1.0, "13"))
    record(tmp_path / "s", Submission("s-train-2", "train", ["b"], 2.0, "20"))
    return tmp_path / "s"


@pytest.fixture(autouse=True)
def squeue(slurm):
    """squeue("12_0|...") is its answer from now on; at first the queue is empty."""
    slurm()
    return lambda text: slurm(squeue=text and f"{text}\n")


def write_log(study, name: str, text: str, age: float) -> None:
    file = study / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (1e9 - age, 1e9 - age))


def printed(capfd, *arguments) -> str:
    print_log(*arguments)
    return capfd.readouterr().out


def test_the_newest_log_is_meant_or_that_of_a_stage_and_rank(study, capfd):
    write_log(study, "logs/s-train-1/12_0_0_log.out", "training a\n", age=9)
    write_log(study, "logs/s-train-1/12_0_1_log.out", "training a, rank 1\n", age=9)
    write_log(study, "logs/s-sample-1/13_0_0_log.out", "sampling a\n", age=5)
    write_log(study, "a/logs/evaluate/4711/4711_0_log.out", "evaluating a here\n", age=2)
    write_log(study, "logs/s-train-1/12_1_0_log.out", "training b\n", age=1)
    write_log(study, "logs/s-train-2/20_0_log.out", "training b again\n", age=0)
    assert printed(capfd, study / "a", None, 0, False) == "evaluating a here\n"
    assert printed(capfd, study / "a", "train", 0, False) == "training a\n"
    print_log(study / "a", "sample", 0, False)
    text, told = capfd.readouterr()
    assert text == "sampling a\n" and told == f"==> sample: {study}/logs/s-sample-1/13_0_0_log.out <==\n"
    assert printed(capfd, study / "a", "train", 1, False) == "training a, rank 1\n"
    write_log(study, "a/logs/evaluate/4711/4711_1_log.out", "evaluating a here, rank 1\n", age=2)
    assert printed(capfd, study / "a", None, 1, False) == "evaluating a here, rank 1\n"
    assert printed(capfd, study / "b", None, 0, False) == "training b again\n"
    with pytest.raises(UserError, match="no log of sample of rank 3 yet; there are logs of train, sample, evaluate"):
        print_log(study / "a", "sample", 3, False)


def test_without_a_log_the_message_says_what_there_is(study, squeue):
    with pytest.raises(UserError, match="none of its stages has started"):
        print_log(study / "a", None, 0, False)
    squeue(f"12_0|PENDING|Priority||0|N/A|s-train-1{END_OF_NAME}")
    with pytest.raises(UserError, match=r"job 12_0 is pending \(Priority\); -f waits"):
        print_log(study / "a", None, 0, False)
    with pytest.raises(UserError, match="2 runs; name one of them, such as .*s/a"):
        print_log(study, None, 0, False)
    with pytest.raises(UserError, match="neither"):
        print_log(study / "nowhere", None, 0, False)


def test_a_study_of_one_run_is_that_run(study, capfd):
    (study / "study.json").write_text(json.dumps({"runs": {"b": {}}}))
    write_log(study, "logs/s-train-2/20_0_log.out", "training b\n", age=0)
    assert printed(capfd, study, None, 0, False) == "training b\n"


STAGES_OF_A = textwrap.dedent("""
    import json, os, pathlib, subprocess, sys, time
    run, stages = pathlib.Path(sys.argv[1]), sys.argv[2:]
    log = run / "logs" / stages[0] / str(os.getpid()) / f"{os.getpid()}_0_log.out"
    log.parent.mkdir(parents=True)
    with open(log, "w") as file:
        for part in range(4):
            print(stages[0], part, file=file, flush=True)
            time.sleep(0.15)
    (run / "progress.json").write_text(json.dumps({"stage": stages[0], "state": "done", "heartbeat": time.time()}))
    if stages[1:]:
        time.sleep(0.3)
        subprocess.Popen([sys.executable, "-c", os.environ["SCRIPT"], str(run), *stages[1:]])
    else:
        (run / "evaluation.json").touch()
""")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, "train"])
def test_following_goes_from_stage_to_stage_and_ends_with_the_last(study, capfd, monkeypatch, stage):
    monkeypatch.setattr(logs, "POLL_S", 0.02)
    process = subprocess.Popen([sys.executable, "-c", STAGES_OF_A, study / "a", "train", "sample", "evaluate"],
                               env=os.environ | {"SCRIPT": STAGES_OF_A})
    until(lambda: list((study / "a").glob("logs/train/*/*_log.out")), 20)
    stages = ["train", "sample", "evaluate"] if stage is None else [stage]
    text = printed(capfd, study / "a", stage, 0, True)
    assert text.splitlines() == [f"{stage} {part}" for stage in stages for part in range(4)]
    assert process.wait(timeout=20) == 0
    until((study / "a" / "evaluation.json").exists, 20)  # its children


def test_following_waits_for_a_job_in_the_queue_and_ends_when_it_left(study, capfd, squeue, monkeypatch):
    monkeypatch.setattr(logs, "POLL_S", 0.02)
    monkeypatch.setattr("slurm.launch.squeue.QUEUE_S", 0)
    squeue(f"12_0|PENDING|Priority||0|N/A|s-train-1{END_OF_NAME}")
    looks = 0

    def look(*arguments):
        """One step of the world each time that the follower looks for a log."""
        nonlocal looks
        looks += 1
        if looks == 3:
            squeue(f"12_0|RUNNING|None|n1|0|2026-11-23T21:55:28|s-train-1{END_OF_NAME}")
            write_log(study, "logs/s-train-1/12_0_0_log.out", "first\n", age=0)
        if looks in (5, 7):  # requeued: it goes on in the same file
            with open(study / "logs/s-train-1/12_0_0_log.out", "a") as file:
                file.write(f"look {looks}\n")
        if looks == 9:
            squeue("")
        return found(*arguments)
    found = logs.newest_log
    monkeypatch.setattr(logs, "newest_log", look)
    assert printed(capfd, study / "a", None, 0, True) == "first\nlook 5\nlook 7\n" and looks >= 9


def test_a_log_that_was_cut_is_read_from_its_beginning(study, tmp_path, capfd):
    file = tmp_path / "log"
    file.write_text("long before\n")
    with open(file, "rb") as opened:
        assert logs._copy(opened) and not logs._copy(opened)
        file.write_text("new\n")
        assert logs._copy(opened)
    assert capfd.readouterr().out == "long before\nnew\n"


def test_end_of_log_are_the_last_attempts(tmp_path):
    file = tmp_path / "log"
    assert end_of_log(file) == ""
    file.write_text("Starting with JobEnvironment(1)\nfirst\nStarting with JobEnvironment(2)\nsecond\n")
    assert "second" in end_of_log(file) and "first" not in end_of_log(file)
    file.write_text("x\n" * 9000 + "the end\n")
    assert end_of_log(file).endswith("the end\n") and len(end_of_log(file)) == 4096


def test_tensorboard_needs_something_to_show_and_a_free_port(study, monkeypatch, capfd):
    with pytest.raises(UserError, match="nothing to show"):
        show_board(study, None)
    (study / "a" / "tensorboard").mkdir()
    (study / "a" / "tensorboard" / "events.out.tfevents.1").touch()
    became = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: became.append(arguments))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="taken"):
            show_board(study, taken.getsockname()[1])
        monkeypatch.setattr("slurm.cli.tensorboard.PORT", taken.getsockname()[1])
        monkeypatch.setenv("SSH_CONNECTION", "10.0.0.9 50000 10.0.0.5 22")
        for folder in (study, study / "a"):
            show_board(folder, None)
            port = int(became[-1][-1].removeprefix("--port="))
            assert port > taken.getsockname()[1] and f"--logdir={folder}" in became[-1]
            assert f"-L {port}:localhost:{port}" in capfd.readouterr().out


def test_the_way_to_a_board_on_the_cluster():
    assert ssh_hint(6006, {"USER": "ada"}) == []
    line = ssh_hint(6007, {"USER": "ada", "SSH_CONNECTION": "10.0.0.9 50000 10.0.0.5 22"})[0]
    assert line.endswith("ssh -N -L 6007:localhost:6007 ada@10.0.0.5")
    assert "-p 2222 10.0.0.5" in ssh_hint(6007, {"SSH_CONNECTION": "10.0.0.9 50000 10.0.0.5 2222"})[0]
