"""Points of a sweep's `list` that have a name: the name becomes the run's."""

import re

import pytest
from spec_files import SMALLEST, complaints_about

from jobs.spec.reading.file import load
from jobs.spec.reading.run_names import MAX_NAME, run_names

NAMED = "use 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first"


def sweep(ways: str) -> str:
    return f"{SMALLEST}sweep: {{{ways}}}\n"


def names(path):
    return [run.name for run in load(path).runs]


def test_a_name_becomes_the_runs(write):
    path = write(sweep("list: [{name: ddpm, diffusion.loss: simple}, {name: iddpm-v1.0_b, diffusion.loss: vlb, train.seed: 3}]"))
    assert names(path) == ["ddpm", "iddpm-v1.0_b"]
    first, second = load(path).runs
    assert first.differs == {"diffusion.loss": "simple"} and first.spec.name == second.spec.name == "x"
    assert second.differs == {"diffusion.loss": "vlb", "train.seed": 3}


def test_points_without_a_name_are_named_by_their_keys(write):
    assert names(write(sweep("list: [{name: base}, {train.seed: 1}, {train.seed: 2, train.lr: 1e-3}]"))) == [
        "base", "seed=1", "seed=2,lr=0.001"]


def test_beside_a_grid_the_name_comes_first(write):
    path = write(sweep("grid: {train.seed: [0, 1]}, zip: {train.lr: [0.1], model.dropout: [0.5]}, "
                       "list: [{name: a, diffusion.loss: simple}, {diffusion.loss: vlb}]"))
    assert names(path) == ["a,seed=0,lr=0.1,dropout=0.5", "seed=0,lr=0.1,dropout=0.5,loss=vlb",
                           "a,seed=1,lr=0.1,dropout=0.5", "seed=1,lr=0.1,dropout=0.5,loss=vlb"]
    assert load(path).runs[0].differs == {"train.seed": 0, "train.lr": 0.1, "model.dropout": 0.5, "diffusion.loss": "simple"}


@pytest.mark.parametrize("name", ["''", "null", "5", "a b", "a/b", ".hidden", "-a", "'a=1'", "'a,b'", "ä", "[a]", "{a: 1}",
                                  "x" * 65])
def test_wrong_names_are_refused(write, name):
    assert complaints_about(write(sweep(f"list: [{{train.seed: 1}}, {{name: {name}, train.seed: 2}}]"))) == [
        f"x.yaml:4: sweep.list[1].name: {NAMED}"]


@pytest.mark.parametrize("second", ["one", "ONE"])
def test_a_name_given_twice_is_refused(write, second):
    assert complaints_about(write(sweep(f"list: [{{name: one, train.seed: 1}}, {{name: {second}, train.seed: 2}}]"))) == [
        f"x.yaml:4: sweep.list[1].name: two points are named {second}"]


def test_all_wrong_names_are_shown_at_once(write):
    points = "".join(f"    - {{name: {name}, train.seed: {seed}}}\n" for seed, name in enumerate(["a", "A", "b b"]))
    text = f"{SMALLEST}sweep:\n  list:\n{points}"
    assert complaints_about(write(text)) == [
        "x.yaml:7: sweep.list[1].name: two points are named A", f"x.yaml:8: sweep.list[2].name: {NAMED}"]


@pytest.mark.parametrize("ways", ["grid: {name: [a, b]}", "zip: {name: [a, b]}"])
def test_only_a_list_has_names(write, ways):
    (line,) = complaints_about(write(sweep(ways)))
    assert line.endswith(".name: cannot be swept: it does not change what is computed")


@pytest.mark.parametrize("points, named", [
    ("{name: a}, {name: b}", "a, b"),
    ("{name: a, train.lr: 0.0001}, {name: b}, {train.seed: 0}", "a, b, seed=0"),
])
def test_points_that_differ_by_their_names_alone_make_the_same_run(write, points, named):
    (line,) = complaints_about(write(sweep(f"list: [{points}]")))
    assert line.endswith(f": {named.count(',') + 1} points make the same run: {named}")


def test_mistakes_are_told_with_the_name_of_the_run(write):
    assert complaints_about(write(sweep("list: [{name: good}, {name: bad, train.lr: -1}]"))) == [
        "x.yaml:4: train.lr: must be greater than 0 (got -1); in run bad"]


def test_a_name_that_another_run_would_have_gets_a_hash(write):
    first, second = names(write(sweep("list: [{}, {name: Run, train.seed: 1}]")))
    assert re.fullmatch(r"run,[0-9a-f]{10}", first) and re.fullmatch(r"Run,[0-9a-f]{10}", second)
    assert first.lower() != second.lower()


def test_long_names_of_named_points_are_cut_and_stay_apart():
    point = {"data.path": "x" * 100}
    cut = run_names([point, point], ["a" * 64, "b" * 64])
    assert [len(name) for name in cut] == [MAX_NAME, MAX_NAME] and cut[0][0] == "a" and cut[1][0] == "b"
