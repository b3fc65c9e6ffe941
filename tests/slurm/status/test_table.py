"""`iddpm status` as it is printed: the table, JSON, and --watch."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from recorded_slurm import make_study

from jobs.errors import UserError
from jobs.run.failures import Failure, write_failure
from jobs.run.records import HeldFile
from jobs.storage.files import write_json
from slurm.launch.squeue import Slurm
from slurm.status.run_state import RunStatus
from slurm.status.state import StudyStatus, study_status
from slurm.status.table import SPARED, print_status, status_lines


def run_status(name: str, state: str, **known) -> RunStatus:
    facts = dict(stage="train", job="1", slurm="", reason="", node="n1", restarts=1, done=5, total=9, unit="steps", rate=0.5,
                 loss=0.1, eta_s=8.0, heartbeat_s=1.0, samples=4, metrics={}, failure=None, of_plan=1.2, skipped=2)
    return RunStatus(name, state, **facts | known)


def memory(run: int) -> Failure:
    return Failure("train", "out of memory", f"CUDA out of memory. Tried to allocate {run} MiB", "", 3, "n1", 0, 0.0)


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
    assert "next: lower train.microbatch" in text and "no sign of life, or no step, for 10:00" in text
    assert lines[-1] == ("1,000 runs: 1 hung, 15 failed, 4 pending, 980 done")


@pytest.mark.parametrize("width", [60, 80, 100, 120, 220])
def test_no_line_is_wider_than_the_terminal_and_no_name_is_cut(tmp_path, width):
    names = ["noise_schedule=cosine,loss=hybrid,lr=0.0001,num_channels=128", "lr=1"]
    runs = [run_status(names[0], "running", metrics={"fid (pixels)": 3.25, "bits/dim": 3.5}),
            run_status(names[1], "failed", failure=memory(5))]
    held = HeldFile(0.0, "bad input", "no such file " * 9, ["a", "b", "c"])
    lines = [click.unstyle(line) for line in status_lines(StudyStatus(Path("runs/s"), runs, held, ["note: x"]), width, 9)]
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    head = next(line for line in lines if line.startswith("run "))
    left_out = [name for name in SPARED if name not in head]
    assert left_out == list(SPARED[:len(left_out)]) and (width < 220 or not left_out)
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


def test_skipped_steps_of_an_evaluated_run_are_shown(tmp_path):
    study = make_study(tmp_path / "s", {"a": {"state": "done"}, "b": {"state": "done"}})
    write_json(study / "a" / "evaluation.json", {"samples": 4, "headline": {"fid (pixels)": 3.0}, "skipped_steps": 7})
    write_json(study / "b" / "evaluation.json", {"samples": 4, "headline": {"fid (pixels)": 4.0}, "skipped_steps": 0})
    head, _, first, second, *_ = [click.unstyle(line) for line in status_lines(study_status(study, Slurm()), None, 9)[2:]]
    assert head.split()[-3:] == ["skipped", "fid", "(pixels)"]
    assert first.split()[-2:] == ["7", "3"] and second.split()[-2:] == ["4", "4"]
