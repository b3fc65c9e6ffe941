"""What the system says about a file, in words: the place that is wrong is named, and what stands there."""

import errno
import os

import pytest

from jobs.errors import UserError
from jobs.storage.disk_errors import explained, why_missing
from jobs.storage.files import make_dir, write_text


def test_a_link_to_nowhere_is_named_with_its_target(tmp_path):
    (tmp_path / "runs").symlink_to("/nonexistent/scratch")
    for deed in (lambda: make_dir(tmp_path / "runs" / "study"), lambda: make_dir(tmp_path / "runs"),
                 lambda: write_text(tmp_path / "runs" / "study" / "a.txt", "x")):
        with pytest.raises(UserError, match="/runs: a link to /nonexistent/scratch, which does not exist"):
            deed()


def test_links_in_a_circle(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "runs")
    with pytest.raises(UserError, match="/runs: a link to .*/other, which leads back to it"):
        write_text(tmp_path / "runs" / "a.txt", "x")


def test_a_link_to_a_file_and_a_file_are_no_folders(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"/{name}: a file stands where a folder is needed"):
            make_dir(tmp_path / name / "study" / "run")
        with pytest.raises(UserError, match=f"/{name}: a file stands where a folder is needed"):
            make_dir(tmp_path / name)


def test_a_link_to_a_folder_is_a_folder(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")
    write_text(tmp_path / "runs" / "study" / "a.txt", "x")
    assert (tmp_path / "scratch" / "study" / "a.txt").read_text() == "x"


def test_a_name_that_is_too_long_is_shown_in_part(tmp_path):
    with pytest.raises(UserError, match="too long for the file system") as error:
        make_dir(tmp_path / ("x" * 5000))
    assert len(str(error.value)) < 300


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(UserError, match="a.txt: a folder stands where a file is needed"):
        write_text(tmp_path / "a.txt", "x")


def test_a_current_folder_that_was_deleted(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UserError, match="the current folder has been deleted"):
        write_text("runs/a.txt", "x")
    with pytest.raises(FileNotFoundError) as error:
        os.getcwd()
    assert "the current folder has been deleted" in str(explained(error.value))


def test_no_folder_for_temporary_files():
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert "TMPDIR" in str(explained(error))


def test_other_errors_stay_what_they_are():
    for error in (OSError("h5py has no number"), OSError(errno.EIO, "Input/output error", "a"),
                  FileNotFoundError(errno.ENOENT, "No such file or directory", "/no/a")):
        assert explained(error) is error


def test_why_something_is_missing(tmp_path):
    (tmp_path / "nowhere").symlink_to("/nonexistent/scratch")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "file").touch()
    assert why_missing(tmp_path / "nowhere" / "a.h5").endswith("/nowhere: a link to /nonexistent/scratch, which does not exist")
    assert "which leads back to it" in why_missing(tmp_path / "circle")
    assert why_missing(tmp_path / "file" / "a.h5").endswith("/file: a file stands where a folder is needed")
    assert "too long" in why_missing(tmp_path / ("x" * 300))
    assert why_missing(tmp_path / "simply-missing" / "a.h5") is None and why_missing(tmp_path / "file") is None
