"""What the YAML of a spec file means, and the messages about text that is not such YAML."""

from pathlib import Path

import pytest
from spec_files import SMALLEST, complaints_about, one_spec

# What YAML means

@pytest.mark.parametrize("text, value", [
    ("1e-4", 1e-4), ("1E-4", 1e-4), ("1.5E3", 1500.0), ("1e5", 1e5), ("+1.e-2", 0.01), (".5", 0.5), ("3", 3.0),
    ("1_000.5", 1000.5), ("2e+1", 20.0), ("!!float 2", 2.0)])
def test_numbers(write, text, value):
    lr = one_spec(write(SMALLEST), [f"train.lr={text}"]).train.lr
    assert lr == value and type(lr) is float
    assert one_spec(write(SMALLEST.replace("1000}", f"1000, lr: {text}}}"))).train.lr == value


@pytest.mark.parametrize("text, value", [
    ("500_000", 500_000), ("5e5", 500_000), ("+7", 7), ("010", 10), ("1000.0", 1000)])
def test_counts(write, text, value):
    iterations = one_spec(write(SMALLEST.replace("1000", text))).train.iterations
    assert iterations == value and type(iterations) is int


@pytest.mark.parametrize("text, value", [
    ("24:00:00", "24:00:00"), ("2021-02-18", "2021-02-18"), ("yes", "yes"), ("No", "No"), ("on", "on"), ("OFF", "OFF"),
    ('"1e-4"', "1e-4"), ("1e-4x", "1e-4x"), ("1__0", "1__0"), ("1_", "1_"), (".inf", ".inf"), ("0x10", "0x10"),
    ("1:30", "1:30"), ("<", "<"), ("'null'", "null"), ("é", "é"), ('"\\U0001F600"', "\U0001F600"), ("!!str 5", "5"),
    ("10,15,20", "10,15,20")])
def test_text(write, text, value):
    assert one_spec(write(SMALLEST.replace("digits", text if "," not in text else f'"{text}"'))).data.path == value


@pytest.mark.parametrize("text, value", [("true", True), ("True", True), ("TRUE", True), ("false", False)])
def test_booleans(write, text, value):
    assert one_spec(write(SMALLEST), [f"data.random_flip={text}"]).data.random_flip is value


@pytest.mark.parametrize("text", ["yes", "no", "on", "off", "y", "1", "tRUE", "null"])
def test_nothing_else_is_a_boolean(write, text):
    (line,) = complaints_about(write(SMALLEST.replace("32}", f"32, random_flip: {text}}}")))
    assert line.startswith("x.yaml:2: data.random_flip: must be true or false (got ")


@pytest.mark.parametrize("text", ["null", "Null", "NULL", "~", ""])
def test_null(write, text):
    assert one_spec(write(f"{SMALLEST}sample:\n  ema_rate: {text}\n")).sample.ema_rate is None


def test_the_respacing_may_be_a_number_or_several_in_a_row(write):
    assert one_spec(write(SMALLEST), ["sample.timestep_respacing=250"]).sample.timestep_respacing == "250"
    assert one_spec(write(SMALLEST), ["sample.timestep_respacing=10,15,20"]).sample.timestep_respacing == "10,15,20"
    assert one_spec(write(SMALLEST), ["sample.timestep_respacing="]).sample.timestep_respacing == ""


def test_anchors_and_merge_keys(write):
    spec = one_spec(write(SMALLEST + "resources:\n  train: &big {nodes: 2, cpus_per_task: 4}\n"
                                "  sample: {<<: *big, nodes: 3}\n  evaluate: {<<: [{nodes: 5}, *big]}\n")).resources
    assert (spec.sample.nodes, spec.sample.cpus_per_task) == (3, 4)
    assert (spec.evaluate.nodes, spec.evaluate.cpus_per_task) == (5, 4)


def test_line_ends_and_byte_order_mark(write):
    assert one_spec(write("\ufeff" + SMALLEST.replace("\n", "\r\n"))) == one_spec(write(SMALLEST, "y.yaml"))


# What is not YAML, or not allowed in it

@pytest.mark.slow
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
    (SMALLEST + "---\nname: y\n", "x.yaml:4: not valid YAML: a second document ('---'); a file is one document"),
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
    assert complaints_about(write(text)) == [expected]


def test_bad_bytes(write):
    Path(write("")).write_bytes(b"name: x\ndata: \xff\n")
    assert complaints_about("x.yaml") == ["x.yaml:2: not UTF-8 text"]


def test_files_that_cannot_be_read(write, tmp_path):
    write("", "folder/x.yaml")
    assert complaints_about("nothing.yaml") == ["nothing.yaml: cannot be read (No such file or directory)"]
    assert complaints_about("folder") == ["folder: not a file but a folder"]


def test_several_mistakes_in_the_yaml_come_at_once(write):
    assert complaints_about(write("name: x\nname: y\n1: 2\ndata: !a b\n")) == [
        "x.yaml:2: name: given twice; first at x.yaml:1", "x.yaml:3: keys must be text; put this one in quotes",
        "x.yaml:4: the tag !a is not allowed; write plain values"]
