"""No control character from a file, a name or a failure reaches the terminal, and no encoding of a terminal is an error."""

import os
import pty
import subprocess
import sys

import pytest
from command_line import IDDPM
from paths import ROOT
from recorded_slurm import make_study

from jobs.run.failures import Failure, write_failure
from jobs.terminal import printable, steered
from slurm.status.table import status_lines

EVIL = "a\x1b]0;title\x07\x1b[2J\r\x08\x9b1m\u202egnp\u2066\nb"


def test_what_steers_a_terminal_is_written_out():
    assert printable(EVIL) == r"a\x1b]0;title\x07\x1b[2J\x0d\x08\x9b1m\u202egnp\u2066\nb"
    assert steered("two\nlines\tand\x00") == "two\nlines\tand\\x00"
    assert printable(os.fsdecode(b"\xff\xe9")) == r"\xff\xe9" and printable("\ud800 é 中 \U0001f600") == "\\ud800 é 中 \U0001f600"


@pytest.fixture
def evil(tmp_path):
    """A study whose names, progress and failure steer the terminal."""
    name = EVIL.replace("\x00", "")
    study = make_study(tmp_path / "runs" / f"s{EVIL}", {name: {"unit": EVIL}, "b": {"state": "failed"}, "c": {}})
    write_failure(study / "b", Failure("train", EVIL, EVIL, EVIL, 3, EVIL, 0, 1.0))
    (study / "c" / "progress.json").write_bytes(b"\x1b[31m")
    (study / "logs").mkdir()
    (study / "c" / "spec.yaml").touch()
    log = study / "c" / "logs" / "train" / "1" / "1_0_log.out"
    log.parent.mkdir(parents=True)
    log.write_text(f"1 %\r2 %\r\n\x1b[32mgreen\x1b[0m {EVIL}\n", newline="")
    return study


def on_terminal(*arguments, cwd) -> str:
    """The bytes that the command writes to a terminal, as text."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen([IDDPM, *map(str, arguments)], stdout=theirs, stderr=theirs, cwd=cwd, env=environment):
        os.close(theirs)
        text = b""
        try:
            while block := os.read(ours, 1 << 16):
                text += block
        except OSError:  # the end of a terminal
            pass
    os.close(ours)
    return text.decode()


@pytest.mark.slow
@pytest.mark.parametrize("command", [("status", "{study}"), ("status", "{study}", "--json"), ("logs", "{study}/c"),
                                     ("diff", "{study}/c", "{study}/c"), ("report", "{study}"), ("check", EVIL + ".yaml"),
                                     ("stat" + EVIL,), ("status", "{study}", "--" + EVIL), ("tensorboard", "{study}"),
                                     ("score", EVIL, "--reference", EVIL), ("cancel", EVIL), ("export", EVIL, EVIL)])
def test_commands_send_no_control_characters(evil, tmp_path, command):
    text = on_terminal(*(part.replace("{study}", str(evil)) for part in command), cwd=tmp_path)
    own = text.replace("\r\n", "\n")
    for style in ("\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[32m"):  # click's, of `status`
        own = own.replace(style, "")
    assert own and steered(own) == own and "Traceback" not in own, repr(own)
    if command[0] == "logs":
        assert own.endswith("1 %\n2 %\ngreen a\\x1b]0;title\\x07\n\\x08\\x9b1m\\u202egnp\\u2066\nb\n"), repr(own)


def test_no_name_breaks_the_table(evil):
    from slurm.launch.squeue import Slurm
    from slurm.status.state import study_status
    lines = status_lines(study_status(evil, Slurm()), None, 10)
    assert any(line.startswith(printable(EVIL)) for line in lines)
    assert not [line for line in lines if "\n" in line or "\r" in line]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "ascii:strict", "cp437", "utf-8:strict"])
def test_any_encoding_of_the_terminal(evil, encoding, tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([IDDPM, "status", evil], capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr and b"3 runs: " in done.stdout
    assert b"updated" in done.stdout and (b"----------" in done.stdout or "─".encode(encoding.partition(":")[0]) in done.stdout)
    help_text = subprocess.run([IDDPM, "check", ROOT / "configs" / "quickstart.yaml"], capture_output=True, cwd=ROOT,
                               env=environment)
    assert help_text.returncode == 0, help_text.stderr
    missing = subprocess.run([IDDPM, "check", "é中\udcff.yaml"], capture_output=True, cwd=tmp_path, env=environment)
    assert missing.returncode == 2 and b"Traceback" not in missing.stderr and b"cannot be read" in missing.stderr


@pytest.mark.slow
def test_a_note_of_a_rank_survives_its_log(tmp_path):
    code = ("from jobs.run.progress import note\nfrom jobs.terminal import guarded_output\n"
            "with guarded_output():\n    note('5 × 3 – \\x1b[31m 中')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.stdout.decode() == "note: 5 x 3 - \\x1b[31m \\u4e2d\n"
