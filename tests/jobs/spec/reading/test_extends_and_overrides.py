"""Spec files that extend others, and settings from the command line."""

import pytest
from spec_files import SMALLEST, complaints_about, one_spec

from jobs.spec.reading.file import load

# extends

def test_extends_merges_mappings_and_replaces_the_rest(write):
    write(SMALLEST + "model: {channel_mult: [1, 2], num_heads: 2}\nsample: {seed: 3}\n", "base/a.yaml")
    write("extends: a.yaml\nmodel: {num_heads: 8}\nsample: {batch_size: 9}\n", "base/b.yaml")
    spec = one_spec(write("extends: base/b.yaml\nname: y\nmodel: {channel_mult: [1, 1, 4]}\n"))
    assert (spec.name, spec.model.channel_mult, spec.model.num_heads) == ("y", [1, 1, 4], 8)
    assert (spec.sample.seed, spec.sample.batch_size, spec.train.iterations) == (3, 9, 1000)


def test_positions_are_those_of_the_file_that_sets_a_value(write):
    write(SMALLEST + "model: {num_heads: 0, dropout: 2}\n", "a.yaml")
    assert complaints_about(write("extends: a.yaml\n\nmodel: {dropout: 3, zzzz: 1}\nsample: {seed: -1}\n"))[:3] == [
        "a.yaml:4: model.num_heads: must be at least 1 (got 0)",
        "x.yaml:3: model.dropout: must be less than 1 (got 3)",
        "x.yaml:3: model.zzzz: unknown key; allowed: num_channels, num_res_blocks, channel_mult, "
        "attention_resolutions, num_heads, num_head_channels, use_new_attention_order, resblock_updown, dropout, "
     "use_scale_shift_norm, num_heads_upsample, learn_sigma"]


def test_a_replaced_section_leaves_no_positions_behind(write):
    write(SMALLEST, "a.yaml")
    write("extends: a.yaml\ndata: null\n", "b.yaml")
    assert complaints_about(write("extends: b.yaml\ndata: {path: digits}\n")) == [
        "x.yaml:2: data.image_size: required, but not given"]


def test_a_missing_key_is_named_at_the_extending_section(write):
    write(SMALLEST.replace(", image_size: 32", ""), "a.yaml")
    assert complaints_about(write("extends: a.yaml\n\ndata:\n  channels: 1\n")) == [
        "x.yaml:3: data.image_size: required, but not given"]


def test_a_sweep_is_inherited_and_a_note_says_so(write):
    write(SMALLEST + "sweep: {grid: {train.seed: [1, 2]}}\n", "base/a.yaml")
    write("extends: a.yaml\n", "base/b.yaml")
    study = load(write("extends: base/b.yaml\n"))
    assert [run.name for run in study.runs] == ["seed=1", "seed=2"]
    assert study.notes == ("the sweep is inherited from base/a.yaml:4, which x.yaml extends; `sweep:` in x.yaml replaces it as a "
                           "whole, and `sweep: null` drops it",)
    assert load("base/a.yaml").notes == ()


@pytest.mark.parametrize("sweep, runs", [
    ("sweep: {grid: {train.lr: [1e-3, 1e-4]}}\n", ["lr=0.001", "lr=0.0001"]),  # not times the seeds
    ("sweep: {grid: {train.seed: [3]}}\n", ["seed=3"]),
    ("sweep: {list: [{name: only, train.lr: 1e-3}]}\n", ["only"]),
    ("sweep: null\n", ["run"]),
    ("sweep:\n", ["run"]),
])
def test_a_sweep_replaces_that_of_the_file_below_as_a_whole(write, sweep, runs):
    write(SMALLEST + "sweep: {grid: {train.seed: [1, 2]}}\n", "a.yaml")
    study = load(write("extends: a.yaml\n" + sweep))
    assert ([run.name for run in study.runs], study.notes) == (runs, ())
    below = load(write("extends: x.yaml\n", "y.yaml"))
    assert [run.name for run in below.runs] == runs and len(below.notes) == (runs != ["run"])


def test_a_setting_that_the_inherited_sweep_overrules_is_named(write):
    write(SMALLEST + "sweep: {grid: {train.seed: [1, 2]}}\n", "a.yaml")
    study = load(write("extends: a.yaml\ntrain:\n  seed: 7\n  lr: 1e-3\n"))
    assert study.notes[1:] == ("x.yaml:3: train.seed has no effect, since the inherited sweep sets it",)
    assert {run.spec.train.lr for run in study.runs} == {1e-3}


def test_an_empty_sweep_that_drops_nothing_is_still_a_mistake(write):
    assert complaints_about(write(SMALLEST + "sweep: null\n")) == [
        "x.yaml:4: sweep: must be a mapping with some of grid, zip, list"]


@pytest.mark.parametrize("extends, expected", [
    ("nothing.yaml", "x.yaml:2: extends: there is no file nothing.yaml"),
    ("'a\\0b'", "x.yaml:2: extends: there is no file a\\0b"),
    ("[a.yaml]", "x.yaml:2: extends: must be the path of one YAML file"),
    ("null", "x.yaml:2: extends: must be the path of one YAML file"),
    ("x.yaml", "x.yaml:2: extends: goes in a circle: x.yaml -> x.yaml"),
    ("folder/a.yaml", "folder/b.yaml:1: extends: goes in a circle: x.yaml -> folder/a.yaml -> folder/b.yaml -> "
                      "folder/../x.yaml"),
    ("bad.yaml", "bad.yaml:3: not valid YAML: a key without ':'"),
])
def test_extends_refused(write, extends, expected):
    write("extends: b.yaml\n", "folder/a.yaml")
    write("extends: ../x.yaml\n", "folder/b.yaml")
    write("name: x\ndata: {}\ntrain\nmodel: {}\n", "bad.yaml")
    assert complaints_about(write(f"name: x\nextends: {extends}\n")) == [expected]


# The command line

def test_overrides(write):
    spec = one_spec(write(SMALLEST), ["train.lr=3e-4", "model.channel_mult=[1,1,2]", 'sample.timestep_respacing="250"',
                                 "data.path=a=b.h5", "train.microbatch=null", "resources.train.nodes=2", "name=y",
                                 "evaluate={seed: 5}"])
    assert (spec.name, spec.train.lr, spec.model.channel_mult, spec.data.path) == ("y", 3e-4, [1, 1, 2], "a=b.h5")
    assert (spec.sample.timestep_respacing, spec.train.microbatch) == ("250", None)
    assert (spec.resources.train.nodes, spec.evaluate.seed, spec.data.image_size) == (2, 5, 32)


@pytest.mark.parametrize("override, expected", [
    ("train.lr=-1", "train.lr: must be greater than 0 (got -1)"),
    ("train.lrr=1", "train.lrr: unknown key; did you mean `lr`?"),
    ("modell.x=1", "modell: unknown key; did you mean `model`?"),
    ("train.microbatch=", 'train.microbatch: must be a whole number or null (got "")'),
    ("train.lr.x=1", "train.lr: must be a number (got {x: 1})"),
    ("train.batch_size=0", "train.batch_size: must be at least 1 (got 0)"),
    ("sample.ema_rate=0.5", "sample.ema_rate: 0.5 is not among train.ema_rate [0.9999]"),
    ("train.lr", "write key=value, such as train.lr=3e-4"),
    ("=3", "write key=value, such as train.lr=3e-4"),
    ("train..lr=3", "write key=value, such as train.lr=3e-4"),
    ("sweep.grid.train.lr=[1]", "sweep can only be set in a file"),
    ("extends=a.yaml", "extends can only be set in a file"),
    ("model.channel_mult=[1,2", "not valid YAML: a bracket that is not closed, or a comma is missing"),
    ("train.lr=!x 1", "the tag !x is not allowed; write plain values"),
])
def test_overrides_refused(write, override, expected):
    assert complaints_about(write(SMALLEST), [override]) == [f"command line: {override}: {expected}"]


def test_a_key_overridden_twice(write):
    assert complaints_about(write(SMALLEST), ["train.lr=1", "train.lr=2"]) == [
        "command line: train.lr=2: train.lr is set twice on the command line"]


def test_an_override_leaves_the_section_where_it_is(write):
    assert complaints_about(write("name: x\ndata: {path: digits, image_size: 32}\ntrain: {}\n"), ["train.lr=1"]) == [
        "x.yaml:3: train.iterations: required, but not given"]


def test_a_mapping_of_another_kind_replaces_the_one_below(write):
    write(SMALLEST + "sample: {guidance: {kind: classifier, run: runs/a/b, scale: 2, interval: [1, 3]}}\n", "base.yaml")
    over = load(write("extends: base.yaml\nsample: {guidance: {kind: autoguidance, at: 30, scale: 2}}\n")).runs[0].spec
    line = load("base.yaml", ["sample.guidance={kind: autoguidance, at: 30, scale: 2}"]).runs[0].spec
    assert over.sample.guidance == line.sample.guidance and over.sample.guidance.run is over.sample.guidance.interval is None
    same = load("base.yaml", ["sample.guidance={scale: 3}"]).runs[0].spec.sample.guidance
    assert (same.kind, same.run, same.scale, same.interval) == ("classifier", "runs/a/b", 3, [1, 3])
