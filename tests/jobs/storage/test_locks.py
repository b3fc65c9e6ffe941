"""Locks of files: one holder at a time, whatever the file system can do, and never "busy" where nobody is."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jobs.errors import Busy, UserError
from jobs.storage import locks
from jobs.storage.locks import locked

WITHOUT = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, 524)  # 524: ENOTSUPP
HOLD = """
import fcntl, os, sys, time
from pathlib import Path
from jobs.storage.locks import locked
def none(*_):
    raise OSError(int(sys.argv[2]), "no locks")
if int(sys.argv[2]):
    fcntl.flock = fcntl.fcntl = none
with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def refuse(monkeypatch, *names, number=errno.ENOSYS):
    def none(*_):
        raise OSError(number, os.strerror(number))
    for name in names:
        monkeypatch.setattr(fcntl, name, none)


@pytest.fixture(params=["flock", "open file", "second file"])
def way(request, monkeypatch):
    refuse(monkeypatch, *{"flock": (), "open file": ("flock",), "second file": ("flock", "fcntl")}[request.param])
    return request.param


@pytest.fixture
def holder(tmp_path):
    """A function that starts a process which holds tmp_path/lock; `number`: the error that it gets from locks, or 0."""
    started = []

    def hold(number=0):
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock"), str(number)], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process
    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_holder_at_a_time_and_the_other_is_named(tmp_path, way):
    with locked(tmp_path / "lock", "runs/a: busy"):
        with pytest.raises(Busy, match=rf"runs/a: busy \(process {os.getpid()} on .*\); wait for it or stop it"):
            with locked(tmp_path / "lock", "runs/a: busy"):
                pass
    with locked(tmp_path / "lock", "busy"):
        pass
    assert os.listdir(tmp_path) == ["lock"]


def test_a_lock_ends_with_an_exception(tmp_path, way):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", "busy"):
        _ = 1 / 0
    with locked(tmp_path / "lock", "busy"):
        pass


@pytest.mark.parametrize("number", WITHOUT)
def test_a_file_system_without_locks_is_not_a_busy_one(tmp_path, monkeypatch, number):
    refuse(monkeypatch, "flock", "fcntl", number=number)
    with locked(tmp_path / "lock", "busy"):
        assert (tmp_path / "lock.held").exists()


@pytest.mark.parametrize("number", (errno.EWOULDBLOCK, errno.EAGAIN))
def test_would_block_is_busy(tmp_path, monkeypatch, number):
    refuse(monkeypatch, "flock", number=number)
    with pytest.raises(Busy, match="unknown"), locked(tmp_path / "lock", "busy"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("number", (0, errno.ENOLCK))
def test_a_killed_holder_leaves_no_lock(tmp_path, monkeypatch, holder, number):
    process = holder(number)
    if number:
        refuse(monkeypatch, "flock", "fcntl", number=number)
    with pytest.raises(Busy), locked(tmp_path / "lock", "busy"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path / "lock", "busy"):
        pass


def beat_fast(monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.05)
    monkeypatch.setattr(locks, "EXPIRY_S", 0.5)


def leave_held(tmp_path, age_s, **holder):
    held = tmp_path / "lock.held"
    held.write_text(json.dumps({"machine": "another", "pid": 1, "thread": 1, "time": 0} | holder))
    os.utime(held, (time.time() - age_s,) * 2)
    return held


def test_a_holder_elsewhere_that_gives_no_sign_of_life_is_void(tmp_path, monkeypatch):
    beat_fast(monkeypatch)
    refuse(monkeypatch, "flock", "fcntl")
    leave_held(tmp_path, age_s=0.2)
    began = time.monotonic()
    with locked(tmp_path / "lock", "busy"):
        assert time.monotonic() - began > 0.2  # it waited for a sign


def test_a_holder_elsewhere_that_beats_is_busy(tmp_path, monkeypatch):
    beat_fast(monkeypatch)
    refuse(monkeypatch, "flock", "fcntl")
    held = leave_held(tmp_path, age_s=0.2)
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(held)
    other = threading.Thread(target=beat)
    other.start()
    try:
        with pytest.raises(Busy), locked(tmp_path / "lock", "busy"):
            pass
    finally:
        ended.set()
        other.join()


@pytest.mark.parametrize("content", (b"", b"[]", b"\xff\x00", b'{"machine": 3}'))
def test_a_damaged_held_file_is_judged_by_its_age(tmp_path, monkeypatch, content):
    beat_fast(monkeypatch)
    refuse(monkeypatch, "flock", "fcntl")
    held = leave_held(tmp_path, 0)
    held.write_bytes(content)
    with pytest.raises(Busy), locked(tmp_path / "lock", "busy"):
        pass
    os.utime(held, (1, 1))
    with locked(tmp_path / "lock", "busy"):
        pass


def test_a_long_hold_keeps_its_file_fresh(tmp_path, monkeypatch):
    beat_fast(monkeypatch)
    refuse(monkeypatch, "flock", "fcntl")
    with locked(tmp_path / "lock", "busy"):
        time.sleep(0.8)  # longer than EXPIRY_S
        with pytest.raises(Busy), locked(tmp_path / "lock", "busy"):
            pass


def add_one(folder, way):
    if way == "second file":
        def none(*_):
            raise OSError(errno.ENOLCK, "no locks")
        fcntl.flock = fcntl.fcntl = none
    for _ in range(20):
        with locked(folder / "lock", "busy", wait=60):
            count = int((folder / "count").read_text())
            time.sleep(0.001)
            (folder / "count").write_text(str(count + 1))


@pytest.mark.slow
@pytest.mark.parametrize("way", ("flock", "second file"))
def test_waiting_for_short_holders_loses_no_turn(tmp_path, way):
    (tmp_path / "count").write_text("0")
    processes = [multiprocessing.get_context("spawn").Process(target=add_one, args=(tmp_path, way)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "60"


def test_waiting_ends_with_busy(tmp_path, way):
    with locked(tmp_path / "lock", "busy"):
        began = time.monotonic()
        with pytest.raises(Busy), locked(tmp_path / "lock", "busy", wait=0.2):
            pass
        assert time.monotonic() - began >= 0.2


def test_a_folder_in_place_of_the_lock_is_named(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(UserError, match="lock: a folder stands where a file is needed"), locked(tmp_path / "lock", "busy"):
        pass


@pytest.mark.parametrize(("number", "words"), ((errno.EROFS, "not writable"), (errno.EACCES, "not writable"),
                                              (errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left")))
def test_a_disk_that_refuses_the_lock_is_named_and_not_busy(tmp_path, monkeypatch, number, words):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(UserError, match=f"lock: {words}") as error, locked(tmp_path / "lock", "busy"):
        pass
    assert not isinstance(error.value, Busy)


def test_a_lock_holds_on_a_disk_without_space_for_its_words(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "pwrite", full)
    with locked(tmp_path / "lock", "busy"):
        with pytest.raises(Busy, match="unknown"), locked(tmp_path / "lock", "busy"):
            pass


def test_the_words_of_a_holder_reach_no_terminal_as_control_characters(tmp_path):
    with locked(tmp_path / "lock", "busy"):
        (tmp_path / "lock").write_bytes(b"\x1b[31mred\xff" + b"x" * 10_000)
        with pytest.raises(Busy) as error, locked(tmp_path / "lock", "busy"):
            pass
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 300


def test_a_file_of_another_user_in_a_shared_folder_can_be_locked(tmp_path, monkeypatch):
    (tmp_path / "lock").touch()
    real = os.open

    def others(path, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *mode)
    monkeypatch.setattr(os, "open", others)
    with locked(tmp_path / "lock", "busy"):
        with pytest.raises(Busy), locked(tmp_path / "lock", "busy"):
            pass
