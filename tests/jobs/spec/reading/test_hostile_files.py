"""Files that are no spec, in every way: one message, in bounded time and memory, and never another error."""

import itertools
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from spec_files import SMALLEST, complaints_about

from jobs.errors import UserError
from jobs.spec.reading.file import load
from jobs.spec.reading.yaml_nodes import MAX_BYTES, MAX_VALUES

ALIASES = "name: x\na0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9))
MERGES = "name: x\na0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n" for level in range(1, 9))


POINTS = f"{SMALLEST}sweep: {{list: [&p {{train.seed: 1}}, {'*p, ' * MAX_VALUES}]}}\n"


@pytest.mark.parametrize("text", [ALIASES, MERGES, POINTS], ids=["lists", "merges", "points"])
def test_aliases_are_counted_in_full(write, text):
    began = time.process_time()
    (line,) = complaints_about(write(text))
    assert f"more than {MAX_VALUES:,} values, each alias (*) counted in full" in line or f"larger than {MAX_BYTES:,}" in line
    assert time.process_time() - began < 10


@pytest.mark.parametrize("text, expected", [
    (SMALLEST.replace("1000", "9" * 330), f"x.yaml:3: {'9' * 40}... cannot be used as int"),
    (SMALLEST.replace("1000", "9" * 5000), f"x.yaml:3: {'9' * 40}... cannot be used as int"),
    (SMALLEST.replace("1000", "1e999"), "x.yaml:3: 1e999 cannot be used as float"),
    (SMALLEST.replace("1000", "1e300"), "x.yaml:3: train.iterations: must be at most 1,000,000,000,000 (got 1.0e+300)"),
    (SMALLEST.replace("1000", "0o777"), 'x.yaml:3: train.iterations: must be a whole number (got "0o777")'),
    (SMALLEST.replace("digits", '"\\ud800"'), "x.yaml:2: \\ud800 cannot be used as str"),
    (SMALLEST.replace("digits", '"\\UFFFFFFFF"'), "x.yaml:1: not valid YAML: a \\U escape that is no character"),
    (SMALLEST.replace("digits", '"\\0"'),
     'x.yaml:2: data.path: control characters (newline, tab, ...) are not allowed (got "\\U00000000")'),
    (SMALLEST.replace("digits", '"\\e[31m"'),
     'x.yaml:2: data.path: control characters (newline, tab, ...) are not allowed (got "\\U0000001b[31m")'),
    (SMALLEST + '"\\e[31mred": 1\n', 
     "x.yaml:4: \\x1b[31mred: unknown key; allowed: name, kind, data, model, diffusion, train, sample, evaluate, resources, "
     "extends, sweep"),
    (SMALLEST + f"extends: {'a' * 400}\n", f"x.yaml:4: extends: there is no file {'a' * 200}..."),
    (SMALLEST + 'extends: "a\\0b"\n', "x.yaml:4: extends: there is no file a\\x00b"),
    (SMALLEST + "a: " + "{a: " * 60 + "}" * 60, "x.yaml:4: nested too deeply"),
    (SMALLEST + "a: " + "{a: " * 5000, "x.yaml:1: nested too deeply"),
    (SMALLEST + "a: " + "[" * 100_000, "x.yaml:1: nested too deeply"),
    (SMALLEST + "sweep: {grid: {" + ", ".join(f"{key}: [{', '.join(map(str, range(1, 33)))}]" for key in (
        "train.seed", "train.batch_size", "train.log_interval", "sample.seed", "sample.batch_size", "model.num_heads")) + "}}",
     "x.yaml:4: sweep: makes 1073741824 runs; at most 100000 are possible"),
], ids=itertools.count())
def test_values_that_no_spec_needs_are_refused(write, text, expected):
    assert complaints_about(write(text)) == [expected]


@pytest.mark.parametrize("content, expected", [
    ("name: x\n".encode("utf-16"), "x.yaml:1: not UTF-8 text"),
    ("name: x\n".encode("utf-16-le"), "x.yaml:1: not valid YAML: the character '\\x00' is not allowed"),
    ("name: x\npath: é\n".encode("latin-1"), "x.yaml:2: not UTF-8 text"),
    (bytes(1000), "x.yaml:1: not valid YAML: the character '\\x00' is not allowed"),
    (b"#" * (MAX_BYTES + 1), f"x.yaml: larger than {MAX_BYTES:,} bytes"),
])
def test_bytes_that_are_no_text_of_yaml(write, content, expected):
    file = write("")
    Path(file).write_bytes(content)
    assert complaints_about(file) == [expected]


def test_a_sparse_file_a_device_a_pipe_and_a_folder_are_not_read(write, tmp_path):
    big = Path(write(""))
    os.truncate(big, 2 * 2 ** 30)
    os.mkfifo(tmp_path / "pipe.yaml")
    assert complaints_about(str(big)) == [f"{big}: larger than {MAX_BYTES:,} bytes"]
    assert complaints_about("/dev/zero") == ["/dev/zero: not a file"]
    assert complaints_about(str(tmp_path / "pipe.yaml")) == [f"{tmp_path}/pipe.yaml: not a file"]
    assert complaints_about("a" * 400)[0].endswith("cannot be read (File name too long)")
    assert complaints_about("a\0b") == ["a\\x00b: no file can have this name"]


def test_a_long_chain_of_files_is_refused(write):
    for number in range(40):
        write(SMALLEST + f"extends: x{number + 1}.yaml\n", f"x{number}.yaml")
    assert complaints_about("x0.yaml")[0].endswith("extends: more than 20 files extend each other")


@pytest.mark.parametrize("setting", ["a." * 50_000 + "a=1", "train.lr=" + "[" * 5000, "train.iterations=" + "9" * 5000,
                                     "data.path=" + "a" * 100_000, "extends=x", "data.path=\udcff", "=", ".=1"],
                         ids=itertools.count())
def test_settings_of_the_command_line_are_bounded_too(write, setting):
    (line,) = complaints_about(write(SMALLEST), [setting])
    assert line.startswith("command line: ") and len(line) < 600


def test_thousands_of_unknown_keys_take_no_time(write):
    began = time.process_time()
    lines = complaints_about(write(SMALLEST + "".join(f"abc{number}: 1\n" for number in range(10_000))))
    assert lines[-1] == "... and 9950 more" and time.process_time() - began < 20


def test_thousands_of_unknown_swept_keys_take_no_time(write):
    keys = ", ".join(f"train.abc{number}: [1]" for number in range(5_000))
    began = time.process_time()
    lines = complaints_about(write(f"{SMALLEST}sweep: {{grid: {{{keys}}}}}\n"))
    assert lines == ["x.yaml:4: sweep: sets more than 1,000 keys"] and time.process_time() - began < 20


def _study_or_message(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        assert load(file).runs
    except UserError as error:
        assert str(error)


PIECES = [SMALLEST, "name: x\n", "data:", "train: ", "{", "}", "[", "]", ": ", "- ", "\n", "  ", "&a ", "*a", "<<: ", "!!int ",
          "? ", "|", ">", "'", '"', "\\", "%YAML 1.1\n", "---\n", "...", "1e5", "sweep: {grid: {train.lr: [1, 2]}}",
          "extends: x.yaml", "\t", "#", "null", "é", "\ufeff", "\0", "2001-01-01", "resources: {train: {time: 1-12}}",
          "list: [{name: a}]", "\u2028", "~", "train.lr"]
FILES = st.one_of(st.binary(max_size=200),
                  st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: "".join(pieces).encode()))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=FILES)
@example(b"? [a]\n: b\n")
@example(b"<<: *a\n")
def test_any_bytes_give_a_study_or_a_message(tmp_path, content):
    _study_or_message(tmp_path / "x.yaml", content)
