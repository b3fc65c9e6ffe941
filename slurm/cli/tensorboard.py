"""`iddpm tensorboard`: one TensorBoard for all runs of a study."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from jobs.errors import UserError

PORT = 6006  # TensorBoard's default; the search for a free port starts here


def show_board(study: Path, port: int | None) -> None:
    """Replace this process by a TensorBoard of `study`, or of one run. `port` None: the first free one from PORT on.

    Raises UserError if there is no TensorBoard log or the port is taken.
    """
    if not any(study.glob("*/tensorboard/events.*")) and not any(study.glob("tensorboard/events.*")):
        raise UserError(f"{study}: nothing to show: neither a study nor a run with a TensorBoard log; training writes one")
    if port is None:
        port = next(candidate for candidate in range(PORT, 2 ** 16) if _is_free(candidate))
    elif not _is_free(port):
        raise UserError(f"--port {port}: taken; leave out --port to use the first free port from {PORT} on")
    for line in ssh_hint(port, os.environ):
        print(line)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "tensorboard.main", f"--logdir={study}", f"--port={port}"])


def ssh_hint(port: int, environment: Mapping[str, str]) -> list[str]:
    """The commands that show the board in the user's own browser, for a user who is logged in by ssh; else nothing."""
    if "SSH_CONNECTION" not in environment:
        return []
    _, _, host, ssh_port = environment["SSH_CONNECTION"].split()
    other_port = f"-p {ssh_port} " if ssh_port != "22" else ""
    user = f"{environment['USER']}@" if "USER" in environment else ""
    return [f"on your own machine:    ssh -N -L {port}:localhost:{port} {other_port}{user}{host}",
            f"and then in a browser:  http://localhost:{port}"]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
