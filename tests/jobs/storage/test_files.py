"""Files that are whole or absent, and messages that name them."""

import errno
import os
import subprocess

import pytest

from jobs.errors import UserError
from jobs.storage.files import (
    atomic_path,
    make_dir,
    read_json,
    remove_leftovers,
    sha256_of_json,
    write_json,
    write_text,
    write_texts,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "a.txt"
    write_text(file, "one")
    with pytest.raises(RuntimeError):
        with atomic_path(file) as temporary:
            temporary.write_text("tw")
            assert file.read_text() == "one"
            raise RuntimeError
    assert file.read_text() == "one" and os.listdir(file.parent) == ["a.txt"]
    write_text(file, "two")
    assert file.read_text() == "two" and os.listdir(file.parent) == ["a.txt"]


def test_a_folder_appears_with_all_its_files(tmp_path):
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "inside").write_text("x")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "inside").read_text() == "x" and os.listdir(tmp_path) == ["folder"]


def test_many_files_are_written_at_once_or_a_message_names_one(tmp_path):
    write_texts({tmp_path / "a" / "spec.yaml": "one", tmp_path / "b" / "spec.yaml": "two"})
    assert (tmp_path / "a" / "spec.yaml").read_text() == "one" and (tmp_path / "b" / "spec.yaml").read_text() == "two"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="/file: a file stands where a folder is needed"):
        write_texts({tmp_path / "c" / "spec.yaml": "three", tmp_path / "file" / "spec.yaml": "four"})
    assert sorted(file.name for file in tmp_path.rglob("*.yaml")) == ["spec.yaml", "spec.yaml"]
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("number, words", [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"),
                                           (errno.EROFS, "not writable"), (errno.EACCES, "not writable")])
def test_a_message_about_a_disk_that_refuses_names_the_file(tmp_path, number, words):
    with pytest.raises(UserError, match=words) as error:
        with atomic_path(tmp_path / "a"):
            raise OSError(number, os.strerror(number))
    assert str(tmp_path / "a") in str(error.value) and os.listdir(tmp_path) == []


def test_other_errors_of_the_system_pass_unchanged(tmp_path):
    with pytest.raises(OSError) as error:
        with atomic_path(tmp_path / "a"):
            raise OSError(errno.EIO, "broken disk")
    assert error.value.errno == errno.EIO


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        make_dir(tmp_path / "file" / "below")


def test_json_round_trip_and_damage(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, None]}
    (tmp_path / "a.json").write_text('{"b": ')
    with pytest.raises(UserError, match="a.json: not valid JSON"):
        read_json(tmp_path / "a.json")


def test_hash_of_json_ignores_the_order_of_keys():
    assert sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1}) != sha256_of_json({"a": 2, "b": 1})


def test_only_leftovers_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path / "checkpoints" / ".step-00000010.77.tmp").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step-00000010.77.tmp" / "model.safetensors").write_text("half")
    (tmp_path / ".samples.77.tmp.h5").write_text("half")
    (tmp_path / "samples.h5").write_text("whole")
    (tmp_path / "tmp.txt").write_text("mine")
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["checkpoints", "samples.h5", "tmp.txt"]


def test_the_temporary_file_of_a_live_process_stays_in_the_folder_of_a_run(tmp_path):
    node, dead = os.uname().nodename, subprocess.Popen(["true"])
    dead.wait()
    live, other = f".spec.{node}-{os.getpid()}.tmp.yaml", ".spec.login-7.example-12.tmp.yaml"
    longer = f".spec.c{node}-{dead.pid}.tmp.yaml"  # of another node, whose name ends as ours does
    gone = [f".spec.{node}-{dead.pid}.tmp.yaml", ".progress.other-12.tmp.json", f"checkpoints/.step-1.{node}-{os.getpid()}.tmp"]
    (tmp_path / "checkpoints").mkdir()
    for name in (live, other, longer, *gone):
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / gone[1], (0, 0))
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.rglob("*")) == sorted([live, other, longer, "checkpoints"])
