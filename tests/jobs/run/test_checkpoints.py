"""Checkpoints: which are kept, which are passed over as damaged, which one sampling needs."""

import os
import shutil
from pathlib import Path

import pytest
from small_checkpoints import flip_a_bit, save_untrained, steps_of, truncate

from jobs.errors import UserError
from jobs.run.checkpoints import final_checkpoint, newest_checkpoint


@pytest.mark.parametrize("keep_interval, expected", [("null", [20, 24]), ("8", [8, 16, 20, 24]), ("12", [12, 20, 24])])
def test_the_last_two_and_every_keep_interval_are_kept(make_run, keep_interval, expected):
    run = make_run(f"train.keep_interval={keep_interval}", "train.iterations=24")
    for step in range(4, 25, 4):
        save_untrained(run, step)
    assert steps_of(run) == expected
    assert sorted(os.listdir(run.checkpoints)) == [f"step-{step:08}" for step in expected]


def test_only_whole_checkpoints_with_an_exact_name_count(make_run):
    run = make_run("train.keep_interval=4")
    for step in (4, 8, 12):
        save_untrained(run, step)
    for step in (8, 12):
        truncate(run.checkpoints / f"step-{step:08}" / "model.safetensors")
    good = run.checkpoints / "step-00000004"
    beside = [shutil.copytree(good, run.checkpoints / name) for name in ("step-00000012.bak", "step-best")]
    assert newest_checkpoint(run).path == good
    save_untrained(run, 6)  # training goes on from 4: the damaged ones after it must not crowd out the new one
    assert newest_checkpoint(run).step == 6
    save_untrained(run, 7)
    save_untrained(run, 9)
    assert newest_checkpoint(run).step == 9 and not (run.checkpoints / "step-00000006").exists()
    assert all(folder.exists() for folder in beside)


DAMAGE = [(truncate, "model.safetensors", "damaged"), (flip_a_bit, "ema-0.9.safetensors", "damaged"),
          (truncate, "training.pt", "damaged"), (Path.unlink, "training.pt", "missing"),
          (truncate, "manifest.json", "missing or damaged"), (Path.unlink, "manifest.json", "missing or damaged")]


@pytest.mark.parametrize("harm, name, message", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_named(make_run, harm, name, message):
    run = make_run()
    older, newer = save_untrained(run, 4), save_untrained(run, 8)
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


def test_a_run_without_checkpoints_has_no_newest_one(make_run):
    assert newest_checkpoint(make_run()) is None


def test_sampling_needs_the_last_checkpoint_whole(make_run, alone):
    run = make_run()
    for step in (None, 4, 8):
        if step:
            save_untrained(run, step)
        with pytest.raises(UserError, match=rf"training is not finished \(step {step or 0} of 12\); run `iddpm train"):
            alone(run, "sample")
    flip_a_bit(save_untrained(run, 12) / "ema-0.9.safetensors")
    with pytest.raises(UserError, match="ema-0.9.safetensors: damaged .* resumes from the one before"):
        alone(run, "sample")
    assert not run.samples.exists()
    save_untrained(run, 12)
    assert final_checkpoint(run).step == 12
