"""A resolved spec survives its file; a damaged file is refused."""

from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from spec_files import SMALLEST, one_spec

from jobs.errors import UserError
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.spec.fields import OneOf
from jobs.spec.reading.frozen import difference, dump, load_frozen


def bounds_of(limits: tuple) -> dict[str, float]:
    """The tightest of the bounds on a field."""
    bounds: dict[str, float] = {}
    for limit in (limit for outer in limits for limit in (outer.metadata if isinstance(outer, FieldInfo) else [outer])):
        for name, tightest in (("ge", max), ("gt", max), ("le", min), ("lt", min)):
            if (bound := getattr(limit, name, None)) is not None:
                bounds[name] = tightest(bound, bounds.get(name, bound))
    return bounds


def strategy(annotation: Any, limits: tuple = ()) -> st.SearchStrategy:
    """Values that a field of the schema allows."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return strategy(inner, (*limits, *metadata))
    bounds = bounds_of(limits)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return st.fixed_dictionaries({
            name: SPECIAL[name] if name in SPECIAL else strategy(field.annotation, tuple(field.metadata))
            for name, field in annotation.model_fields.items()})
    if names := [limit.names for limit in limits if isinstance(limit, OneOf)]:
        return st.sampled_from(list(names[0]))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(bounds.get("ge", 0), bounds.get("le", 10**12))
    if annotation is float:
        return st.floats(bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt")), allow_nan=False,
                         allow_infinity=False, exclude_min="gt" in bounds, exclude_max="lt" in bounds)
    if annotation is str:
        return TEXT
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is list:
        return st.lists(strategy(get_args(annotation)[0]), min_size=1, max_size=3)
    return st.one_of(*(st.none() if part is type(None) else strategy(part) for part in get_args(annotation)))


WORDS = ["null", "Yes", "1e5", "12", "24:00:00", "a: b", "- x", "#", "...", "---", "'", '"\\', " a ", "<<", "~"]
TEXT = st.one_of(st.sampled_from(WORDS), st.text("aé0 .:-_#'\"\\{[&*!|>%@`,\u2028\ufeff\U0001F600", min_size=1))
SPECIAL = {"name": st.just("a.b-c"), "kind": st.just("diffusion"), "time": st.sampled_from(["24:00:00", "1-00:00", "45"]),
           "nodes": st.one_of(st.integers(1, 10**6), st.builds("{}-{}".format, st.integers(1, 9), st.integers(10, 999_999))),
           "samplings": st.lists(st.fixed_dictionaries({}, optional={"seed": st.lists(st.integers(0, 9), min_size=1, max_size=3),
                                                                     "ddim_eta": st.floats(0, 1)}), max_size=3),
           "guidance": st.one_of(st.none(), st.fixed_dictionaries({
               "kind": st.just("classifier"), "run": st.just("runs/a/b"), "scale": st.floats(0, 9),
               "interval": st.one_of(st.none(), st.just([0.28, 2.9]))})),
           "at": st.lists(st.one_of(st.just("last"), st.integers(1, 10**9)), max_size=3)}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(values=strategy(DiffusionSpec))
def test_a_dumped_spec_comes_back_equal(write, values):
    spec = DiffusionSpec.model_validate(values)
    assert load_frozen(write(dump(spec), "spec.yaml")) == spec


def test_the_dump_is_readable(write):
    lines = dump(one_spec(write(SMALLEST), ["train.lr=1e-5"])).split("\n")
    assert lines[:4] == ["name: x", "kind: diffusion", "data:", "  path: digits"]
    for line in ("  channel_mult: [1, 2, 2, 2]", "  lr: 1.0e-05", '  timestep_respacing: ""', "  metrics: [fid]",
                 '    time: "24:00:00"', "  microbatch: null", "  learn_sigma: true"):
        assert line in lines


def test_a_dump_is_a_spec_file_too(write):
    spec = one_spec(write(SMALLEST))
    assert one_spec(write(dump(spec), "again.yaml")) == spec


def test_a_dump_cut_off_anywhere_is_refused(write):
    whole = dump(one_spec(write(SMALLEST)))
    for end in [*range(0, len(whole) - 8, 37), *range(len(whole) - 8, len(whole))]:
        with pytest.raises(UserError, match="^spec.yaml"):
            load_frozen(write(whole[:end], "spec.yaml"))


@pytest.mark.parametrize("old, new, expected", [
    ("  lr: 0.0001", "  lr: -1", "spec.yaml:27: train.lr: must be greater than 0 (got -1)"),
    ("  lr: 0.0001", "  lr: [", "spec.yaml:27: not valid YAML: a bracket that is not closed, or a comma is missing"),
    ("...\n", "", "spec.yaml: damaged: the end is missing"),
])
def test_a_damaged_dump_is_refused(write, old, new, expected):
    text = dump(one_spec(write(SMALLEST)))
    assert text.count(old) == 1
    with pytest.raises(UserError) as caught:
        load_frozen(write(text.replace(old, new), "spec.yaml"))
    line = text[:text.index(old)].count("\n") + 1
    assert str(caught.value) == expected.replace(":27:", f":{line}:")


def test_a_missing_dump(write):
    with pytest.raises(UserError, match=r"^nothing.yaml: cannot be read \(No such file or directory\)$"):
        load_frozen("nothing.yaml")


def test_differences(write):
    old = one_spec(write(SMALLEST))
    new = one_spec("x.yaml", ["train.lr=2e-4", "model.channel_mult=[1,1,2]", "data.path=a b", "resources.train.nodes=2",
                         "train.lr_anneal=true", "evaluate.reference=digits"])
    assert difference(old, old) == []
    assert difference(old, new) == [
        'data.path: digits -> "a b"', "model.channel_mult: [1, 2, 2, 2] -> [1, 1, 2]", "train.lr: 0.0001 -> 0.0002",
        "train.lr_anneal: false -> true", "resources.train.nodes: 1 -> 2"]
    assert difference(old, new, ignore=["resources", "train.lr", "model.channel_mult"]) == [
        'data.path: digits -> "a b"', "train.lr_anneal: false -> true"]
