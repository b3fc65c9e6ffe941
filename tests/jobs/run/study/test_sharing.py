"""Points of a sweep that differ only in how they sample share one training."""

import json
import os
import shutil
from pathlib import Path

import pytest
from small_checkpoints import save_untrained
from small_runs import SMALL_SPEC

from jobs.cost.count import run_cost
from jobs.cost.disk import bytes_by_run
from jobs.errors import Busy, UserError
from jobs.run.checkpoints import final_checkpoint
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.run.study.removal import remove_runs
from jobs.run.study.sharing import sampled_steps, shared_in, sharers
from jobs.run.waiting import waits_for
from jobs.spec.reading.file import load
from jobs.storage.files import read_json

RUNS = Path("runs")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def study(grid: dict | None, **sections):
    Path("spec.yaml").write_text(json.dumps(SMALL_SPEC | ({"sweep": {"grid": grid}} if grid else {}) | sections))
    return load("spec.yaml")


def frozen(grid: dict | None, **sections) -> dict[str, RunDir]:
    return {run.path.name: run for run in freeze(study(grid, **sections), RUNS)}


def trainers(runs: dict[str, RunDir]) -> dict[str, str | None]:
    return {name: run.shares for name, run in runs.items()}


SAMPLERS = {"sample.sampler": ["ancestral", "ddim"]}


def test_the_first_of_equal_training_trains_for_the_others():
    runs = frozen({"train.seed": [1, 2]} | SAMPLERS | {"evaluate.seed": [0, 1]})
    first = {seed: f"train.seed={seed},sampler=ancestral,evaluate.seed=0" for seed in (1, 2)}
    expected = {f"train.seed={seed},sampler={sampler},evaluate.seed={other}": first[seed]
                for seed in (1, 2) for sampler in ("ancestral", "ddim") for other in (0, 1)}
    assert trainers(runs) == expected | dict.fromkeys(first.values())
    assert [run.path.name for run in sharers(runs[first[2]])] == sorted(
        name for name, trainer in expected.items() if trainer == first[2] != name)
    specs = {run.name: run.spec for run in study({"train.seed": [1, 2]} | SAMPLERS | {"evaluate.seed": [0, 1]}).runs}
    assert shared_in(specs) == {name: run.shares for name, run in runs.items() if run.shares}


def test_points_that_differ_in_what_weights_depend_on_train_themselves():
    assert set(trainers(frozen({"train.save_interval": [4, 6], "train.seed": [1, 2]})).values()) == {None}


def test_weights_of_a_run_that_shares_are_those_of_its_trainer():
    runs = frozen(SAMPLERS)
    first, second = runs["sampler=ancestral"], runs["sampler=ddim"]
    assert second.trainer == first and first.trainer == first
    assert [(each.key, each.needs, other) for each, other in waits_for(second, "sample")] == [("training", "train", first)]
    assert not second.is_done("train") and second.trained_steps() == 0
    save_untrained(first, 12)
    assert second.is_done("train") and waits_for(second, "sample") == []
    assert final_checkpoint(second).sha256 == final_checkpoint(first).sha256
    assert not (second.path / "checkpoints").resolve().is_relative_to(second.path.resolve())


def test_the_trainer_keeps_the_checkpoints_that_any_of_them_samples():
    Path("spec.yaml").write_text(json.dumps(SMALL_SPEC | {"sweep": {"list": [
        {"name": "a"}, {"name": "b", "sample.at": [3, "last"]}, {"name": "c", "sample.at": [5], "sample.sampler": "ddim"}]}}))
    runs = {run.path.name: run for run in freeze(load("spec.yaml"), RUNS)}
    assert trainers(runs) == {"a": None, "b": "a", "c": "a"}
    assert sampled_steps(runs["a"]) == {3, 5, 12} and sampled_steps(runs["b"]) == {3, 12}
    for step in (3, 4, 5, 8, 10, 12):
        save_untrained(runs["a"], step)
    assert [folder.name[-2:] for folder in runs["c"].checkpoint_folders()] == ["03", "05", "10", "12"]


def test_a_point_that_joins_a_finished_study_takes_its_weights():
    (old,) = frozen(None).values()
    save_untrained(old, 12)
    runs = frozen(SAMPLERS)
    assert trainers(runs) == {"sampler=ancestral": "run", "sampler=ddim": "run"}  # the run that left the sweep trains for both
    assert all(run.is_done("train") for run in runs.values())
    more = frozen({"sample.sampler": ["ancestral", "ddim"], "sample.seed": [0, 1]})
    assert set(trainers(more).values()) == {"run"}
    with pytest.raises(UserError, match=r"sample.at: its training is that of runs/small/run, which is at step 12, and no "
                                        r"checkpoint of step 3 is there any more. sample.at can name step 12. Or give"):
        frozen({"sample.at": [["last"], [3]]})


def test_runs_that_exist_keep_the_training_that_they_have():
    apart = frozen({"train.seed": [0]})  # its name says more than that it samples
    old = frozen(SAMPLERS)
    assert trainers(old)["sampler=ancestral"] == "seed=0" and apart
    place = old["sampler=ddim"].path / "checkpoints"
    place.unlink()
    save_untrained(old["sampler=ddim"], 12)
    again = frozen(SAMPLERS)
    assert trainers(again) == {"sampler=ancestral": "seed=0", "sampler=ddim": None} and again["sampler=ddim"].is_done("train")
    joined = frozen(SAMPLERS | {"sample.seed": [0, 1]})  # of two trainings, the one that is further
    assert set(trainers(joined).values()) == {"sampler=ddim"}


def test_a_study_that_was_stopped_while_it_was_made_is_made_whole():
    runs = frozen(SAMPLERS)
    for name in ("sampler=ancestral", "sampler=ddim"):  # killed after the links, before the specs
        (runs[name].path / "spec.yaml").unlink()
    assert trainers(frozen(SAMPLERS)) == {"sampler=ancestral": None, "sampler=ddim": "sampler=ancestral"}
    shutil.rmtree(runs["sampler=ancestral"].path)
    (runs["sampler=ddim"].path / "spec.yaml").unlink()
    assert trainers(frozen({"sample.sampler": ["ddim"]})) == {"sampler=ddim": None}  # whose link was left over
    assert not os.path.lexists(runs["sampler=ddim"].path / "checkpoints")


def test_runs_whose_trainer_was_deleted_by_hand_train_themselves():
    runs = frozen(SAMPLERS | {"sample.seed": [0, 1]})
    names = list(runs)
    shutil.rmtree(runs[names[0]].path)
    again = frozen(SAMPLERS | {"sample.seed": [0, 1]})  # which makes the run anew
    assert trainers(again) == trainers(runs) == {names[0]: None} | dict.fromkeys(names[1:], names[0])
    shutil.rmtree(runs[names[0]].path)
    apart = frozen({"sample.sampler": ["ddim"], "sample.seed": [0, 1]})
    assert trainers(apart) == {names[2]: None, names[3]: names[2]} and not os.path.lexists(runs[names[2]].path / "checkpoints")
    assert trainers(frozen({"sample.sampler": ["ddim"], "sample.seed": [0, 1]})) == trainers(apart)


def test_a_link_that_leads_elsewhere_shares_nothing(tmp_path):
    (run,) = frozen(None).values()
    for place in ("../../checkpoints", "../.hidden/checkpoints", str(tmp_path / "scratch"), "../a/b/checkpoints"):
        run.checkpoints.symlink_to(place)
        assert run.shares is None and run.trainer == run
        run.checkpoints.unlink()


def test_a_step_that_training_would_miss_is_refused_while_it_is_at_work():
    runs = frozen(SAMPLERS)
    trainer = runs["sampler=ancestral"]
    save_untrained(trainer, 4)
    with trainer.exclusively():
        frozen(SAMPLERS | {"sample.seed": [0, 1]})  # needs no further step
        for grid in ({"sample.sampler": ["ancestral", "ddim"], "sample.at": [["last"], [6]]}, {"sample.at": [[6]]}):
            with pytest.raises(Busy):
                frozen(grid)
        with pytest.raises(Busy):  # of a run that shares
            frozen({"sample.sampler": ["ddim"]}, sample=SMALL_SPEC["sample"] | {"at": [6]})
    assert sampled_steps(trainer) == {12}
    frozen({"sample.sampler": ["ddim"]}, sample=SMALL_SPEC["sample"] | {"at": [6]})
    assert sampled_steps(trainer) == {6, 12}


def test_a_longer_training_is_that_of_all_of_them():
    runs = frozen(SAMPLERS)
    save_untrained(runs["sampler=ancestral"], 12)
    for run in runs.values():
        (run.path / "samples").mkdir()
        (run.path / "samples" / "samples.h5").touch()
    longer = {"train": SMALL_SPEC["train"] | {"iterations": 20}}
    runs = frozen(SAMPLERS, **longer)
    assert not any(run.is_done("train") for run in runs.values())
    assert [read_json(run.progress)["stage"] for run in runs.values()] == ["train", "sample"]  # what each has to do next
    assert all((run.path / "samples" / f"step-00000012,{name},full" / "samples.h5").exists()
               for run, name in zip(runs.values(), ("ancestral", "ddim"), strict=True))
    save_untrained(runs["sampler=ancestral"], 20)
    assert all(run.is_done("train") for run in runs.values()) and sampled_steps(runs["sampler=ancestral"]) == {12, 20}
    with pytest.raises(UserError, match="shares the training of sampler=ancestral, which left the sweep, so it keeps"):
        frozen({"sample.sampler": ["ddim"]}, train=SMALL_SPEC["train"] | {"iterations": 30})


def test_a_run_that_trains_for_others_is_not_removed_alone():
    runs = frozen(SAMPLERS)
    with pytest.raises(UserError, match="sampler=ancestral: its training is shared by sampler=ddim, so it stays; remove those"):
        remove_runs(RUNS / "small", ["sampler=ancestral"])
    save_untrained(runs["sampler=ancestral"], 12)
    remove_runs(RUNS / "small", ["sampler=ddim"])
    assert runs["sampler=ancestral"].is_done("train") and sharers(runs["sampler=ancestral"]) == []
    frozen(SAMPLERS)
    remove_runs(RUNS / "small", ["sampler=ancestral", "sampler=ddim"])
    assert not [path for path in (RUNS / "small").iterdir() if path.is_dir()]


def test_checkpoints_that_are_shared_count_once():
    specs = {run.name: run.spec for run in study({"sample.at": [["last"], [3, "last"], [3, 5]]}).runs}
    sizes, cost = list(bytes_by_run(specs).values()), run_cost(specs["at=last"])
    alone = [list(bytes_by_run({"x": spec}).values())[0] for spec in specs.values()]
    assert sizes[0] == alone[0] + 2 * cost.checkpoint_bytes  # two more steps to keep
    assert sizes[1] == 5 * cost.samples_bytes and sizes[2] < alone[2]
