"""A spec that changes under a run: more or fewer samples, a longer training, steps to sample whose checkpoints are gone."""

import json
import shutil

import linear_kind
import pytest
from noisy_runs import trained
from small_checkpoints import assert_same_checkpoint, save_untrained, steps_of

from jobs.errors import Busy, UserError
from jobs.run.directory import RunDir
from jobs.run.study.freezing import freeze
from jobs.spec.kinds import KINDS
from jobs.spec.reading.file import load
from jobs.spec.samplings import Sampling, samplings
from jobs.storage.files import read_json, write_json

SHORT = ("diffusion.diffusion_steps=20", "evaluate.nll_examples=0", "train.log_interval=1")
RESULTS = ("samples.h5", "samples.npz", "samples.png", "samples-grid.png")


def results(run: RunDir) -> dict[str, bytes]:
    """Return the bytes of everything that sampling made for people, by path in samples/."""
    files = [file for file in run.samples.rglob("*") if file.name in RESULTS]
    return {str(file.relative_to(run.samples)): file.read_bytes() for file in files}


def chunks(run: RunDir) -> dict[str, int]:
    """Return the inode of every chunk of every sampling: a chunk that is made anew is another file."""
    return {str(file.relative_to(run.samples)): file.stat().st_ino for file in run.samples.rglob("chunk-*.h5")}


# More and fewer samples

@pytest.mark.parametrize("before, after, kept", [
    (10, 15, [0, 1]),  # the short chunk 2 is made anew
    (8, 15, [0, 1]),
    (3, 4, []),
    (15, 16, [0, 1, 2]),
    (15, 10, [0, 1]),  # chunk 2 is short now
    (15, 8, [0, 1]),
    (15, 3, []),
])
def test_another_number_of_samples_computes_what_is_missing_and_equals_a_fresh_run(make_run, alone, before, after, kept):
    settings = (*SHORT, "evaluate.respacings=[7]")
    run = trained(make_run(*settings, f"sample.num_samples={before}", folder="a"))
    assert alone(run, "sample") == "done" and alone(run, "evaluate") == "done"
    old = chunks(run)
    again = make_run(*settings, f"sample.num_samples={after}", folder="a")
    assert again.path == run.path and not again.is_done("sample") and not again.is_done("evaluate")
    assert not again.evaluation.exists() and again.is_done("train")
    fresh = trained(make_run(*settings, f"sample.num_samples={after}", folder="b"))
    for each in (again, fresh):
        assert alone(each, "sample") == "done" and alone(each, "evaluate") == "done"
    assert results(again) == results(fresh) and len(results(again)) == 4 + 2 * 2
    assert read_json(again.evaluation) == read_json(fresh.evaluation) and again.is_done("evaluate")
    new = chunks(again)
    folders = ["", "step-00000012,ancestral,7/", "step-00000012,ddim,7/"]
    assert {name for name in old if old[name] == new.get(name)} >= {f"{folder}chunk-{chunk:05}.h5"
                                                                  for folder in folders for chunk in kept}


def test_samples_of_points_that_are_no_longer_asked_for_are_not_taken_for_new_ones(make_run, alone):
    wide, narrow = (*SHORT, "evaluate.respacings=[7]"), SHORT
    run = trained(make_run(*wide))
    assert alone(run, "sample") == "done"
    make_run(*narrow, "sample.num_samples=14")
    again = make_run(*wide, "sample.num_samples=14")
    assert alone(again, "sample") == "done" and alone(again, "evaluate") == "done"
    fresh = trained(make_run(*wide, "sample.num_samples=14", folder="fresh"))
    assert alone(fresh, "sample") == "done" and results(again) == results(fresh)


def test_a_file_of_another_number_of_samples_is_no_result(make_run, alone):
    run = trained(make_run(*SHORT))
    assert alone(run, "sample") == "done"
    old = run.samples_h5.read_bytes()
    again = make_run(*SHORT, "sample.num_samples=14")
    assert alone(again, "sample") == "done"
    again.samples_h5.write_bytes(old)  # as a process that does not know of the change would
    with pytest.raises(UserError, match="samples.h5: holds 10 samples, but sample.num_samples is 14"):
        alone(again, "evaluate")


def test_a_run_at_work_is_not_changed_under_its_stage(make_run, alone):
    run = trained(make_run(*SHORT))
    assert alone(run, "sample") == "done"
    before = run.spec_file.read_text(), results(run)
    with run.exclusively(), pytest.raises(Busy, match="another process is at work"):
        make_run(*SHORT, "sample.num_samples=14")
    save_untrained(other := make_run(*SHORT, folder="b"), 4)
    with other.exclusively(), pytest.raises(Busy, match="another process is at work"):
        make_run(*SHORT, "train.iterations=20", folder="b")
    assert other.spec_file.read_text() == make_run(*SHORT, folder="b").spec_file.read_text()
    assert (run.spec_file.read_text(), results(run)) == before


# A longer training

def test_a_longer_training_ends_as_a_fresh_one_and_keeps_the_samples_of_the_old_last_step(make_run, alone):
    first = make_run(*SHORT, folder="a")
    for stage in ("train", "sample", "evaluate"):
        assert alone(first, stage) == "done"
    old, value = results(first), read_json(first.evaluation)["metrics"]["fid"]["value"]
    run = make_run(*SHORT, "train.iterations=26", folder="a")
    assert run.spec.sample.at == [12, "last"] and not any(run.is_done(stage) for stage in ("train", "sample", "evaluate"))
    assert read_json(run.progress)["done"] == 12 and read_json(run.progress)["state"] == "interrupted"
    assert read_json(run.path / "provenance.json")["kept_steps"] == [12]
    again = make_run(*SHORT, "train.iterations=26", folder="a")  # the spec does not name step 12, and it stays
    assert again.spec == run.spec
    fresh = make_run(*SHORT, "train.iterations=26", "sample.at=[12, last]", folder="b")
    for stage in ("train", "sample", "evaluate"):
        assert alone(run, stage) == "done" and alone(fresh, stage) == "done"
    assert steps_of(run) == steps_of(fresh) == [12, 24, 26]
    for step in (12, 26):
        assert_same_checkpoint(run.checkpoints / f"step-{step:08}", fresh.checkpoints / f"step-{step:08}")
    here, there = results(run), results(fresh)
    assert {name: here[name] for name in RESULTS} == {name: there[name] for name in RESULTS}
    early = "step-00000012,ancestral,full/"
    assert {name.removeprefix(early): here[name] for name in here if name.startswith(early)} == old
    curve, theirs = read_json(run.evaluation)["curve"], read_json(fresh.evaluation)["curve"]
    assert curve == theirs and [point["step"] for point in curve] == [26, 12]
    assert curve[1]["metrics"] == {"fid": pytest.approx(value)}


def test_a_training_under_way_may_become_longer_or_shorter_than_planned(make_run, alone):
    run = make_run(*SHORT)
    save_untrained(run, 4)
    longer = make_run(*SHORT, "train.iterations=20")
    assert longer.spec.sample.at == ["last"] and longer.spec.train.iterations == 20
    assert make_run(*SHORT, "train.iterations=6").spec.train.iterations == 6
    with pytest.raises(UserError, match=r"train.iterations: 6 -> 3: training is at step 4 already, and cannot be shortened; "
                                        r"`sample.at` takes samples of earlier steps, here of step 4"):
        make_run(*SHORT, "train.iterations=3")


def test_a_longer_training_that_had_not_begun_can_be_called_off(make_run, alone):
    run = make_run(*SHORT)
    for stage in ("train", "sample", "evaluate"):
        assert alone(run, stage) == "done"
    old, before = results(run), chunks(run)
    make_run(*SHORT, "train.iterations=26")
    again = make_run(*SHORT)
    assert results(again) == old and chunks(again) == before and again.is_done("sample") and again.spec == run.spec
    assert alone(again, "evaluate") == "done" and read_json(again.evaluation)["samples"] == 10


def test_a_run_whose_results_were_used_by_another_keeps_its_length(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, *linear_kind.ADD)
    monkeypatch.chdir(tmp_path)
    points = [{"name": "teacher"}, {"name": "pupil", "linear.teacher": "teacher"}]

    def frozen(iterations: int) -> list[RunDir]:
        spec = {"name": "study", "kind": "linear", "data": {"path": "digits", "image_size": 8, "channels": 1},
                "train": {"iterations": 12, "batch_size": 12}, "sweep": {"list": [{**points[0], "train.iterations": iterations},
                                                                                    points[1]]}}
        (tmp_path / "spec.yaml").write_text(json.dumps(spec))
        return freeze(load(tmp_path / "spec.yaml"), tmp_path / "runs")
    teacher, pupil = frozen(12)
    for run, step in ((teacher, 12), (pupil, 4)):
        write_json(run.checkpoint_folder(step) / "manifest.json", {"step": step, "bytes": {"training.pt": 0}, "sha256": {}})
        (run.checkpoint_folder(step) / "training.pt").touch()
    with pytest.raises(UserError, match=r"study/pupil names this run \(linear.teacher\) and has used its results"):
        frozen(20)
    shutil.rmtree(pupil.checkpoints)
    assert frozen(20)[0].spec.train.iterations == 20


def test_a_training_whose_steps_depend_on_its_length_is_not_lengthened(make_run):
    run = make_run(*SHORT, "train.lr_anneal=true")
    make_run(*SHORT, "train.lr_anneal=true", "train.iterations=14")  # nothing was trained yet
    save_untrained(run, 4)
    text = run.spec_file.read_text()
    with pytest.raises(UserError, match="train.iterations: 14 -> 20: with train.lr_anneal each step's lr depends on the number"):
        make_run(*SHORT, "train.lr_anneal=true", "train.iterations=20")
    assert run.spec_file.read_text() == text


def test_imported_weights_are_not_trained_on_and_the_message_names_a_way(make_run, alone):
    run = trained(make_run(*SHORT))
    with pytest.raises(UserError, match="imported without the optimiser's state.*train.init_from"):
        make_run(*SHORT, "train.iterations=20")
    assert run.spec_file.read_text() == make_run(*SHORT).spec_file.read_text()


def test_what_a_crash_leaves_of_a_change_is_completed(make_run, alone, monkeypatch):
    import jobs.run.study.changes
    run = make_run(*SHORT)
    for stage in ("train", "sample"):
        assert alone(run, stage) == "done"
    old = results(run)

    def crash(path):
        raise KeyboardInterrupt
    monkeypatch.setattr(jobs.run.study.changes, "make_dir", crash)
    with pytest.raises(KeyboardInterrupt):
        make_run(*SHORT, "train.iterations=16")
    monkeypatch.undo()
    assert make_run(*SHORT).spec.sample.at == ["last"] and results(run) == old  # as if nothing had been
    longer = make_run(*SHORT, "train.iterations=16")
    assert len(results(longer)) == 4 and not longer.samples_h5.exists()
    assert (longer.samples_folder(Sampling(12)) / "samples.h5").exists()


# Steps whose checkpoints are gone

def test_a_step_whose_checkpoint_is_gone_is_refused_before_anything_is_frozen(make_run, tmp_path):
    run = make_run("train.save_interval=2")
    for step in (2, 4, 6, 8):
        save_untrained(run, step)
    text = run.spec_file.read_text()
    with pytest.raises(UserError) as caught:
        make_run("train.save_interval=2", "sample.at=[4, 6, 10, last]")
    assert str(caught.value) == (f"{tmp_path / 'small.yaml'}: run {run.path}: sample.at: no checkpoint of step 4 is there any "
                                 "more, and training is at step 8. sample.at can name step 6, 8, and later steps")
    assert run.spec_file.read_text() == text
    kept = make_run("train.save_interval=2", "sample.at=[6, 10, last]")
    for step in (10, 12):
        save_untrained(kept, step)
    assert steps_of(kept) == [6, 10, 12]
    shutil.rmtree(kept.checkpoints / "step-00000006")  # a step that was accepted: repeating the command stays safe
    assert make_run("train.save_interval=2", "sample.at=[6, 10, last]").spec == kept.spec


def test_steps_are_not_added_while_a_training_may_remove_their_checkpoints(make_run):
    run = make_run("train.save_interval=2")
    save_untrained(run, 4)
    with run.exclusively(), pytest.raises(Busy):
        make_run("train.save_interval=2", "sample.at=[4, last]")
    save_untrained(run, 12)
    with run.exclusively():  # all is trained: samples and evaluation know their steps
        added = make_run("train.save_interval=2", "sample.at=[4, last]")
    assert [sampling.step for sampling in samplings(added.spec)] == [12, 4]


def test_a_damaged_provenance_keeps_nobody_from_freezing(make_run):
    run = make_run()
    for number, content in enumerate(("[1]", "", '{"kept_steps": 3}', '{"kept_steps": ["x", -1, true, 2.5, {}]}'), start=7):
        (run.path / "provenance.json").write_text(content)
        again = make_run(f"train.log_interval={number}")
        assert again.spec.train.log_interval == number and again.spec.sample.at == ["last"]
