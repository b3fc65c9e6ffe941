"""The `iddpm` command: as a process, like a user types it, or in the test's own process, which takes a tenth of the time."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock

IDDPM = Path(sys.executable).parent / "iddpm"


def iddpm(*arguments, cwd, status=0, **options) -> str:
    """Run the command; its output as one text. Checks the exit status, and that there is no traceback."""
    done = subprocess.run([IDDPM, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=280, **options)
    return checked(done.stdout + done.stderr, done.returncode, status)


def iddpm_here(*arguments, status=0) -> str:
    """`iddpm` in this process and in the current folder."""
    from slurm.cli.main import main

    text, code = io.TextIOWrapper(io.BytesIO(), write_through=True), 0
    with mock.patch.object(sys, "argv", ["iddpm", *map(str, arguments)]), contextlib.redirect_stdout(text), \
            contextlib.redirect_stderr(text):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return checked(text.buffer.getvalue().decode(), code, status)


def checked(text: str, code: int, expected: int) -> str:
    assert code == expected and "Traceback" not in text, text
    return text
