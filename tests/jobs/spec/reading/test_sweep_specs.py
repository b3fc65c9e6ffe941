"""Sweeps in spec files: the runs they make, and what is said about mistakes."""

import time
from pathlib import Path

import pytest
from spec_files import SMALLEST, complaints_about

from jobs.spec.reading.file import load


def test_without_a_sweep_there_is_one_run(write):
    study = load(write(SMALLEST))
    (run,) = study.runs
    assert (study.name, study.source, run.name, run.differs) == ("x", Path("x.yaml"), "run", {})
    assert run.spec.model.channel_mult == [1, 2, 2, 2] and run.spec.model.learn_sigma is True


def test_every_point_of_a_sweep_is_a_resolved_spec(write):
    runs = load(write(SMALLEST + "sweep:\n  grid: {diffusion.noise_schedule: [linear, cosine], "
                                 "diffusion.loss: [simple, hybrid]}\n")).runs
    assert [run.name for run in runs] == [f"noise_schedule={schedule},loss={loss}"
                                          for schedule in ("linear", "cosine") for loss in ("simple", "hybrid")]
    assert [(run.spec.diffusion.noise_schedule, run.spec.model.learn_sigma) for run in runs] == [
        ("linear", False), ("linear", True), ("cosine", False), ("cosine", True)]
    assert runs[1].differs == {"diffusion.noise_schedule": "linear", "diffusion.loss": "hybrid"}


def test_names_do_not_depend_on_how_a_number_is_written(write):
    names = [[run.name for run in load(write(SMALLEST + f"sweep: {{grid: {{{values}}}}}\n")).runs] for values in (
        "train.lr: [1e-4], model.dropout: [0], train.iterations: [1000]",
        "train.lr: [0.0001], model.dropout: [0.0], train.iterations: [1e3]")]
    assert names == [["lr=0.0001,dropout=0.0,iterations=1000"]] * 2


def test_a_required_key_may_come_from_the_sweep(write):
    path = write("name: x\ndata: {path: digits, image_size: 32}\nsweep: {grid: {train.iterations: [1, 2]}}\n")
    assert [run.spec.train.iterations for run in load(path).runs] == [1, 2]


def test_an_error_of_some_runs_names_the_first_and_counts_the_others(write):
    path = write(SMALLEST + "sweep:\n  grid:\n    diffusion.loss: [simple, hybrid]\n    train.lr: [1e-4,\n      -1]\n"
                            "    train.seed: [1]\n")
    assert complaints_about(path) == [
        "x.yaml:8: train.lr: must be greater than 0 (got -1); in run loss=simple,lr=-1,seed=1 and 1 more"]
    path = write(SMALLEST + "model: {learn_sigma: true}\nsweep: {grid: {diffusion.loss: [simple, hybrid]}}\n")
    (line,) = complaints_about(path)
    assert line.startswith("x.yaml:4: model.learn_sigma: loss: simple does not train a variance")
    assert line.endswith("; in run loss=simple")


def test_an_item_of_a_swept_list_has_its_own_line(write):
    path = write(SMALLEST + "sweep:\n  grid:\n    model.channel_mult:\n"
                            "      - [1, 1, 2]\n      - [1, 1,\n         x]\n")
    assert complaints_about(path) == [
        "x.yaml:9: model.channel_mult[2]: must be a number (got x); in run channel_mult=1-1-x"]


def test_an_error_of_all_runs_is_shown_once(write):
    assert complaints_about(write(SMALLEST + "model: {num_heds: 2}\nsweep: {grid: {train.seed: [1, 2, 3]}}\n")) == [
        "x.yaml:4: model.num_heds: unknown key; did you mean `num_heads`?"]


def test_a_bad_sweep_is_shown_with_what_else_is_wrong(write):
    path = write("name: x\ndata: {path: digits, image_size: 3.5}\ntrain: {}\nsweep:\n  zip:\n"
                 "    train.iterations: [1]\n    train.lr: [1, 2]\n  grid: {train.sed: [1]}\n")
    assert complaints_about(path) == [
        "x.yaml:5: sweep.zip: the lists must be equally long, but train.iterations has 1, train.lr has 2",
        "x.yaml:8: sweep.grid.train.sed: unknown key; did you mean `train.seed`?",
        "x.yaml:2: data.image_size: must be a whole number (got 3.5)"]


def test_a_swept_key_cannot_be_overridden(write):
    path = write(SMALLEST + "sweep:\n  grid:\n    train.lr: [1, 2]\n")
    for override in ("train.lr=3", "train={lr: 3}"):
        assert complaints_about(path, [override]) == [
            f"x.yaml:6: sweep.grid.train.lr: is swept here, but also set by `command line: {override}`; "
            "drop one of the two"]
    assert len(load(path, ["train.seed=3"]).runs) == 2


@pytest.mark.parametrize("sweep, expected", [
    ("grid: {train.seed: [1, 2, 1]}", "sweep.grid.train.seed[2]: 2 points make the same run: seed=1"),
    ("grid: {train.lr: [1, 1.0, 1e0]}", "sweep.grid.train.lr[1]: 3 points make the same run: lr=1.0"),
    ("list: [{}, {model.learn_sigma: null}, {train.seed: 1}, {model.learn_sigma: true}]",
     "sweep.list[1].model.learn_sigma: 3 points make the same run: run, learn_sigma=none, learn_sigma=true"),
    ("list: [{}, {}]", "sweep: 2 points make the same run: run"),
])
def test_points_that_make_the_same_run(write, sweep, expected):
    assert complaints_about(write(f"{SMALLEST}sweep: {{{sweep}}}\n")) == [f"x.yaml:4: {expected}"]


@pytest.mark.slow
def test_a_sweep_of_ten_thousand_runs_loads_in_seconds(write):
    seeds = ", ".join(map(str, range(2500)))
    path = write(SMALLEST + f"sweep: {{grid: {{train.seed: [{seeds}], diffusion.loss: [simple, hybrid], "
                            "train.lr: [1e-4, 2e-4]}}\n")
    start = time.process_time()
    runs = load(path).runs
    assert len({run.name for run in runs}) == 10_000
    assert time.process_time() - start < 10
