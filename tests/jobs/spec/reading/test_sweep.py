"""Which points a sweep has, and what its runs are called."""



import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.spec.keys import keys_of, suggestion
from jobs.spec.reading.run_names import MAX_NAME, run_names
from jobs.spec.reading.sweep import MAX_RUNS, expand

KEYS = keys_of(DiffusionSpec)


def points(sweep):
    """The plain points of a sweep that is in order."""
    found, complaints = expand(sweep, {})
    assert complaints == []
    return [point.values() for point in found]


def complaints(sweep, fixed=None):
    found, wrong = expand(sweep, fixed or {})
    assert found == []
    return wrong


def test_grid_takes_every_combination_in_the_order_written():
    grid = {"diffusion.loss": ["simple", "hybrid"], "train.lr": [1e-4, 2e-4, 3e-4]}
    assert points({"grid": grid}) == [{"diffusion.loss": loss, "train.lr": lr}
                                      for loss in ("simple", "hybrid") for lr in (1e-4, 2e-4, 3e-4)]


def test_zip_takes_first_with_first():
    assert points({"zip": {"train.lr": [1, 2], "train.seed": [8, 9]}}) == [
        {"train.lr": 1, "train.seed": 8}, {"train.lr": 2, "train.seed": 9}]


def test_list_takes_its_points_as_they_are():
    listed = [{}, {"train.seed": 1, "train.lr": 0.1}, {"model.channel_mult": [1, 2]}]
    assert points({"list": listed}) == listed


def test_kinds_multiply_in_a_fixed_order():
    sweep = {"list": [{"train.seed": 0}, {"train.seed": 1}], "zip": {"train.lr": [1, 2], "model.dropout": [0, 0.1]},
             "grid": {"diffusion.loss": ["simple", "vlb"]}}
    found = points(sweep)
    assert len(found) == 8
    assert [list(point.values()) for point in found[:4]] == [
        ["simple", 1, 0, 0], ["simple", 1, 0, 1], ["simple", 2, 0.1, 0], ["simple", 2, 0.1, 1]]


def test_choices_know_where_they_are_written():
    found, _ = expand({"grid": {"train.lr": [1, 2]}, "zip": {"train.seed": [5]}, "list": [{"model.dropout": 0}]}, {})
    assert {key: choice.path for key, choice in found[1].choices.items()} == {
        "train.lr": ("sweep", "grid", "train.lr", 1), "train.seed": ("sweep", "zip", "train.seed", 0),
        "model.dropout": ("sweep", "list", 0, "model.dropout")}


@pytest.mark.parametrize("sweep, path, message", [
    (None, ("sweep",), "must be a mapping with some of grid, zip, list"),
    ({}, ("sweep",), "must be a mapping with some of grid, zip, list"),
    ({"gird": {"train.lr": [1]}}, ("sweep", "gird"), "unknown kind of sweep; allowed: grid, zip, list"),
    ({"grid": {}}, ("sweep", "grid"), "must be a mapping of dotted keys to lists, such as {train.lr: [1e-4, 2e-4]}"),
    ({"zip": [1]}, ("sweep", "zip"), "must be a mapping of dotted keys to lists, such as {train.lr: [1e-4, 2e-4]}"),
    ({"grid": {"train.lr": 1}}, ("sweep", "grid", "train.lr"), "must be a list with at least one value"),
    ({"zip": {"train.lr": []}}, ("sweep", "zip", "train.lr"), "must be a list with at least one value"),
    ({"zip": {"train.lr": [1, 2], "train.seed": [1, 2, 3]}}, ("sweep", "zip"),
     "the lists must be equally long, but train.lr has 2, train.seed has 3"),
    ({"list": []}, ("sweep", "list"), "must be a list of mappings, such as [{train.lr: 1e-4}, {train.lr: 2e-4}]"),
    ({"list": {"train.lr": [1]}}, ("sweep", "list"),
     "must be a list of mappings, such as [{train.lr: 1e-4}, {train.lr: 2e-4}]"),
    ({"list": [{"train.lr": 1}, 2]}, ("sweep", "list", 1),
     "must be a mapping of dotted keys to values, such as {train.lr: 1e-4}"),
    ({"grid": {"name": ["a", "b"]}}, ("sweep", "grid", "name"), "cannot be swept: it does not change what is computed"),
    ({"grid": {"resources.train.nodes": [1, 2]}}, ("sweep", "grid", "resources.train.nodes"),
     "cannot be swept: it does not change what is computed"),
    ({"list": [{"train.seed": 1}, {"resources": {}}]}, ("sweep", "list", 1, "resources"),
     "cannot be swept: it does not change what is computed"),
    ({"grid": {"diffusion.noise_shedule": ["linear"]}}, ("sweep", "grid", "diffusion.noise_shedule"),
     "unknown key; did you mean `diffusion.noise_schedule`?"),
    ({"grid": {"noise_schedule": ["linear"]}}, ("sweep", "grid", "noise_schedule"),
     "unknown key; did you mean `diffusion.noise_schedule`?"),
    ({"grid": {"train.dropout": [0.1]}}, ("sweep", "grid", "train.dropout"),
     "unknown key; did you mean `model.dropout`?"),
    ({"grid": {"data.qqqqqqqqq": [0.1]}}, ("sweep", "grid", "data.qqqqqqqqq"), "unknown key; allowed: "
     + ", ".join(key for key in KEYS if key.startswith("data."))),
    ({"grid": {"qqqqqqqqq": [0.1]}}, ("sweep", "grid", "qqqqqqqqq"),
     "unknown key; allowed: section.key, such as train.lr"),
    ({"grid": {"data": [{}], "data.channels": [1]}}, ("sweep", "grid", "data.channels"),
     "overlaps with data, which is swept too"),
    ({"grid": {"train.lr": [1]}, "zip": {"train.lr": [2]}}, ("sweep", "zip", "train.lr"), "already swept under grid"),
    ({"zip": {"train.lr": [1]}, "list": [{"train.seed": 1}, {"train.lr": 2}]}, ("sweep", "list", 1, "train.lr"),
     "already swept under zip"),
])
def test_what_is_wrong_is_said_with_its_place(sweep, path, message):
    assert complaints(sweep) == [(path, message)]


def test_all_complaints_come_at_once():
    sweep = {"grid": {"train.lr": 1, "train.sed": [1]}, "zip": 3, "foo": 4}
    assert [path for path, _ in complaints(sweep)] == [
        ("sweep", "foo"), ("sweep", "grid", "train.lr"), ("sweep", "zip"), ("sweep", "grid", "train.sed")]


def test_a_key_set_elsewhere_cannot_be_swept():
    assert complaints({"grid": {"train.lr": [1, 2]}}, {"train.lr": "command line: train.lr=3"}) == [
        (("sweep", "grid", "train.lr"),
         "is swept here, but also set by `command line: train.lr=3`; drop one of the two")]


def test_a_sweep_that_explodes_is_refused_before_it_does():
    keys = [key for key in KEYS if key.startswith("train.")][:10]
    assert complaints({"grid": {key: list(range(100)) for key in keys}}) == [
        (("sweep",), f"makes {100 ** 10} runs; at most {MAX_RUNS} are possible")]


@pytest.mark.parametrize("key, allowed, expected", [
    ("nm_res_blocks", ["num_res_blocks", "dropout"], "did you mean `num_res_blocks`?"),
    ("batch_size", ["path"], "did you mean `train.batch_size` or `sample.batch_size` or `evaluate.batch_size`?"),
    ("train.lr", ["train"], "write lr inside the section train"),
    ("zzz", ["path", "size"], "allowed: path, size"),
])
def test_suggestions(key, allowed, expected):
    assert suggestion(key, allowed) == expected


# Names

@pytest.mark.parametrize("point, name", [
    ({}, "run"),
    ({"diffusion.noise_schedule": "cosine", "diffusion.loss": "hybrid"}, "noise_schedule=cosine,loss=hybrid"),
    ({"train.seed": 1, "sample.seed": 2, "train.lr": 0.0001}, "train.seed=1,sample.seed=2,lr=0.0001"),
    ({"train.lr": 1e-05}, "lr=1e-05"),
    ({"model.channel_mult": [1, 2, 2]}, "channel_mult=1-2-2"),
    ({"model.channel_mult": None}, "channel_mult=none"),
    ({"model.attention_resolutions": []}, "attention_resolutions=empty"),
    ({"model.learn_sigma": True, "data.random_flip": False}, "learn_sigma=true,random_flip=false"),
    ({"sample.timestep_respacing": ""}, "timestep_respacing=empty"),
    ({"sample.timestep_respacing": "10,15,20"}, "timestep_respacing=10-15-20"),
    ({"data.path": "/data/my set (é).h5"}, "path=-data-my-set----.h5"),
])
def test_names(point, name):
    assert run_names([point]) == [name]


def test_equal_names_get_the_hash_of_their_point():
    first, second, third = {"data.path": "a/b"}, {"data.path": "a b"}, {"data.path": "c"}
    names = run_names([first, second, third])
    assert re.fullmatch(r"path=a-b,[0-9a-f]{10}", names[0]) and re.fullmatch(r"path=a-b,[0-9a-f]{10}", names[1])
    assert names[0] != names[1] and names[2] == "path=c"
    assert run_names([third, second, first]) == names[::-1]


def test_names_that_differ_in_case_only_count_as_equal():
    upper, lower = run_names([{"data.path": "A.h5"}, {"data.path": "a.h5"}])
    assert upper.startswith("path=A.h5,") and lower.startswith("path=a.h5,") and upper.lower() != lower.lower()


def test_long_names_are_cut_and_stay_apart():
    names = run_names([{"data.path": "x" * 300 + end} for end in "ab"])
    assert [len(name) for name in names] == [MAX_NAME, MAX_NAME] and names[0] != names[1]
    assert names[0].startswith("path=xxx")


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
                   st.text("aA1é /.-_=,\n", max_size=150), st.lists(st.integers(0, 9), max_size=4))
POINTS = st.lists(st.dictionaries(st.sampled_from(["data.path", "train.seed", "sample.seed"]), VALUES), min_size=1,
                  max_size=12, unique_by=lambda point: repr(sorted(point.items())))


@settings(deadline=None)
@given(POINTS)
def test_names_are_unique_and_safe(listed):
    names = run_names(listed)
    assert len({name.lower() for name in names}) == len(listed)
    for name in names:
        assert re.fullmatch(r"[a-z][A-Za-z0-9._+=,-]*", name) and len(name) <= MAX_NAME


@settings(deadline=None)
@given(POINTS, st.integers(1, 12))
def test_names_stay_when_points_are_added(listed, count):
    first = {"data.path": "p", "train.seed": 1, "sample.seed": 1, "train.lr": 0.1}  # the same keys stay swept
    before, after = run_names([first, *listed[:count]]), run_names([first, *listed])
    for old, new in zip(before, after, strict=False):
        assert new == old or new.startswith(old[:MAX_NAME - 11] + ",")
