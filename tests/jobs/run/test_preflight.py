"""Inputs of a run are checked before anything is written."""

import json

import h5py
import numpy as np
import pytest

from jobs.errors import UserError
from jobs.run.preflight import check_inputs, input_problems


def data_set(path, names, count=12):
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((count, 8, 8, 1), np.uint8)
        file["labels"] = np.arange(count) % len(names)
        file.attrs["source"], file.attrs["class_names"] = "test", json.dumps(names)
    return path


def test_whole_inputs_give_no_message(make_run):
    assert input_problems(make_run().spec) == []


def test_all_missing_inputs_are_named_at_once(make_run, tmp_path):
    spec = make_run("data.path=no.h5", "evaluate.nll_data=neither.h5", "evaluate.features=nor.pt").spec
    problems = "\n".join(input_problems(spec))
    assert all(name in problems for name in ("no.h5", "neither.h5", "nor.pt"))
    with pytest.raises(UserError, match="no.h5"):
        check_inputs([spec, spec])


def test_label_numbers_must_mean_the_same_in_both_data_sets(make_run, tmp_path):
    train = data_set(tmp_path / "train.h5", ["circle", "square", "triangle"])
    fewer = data_set(tmp_path / "fewer.h5", ["square", "triangle"])
    common = (f"data.path={train}", "data.num_classes=3", "evaluate.nll_examples=4")
    (problem,) = input_problems(make_run(*common, f"evaluate.nll_data={fewer}", folder="a").spec)
    assert "square, triangle" in problem and "circle, square, triangle" in problem and str(fewer) in problem
    assert input_problems(make_run(*common, f"evaluate.nll_data={train}", folder="b").spec) == []


def test_a_class_that_the_data_do_not_have_is_refused(make_run, tmp_path):
    train = data_set(tmp_path / "train.h5", ["circle", "square", "triangle"])
    spec = make_run(f"data.path={train}", "data.num_classes=4", "evaluate.nll_examples=0").spec
    assert input_problems(spec) == [f"data.num_classes: 4, but {train} has 3 classes"]
