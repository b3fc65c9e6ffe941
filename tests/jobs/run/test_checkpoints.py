"""Checkpoints: which are kept, which are passed over as damaged, which one sampling needs."""

import builtins
import errno
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


# Checkpoints of others, and what cannot be read ------------------------------------------------------------------------

def copied(one, step, other, name=None):
    return shutil.copytree(one.checkpoint_folder(step), other.checkpoints / (name or f"step-{step:08}"))


@pytest.mark.parametrize("override, difference", [
    ("train.seed=1", "train.seed: 1 -> 0"), ("train.lr=3e-3", "train.lr: 0.003 -> 0.001"),
    ("diffusion.noise_schedule=linear", "diffusion.noise_schedule: linear -> cosine"),
    ("model.num_heads=1", "model.num_heads: 1 -> 2"),
    ("data.random_flip=true", "data.random_flip: true -> false"), ("train.ema_rate=[0.9, 0.5]", r"train.ema_rate: \[0.9, 0.5\]")])
def test_a_checkpoint_of_another_run_is_refused_with_the_differences(make_run, alone, override, difference):
    run, other = make_run(), make_run(override, folder="other")
    save_untrained(run, 4)
    save_untrained(other, 12)
    copied(other, 12, run)
    message = rf"step-00000012: a checkpoint of another run \({difference}.*\)"
    with pytest.raises(UserError, match=message + "; remove it to resume from the one before$") as refusal:
        newest_checkpoint(run)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match=message + f".*and `iddpm train {run.path}` resumes"):
        final_checkpoint(run)
    with pytest.raises(UserError, match=message):
        alone(run, "sample")
    assert not run.samples.exists()


def test_settings_that_weights_do_not_depend_on_may_differ(make_run):
    run, longer, annealed = make_run(), make_run("train.iterations=24", folder="b"), make_run("train.lr_anneal=true", folder="c")
    same = make_run("name=copy", "train.save_interval=2", "sample.num_samples=4", "evaluate.metrics=[]", "sample.at=[4, last]",
                    "resources.train.time=1:00:00", "sample.seed=3", folder="d")
    save_untrained(same, 12)
    copied(same, 12, run)
    copied(same, 12, longer)
    assert final_checkpoint(run).step == newest_checkpoint(longer).step == 12
    save_untrained(annealed, 12)
    other = make_run("train.lr_anneal=true", "train.iterations=24", folder="e")
    copied(annealed, 12, other)
    with pytest.raises(UserError, match=r"train.iterations: 12 -> 24"):  # each step's lr depends on the number of all
        newest_checkpoint(other)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(make_run):
    run = make_run()
    save_untrained(run, 4)
    copied(run, 4, run, "step-00000012")
    with pytest.raises(UserError, match="step-00000012: holds the weights of step 4, not those that its name says"):
        newest_checkpoint(run)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "training.pt"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_checkpoint_that_cannot_be_read_is_passed_over_like_a_damaged_one(make_run, monkeypatch, name, error):
    run = make_run()
    older, newer = save_untrained(run, 4), save_untrained(run, 8)
    open_it, read_it = builtins.open, Path.read_text

    def refuse(file, *arguments, **options):
        if Path(file) == newer / name:
            raise OSError(error, os.strerror(error), str(file))
        return (read_it if options.pop("text", False) else open_it)(file, *arguments, **options)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "read_text", lambda path, *arguments, **options: refuse(path, *arguments, text=True, **options))
    said = []
    assert newest_checkpoint(run, said.append).path == older
    assert str(newer / name) in said[0] and "falling back to the one before (step-00000004)" in said[0]


def test_a_folder_of_checkpoints_that_cannot_be_read_is_not_an_empty_one(make_run, monkeypatch):
    run = make_run()
    save_untrained(run, 4)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(UserError, match=f"{run.checkpoints}: cannot be read"):
        newest_checkpoint(run)
