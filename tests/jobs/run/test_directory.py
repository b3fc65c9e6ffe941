"""Directories of runs: frozen specs, provenance and the lock."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.errors import UserError
from jobs.run.directory import RunDir
from jobs.run.provenance import provenance
from jobs.run.study.freezing import freeze
from jobs.spec.reading.file import load


def test_freezing_writes_spec_provenance_and_study(make_run):
    run = make_run()
    assert run.spec.train.iterations == 12
    study = json.loads((run.path.parent / "study.json").read_text())
    assert study["runs"] == {"run": {"differs": {}}}
    recorded = json.loads((run.path / "provenance.json").read_text())
    assert recorded["packages"]["torch"] and recorded["host"] and recorded["python"]


def test_freezing_again_changes_nothing(make_run):
    run = make_run()
    before = {file: file.stat().st_mtime_ns for file in run.path.parent.rglob("*") if file.is_file()}
    make_run()
    assert {file: file.stat().st_mtime_ns for file in run.path.parent.rglob("*") if file.is_file()} == before


def test_a_changed_spec_under_an_old_name_is_refused_with_the_difference(make_run):
    run = make_run()
    text = run.spec_file.read_text()
    with pytest.raises(UserError) as error:
        make_run("train.lr=5e-3", "model.dropout=0.5")
    assert "train.lr: 0.001 -> 0.005" in str(error.value) and "model.dropout: 0.0 -> 0.5" in str(error.value)
    assert str(run.path) in str(error.value) and run.spec_file.read_text() == text


def test_resources_and_logging_may_change_and_are_updated(make_run):
    make_run()
    run = make_run("train.log_interval=7", "resources.sample.tasks_per_node=3")
    assert run.spec.train.log_interval == 7 and run.spec.resources.sample.tasks_per_node == 3


def test_a_sweep_grows_and_keeps_existing_runs(tmp_path, make_run):
    make_run()  # leaves the spec file
    def sweep(seeds):
        base = json.loads((tmp_path / "small.yaml").read_text())
        (tmp_path / "sweep.yaml").write_text(json.dumps(base | {"sweep": {"grid": {"train.seed": seeds}}}))
        return freeze(load(tmp_path / "sweep.yaml"), tmp_path / "sweeps")
    sweep([0, 1])
    assert [run.path.name for run in sweep([1, 2])] == ["seed=1", "seed=2"]
    known = json.loads((tmp_path / "sweeps" / "small" / "study.json").read_text())["runs"]
    differing = {f"seed={seed}": {"differs": {"train.seed": seed}} for seed in (0, 1, 2)}
    assert known == differing | {"seed=0": {"differs": {"train.seed": 0}, "left": True}} and list(known) == list(differing)
    sweep([0, 1, 2])
    assert json.loads((tmp_path / "sweeps" / "small" / "study.json").read_text())["runs"] == differing


def test_two_freezes_at_the_same_moment_lose_no_run(tmp_path, make_run):
    make_run(folder="elsewhere")
    base = json.loads((tmp_path / "small.yaml").read_text())
    for round_ in range(5):
        studies = []
        for half in (0, 1):
            seeds = list(range(10 * round_ + half, 10 * round_ + 10, 2))
            (tmp_path / "half.yaml").write_text(json.dumps(base | {"sweep": {"grid": {"train.seed": seeds}}}))
            studies.append(load(tmp_path / "half.yaml"))
        with ThreadPoolExecutor(2) as both:
            list(both.map(lambda study: freeze(study, tmp_path / "runs"), studies))
        recorded = json.loads((tmp_path / "runs" / "small" / "study.json").read_text())["runs"]
        assert set(recorded) == {f"seed={seed}" for seed in range(10 * round_ + 10)}
        assert all((tmp_path / "runs" / "small" / name / "spec.yaml").is_file() for name in recorded)


def test_nothing_is_written_if_one_run_of_a_sweep_is_refused(tmp_path, make_run):
    make_run()
    base = json.loads((tmp_path / "small.yaml").read_text())
    def sweep(lr, seeds):
        base["train"]["lr"] = lr
        (tmp_path / "sweep.yaml").write_text(json.dumps(base | {"sweep": {"grid": {"train.seed": seeds}}}))
        return freeze(load(tmp_path / "sweep.yaml"), tmp_path / "sweeps")
    sweep(1e-3, [1])
    with pytest.raises(UserError, match="seed=1"):
        sweep(2e-3, [0, 1])
    assert not (tmp_path / "sweeps" / "small" / "seed=0").exists()


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match="not a run's directory"):
        _ = RunDir(tmp_path).spec


def test_one_process_at_a_time(make_run):
    run = make_run()
    with run.exclusively():
        with pytest.raises(UserError, match=r"another process is at work on this run \(process \d+ on "):
            with run.exclusively():
                pass
    with run.exclusively():
        pass


def test_provenance_has_uncommitted_changes():
    recorded = provenance()
    assert set(recorded) >= {"commit", "dirty_patch", "packages", "host", "command", "time"}
