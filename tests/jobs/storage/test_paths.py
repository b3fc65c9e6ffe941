"""~ and ~user are home folders wherever a path is written; no folder is ever called ~."""

import os
import pwd

import pytest

from jobs.errors import UserError
from jobs.storage.paths import expanded


def test_homes_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    me = pwd.getpwuid(os.getuid())
    assert [expanded(path) for path in ("~", "~/a", f"~{me.pw_name}/a", "a/~", "./~", "a~", "digits", "")] == [
        "/home/me", "/home/me/a", f"{me.pw_dir}/a", "a/~", "./~", "a~", "digits", ""]


def test_no_such_user_and_no_home(monkeypatch):
    with pytest.raises(UserError, match="~nobody-here/a: there is no user `nobody-here`.*write ./~nobody-here/a"):
        expanded("~nobody-here/a")

    def unknown(number):
        raise KeyError(number)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UserError, match="~/a: there is no home folder: HOME is not set"):
        expanded("~/a")
