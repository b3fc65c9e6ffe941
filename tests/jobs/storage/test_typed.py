"""JSON files as the dataclasses that they were written from: everything else becomes one sentence, in bounded time."""

import os
from dataclasses import dataclass, field

import pytest

from jobs.cost.bench.file import bench_to_plan_by, read_bench
from jobs.errors import UserError
from jobs.storage.files import check_file, read_bytes, read_json, remove_file
from jobs.storage.typed import Count, Time, read_if_whole, read_record


@dataclass(frozen=True)
class Facts:
    stage: str
    done: Count
    when: Time = 0
    more: dict[str, float] = field(default_factory=dict)


def test_what_was_written_is_read_and_unknown_fields_do_not_matter(tmp_path):
    (tmp_path / "x.json").write_text('{"stage": "train", "done": 3, "later": [1]}')
    assert read_record(tmp_path / "x.json", Facts) == Facts("train", 3)


@pytest.mark.parametrize(("text", "why"), [
    ("[]", "a mapping is expected"), ("null", "a mapping is expected"), ('{"done": 1}', "stage: field required"),
    ('{"stage": "a", "done": -1}', "done: input should be greater than or equal to 0"),
    ('{"stage": "a", "done": 1e400}', "done: input should be a finite number"),
    ('{"stage": "a", "done": 1, "when": 1e300}', "when: input should be less than"),
    ('{"stage": "a", "done": 1, "more": {"b": "c"}}', "more.b: input should be a valid number"),
    ('{"stage": "a", "done": 1' + "0" * 50 + "}", "a number of 51 digits"), ("[" * 10 ** 6, "nested too deeply"),
    ('{"stage": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
    ('{"stage": "\\ud800"}', "not UTF-8"), ("", "not valid JSON")])
def test_anything_else_is_one_sentence(tmp_path, text, why):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(UserError) as found:
        read_record(file, Facts)
    assert str(found.value).startswith(f"{file}: ") and why in str(found.value) and "\n" not in str(found.value)
    remarks: list[str] = []
    assert read_if_whole(file, Facts, remarks) is None and remarks == [str(found.value)]


def terabyte(path):
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize(("put", "why"), [
    (os.mkfifo, "not a file, but a named pipe"), (os.mkdir, "a folder"), (lambda path: path.symlink_to("gone"), "a link to gone"),
    (lambda path: path.symlink_to(path), "Too many levels"), (lambda path: path.symlink_to("/dev/zero"), "a device"),
    (lambda path: path.write_bytes(b"\xff"), "not UTF-8"), (terabyte, "bytes")])
def test_what_stands_in_place_of_a_file(tmp_path, put, why):
    file = tmp_path / "bench-x.json"
    put(file)
    with pytest.raises(UserError, match=why):
        read_json(file)
    with pytest.raises(UserError):
        read_bench(file)


def test_a_missing_file_is_no_damaged_one(tmp_path):
    for read in (read_bytes, read_json, check_file):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "x.json")
    remarks: list[str] = []
    assert read_if_whole(tmp_path / "x.json", Facts, remarks) is None and remarks == []


def test_the_newest_bench_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench-gone.json").symlink_to("gone")
    os.mkfifo(tmp_path / "bench-pipe.json")
    assert bench_to_plan_by(None) is None
    (tmp_path / "bench-a.json").touch()
    assert bench_to_plan_by(None).name == "bench-a.json"


def test_a_folder_in_place_of_a_file_is_not_removed(tmp_path):
    (tmp_path / "held.json").mkdir()
    with pytest.raises(UserError, match="a folder, where a file is expected"):
        remove_file(tmp_path / "held.json")
    remove_file(tmp_path / "not there")
