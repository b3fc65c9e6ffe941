"""Exact resuming: kills, signals and damage on the way leave no trace in the weights, nor in TensorBoard."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

import jobs.training.loop
from jobs.data.importers.digits import import_digits
from jobs.data.importers.writer import Writer
from jobs.errors import UserError
from jobs.kinds.diffusion.build import build_network
from jobs.run.checkpoints import final_checkpoint, newest_checkpoint, save_checkpoint
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
    """Train on so many processes, all of one that has loaded torch: for undisturbed runs, half the time of `ranks`."""
    command = [sys.executable, "-c", FORKED, str(world_size), str(run.path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert done.stdout.splitlines()[-1].split() == ["0"] * world_size


def same(one, other) -> bool:
    """Whether two nested containers of tensors and plain values agree to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def contents(checkpoint: Path) -> dict[str, dict]:
    """Everything that is in a checkpoint, by file."""
    found = {file.name: load_file(file) for file in sorted(checkpoint.glob("*.safetensors"))}
    return found | {"training.pt": torch.load(checkpoint / "training.pt", weights_only=True)}


def assert_same_checkpoint(one: Path, other: Path) -> None:
    ours, theirs = contents(one), contents(other)
    assert list(ours) == ["ema-0.9.safetensors", "model.safetensors", "training.pt"] == list(theirs)
    assert [name for name in ours if not same(ours[name], theirs[name])] == []


def steps_of(run) -> list[int]:
    """Of the checkpoints that are there."""
    return sorted(int(folder.name.removeprefix("step-")) for folder in run.checkpoints.glob("step-*"))


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def steps_by_tag(run) -> dict[str, list[int]]:
    """The steps of all points, in the order of the files, as TensorBoard's server reads them."""
    log = EventAccumulator(str(run.tensorboard), size_guidance={"tensors": 0}).Reload()
    return {tag: [event.step for event in log.Tensors(tag)] for tag in log.Tags()["tensors"]}


def continued(run, step: int, folder: str):
    """A copy of the study as it was when the checkpoint of `step` was the newest."""
    study = run.path.parent
    copy = type(run)(shutil.copytree(study, study.parent.parent / folder / study.name) / run.path.name)
    for later in steps_of(copy):
        if later > step:
            shutil.rmtree(copy.checkpoints / f"step-{later:08}")
    return copy


def test_a_signal_and_then_a_kill_leave_no_trace(make_run, ranks):
    settings = ("train.iterations=60", "train.save_interval=10", "train.log_interval=1", "train.microbatch=3",
                "train.grad_clip=0.1", "train.schedule_sampler=loss-second-moment", "diffusion.diffusion_steps=4",
                "model.dropout=0.2")
    unbroken, run = make_run(*settings, folder="unbroken"), make_run(*settings, folder="broken")
    train_forked(unbroken, 2)
    last = unbroken.checkpoints / "step-00000060"
    assert (contents(last)["training.pt"]["timestep_sampler"]["counts"] == 10).all()  # it had warmed up

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
    assert [int(step) for step in re.findall(r"going on from \S*step-(\d+)", log)] == [stopped, killed]
    assert_same_checkpoint(run.checkpoints / "step-00000060", last)

    # In TensorBoard no point is lost to the kill or there twice; only the pictures after a checkpoint may be missing.
    shown, expected = steps_by_tag(run), steps_by_tag(unbroken)
    assert expected["loss"] == list(range(1, 61)) and set(shown) == set(expected)
    for tag, steps in expected.items():
        if tag in ("samples_ema_0.9", "denoising"):
            assert sorted(set(shown[tag])) == shown[tag] and set(shown[tag]) <= set(steps)
        else:
            assert shown[tag] == steps


def test_three_ranks_add_up_in_the_same_order_after_a_restart(make_run):
    run = make_run("train.iterations=8", "model.dropout=0.1", "diffusion.diffusion_steps=4")
    train_forked(run, 3)
    resumed = continued(run, 4, "resumed")
    train_forked(resumed, 3)
    assert_same_checkpoint(resumed.checkpoints / "step-00000008", run.checkpoints / "step-00000008")


def test_the_state_of_fp16_goes_on(make_run, alone):
    run = make_run("train.precision=fp16", "diffusion.diffusion_steps=4", "train.iterations=8")
    assert alone(run, "train") == "done"
    whole = contents(run.checkpoints / "step-00000008")["training.pt"]["scaler"]
    halfway = contents(run.checkpoints / "step-00000004")["training.pt"]["scaler"]
    assert whole["_growth_tracker"] > halfway["_growth_tracker"] > 0  # state that would be missed
    resumed = continued(run, 4, "resumed")
    assert alone(resumed, "train") == "done"
    assert_same_checkpoint(resumed.checkpoints / "step-00000008", run.checkpoints / "step-00000008")


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


def test_what_came_before_a_checkpoint_is_in_the_log_when_it_is_saved(make_run, alone, monkeypatch):
    run, seen = make_run("train.log_interval=1", "diffusion.diffusion_steps=4"), {}
    save, write = jobs.training.loop.save, RecordWriter.write

    def look_and_save(learner, run, step):
        seen[step] = steps_by_tag(run)["lr"]
        save(learner, run, step)
    monkeypatch.setattr(jobs.training.loop, "save", look_and_save)
    monkeypatch.setattr(RecordWriter, "write", lambda self, data: (time.sleep(0.005), write(self, data)))  # a slow disk
    assert alone(run, "train") == "done"
    assert seen == {step: list(range(1, step + 1)) for step in (4, 8, 12)}


def test_training_that_is_done_stays_as_it_is(make_run, alone):
    run = make_run("train.iterations=4", "diffusion.diffusion_steps=4")
    assert alone(run, "train") == "done"
    before = {file: file.stat().st_mtime_ns for file in run.checkpoints.rglob("*")}
    assert alone(run, "train") == "done"
    assert {file: file.stat().st_mtime_ns for file in run.checkpoints.rglob("*")} == before


# Checkpoints


def save(run, step: int) -> Path:
    """A checkpoint with the weights of this run's network, untrained."""
    torch.manual_seed(step)
    weights = dict(build_network(run.spec).state_dict())
    return save_checkpoint(run, step, weights, {0.9: weights}, {"of": step})


@pytest.mark.parametrize("keep_interval, expected", [("null", [20, 24]), ("8", [8, 16, 20, 24]), ("12", [12, 20, 24])])
def test_the_last_two_are_kept_and_some_for_good(make_run, keep_interval, expected):
    run = make_run(f"train.keep_interval={keep_interval}", "train.iterations=24")
    for step in range(4, 25, 4):
        save(run, step)
    assert steps_of(run) == expected
    assert sorted(os.listdir(run.checkpoints)) == [f"step-{step:08}" for step in expected]


def test_nothing_else_is_taken_for_a_checkpoint_or_removed(make_run):
    run = make_run("train.keep_interval=4")
    for step in (4, 8, 12):
        save(run, step)
    for step in (8, 12):
        truncate(run.checkpoints / f"step-{step:08}" / "model.safetensors")
    good = run.checkpoints / "step-00000004"
    beside = [shutil.copytree(good, run.checkpoints / name) for name in ("step-00000012.bak", "step-best")]
    assert newest_checkpoint(run).path == good
    save(run, 6)  # training goes on from 4: the damaged ones after it must not crowd out the new one
    assert newest_checkpoint(run).step == 6
    save(run, 7)
    save(run, 9)
    assert newest_checkpoint(run).step == 9 and not (run.checkpoints / "step-00000006").exists()
    assert all(folder.exists() for folder in beside)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 7)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE = [(truncate, "model.safetensors", "damaged"), (flip_a_bit, "ema-0.9.safetensors", "damaged"),
          (truncate, "training.pt", "damaged"), (Path.unlink, "training.pt", "missing"),
          (truncate, "manifest.json", "missing or damaged"), (Path.unlink, "manifest.json", "missing or damaged")]


@pytest.mark.parametrize("harm, name, message", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_named(make_run, harm, name, message):
    run = make_run()
    older, newer = save(run, 4), save(run, 8)
    said: list[str] = []
    assert newest_checkpoint(run, said.append).step == 8 and said == []
    harm(newer / name)
    checkpoint = newest_checkpoint(run, said.append)
    assert checkpoint.step == 4 and checkpoint.path == older and checkpoint.training_state() == {"of": 4}
    (line,) = said
    assert str(newer / name) in line and message in line and "falling back to the one before (step-00000004)" in line

    harm(older / name)
    with pytest.raises(UserError, match="every checkpoint is damaged; restore one, or remove the folder"):
        newest_checkpoint(run, said.append)


def test_no_checkpoint_is_not_a_damaged_one(make_run):
    assert newest_checkpoint(make_run()) is None


def test_training_falls_back_and_comes_to_the_same_end(make_run, alone, capsys):
    run = make_run("train.iterations=8", "diffusion.diffusion_steps=4", "model.dropout=0.2")
    assert alone(run, "train") == "done"
    whole = continued(run, 8, "whole")
    truncate(run.checkpoints / "step-00000008" / "ema-0.9.safetensors")
    capsys.readouterr()
    assert alone(run, "train") == "done"
    said = capsys.readouterr().out
    assert re.search(r"step-00000008/ema-0.9.safetensors: damaged .*falling back to .* \(step-00000004\)\n", said)
    assert re.search(r"going on from \S*step-00000004\n", said)
    assert_same_checkpoint(run.checkpoints / "step-00000008", whole.checkpoints / "step-00000008")
    assert newest_checkpoint(run).step == 8


def test_training_refuses_when_all_are_damaged_and_touches_nothing(make_run, alone):
    run = make_run()
    truncate(save(run, 4) / "model.safetensors")
    before = sorted(run.path.rglob("*"))
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        alone(run, "train")
    assert sorted(run.path.rglob("*")) == before


def test_weights_of_another_network_are_refused_with_the_first_keys(make_run, alone):
    run, wider = make_run(), make_run("model.num_channels=16", "model.attention_resolutions=[]", folder="wider")
    shutil.copytree(save(wider, 4), run.checkpoints / "step-00000004")
    with pytest.raises(UserError, match="weights of another network") as refusal:
        alone(run, "train")
    message = str(refusal.value)
    assert str(run.checkpoints / "step-00000004" / "model.safetensors") in message
    assert "another network: missing input_blocks.3.1.norm.weight (16,); missing " in message
    assert re.search(r" \(and \d+ more\)$", message)

    shutil.rmtree(run.checkpoints)
    wider = make_run("model.num_channels=16", folder="wide")
    shutil.copytree(save(wider, 4), run.checkpoints / "step-00000004")
    with pytest.raises(UserError, match=r"time_embed.0.weight is \(64, 16\), the spec's network has \(32, 8\)"):
        alone(run, "train")


def test_imported_weights_cannot_be_trained_on(make_run, alone):
    run = make_run()
    weights = dict(build_network(run.spec).state_dict())
    save_checkpoint(run, 4, weights, {0.9: weights}, None)
    with pytest.raises(UserError, match="imported weights without the optimiser's state"):
        alone(run, "train")


def test_sampling_wants_the_last_checkpoint_whole(make_run, alone):
    run = make_run()
    for step in (None, 4, 8):
        if step:
            save(run, step)
        with pytest.raises(UserError, match=rf"training is not finished \(step {step or 0} of 12\); run `iddpm train"):
            alone(run, "sample")
    flip_a_bit(save(run, 12) / "ema-0.9.safetensors")
    with pytest.raises(UserError, match="ema-0.9.safetensors: damaged .* goes on from the one before"):
        alone(run, "sample")
    assert not run.samples.exists()
    save(run, 12)
    assert final_checkpoint(run).step == 12


def test_other_data_under_the_same_path_are_refused_and_the_same_again_are_taken(make_run, alone, tmp_path):
    import_digits("digits", Writer(tmp_path / "data.h5"))
    run = make_run(f"data.path={tmp_path}/data.h5", "train.iterations=4")
    assert alone(run, "train") == "done"
    shutil.rmtree(run.checkpoints)
    import_digits("digits-test", Writer(tmp_path / "data.h5"))
    with pytest.raises(UserError, match=r"data.h5: not the data that .* was trained on so far \(297 images now, 1500 then\)"):
        alone(run, "train")
    assert not run.checkpoints.exists()
    import_digits("digits", Writer(tmp_path / "data.h5"))
    assert alone(run, "train") == "done"
