"""Exact resuming: kills, signals and damaged checkpoints leave no trace in the weights, nor in TensorBoard."""

import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from small_checkpoints import assert_same_checkpoint, contents, continued, steps_of, truncate
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

import jobs.training.loop
from jobs.run.checkpoints import newest_checkpoint
from jobs.spec.kinds import MODEL
from jobs.storage.files import read_json

PATIENCE_S = 120


FORKED = """
import os, sys
import jobs.evaluation.evaluate, jobs.sampling.loop, jobs.training.loop, torch._dynamo
from jobs.stage import run_stage

world_size, path = int(sys.argv[1]), sys.argv[2]
for rank in range(world_size):
    if not os.fork():
        os.environ |= {f"SUBMITIT_LOCAL_{key}": str(value)
                       for key, value in {"GLOBALID": rank, "LOCALID": rank, "NTASKS": world_size}.items()}
        sys.exit(run_stage("train", path, "forked")["state"] != "done")
print(*(os.wait()[1] for _ in range(world_size)))
"""


def train_forked(run, world_size: int) -> None:
    """Train on `world_size` forks of one process that has loaded torch: half the time of `ranks`, for undisturbed runs."""
    command = [sys.executable, "-c", FORKED, str(world_size), str(run.path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert done.stdout.splitlines()[-1].split() == ["0"] * world_size


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_number_of_ranks_changes_only_the_order_of_sums(make_run, dropout):
    ends = []
    for world_size in (1, 2):
        run = make_run(f"model.dropout={dropout}", "train.iterations=20", "train.save_interval=20", folder=str(world_size))
        train_forked(run, world_size)
        ends.append(contents(run.checkpoints / "step-00000020")["model.safetensors"])
    one, two = ends
    furthest = max((one[key] - two[key]).abs().max().item() for key in one)
    assert 0 < furthest < 4e-3  # Adam enlarges rounding, by up to lr in each step; other masks differ by 2e-2


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_by_tag(run) -> dict[str, list[int]]:
    """Return the steps of all points by tag, in the order of the files, as TensorBoard's server reads them."""
    log = EventAccumulator(str(run.tensorboard), size_guidance={"tensors": 0}).Reload()
    return {tag: [event.step for event in log.Tensors(tag)] for tag in log.Tags()["tensors"]}


def test_a_signal_and_then_a_kill_leave_no_trace(make_run, ranks):
    settings = ("train.iterations=60", "train.save_interval=10", "train.log_interval=1", "train.microbatch=3",
                "train.grad_clip=0.1", "train.schedule_sampler=loss-second-moment", "diffusion.diffusion_steps=4",
                "model.dropout=0.2")
    unbroken, run = make_run(*settings, folder="unbroken"), make_run(*settings, folder="broken")
    train_forked(unbroken, 2)
    last = unbroken.checkpoints / "step-00000060"
    assert (contents(last)["training.pt"]["kind"]["counts"] == 10).all()  # the sampler had warmed up

    # A signal to one rank: both stop at the same step, with one checkpoint of it.
    processes = ranks(run, "train", 2, wait=False)
    wait_for(lambda: steps_of(run))
    time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(PATIENCE_S) for process in processes] == [3, 3]
    progress = read_json(run.progress)
    stopped = progress["done"]
    assert progress["state"] == "interrupted" and 10 <= stopped < 60
    assert steps_of(run)[-1] == stopped and all(step % 10 == 0 for step in steps_of(run)[:-1])

    # Then kill -9 for both, somewhere after a later checkpoint.
    processes = ranks(run, "train", 2, wait=False)
    wait_for(lambda: steps_of(run)[-1] > stopped)
    time.sleep(0.05)
    for process in processes:
        process.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    killed = steps_of(run)[-1]
    assert stopped < killed < 60

    assert ranks(run, "train", 2) == 0
    log = (run.path / "train-0.log").read_text()
    assert [int(step) for step in re.findall(r"resuming from \S*step-(\d+)", log)] == [stopped, killed]
    assert_same_checkpoint(run.checkpoints / "step-00000060", last)

    # TensorBoard has every point once, the kill notwithstanding; only pictures that follow a checkpoint may be missing.
    shown, expected = steps_by_tag(run), steps_by_tag(unbroken)
    assert expected["loss"] == list(range(1, 61)) and set(shown) == set(expected)
    for tag, steps in expected.items():
        if tag in ("samples_ema_0.9", "denoising"):
            assert sorted(set(shown[tag])) == shown[tag] and set(shown[tag]) <= set(steps)
        else:
            assert shown[tag] == steps


@pytest.mark.slow
def test_three_ranks_add_up_in_the_same_order_after_a_restart(make_run):
    run = make_run("train.iterations=8", "model.dropout=0.1", "diffusion.diffusion_steps=4")
    train_forked(run, 3)
    resumed = continued(run, 4, "resumed")
    train_forked(resumed, 3)
    assert_same_checkpoint(resumed.checkpoints / "step-00000008", run.checkpoints / "step-00000008")


def test_the_scaler_of_fp16_is_resumed(make_run, alone):
    run = make_run("train.precision=fp16", "diffusion.diffusion_steps=4", "train.iterations=8")
    assert alone(run, "train") == "done"
    whole = contents(run.checkpoints / "step-00000008")["training.pt"]["scaler"][MODEL]
    halfway = contents(run.checkpoints / "step-00000004")["training.pt"]["scaler"][MODEL]
    assert whole["_growth_tracker"] > halfway["_growth_tracker"] > 0  # a new scaler would differ
    resumed = continued(run, 4, "resumed")
    assert alone(resumed, "train") == "done"
    assert_same_checkpoint(resumed.checkpoints / "step-00000008", run.checkpoints / "step-00000008")


@pytest.mark.slow
def test_points_beyond_the_checkpoint_are_logged_once(make_run, alone):
    run = make_run("train.iterations=8", "train.log_interval=1", "diffusion.diffusion_steps=4")
    assert alone(run, "train") == "done"
    before = steps_by_tag(run)
    assert before["loss"] == list(range(1, 9)) and before["samples_ema_0.9"] == [4, 8]
    assert before["noising"] == before["spec/text_summary"] == [0]
    for lost in ("step-00000008", "."):  # as if killed after logging and before saving: the last, or the first
        shutil.rmtree(run.checkpoints / lost)
        time.sleep(1.1)  # event files are read in the order of their names, which count seconds
        assert alone(run, "train") == "done"
        assert steps_by_tag(run) == before


@pytest.mark.slow
def test_the_log_is_on_disk_up_to_a_checkpoint_before_the_checkpoint_is(make_run, alone, monkeypatch):
    run, seen = make_run("train.log_interval=1", "diffusion.diffusion_steps=4"), {}
    save, write = jobs.training.loop.save, RecordWriter.write

    def look_and_save(state, run, step):
        seen[step] = steps_by_tag(run)["lr"]
        save(state, run, step)
    monkeypatch.setattr(jobs.training.loop, "save", look_and_save)
    monkeypatch.setattr(RecordWriter, "write", lambda self, data: (time.sleep(0.005), write(self, data)))  # a slow disk
    assert alone(run, "train") == "done"
    assert seen == {step: list(range(1, step + 1)) for step in (4, 8, 12)}


def test_finished_training_changes_nothing(make_run, alone):
    run = make_run("train.iterations=4", "diffusion.diffusion_steps=4")
    assert alone(run, "train") == "done"
    before = {file: file.stat().st_mtime_ns for file in run.checkpoints.rglob("*")}
    assert alone(run, "train") == "done"
    assert {file: file.stat().st_mtime_ns for file in run.checkpoints.rglob("*")} == before


def test_training_falls_back_to_an_older_checkpoint_and_ends_with_equal_bits(make_run, alone, capsys):
    run = make_run("train.iterations=8", "diffusion.diffusion_steps=4", "model.dropout=0.2")
    assert alone(run, "train") == "done"
    whole = continued(run, 8, "whole")
    truncate(run.checkpoints / "step-00000008" / "ema-0.9.safetensors")
    capsys.readouterr()
    assert alone(run, "train") == "done"
    said = capsys.readouterr().out
    assert re.search(r"step-00000008/ema-0.9.safetensors: damaged .*falling back to .* \(step-00000004\)\n", said)
    assert re.search(r"resuming from \S*step-00000004\n", said)
    assert_same_checkpoint(run.checkpoints / "step-00000008", whole.checkpoints / "step-00000008")
    assert newest_checkpoint(run).step == 8
