"""`iddpm tensorboard`: one TensorBoard for all runs of a study."""

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import UserError
from jobs.own_python import python_command

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
    run_tensorboard = python_command("from tensorboard.main import run_main; run_main()", f"--logdir={study}", f"--port={port}")
    os.execv(sys.executable, run_tensorboard)


def ssh_hint(port: int, environment: Mapping[str, str]) -> list[str]:
    """The commands that show the board in the user's own browser, for a user who is elsewhere; else nothing.

    In a SLURM job TensorBoard listens on the node of the job, and the way there leads over the login node. What ssh has
    recorded (SSH_CONNECTION) is the login node's in both cases, as jobs inherit it.
    """
    user, login = _user(environment), _login(environment)
    tunnel = f"ssh -N -L {port}:localhost:{port}"
    browser = f"and then in a browser:  http://localhost:{port}"
    if node := environment.get("SLURMD_NODENAME"):  # set where SLURM runs a task, not in a shell of salloc on the login node
        jump = login.jump(user) if login else f"{user}{environment.get('SLURM_SUBMIT_HOST', 'LOGIN-NODE')}"
        return [f"on your own machine:    {tunnel} -J {jump} {user}{node}", browser]
    if login is None:
        return []
    if environment.get("TERM_PROGRAM") == "vscode":
        return [f"in VS Code: it forwards port {port} by itself (panel Ports), or", *_direct(tunnel, user, login), browser]
    return [*_direct(tunnel, user, login), browser]


def _direct(tunnel: str, user: str, login: "Login") -> list[str]:
    return [f"on your own machine:    {tunnel} {login.option}{user}{login.host}"]


@dataclass(frozen=True)
class Login:
    """The machine that the user has logged in to by ssh, by the address and port that ssh recorded."""

    host: str
    port: str

    @property
    def option(self) -> str:
        return f"-p {self.port} " if self.port != "22" else ""

    def jump(self, user: str) -> str:
        """As `ssh -J` takes it: an address of IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}{f':{self.port}' if self.port != '22' else ''}"


def _login(environment: Mapping[str, str]) -> Login | None:
    """What SSH_CONNECTION says: client, its port, server, its port. None without it, or for anything else in it."""
    match environment.get("SSH_CONNECTION", "").split():
        case [_, _, host, port]:
            return Login(host, port)
    return None


def _user(environment: Mapping[str, str]) -> str:
    name = environment.get("USER") or environment.get("LOGNAME")
    return f"{name}@" if name else ""


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
