"""Spec files: what their YAML means, and what is said about mistakes."""



import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paths import ROOT

from jobs.errors import UserError
from jobs.kinds.diffusion.sections import DiffusionSpec
from jobs.spec.file import load
from jobs.spec.keys import keys_of
from jobs.spec.location import MAX_COMPLAINTS

KEYS = keys_of(DiffusionSpec)

SMALLEST = "name: x\ndata: {path: digits, image_size: 32}\ntrain: {iterations: 1000}\n"


def said(path, overrides=()):
    """The lines of the complaint about a spec file."""
    with pytest.raises(UserError) as caught:
        load(path, overrides)
    return str(caught.value).split("\n")


def one(path, overrides=()) -> DiffusionSpec:
    (run,) = load(path, overrides).runs
    return run.spec


# What YAML means

@pytest.mark.parametrize("text, value", [
    ("1e-4", 1e-4), ("1E-4", 1e-4), ("1.5E3", 1500.0), ("1e5", 1e5), ("+1.e-2", 0.01), (".5", 0.5), ("3", 3.0),
    ("1_000.5", 1000.5), ("2e+1", 20.0), ("!!float 2", 2.0)])
def test_numbers(write, text, value):
    lr = one(write(SMALLEST), [f"train.lr={text}"]).train.lr
    assert lr == value and type(lr) is float
    assert one(write(SMALLEST.replace("1000}", f"1000, lr: {text}}}"))).train.lr == value


@pytest.mark.parametrize("text, value", [
    ("500_000", 500_000), ("5e5", 500_000), ("+7", 7), ("010", 10), ("1000.0", 1000)])
def test_counts(write, text, value):
    iterations = one(write(SMALLEST.replace("1000", text))).train.iterations
    assert iterations == value and type(iterations) is int


@pytest.mark.parametrize("text, value", [
    ("24:00:00", "24:00:00"), ("2021-02-18", "2021-02-18"), ("yes", "yes"), ("No", "No"), ("on", "on"), ("OFF", "OFF"),
    ('"1e-4"', "1e-4"), ("1e-4x", "1e-4x"), ("1__0", "1__0"), ("1_", "1_"), (".inf", ".inf"), ("0x10", "0x10"),
    ("1:30", "1:30"), ("<", "<"), ("'null'", "null"), ("é", "é"), ('"\\U0001F600"', "\U0001F600"), ("!!str 5", "5"),
    ("10,15,20", "10,15,20")])
def test_text(write, text, value):
    assert one(write(SMALLEST.replace("digits", text if "," not in text else f'"{text}"'))).data.path == value


@pytest.mark.parametrize("text, value", [("true", True), ("True", True), ("TRUE", True), ("false", False)])
def test_booleans(write, text, value):
    assert one(write(SMALLEST), [f"data.random_flip={text}"]).data.random_flip is value


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "y", "1", "tRUE", "null"])
def test_nothing_else_is_a_boolean(write, text):
    (line,) = said(write(SMALLEST.replace("32}", f"32, random_flip: {text}}}")))
    assert line.startswith("x.yaml:2: data.random_flip: must be true or false (got ")


@pytest.mark.parametrize("text", ["null", "Null", "NULL", "~", ""])
def test_null(write, text):
    assert one(write(f"{SMALLEST}sample:\n  ema_rate: {text}\n")).sample.ema_rate is None


def test_the_respacing_may_be_a_number_or_several_in_a_row(write):
    assert one(write(SMALLEST), ["sample.timestep_respacing=250"]).sample.timestep_respacing == "250"
    assert one(write(SMALLEST), ["sample.timestep_respacing=10,15,20"]).sample.timestep_respacing == "10,15,20"
    assert one(write(SMALLEST), ["sample.timestep_respacing="]).sample.timestep_respacing == ""


def test_anchors_and_merge_keys(write):
    spec = one(write(SMALLEST + "resources:\n  train: &big {nodes: 2, cpus_per_task: 4}\n"
                                "  sample: {<<: *big, nodes: 3}\n  evaluate: {<<: [{nodes: 5}, *big]}\n")).resources
    assert (spec.sample.nodes, spec.sample.cpus_per_task) == (3, 4)
    assert (spec.evaluate.nodes, spec.evaluate.cpus_per_task) == (5, 4)


def test_line_ends_and_byte_order_mark(write):
    assert one(write("\ufeff" + SMALLEST.replace("\n", "\r\n"))) == one(write(SMALLEST, "y.yaml"))


# What is not YAML, or not allowed in it

@pytest.mark.parametrize("text, expected", [
    ("name: x\ndata:\n\tpath: digits\n", "x.yaml:3: not valid YAML: a tab; YAML indents with spaces"),
    ("name: x\n data: 1\n",
     "x.yaml:2: not valid YAML: a ':' too many, or wrong indentation; text with ': ' needs quotes"),
    ("name: x\ndata\ntrain: 1\n", "x.yaml:2: not valid YAML: a key without ':'"),
    ("name: x\ndata: [1\ntrain: 2\n", "x.yaml:2: not valid YAML: a bracket that is not closed, or a comma is missing"),
    ("name: x\ndata: {a: 1\n", "x.yaml:2: not valid YAML: a bracket that is not closed, or a comma is missing"),
    ("name: 'x\ndata: 1\n\n", "x.yaml:1: not valid YAML: a quote that is never closed"),
    ("name: x\ndata:\n    a: 1\n  b: 2\n",
     "x.yaml:4: not valid YAML: does not fit the lines above: look at indentation, brackets and quotes"),
    ("name: x\ndata: @x\n", "x.yaml:2: not valid YAML: text that starts with this character must be in quotes"),
    (SMALLEST + "---\nname: y\n", "x.yaml:4: not valid YAML: a second document ('---'); a spec is one document"),
    ("name: x\ndata: *big\n", "x.yaml:2: not valid YAML: found undefined alias 'big'"),
    ("name: x\ndata: \x07\n", "x.yaml:2: not valid YAML: the character '\\x07' is not allowed"),
    ("name: x\nname: y\n", "x.yaml:2: name: given twice; first at x.yaml:1"),
    ("name: x\ntrain:\n  lr: 1\n  seed: 2\n  lr: 3\n", "x.yaml:5: lr: given twice; first at x.yaml:3"),
    ("name: x\n3: y\n", "x.yaml:2: keys must be text; put this one in quotes"),
    ("name: x\n[a]: y\n", "x.yaml:2: keys must be text; put this one in quotes"),
    ("name: x\ndata: !!python/object:os.system x\n",
     "x.yaml:2: the tag tag:yaml.org,2002:python/object:os.system is not allowed; write plain values"),
    ("name: x\ndata: !mine {a: 1}\n", "x.yaml:2: the tag !mine is not allowed; write plain values"),
    ("name: x\ndata: !!timestamp 2021-01-01\n",
     "x.yaml:2: the tag tag:yaml.org,2002:timestamp is not allowed; write plain values"),
    ("name: x\ndata: !!int abc\n", "x.yaml:2: abc cannot be used as int"),
    ("name: x\ndata: !!bool yes\n", "x.yaml:2: yes cannot be used as bool"),
    ("name: x\ndata: 1e999\n", "x.yaml:2: 1e999 cannot be used as float"),
    ("name: x\ndata: &a [*a]\n", "x.yaml:2: an alias (*) inside its own anchor (&)"),
    ("name: x\ndata:\n  <<: 3\n", "x.yaml:3: << must be followed by a mapping"),
    ("name: x\ndata: " + "[" * 5000 + "]" * 5000, "x.yaml:1: nested too deeply"),
    ("", "x.yaml: must be a mapping, with sections such as data: and train:"),
    ("# nothing\n", "x.yaml: must be a mapping, with sections such as data: and train:"),
    ("- name\n", "x.yaml: must be a mapping, with sections such as data: and train:"),
    ("name", "x.yaml: must be a mapping, with sections such as data: and train:"),
])
def test_bad_yaml(write, text, expected):
    assert said(write(text)) == [expected]


def test_bad_bytes(write):
    Path(write("")).write_bytes(b"name: x\ndata: \xff\n")
    assert said("x.yaml") == ["x.yaml:2: not UTF-8 text"]


def test_files_that_cannot_be_read(write, tmp_path):
    write("", "folder/x.yaml")
    assert said("nothing.yaml") == ["nothing.yaml: cannot be read (No such file or directory)"]
    assert said("folder") == ["folder: cannot be read (Is a directory)"]


def test_several_mistakes_in_the_yaml_come_at_once(write):
    assert said(write("name: x\nname: y\n1: 2\ndata: !a b\n")) == [
        "x.yaml:2: name: given twice; first at x.yaml:1", "x.yaml:3: keys must be text; put this one in quotes",
        "x.yaml:4: the tag !a is not allowed; write plain values"]


# What does not fit the schema

TRAIN_KEYS = ("iterations, batch_size, microbatch, lr, warmup, lr_anneal, weight_decay, grad_clip, ema_rate, "
              "precision, compile, gradient_checkpointing, log_interval, save_interval, keep_interval, seed, schedule_sampler")


@pytest.mark.parametrize("line, expected", [
    ("model: {nm_res_blocks: 2}", "model.nm_res_blocks: unknown key; did you mean `num_res_blocks`?"),
    ("model: {lr: 2}", "model.lr: unknown key; did you mean `train.lr`?"),
    ("modle: {num_heads: 2}", "modle: unknown key; did you mean `model`?"),
    ("sweeps: {}", "sweeps: unknown key; did you mean `sweep`?"),
    ("extend: y.yaml", "extend: unknown key; did you mean `extends`?"),
    ("train.lr: 1", "train.lr: unknown key; write lr inside the section train"),
    ("zzz: 1", "zzz: unknown key; allowed: name, kind, data, model, diffusion, train, sample, evaluate, resources, extends, "
               "sweep"),
    ("sample: {zzz: 1}", "sample.zzz: unknown key; allowed: num_samples, batch_size, precision, compile, ema_rate, "
                         "seed, at, sampler, ddim_eta, timestep_respacing, clip_denoised, cuda_graph"),
    ("sample: {compile: true}", "sample.compile: must be false, default or max-autotune (got true)"),
    ("resources: {train: {node: 1}}", "resources.train.node: unknown key; did you mean `nodes`?"),
    ("model: {dropout: 1}", "model.dropout: must be less than 1 (got 1)"),
    ("model: {dropout: -0.5}", "model.dropout: must be at least 0 (got -0.5)"),
    ("model: {num_heads: 0}", "model.num_heads: must be at least 1 (got 0)"),
    ("model: {num_heads: four}", "model.num_heads: must be a whole number (got four)"),
    ("model: {num_heads: '4'}", 'model.num_heads: must be a whole number (got "4")'),
    ("model: {num_heads: null}", "model.num_heads: must be a whole number (got null)"),
    ("model: {channel_mult: 2}", "model.channel_mult: must be a list, such as [1, 2] or null (got 2)"),
    ("model: {channel_mult: [1, 0.5]}", "model.channel_mult[1]: must be a whole number (got 0.5)"),
    ("model: {learn_sigma: maybe}", "model.learn_sigma: must be true or false or null (got maybe)"),
    ("diffusion: {noise_schedule: cosin}", "diffusion.noise_schedule: must be 'linear' or 'cosine' (got cosin)"),
    ("diffusion: {loss: l2}", "diffusion.loss: must be 'simple', 'hybrid', 'vlb', 'hybrid_unscaled' or 'vlb_unscaled' "
                              "(got l2)"),
    ("sample: {ddim_eta: 1.5}", "sample.ddim_eta: must be at most 1 (got 1.5)"),
    ("sample: {ema_rate: fast}", "sample.ema_rate: must be a number or null (got fast)"),
    ("sample: {sampler: {a: [1, x]}}", "sample.sampler: must be 'ancestral' or 'ddim' (got {a: [1, x]})"),
    ("evaluate: {features: 3}", "evaluate.features: must be text (got 3)"),
    ("evaluate: {features: ''}", 'evaluate.features: must not be empty (got "")'),
    ('evaluate: {features: "a\\tb"}', "evaluate.features: control characters (newline, tab, ...) are not allowed "
                                      '(got "a\\U00000009b")'),
    ("resources: {train: {time: 24h}}", 'resources.train.time: write time as "HH:MM:SS", "HH:MM" or "D-HH:MM:SS" '
                                        '(got "24h")'),
    ("resources: {train: {mem_gb: 0}}", "resources.train.mem_gb: must be greater than 0 (got 0)"),
    ("evaluate:", "evaluate: must be a mapping with keys among reference, features, metrics, batch_size, seed, "
                  "nll_data, nll_examples, respacings (got null)"),
    ("resources: {train: 3}", "resources.train: must be a mapping with keys among nodes, gpus_per_node, "
                              "tasks_per_node, cpus_per_task, mem_gb, time (got 3)"),
    ("evaluate: {features: [" + "abcdefg, " * 20 + "]}",
     "evaluate.features: must be text (got [abcdefg, abcdefg, abcdefg, abcdefg, abcdefg, abcdefg, ab...)"),
    # contradictions between fields
    ("model: {num_heads: 3}", "model.num_heads: 3 heads do not divide the 256 channels of an attention layer"),
    ("sample: {timestep_respacing: 5000}",
     "sample.timestep_respacing: section 1 of 1 has 4000 of the 4000 steps; 5000 cannot be taken from it"),
])
def test_what_is_wrong_is_said_with_file_line_and_key(write, line, expected):
    assert said(write(f"{SMALLEST}\n{line}\n")) == [f"x.yaml:5: {expected}"]


def test_wrong_values_of_train(write):
    path = write("name: x\ndata: {path: digits, image_size: 32}\ntrain:\n  iterations: 1000\n  lr: -1\n"
                 "  precision: bf17\n  zzz: 1\n  ema_rate: [0.99,\n    2]\n")
    assert said(path) == [
        "x.yaml:5: train.lr: must be greater than 0 (got -1)",
        "x.yaml:9: train.ema_rate[1]: must be less than 1 (got 2)",
        "x.yaml:6: train.precision: must be 'fp32', 'bf16' or 'fp16' (got bf17)",
        f"x.yaml:7: train.zzz: unknown key; allowed: {TRAIN_KEYS}"]


def test_an_item_is_placed_where_it_begins(write):
    assert said(write(SMALLEST + "evaluate:\n  metrics:\n    - fid\n    - [1,\n       2]\n")) == [
        "x.yaml:7: evaluate.metrics[1]: must be 'fid', 'sfid', 'inception_score', 'precision_recall' or 'kid' (got [1, 2])"]


def test_missing_keys_are_named_at_their_section_or_file(write):
    assert said(write("data:\n  image_size: 32\nmodel: {num_heads: 4}\n")) == [
        "x.yaml: name: required, but not given",
        "x.yaml:1: data.path: required, but not given",
        "x.yaml: train: required, but not given"]


def test_a_contradiction_of_defaults_is_placed_at_the_file(write):
    assert said(write(SMALLEST.replace("1000", "1000, ema_rate: [0.99]"))) == [
        "x.yaml: sample.ema_rate: 0.9999 is not among train.ema_rate [0.99]"]


def test_very_many_complaints_are_cut(write):
    lines = said(write(SMALLEST + "".join(f"zzz{number}: 1\n" for number in range(MAX_COMPLAINTS + 7))))
    assert len(lines) == MAX_COMPLAINTS + 1 and lines[-1] == "... and 7 more"


# extends

def test_extends_merges_mappings_and_replaces_the_rest(write):
    write(SMALLEST + "model: {channel_mult: [1, 2], num_heads: 2}\nsample: {seed: 3}\n", "base/a.yaml")
    write("extends: a.yaml\nmodel: {num_heads: 8}\nsample: {batch_size: 9}\n", "base/b.yaml")
    spec = one(write("extends: base/b.yaml\nname: y\nmodel: {channel_mult: [1, 1, 4]}\n"))
    assert (spec.name, spec.model.channel_mult, spec.model.num_heads) == ("y", [1, 1, 4], 8)
    assert (spec.sample.seed, spec.sample.batch_size, spec.train.iterations) == (3, 9, 1000)


def test_positions_are_those_of_the_file_that_sets_a_value(write):
    write(SMALLEST + "model: {num_heads: 0, dropout: 2}\n", "a.yaml")
    assert said(write("extends: a.yaml\n\nmodel: {dropout: 3, zzzz: 1}\nsample: {seed: -1}\n"))[:3] == [
        "a.yaml:4: model.num_heads: must be at least 1 (got 0)",
        "x.yaml:3: model.dropout: must be less than 1 (got 3)",
        "x.yaml:3: model.zzzz: unknown key; allowed: num_channels, num_res_blocks, channel_mult, "
        "attention_resolutions, num_heads, dropout, learn_sigma, use_scale_shift_norm"]


def test_a_replaced_section_leaves_no_positions_behind(write):
    write(SMALLEST, "a.yaml")
    write("extends: a.yaml\ndata: null\n", "b.yaml")
    assert said(write("extends: b.yaml\ndata: {path: digits}\n")) == [
        "x.yaml:2: data.image_size: required, but not given"]


def test_a_missing_key_is_named_at_the_extending_section(write):
    write(SMALLEST.replace(", image_size: 32", ""), "a.yaml")
    assert said(write("extends: a.yaml\n\ndata:\n  channels: 1\n")) == [
        "x.yaml:3: data.image_size: required, but not given"]


def test_a_sweep_is_inherited(write):
    write(SMALLEST + "sweep: {grid: {train.seed: [1, 2]}}\n", "a.yaml")
    assert [run.name for run in load(write("extends: a.yaml\n")).runs] == ["seed=1", "seed=2"]


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
    assert said(write(f"name: x\nextends: {extends}\n")) == [expected]


# The command line

def test_overrides(write):
    spec = one(write(SMALLEST), ["train.lr=3e-4", "model.channel_mult=[1,1,2]", 'sample.timestep_respacing="250"',
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
    assert said(write(SMALLEST), [override]) == [f"command line: {override}: {expected}"]


def test_a_key_overridden_twice(write):
    assert said(write(SMALLEST), ["train.lr=1", "train.lr=2"]) == [
        "command line: train.lr=2: train.lr is set twice on the command line"]


def test_an_override_leaves_the_section_where_it_is(write):
    assert said(write("name: x\ndata: {path: digits, image_size: 32}\ntrain: {}\n"), ["train.lr=1"]) == [
        "x.yaml:3: train.iterations: required, but not given"]


# Whatever is typed

YAML_VALUES = st.one_of(st.text("a1-:.{}[],'\"&*!#|> \n\t%@\\~<", max_size=12), st.integers().map(str),
                        st.floats().map(str),
                        st.sampled_from(["null", "true", "[1, x]", "{a: 1}", "1e999", "9" * 5000]))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from([key for key in KEYS if key not in ("diffusion.diffusion_steps", "train.batch_size")]),
       value=YAML_VALUES)
def test_any_value_of_any_field_makes_a_spec_or_a_complaint(write, key, value):
    path = write(SMALLEST)
    try:
        load(path, [f"{key}={value}"])
    except UserError as error:
        assert str(error).startswith(("command line: ", "x.yaml"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("ab:1-{}[],'\"&*!#|> \n\t%@\\~<", max_size=40), cut=st.integers(0, len(SMALLEST)))
def test_any_text_makes_a_spec_or_a_complaint(write, text, cut):
    path = write(SMALLEST[:cut] + text + SMALLEST[cut:])
    try:
        load(path)
    except UserError as error:
        assert str(error).startswith("x.yaml")


def test_reading_specs_does_not_import_torch(write):
    write(SMALLEST)
    code = "import sys; from jobs.spec.file import load; load('x.yaml'); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
